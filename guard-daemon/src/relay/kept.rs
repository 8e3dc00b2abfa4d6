//! Records that were not acknowledged yet, in a row, without a piece of memory
//! for each.

use std::collections::VecDeque;

/// Bytes of memory that stay when nothing is kept.
const IDLE: usize = 1 << 20;

/// The records from [`Kept::first`] on.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: VecDeque<u8>,
    lengths: VecDeque<usize>,
    first: u64,
}

impl Kept {
    /// Nothing yet; the first record will have the number 1.
    pub(super) const fn new() -> Self {
        Self {
            bytes: VecDeque::new(),
            lengths: VecDeque::new(),
            first: 1,
        }
    }

    /// The number of the oldest; of the next one when there is none.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next record.
    pub(super) fn next(&self) -> u64 {
        self.first + self.lengths.len() as u64
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds the next one.
    pub(super) fn push(&mut self, packet: &[u8]) {
        self.bytes.extend(packet);
        self.lengths.push_back(packet.len());
    }

    /// Forgets those up to a number. How many that were.
    pub(super) fn forget(&mut self, through: u64) -> usize {
        let mut count = 0;
        let mut bytes = 0;
        while self.first <= through
            && let Some(length) = self.lengths.pop_front()
        {
            bytes += length;
            self.first += 1;
            count += 1;
        }
        self.bytes.drain(..bytes);
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE {
            self.bytes = VecDeque::new();
        }
        count
    }

    /// Hands out the records from the `skip`th on, each as it was pushed,
    /// until one is not taken. How many were.
    pub(super) fn each(&self, skip: usize, mut take: impl FnMut(&[u8]) -> bool) -> usize {
        let mut at: usize = self.lengths.iter().take(skip).sum();
        let mut packet = Vec::new();
        let mut count = 0;
        for length in self.lengths.iter().skip(skip) {
            packet.clear();
            packet.extend(self.bytes.range(at..at + length));
            if !take(&packet) {
                break;
            }
            at += length;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kept: &Kept, skip: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        kept.each(skip, |packet| {
            all.push(packet.to_vec());
            true
        });
        all
    }

    #[test]
    fn records_come_back_as_they_were_until_they_are_forgotten() {
        let mut kept = Kept::new();
        let packets: Vec<Vec<u8>> = (0..200_u8)
            .map(|n| vec![n; usize::from(n) * 40 + 1])
            .collect();
        for packet in &packets {
            kept.push(packet);
        }
        assert_eq!((kept.first(), kept.next(), kept.len()), (1, 201, 200));
        assert_eq!(all(&kept, 0), packets);
        assert_eq!(kept.forget(0), 0);
        assert_eq!(kept.forget(150), 150);
        assert_eq!(kept.forget(150), 0, "not twice");
        assert_eq!(all(&kept, 0), packets[150..]);
        assert_eq!(all(&kept, 9), packets[159..]);
        // The room in front is used again.
        for packet in &packets {
            kept.push(packet);
        }
        assert_eq!((kept.first(), kept.next()), (151, 401));
        assert_eq!(all(&kept, 50), packets);
        assert_eq!(kept.each(0, |packet| packet[0] != 160), 10);
        assert_eq!(kept.forget(u64::MAX), 250, "no more than there are");
        assert_eq!((kept.first(), kept.bytes()), (401, 0));
    }
}
