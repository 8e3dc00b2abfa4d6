//! Finds what never came: the kernel numbers the events of each sandbox and
//! ring, and a number that stays away is a loss.
//!
//! A number is taken before room in the ring is, so two CPUs can deliver out
//! of order. A gap is therefore reported only once it has stayed open for
//! [`PATIENCE`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::event::Ring;

/// How long a number may be late.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Gaps that are waited for, in one ring; beyond that the oldest is reported.
const MAX_GAPS: usize = 1024;

/// Kernel events that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Number of the sandbox.
    pub sandbox: u64,
    /// Ring.
    pub ring: Ring,
    /// First missing number.
    pub first: u64,
    /// How many in a row.
    pub count: u64,
}

/// Follows the numbers of every sandbox.
#[derive(Debug, Default)]
pub struct Tracker {
    streams: BTreeMap<(u64, Ring), Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    /// The next number; `None` when it is not known where the kernel was.
    next: Option<u64>,
    open: VecDeque<Open>,
    /// Gaps that found no room in `open`.
    overdue: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Open {
    first: u64,
    end: u64,
    since: Instant,
}

impl Tracker {
    /// A sandbox whose numbers start at 0.
    pub fn start(&mut self, sandbox: u64) {
        for ring in [Ring::Denials, Ring::Allows] {
            let stream = Stream {
                next: Some(0),
                ..Stream::default()
            };
            self.streams.insert((sandbox, ring), stream);
        }
    }

    /// A sandbox that ran before: the first number that comes is the start.
    /// What was lost before that is not known here.
    pub fn adopt(&mut self, sandbox: u64) {
        for ring in [Ring::Denials, Ring::Allows] {
            self.streams.insert((sandbox, ring), Stream::default());
        }
    }

    /// An event came. One of a sandbox that was never announced adopts it.
    pub fn observe(&mut self, sandbox: u64, ring: Ring, kseq: u64, now: Instant) {
        self.streams
            .entry((sandbox, ring))
            .or_default()
            .observe(kseq, now);
    }

    /// The kernel's counter: numbers below `next` are taken. Shows what was
    /// lost at the end, after which nothing came.
    pub fn counter(&mut self, sandbox: u64, ring: Ring, next: u64, now: Instant) {
        let stream = self.streams.entry((sandbox, ring)).or_default();
        stream.advance(next, now);
    }

    /// Gaps that have been open for [`PATIENCE`]. Each is told once.
    pub fn due(&mut self, now: Instant) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for ((sandbox, ring), stream) in &mut self.streams {
            gaps.extend(stream.due(Some(now)).map(gap(*sandbox, *ring)));
        }
        gaps
    }

    /// The sandbox is gone and its rings are drained: whatever is open is lost.
    pub fn finish(&mut self, sandbox: u64) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for ring in [Ring::Denials, Ring::Allows] {
            if let Some(mut stream) = self.streams.remove(&(sandbox, ring)) {
                gaps.extend(stream.due(None).map(gap(sandbox, ring)));
            }
        }
        gaps
    }
}

fn gap(sandbox: u64, ring: Ring) -> impl Fn((u64, u64)) -> Gap {
    move |(first, end)| Gap {
        sandbox,
        ring,
        first,
        count: end - first,
    }
}

impl Stream {
    fn observe(&mut self, kseq: u64, now: Instant) {
        let next = *self.next.get_or_insert(kseq);
        if kseq >= next {
            self.advance(kseq, now);
            self.next = Some(kseq.saturating_add(1));
        } else {
            self.fill(kseq);
        }
    }

    /// Numbers below `to` are taken; those that have not come are a gap.
    fn advance(&mut self, to: u64, now: Instant) {
        let next = *self.next.get_or_insert(to);
        if to <= next {
            return;
        }
        self.open.push_back(Open {
            first: next,
            end: to,
            since: now,
        });
        self.next = Some(to);
        if self.open.len() > MAX_GAPS
            && let Some(oldest) = self.open.pop_front()
        {
            self.overdue.push((oldest.first, oldest.end));
        }
    }

    /// A late number; one that is in no gap came twice, or after its gap was
    /// reported, and changes nothing.
    fn fill(&mut self, kseq: u64) {
        let Some(at) = self
            .open
            .iter()
            .position(|o| (o.first..o.end).contains(&kseq))
        else {
            return;
        };
        let Some(Open { first, end, since }) = self.open.remove(at) else {
            return;
        };
        for (first, end) in [(kseq + 1, end), (first, kseq)] {
            if first < end {
                self.open.insert(at, Open { first, end, since });
            }
        }
    }

    fn due(&mut self, now: Option<Instant>) -> impl Iterator<Item = (u64, u64)> + use<> {
        let mut due = std::mem::take(&mut self.overdue);
        self.open.retain(|open| {
            let waits = now.is_some_and(|n| n.saturating_duration_since(open.since) < PATIENCE);
            if !waits {
                due.push((open.first, open.end));
            }
            waits
        });
        due.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers come; what is lost a while later?
    fn lost(begin: fn(&mut Tracker), numbers: &[u64]) -> Vec<(u64, u64)> {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        begin(&mut tracker);
        for n in numbers {
            tracker.observe(7, Ring::Denials, *n, now);
        }
        assert_eq!(tracker.due(now), [], "reported before its time");
        let gaps = tracker.due(now + PATIENCE);
        assert_eq!(tracker.due(now + 2 * PATIENCE), [], "reported twice");
        gaps.iter().map(|g| (g.first, g.count)).collect()
    }

    #[test]
    fn what_stays_away_is_lost_and_what_is_late_is_not() {
        let start = |t: &mut Tracker| t.start(7);
        for (numbers, expected) in [
            (&[0, 1, 2][..], &[][..]),
            (&[0, 2], &[(1, 1)]),
            (&[1], &[(0, 1)]),
            (&[0, 2, 1], &[]),
            (&[3, 1, 0, 2], &[]),
            (&[9, 4, 5], &[(0, 4), (6, 3)]),
            (&[0, 0, 1, 1, 0], &[]),
            (&[0, 5, 9], &[(1, 4), (6, 3)]),
            (&[u64::MAX], &[(0, u64::MAX)]),
        ] {
            assert_eq!(lost(start, numbers), expected, "{numbers:?}");
        }
    }

    #[test]
    fn an_adopted_sandbox_starts_where_it_is() {
        assert_eq!(lost(|t| t.adopt(7), &[40, 41, 43]), [(42, 1)]);
        assert_eq!(lost(|_| {}, &[40, 42]), [(41, 1)]);
    }

    #[test]
    fn the_counter_shows_what_was_lost_at_the_end() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        tracker.start(7);
        tracker.observe(7, Ring::Allows, 0, now);
        tracker.counter(7, Ring::Allows, 4, now);
        tracker.counter(7, Ring::Allows, 4, now);
        tracker.counter(7, Ring::Denials, 0, now);
        let gaps = tracker.finish(7);
        let expected = Gap {
            sandbox: 7,
            ring: Ring::Allows,
            first: 1,
            count: 3,
        };
        assert_eq!(gaps, [expected]);
        assert_eq!(tracker.finish(7), []);
    }

    #[test]
    fn many_gaps_are_all_reported_in_bounded_room() {
        let now = Instant::now();
        let mut tracker = Tracker::default();
        tracker.start(7);
        for n in 0..3000 {
            tracker.observe(7, Ring::Denials, 2 * n + 1, now);
        }
        assert!(tracker.streams[&(7, Ring::Denials)].open.len() <= MAX_GAPS);
        assert_eq!(tracker.finish(7).len(), 3000);
    }
}
