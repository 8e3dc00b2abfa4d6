//! Kernel events whose calls have no record yet. Only after a restart is a
//! record ever late: as late as the relay is in coming back. A relay that lies
//! about its calls must not fill the memory with what waits for them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use guard_common::event::Event;

/// How long an event waits for the records of its calls. On a loaded host a
/// relay takes seconds to come back.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Events of one session that wait at most: 20 MB of the largest.
pub const MOST: usize = 4096;

/// An event with what was known of its process when it was read.
#[derive(Debug)]
pub struct Waiting {
    /// When it was read.
    pub since: Instant,
    /// The event.
    pub event: Box<Event>,
    /// What its process ran.
    pub exe: Option<Vec<u8>>,
}

/// The events of one session that wait, oldest first.
#[derive(Debug, Default)]
pub struct Held {
    waiting: VecDeque<Waiting>,
    early: u64,
}

impl Held {
    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many had to be written before their records came.
    #[must_use]
    pub const fn early(&self) -> u64 {
        self.early
    }

    /// Lets one wait. Gives the oldest when there are too many: it is to be
    /// written with what is known.
    pub fn push(&mut self, event: Waiting) -> Option<Waiting> {
        self.waiting.push_back(event);
        if self.waiting.len() <= MOST {
            return None;
        }
        self.early += 1;
        self.waiting.pop_front()
    }

    /// Takes out those that `known` says are known by now, and those that
    /// waited long enough, in their order.
    pub fn due(&mut self, now: Instant, known: impl Fn(&Event) -> bool) -> Vec<Waiting> {
        let over = |w: &Waiting| now.duration_since(w.since) >= PATIENCE;
        let (due, rest): (VecDeque<_>, _) = self
            .waiting
            .drain(..)
            .partition(|w| over(w) || known(&w.event));
        self.waiting = rest;
        due.into()
    }

    /// Takes out all.
    pub fn rest(&mut self) -> Vec<Waiting> {
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use guard_common::event::{Kind, Op};

    use super::*;
    use crate::audit::samples::raw;

    fn waiting(since: Instant, kseq: u64) -> Waiting {
        let mut event = raw(Kind::File, Op::Open, b"/a");
        event.header.kseq = kseq;
        Waiting {
            since,
            event: Box::new(event),
            exe: None,
        }
    }

    fn numbers(events: &[Waiting]) -> Vec<u64> {
        events.iter().map(|w| w.event.header.kseq).collect()
    }

    #[test]
    fn an_event_waits_for_its_record_or_its_time() {
        let mut held = Held::default();
        let begun = Instant::now();
        for kseq in 0..4 {
            let later = Duration::from_secs(kseq);
            assert!(held.push(waiting(begun + later, kseq)).is_none());
        }
        let none = |_: &Event| false;
        assert!(held.due(begun + Duration::from_secs(9), none).is_empty());
        let known = |event: &Event| event.header.kseq == 2;
        assert_eq!(numbers(&held.due(begun + PATIENCE, known)), [0, 2]);
        assert_eq!(numbers(&held.rest()), [1, 3]);
        assert!(held.is_empty());
    }

    #[test]
    fn what_is_too_much_goes_early_and_is_counted() {
        let mut held = Held::default();
        let now = Instant::now();
        let mut early = Vec::new();
        for kseq in 0..MOST as u64 + 3 {
            early.extend(held.push(waiting(now, kseq)));
        }
        assert_eq!((numbers(&early), held.early()), (vec![0, 1, 2], 3));
        assert_eq!(held.rest().len(), MOST);
    }

    #[test]
    fn a_relay_that_lies_about_calls_fills_no_memory_and_is_named() {
        use crate::supervisor::prepare::Rights;
        use crate::supervisor::session::{Session, tests::session};
        use crate::supervisor::{Ring, Supervisor};
        let dir = tempfile::tempdir().unwrap();
        let trail = dir.path().join("audit.jsonl");
        let mut supervisor = Supervisor::new(Rights::Own, "boot".into());
        supervisor.evidence.open(&trail).unwrap();
        let mut liar: Session = session();
        liar.state.audit_file = trail.clone();
        supervisor.sessions.insert(1, liar);
        for kseq in 0..MOST as u64 + 3 {
            let mut event = raw(Kind::File, Op::Open, b"/a");
            (event.header.sandbox, event.header.kseq) = (1, kseq);
            event.calls = vec![1_000_000 + kseq];
            supervisor.observe(Ring::Denials, event);
        }
        supervisor.flush();
        let text = std::fs::read_to_string(&trail).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("\"kind\":\"file\""), 3);
        assert_eq!(count("\"reason\":\"unknown-calls\""), 1);
        supervisor.report_last(1);
        let text = std::fs::read_to_string(&trail).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("\"kind\":\"file\""), MOST + 3);
        assert_eq!(count("3 kernel events were written without"), 1);
    }
}
