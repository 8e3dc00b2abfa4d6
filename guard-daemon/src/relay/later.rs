//! Ends of calls that are told a little later. Digest and record cost a small
//! message more than everything else on its way back, and in the next call's
//! time where calls follow closely. The slot is not part of this: it is
//! cleared before the response is handed on.

use super::clock;
use super::digests::Digests;
use super::outbox::Outbox;
use crate::mcp::session::End;

/// Ends that wait at most: few, since the response after them waits for them all.
const MOST: usize = 8;
/// Bytes of the longest response that waits here; a longer one's digest is
/// another thread's work.
const LONGEST: usize = 16 << 10;
/// Milliseconds without input after which all are told.
pub(super) const IDLE_MS: u16 = 2;

/// The ends that wait, with what their digests are of.
#[derive(Debug, Default)]
pub(super) struct Later {
    lines: Vec<u8>,
    ends: Vec<(End, u64, std::ops::Range<usize>)>,
}

impl Later {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes over the ends that `line` brought, or tells them.
    pub(super) fn add(
        &mut self,
        outbox: &Outbox,
        digests: &Digests,
        ends: &mut Vec<End>,
        line: &[u8],
    ) {
        if ends.is_empty() {
            return;
        }
        if line.len() > LONGEST || self.ends.len() + ends.len() > MOST {
            self.tell(outbox, digests);
            return digests.tell(outbox, ends, clock::wall(), line);
        }
        let start = self.lines.len();
        self.lines.extend_from_slice(line);
        let (time, range) = (clock::wall(), start..self.lines.len());
        let waiting = ends.drain(..).map(|end| (end, time, range.clone()));
        self.ends.extend(waiting);
    }

    /// Tells all, in order.
    pub(super) fn tell(&mut self, outbox: &Outbox, digests: &Digests) {
        let mut one = Vec::with_capacity(1);
        for (end, time, range) in self.ends.drain(..) {
            one.push(end);
            let line = self.lines.get(range).unwrap_or_default();
            digests.tell(outbox, &mut one, time, line);
        }
        self.lines.clear();
    }
}
