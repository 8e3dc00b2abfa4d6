//! Digests of what is long, for the trail, on a thread of their own: SHA-256
//! takes several times as long as passing a message on, and the message must
//! not wait for it. What waits is bounded; whoever brings more waits with it.
//! The thread takes many at once, so that they share a pass.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::lanes::digests;
use super::lock;
use super::outbox::Outbox;
use super::recorder::tell_one;
use crate::mcp::digest::Digest;
use crate::mcp::session::End;
use crate::sys::sha256::LANES;

/// Bytes that wait at most; a single message may have more.
const MOST: usize = 32 << 20;
/// Bytes of the longest message whose digest is made where it is read: less
/// work than handing it over.
const SHORT: usize = 16 << 10;
/// How long the room of what was done is kept for the next messages.
const SPARE: Duration = Duration::from_secs(1);

/// Work for the thread, in the order in which it is to be told of.
#[derive(Debug)]
enum Work {
    /// The arguments of a call. Their digest comes with the call's end.
    Arguments { call: u64, text: Vec<u8> },
    /// Calls that ended at this time, by this line.
    Ends {
        ends: Vec<End>,
        time: u64,
        line: Vec<u8>,
    },
}

impl Work {
    fn bytes(&self) -> &Vec<u8> {
        match self {
            Self::Arguments { text: bytes, .. } | Self::Ends { line: bytes, .. } => bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Bytes of the work that waits or is being done.
    bytes: usize,
    /// How much work that is.
    doing: usize,
    /// Room of what was done, to be used again.
    spare: Vec<Vec<u8>>,
    /// Bytes of that room.
    spare_bytes: usize,
    /// Digests of arguments whose calls have not ended.
    arguments: BTreeMap<u64, Digest>,
}

/// The queue to the thread that makes digests.
#[derive(Debug, Default)]
pub(super) struct Digests {
    queue: Mutex<Queue>,
    /// Work that waits, is being done, or whose digest waits for its call's end.
    pending: AtomicUsize,
    more: Condvar,
    less: Condvar,
}

impl Digests {
    /// Hands over the arguments of a call, before its request is passed on.
    pub(super) fn arguments(&self, call: u64, text: &[u8]) {
        self.push(text, |text| Work::Arguments { call, text });
    }

    /// Tells of calls that `line` ended at `time`, now or when its digest is
    /// made; forgets them.
    pub(super) fn tell(&self, outbox: &Outbox, ends: &mut Vec<End>, time: u64, line: &[u8]) {
        if ends.is_empty() {
            return;
        }
        if line.len() <= SHORT && self.pending.load(Ordering::Acquire) == 0 {
            let hash = ends.iter().any(|end| end.whole).then(|| Digest::of(line));
            for end in ends.drain(..) {
                tell_one(outbox, &end, None, hash.filter(|_| end.whole), time);
            }
            return;
        }
        // Behind what waits: ends are told in their order.
        let ends = std::mem::take(ends);
        let line = match ends.iter().any(|end| end.whole) {
            true => line,
            false => b"",
        };
        self.push(line, |line| Work::Ends { ends, time, line });
    }

    fn push(&self, bytes: &[u8], work: impl FnOnce(Vec<u8>) -> Work) {
        let mut queue = lock(&self.queue);
        while queue.bytes > 0 && queue.bytes + bytes.len() > MOST {
            queue = wait(&self.less, queue);
        }
        let mut room = match bytes.len() > SHORT {
            true => queue.spare.pop().unwrap_or_default(),
            false => Vec::new(),
        };
        queue.spare_bytes -= room.capacity();
        queue.bytes += bytes.len();
        queue.doing += 1;
        self.pending.fetch_add(1, Ordering::Release);
        drop(queue); // not held while bytes are copied
        room.clear();
        room.extend_from_slice(bytes);
        lock(&self.queue).work.push_back(work(room));
        self.more.notify_one();
    }

    /// Waits until all that waits was told.
    pub(super) fn finish(&self) {
        let mut queue = lock(&self.queue);
        while queue.doing > 0 {
            queue = wait(&self.less, queue);
        }
    }

    /// The thread: makes digests for ever.
    pub(super) fn run(&self, outbox: &Outbox) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.work.is_empty() {
                if queue.spare.is_empty() {
                    queue = wait(&self.more, queue);
                } else {
                    let waited = self.more.wait_timeout(queue, SPARE);
                    let over;
                    (queue, over) = waited.unwrap_or_else(PoisonError::into_inner);
                    if over.timed_out() {
                        queue.spare = Vec::new();
                        queue.spare_bytes = 0;
                    }
                }
            }
            let most = queue.work.len().min(LANES);
            let batch: Vec<Work> = queue.work.drain(..most).collect();
            drop(queue);
            self.batch(outbox, batch);
        }
    }

    /// Does what waits, on this thread.
    #[cfg(test)]
    pub(super) fn all(&self, outbox: &Outbox) {
        let batch = lock(&self.queue).work.drain(..).collect();
        self.batch(outbox, batch);
    }

    fn batch(&self, outbox: &Outbox, batch: Vec<Work>) {
        let messages: Vec<&[u8]> = batch.iter().map(|work| work.bytes().as_slice()).collect();
        let made = digests(&messages);
        let bytes: usize = messages.iter().map(|message| message.len()).sum();
        let mut rooms = Vec::with_capacity(batch.len());
        for (work, digest) in batch.into_iter().zip(made) {
            match work {
                Work::Arguments { call, text } => {
                    lock(&self.queue).arguments.insert(call, digest);
                    rooms.push(text);
                }
                Work::Ends { ends, time, line } => {
                    let mut done = 1;
                    for end in ends {
                        let arguments = lock(&self.queue).arguments.remove(&end.call);
                        done += usize::from(arguments.is_some());
                        let result = Some(digest).filter(|_| end.whole);
                        tell_one(outbox, &end, arguments, result, time);
                    }
                    self.pending.fetch_sub(done, Ordering::Release);
                    rooms.push(line);
                }
            }
        }
        let mut queue = lock(&self.queue);
        queue.bytes -= bytes;
        queue.doing -= rooms.len();
        for room in rooms {
            if room.capacity() > SHORT && queue.spare_bytes + room.capacity() <= MOST {
                queue.spare_bytes += room.capacity();
                queue.spare.push(room);
            }
        }
        drop(queue);
        self.less.notify_all();
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition
        .wait(guard)
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "digests_tests.rs"]
mod tests;
