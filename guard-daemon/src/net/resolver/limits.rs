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
/// Bits that a question for a name counts at most that was asked for before:
/// fifty names whose addresses hold six seconds can be asked for again and again.
const REPEATED: f64 = 4.0;
/// Labels of a zone that no rule names: what is in front of them is what a program can choose.
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

/// What questions for names below a zone have carried lately.
#[derive(Debug)]
struct Zone {
    spent: f64,
    since: f64,
    /// Names below it that are remembered.
    known: u32,
}

impl Zone {
    fn left_over(&self, now: f64) -> f64 {
        (self.spent - (now - self.since).max(0.0) * BITS / WINDOW).max(0.0)
    }
}

/// What names have carried lately, by zone.
#[derive(Debug, Default)]
pub(crate) struct Information {
    known: HashSet<Name>,
    /// With the bytes of their zone.
    order: VecDeque<(Name, usize)>,
    zones: HashMap<String, Zone>,
}

impl Information {
    /// Whether a name may be asked for upstream. `spelled_out` are the bytes at
    /// its end that the policy itself names: they carry nothing, nor does a name
    /// without others. Where nothing says so, it is the last two labels.
    pub(crate) fn take(&mut self, name: &Name, spelled_out: Option<usize>, now: f64) -> bool {
        let text = name.as_str();
        let from_end = spelled_out.unwrap_or_else(|| zone(name).len());
        let (free, zone) = text.split_at(text.len().saturating_sub(from_end));
        let free = free.strip_suffix('.').unwrap_or(free);
        if free.is_empty() {
            return true;
        }
        let entry = self.zones.entry(zone.to_owned()).or_insert(Zone {
            spent: 0.0,
            since: now,
            known: 0,
        });
        let is_known = self.known.contains(name);
        let cost = match is_known {
            // Which one of those that are known is all that it says.
            true => f64::from(entry.known + 1).log2().min(REPEATED),
            false => bits(free),
        };
        let spent = entry.left_over(now) + cost;
        if spent > BITS {
            return false;
        }
        (entry.spent, entry.since) = (spent, now);
        if !is_known {
            entry.known += 1;
            self.known.insert(name.clone());
            self.order.push_back((name.clone(), zone.len()));
        }
        if self.order.len() > REMEMBERED {
            self.forget_oldest();
        }
        if self.zones.len() > 2 * REMEMBERED {
            let of_interest = |zone: &Zone| zone.known > 0 || zone.left_over(now) > 0.0;
            self.zones.retain(|_, zone| of_interest(zone));
        }
        true
    }

    fn forget_oldest(&mut self) {
        let Some((name, len)) = self.order.pop_front() else {
            return;
        };
        self.known.remove(&name);
        let text = name.as_str();
        if let Some(zone) = self.zones.get_mut(&text[text.len() - len..]) {
            zone.known = zone.known.saturating_sub(1);
        }
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

/// Bits that labels can carry: their length, at the entropy of their characters
/// (Shannon), at least one bit a character. Words of a language have more than
/// they look like; that errs on the side of less.
fn bits(free: &str) -> f64 {
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
        assert!(bits("www") < 8.0);
        assert!(bits("deadbeef0123456789") > 50.0);
        assert!(bits("aaaaaaaaaaaaaaaaaaaa") > 19.0);
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
            .filter(|n| information.take(&chunk(*n), None, 0.0))
            .count();
        assert!((12..=20).contains(&passed), "{passed}");
        // Another zone, and names that were asked for, go on.
        assert!(information.take(&name("www.other.test"), None, 0.0));
        assert!(!information.take(&chunk(2000), None, 0.0));
        assert!(information.take(&chunk(0), None, 5.0));
        // A minute later there is room again.
        assert!(information.take(&chunk(2000), None, 60.0));
        // A hundred hosts of one zone by their words.
        let mut information = Information::default();
        let host = |n: u32| name(&format!("host{n}.site.test"));
        let hosts = (0..60).filter(|n| information.take(&host(*n), None, 0.0));
        assert_eq!(hosts.count(), 60);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut information = Information::default();
        for n in 0..20_000_u32 {
            information.take(&name(&format!("a{n}.zone{n}.test")), None, f64::from(n));
        }
        assert!(information.known.len() <= REMEMBERED && information.order.len() <= REMEMBERED);
        assert!(information.zones.len() <= 2 * REMEMBERED);
    }
    #[test]
    fn what_the_policy_spells_out_carries_nothing() {
        let mut information = Information::default();
        let long = name("a-long-name-that-the-policy-names-itself-0123456789.tunnel.test");
        let whole = Some(long.as_str().len());
        assert!((0..10_000).all(|_| information.take(&long, whole, 0.0)));
        // Below a zone of many labels only what is in front of it counts.
        let deep = |n: u32| name(&format!("h{n}.s3.eu-west-1.cloud.test"));
        let suffix = Some("s3.eu-west-1.cloud.test".len());
        let passed = (0..1000).filter(|n| information.take(&deep(*n), suffix, 0.0));
        assert!(passed.count() > 400);
    }

    #[test]
    fn names_that_are_known_are_no_way_out_either() {
        let mut information = Information::default();
        let host = |n: u32| name(&format!("h{n}.site.test"));
        assert!((0..50).all(|n| information.take(&host(n), None, 0.0)));
        // Each of them for both families every six seconds, for ten minutes.
        let mut ordinary = (0..100).flat_map(|turn| (0..100).map(move |n| (turn, n % 50)));
        assert!(ordinary.all(|(turn, n)| information.take(&host(n), None, f64::from(turn) * 6.0)));
        let flood = (0..10_000).filter(|n| information.take(&host(n % 50), None, 600.0));
        assert!(flood.count() <= 1024);
    }
}
