//! Which requests of the client are in flight, and which of them are calls:
//! candidates for what the server does meanwhile. Pure bookkeeping; the slot
//! that the kernel reads is written from [`Ledger::calls`].

use guard_common::limits::MAX_CALLS;

use super::fault::Fault;

/// Nanoseconds that a cancelled call stays a candidate without a response:
/// the server may go on working on it, and may never answer.
pub const CANCELLED_NS: u64 = 60_000_000_000;
/// Nanoseconds that a call stays a candidate because of a task it handed out.
pub const TASK_NS: u64 = 600_000_000_000;
/// Requests in flight that are no calls.
const MAX_HOUSEKEEPING: usize = 64;

/// What a request is to guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `initialize`: its answer names the protocol revision.
    Initialize,
    /// A request that asks for no work: `ping`, the `server/discover` probe, and
    /// `subscriptions/listen`, which stays open as long as the client listens.
    Housekeeping,
    /// Everything else. It has a number and is a candidate.
    Call,
}

impl Kind {
    /// The kind of a method.
    #[must_use]
    pub fn of(method: &str) -> Self {
        match method {
            "initialize" => Self::Initialize,
            "ping" | "server/discover" | "subscriptions/listen" => Self::Housekeeping,
            _ => Self::Call,
        }
    }
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its response has not come.
    Waiting,
    /// The client cancelled it then; its response has not come.
    Cancelled {
        /// Nanoseconds.
        at: u64,
    },
    /// It was answered, and work goes on in a task.
    Task {
        /// The task, as the server named it.
        id: String,
        /// When it was handed out, nanoseconds.
        at: u64,
    },
}

/// A request in flight, or a call whose task goes on.
#[derive(Clone, Debug)]
pub struct Entry {
    /// [`super::message::Id::key`].
    pub key: String,
    /// [`super::message::Id::raw`].
    pub raw: String,
    /// What it is.
    pub kind: Kind,
    /// Number of the call in this session, from 1; 0 for what is no call.
    pub number: u64,
    /// When its last byte was read, nanoseconds.
    pub since: u64,
    /// Where it stands.
    pub state: State,
    /// The task that a `tasks/` request is about.
    pub about: Option<String>,
}

impl Entry {
    fn waits(&self) -> bool {
        !matches!(self.state, State::Task { .. })
    }
}

/// The requests of the client that are in flight. Ids of the server's own
/// requests are another space and never meet these.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    last: u64,
}

/// A state of the ledger to go back to.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Mark {
    entries: usize,
    last: u64,
}

impl Ledger {
    /// Takes a request in. Its number, or 0 when it is no call.
    ///
    /// # Errors
    /// [`Fault::DuplicateId`] and [`Fault::TooManyCalls`]; nothing has changed then.
    pub fn open(&mut self, mut entry: Entry) -> Result<u64, Fault> {
        if self.waiting(&entry.key).is_some() {
            return Err(Fault::DuplicateId);
        }
        let call = entry.kind == Kind::Call;
        let (calls, most) = (self.calls().count(), MAX_CALLS);
        let others = self.entries.len() - calls;
        if (call && calls >= most) || (!call && others >= MAX_HOUSEKEEPING) {
            return Err(Fault::TooManyCalls);
        }
        entry.number = 0;
        if call {
            self.last += 1;
            entry.number = self.last;
        }
        let number = entry.number;
        self.entries.push(entry);
        Ok(number)
    }

    /// The state to [`Self::rollback`] to when a later part of a batch is refused.
    pub fn mark(&self) -> Mark {
        Mark {
            entries: self.entries.len(),
            last: self.last,
        }
    }

    /// Undoes every [`Self::open`] since the mark.
    pub fn rollback(&mut self, mark: Mark) {
        self.entries.truncate(mark.entries);
        self.last = mark.last;
    }

    /// The number of the last call before the mark.
    #[must_use]
    pub const fn since(&self, mark: Mark) -> u64 {
        mark.last
    }

    /// The request that waits for a response with this id.
    #[must_use]
    pub fn waiting(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.waits() && e.key == key)
    }

    /// The only request that waits for a response, if there is exactly one.
    #[must_use]
    pub fn sole_waiting(&self) -> Option<&Entry> {
        let mut waiting = self.entries.iter().filter(|e| e.waits());
        waiting.next().filter(|_| waiting.next().is_none())
    }

    /// Takes out the request that this response answers.
    pub fn close(&mut self, key: &str) -> Option<Entry> {
        let at = self
            .entries
            .iter()
            .position(|e| e.waits() && e.key == key)?;
        Some(self.entries.remove(at))
    }

    /// Puts a call back in that was answered with a task: it stays a candidate.
    pub fn keep(&mut self, mut entry: Entry, task: &str, now: u64) {
        entry.state = State::Task {
            id: task.to_owned(),
            at: now,
        };
        let at = self.entries.partition_point(|e| e.number < entry.number);
        self.entries.insert(at, entry);
    }

    /// Notes that the client cancelled a request. Whether there was one.
    pub fn cancel(&mut self, key: &str, now: u64) -> bool {
        let found = self.entries.iter_mut().find(|e| e.waits() && e.key == key);
        let Some(entry) = found else { return false };
        if entry.state == State::Waiting {
            entry.state = State::Cancelled { at: now };
        }
        true
    }

    /// Takes out the calls whose task has ended.
    pub fn end_task(&mut self, task: &str) -> Vec<Entry> {
        self.take(|e| matches!(&e.state, State::Task { id, .. } if id == task))
    }

    /// Takes out what is past its time: cancelled calls after [`CANCELLED_NS`],
    /// tasks after [`TASK_NS`].
    pub fn expire(&mut self, now: u64) -> Vec<Entry> {
        self.take(|e| match e.state {
            State::Waiting => false,
            State::Cancelled { at } => now.saturating_sub(at) >= CANCELLED_NS,
            State::Task { at, .. } => now.saturating_sub(at) >= TASK_NS,
        })
    }

    /// Takes out everything: the session ends.
    pub fn end(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// Numbers of the calls in flight, in the order they came; at most [`MAX_CALLS`].
    pub fn calls(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().map(|e| e.number).filter(|n| *n != 0)
    }

    fn take(&mut self, which: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        if !self.entries.iter().any(&which) {
            return Vec::new();
        }
        self.entries.extract_if(.., |e| which(e)).collect()
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
