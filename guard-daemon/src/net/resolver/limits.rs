//! How much a sandbox may ask. A question for a new name below an allowed zone
//! reaches that zone's servers, so names are a way out: what they can carry is
//! bounded. Time comes from the caller, as seconds and parts of them.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::policy::names::Name;

/// Questions that may come at once.
const BURST: f64 = 400.0;
/// Questions a second after that.
const RATE: f64 = 200.0;
/// What a question costs whose answer is at hand: 40,000 of them a second.
const CACHED: f64 = 0.005;
/// Questions that wait for upstreams.
pub(crate) const MAX_WAITING: usize = 64;
/// Seconds over which the information in new names is counted.
const WINDOW: f64 = 60.0;
/// Bits that new names below one zone may carry in that time: 512 bytes. Names of
/// content networks have 50 to 250 bits each.
const BITS: f64 = 4096.0;
/// Labels of a zone: what is in front of them is what a program can choose.
const ZONE_LABELS: usize = 2;
/// Names that are remembered as asked for; the oldest are forgotten, and count as
/// new again.
const REMEMBERED: usize = 4096;

/// A bucket of questions.
#[derive(Debug)]
pub(crate) struct Rate {
    left: f64,
    since: f64,
}

impl Rate {
    pub(crate) const fn new(now: f64) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether there is room for one more question.
    pub(crate) fn take(&mut self, now: f64, cached: bool) -> bool {
        self.left = (self.left + (now - self.since).max(0.0) * RATE).min(BURST);
        self.since = now;
        let cost = if cached { CACHED } else { 1.0 };
        let room = self.left >= cost;
        if room {
            self.left -= cost;
        }
        room
    }
}

/// What new names have carried lately, by zone.
#[derive(Debug, Default)]
pub(crate) struct Information {
    known: HashSet<Name>,
    order: VecDeque<Name>,
    zones: HashMap<String, (f64, f64)>,
}

impl Information {
    /// Whether a name may be asked for upstream. One that was asked for before
    /// carries nothing new.
    pub(crate) fn take(&mut self, name: &Name, now: f64) -> bool {
        if self.known.contains(name) {
            return true;
        }
        let zone = zone(name);
        let (spent, since) = self.zones.get(zone).copied().unwrap_or((0.0, now));
        let spent = (spent - (now - since).max(0.0) * BITS / WINDOW).max(0.0);
        let bits = bits(name);
        if spent + bits > BITS {
            return false;
        }
        self.zones.insert(zone.to_owned(), (spent + bits, now));
        if self.zones.len() > REMEMBERED {
            // Only those that have spent something lately are of interest.
            self.zones
                .retain(|_, (spent, since)| *spent > (now - *since) * BITS / WINDOW);
        }
        self.known.insert(name.clone());
        self.order.push_back(name.clone());
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// The last labels of a name.
fn zone(name: &Name) -> &str {
    let text = name.as_str();
    let starts = text.rmatch_indices('.').map(|(at, _)| at + 1);
    let start = starts.take(ZONE_LABELS).last();
    match start {
        Some(start) if text.matches('.').count() >= ZONE_LABELS => &text[start..],
        _ => text,
    }
}

/// Bits that the labels before the zone can carry: their length, at the entropy
/// of their characters (Shannon), at least one bit a character. Words of a
/// language have more than they look like; that errs on the side of less.
fn bits(name: &Name) -> f64 {
    let zone = zone(name);
    let text = name.as_str();
    let free = &text[..text.len() - zone.len()];
    let free = free.strip_suffix('.').unwrap_or(free);
    if free.is_empty() {
        return 0.0;
    }
    let mut counts = [0_u32; 256];
    for byte in free.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let len = free.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / len;
            -share * share.log2()
        })
        .sum();
    len * entropy.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_flood_is_cut_and_recovers() {
        let mut rate = Rate::new(0.0);
        let taken =
            |rate: &mut Rate, now, cached| (0..100_000).filter(|_| rate.take(now, cached)).count();
        assert_eq!(taken(&mut rate, 0.0, false), 400);
        assert_eq!(taken(&mut rate, 0.5, false), 100);
        assert_eq!(taken(&mut rate, 1000.0, false), 400);
        // Known answers cost little.
        assert!((79_990..=80_010).contains(&taken(&mut rate, 2000.0, true)));
        // A clock that goes back gives nothing.
        assert!(!rate.take(1999.0, false));
    }

    #[test]
    fn zones_are_the_last_labels() {
        for (text, expected) in [
            ("a.b.example.com", "example.com"),
            ("example.com", "example.com"),
            ("com", "com"),
        ] {
            assert_eq!(zone(&name(text)), expected);
        }
        assert!(bits(&name("example.com")) < 0.1);
        assert!(bits(&name("www.example.com")) < 8.0);
        assert!(bits(&name("deadbeef0123456789.example.com")) > 50.0);
        assert!(bits(&name("aaaaaaaaaaaaaaaaaaaa.example.com")) > 19.0);
    }

    #[test]
    fn a_tunnel_is_cut_and_ordinary_use_is_not() {
        let mut information = Information::default();
        // 60-character labels of 32 letters: some 270 bits each.
        let chunk = |n: u32| {
            let letters = b"abcdefghijklmnopqrstuvwxyz234567";
            let label: String = (0..60)
                .map(|i: u32| {
                    let mixed = (n * 60 + i).wrapping_mul(2_654_435_761) >> 9;
                    char::from(letters[(mixed % 32) as usize])
                })
                .collect();
            name(&format!("{label}.tunnel.test"))
        };
        let passed = (0..1000)
            .filter(|n| information.take(&chunk(*n), 0.0))
            .count();
        assert!((12..=20).contains(&passed), "{passed}");
        // Another zone, and names that were asked for, go on.
        assert!(information.take(&name("www.other.test"), 0.0));
        assert!(information.take(&chunk(0), 0.0));
        assert!(!information.take(&chunk(2000), 0.0));
        // A minute later there is room again.
        assert!(information.take(&chunk(2000), 60.0));
        // A hundred hosts of one zone by their words.
        let mut information = Information::default();
        let hosts = (0..60).filter(|n| information.take(&name(&format!("host{n}.site.test")), 0.0));
        assert_eq!(hosts.count(), 60);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut information = Information::default();
        for n in 0..20_000_u32 {
            information.take(&name(&format!("a{n}.zone{n}.test")), f64::from(n));
        }
        assert!(information.known.len() <= REMEMBERED && information.order.len() <= REMEMBERED);
        assert!(information.zones.len() <= REMEMBERED + 1);
    }
}
