//! Digests of several messages at once, where the processor can do that faster
//! than one after the other.

use crate::mcp::digest::Digest;
use crate::sys::sha256::{LANES, START, State, Vectors, Words};

const BLOCK: usize = 64;
/// With fewer messages left than this, one after the other is faster.
const FEW: usize = 3;

/// The digests of these messages, in their order.
pub(super) fn digests(messages: &[&[u8]]) -> Vec<Digest> {
    match Vectors::fastest() {
        Some(vectors) if messages.len() >= FEW => beside(vectors, messages),
        _ => messages.iter().map(|message| Digest::of(message)).collect(),
    }
}

/// A message on its way through a lane.
struct Lane<'a> {
    /// Which one of all.
    index: usize,
    whole: &'a [[u8; BLOCK]],
    /// What is left behind the whole blocks, with padding: one block or two.
    rest: [[u8; BLOCK]; 2],
    /// Blocks in all.
    blocks: usize,
    /// Blocks that were taken.
    taken: usize,
}

impl<'a> Lane<'a> {
    fn new(index: usize, message: &'a [u8]) -> Self {
        let (whole, tail) = message.as_chunks();
        let mut rest = [[0; BLOCK]; 2];
        let bytes = rest.as_flattened_mut();
        bytes[..tail.len()].copy_from_slice(tail);
        bytes[tail.len()] = 0x80;
        // The length in bits needs eight bytes more.
        let count = if tail.len() + 9 <= BLOCK { 1 } else { 2 };
        let bits = 8 * message.len() as u64;
        bytes[count * BLOCK - 8..count * BLOCK].copy_from_slice(&bits.to_be_bytes());
        Self {
            index,
            whole,
            rest,
            blocks: whole.len() + count,
            taken: 0,
        }
    }

    fn next(&mut self) -> &[u8; BLOCK] {
        let at = self.taken;
        self.taken += 1;
        match self.whole.get(at) {
            Some(block) => block,
            None => &self.rest[at - self.whole.len()],
        }
    }
}

fn beside(vectors: Vectors, messages: &[&[u8]]) -> Vec<Digest> {
    let mut done = vec![None; messages.len()];
    let mut waiting = messages.iter().enumerate();
    let mut lanes: [Option<Lane<'_>>; LANES] = [const { None }; LANES];
    let mut state: State = [[0; LANES]; 8];
    let mut block: [Words; 16] = [[0; LANES]; 16];
    loop {
        let mut used = 0;
        for (n, lane) in lanes.iter_mut().enumerate() {
            if lane.is_none()
                && let Some((index, message)) = waiting.next()
            {
                *lane = Some(Lane::new(index, message));
                for (words, start) in state.iter_mut().zip(START) {
                    words[n] = start;
                }
            }
            if lane.is_some() {
                used = n + 1;
            }
        }
        if used == 0 {
            break;
        }
        // As long as no lane ends, there is nothing to look at.
        let left = lanes.iter().flatten().map(|lane| lane.blocks - lane.taken);
        for _ in 0..left.min().unwrap_or(0) {
            for (n, lane) in lanes[..used].iter_mut().enumerate() {
                // What an empty lane computes is nothing that anybody reads.
                let Some(lane) = lane else { continue };
                let (words, _) = lane.next().as_chunks::<4>();
                for (row, word) in block.iter_mut().zip(words) {
                    row[n] = u32::from_be_bytes(*word);
                }
            }
            vectors.compress(&mut state, &block, used);
        }
        for (n, lane) in lanes.iter_mut().enumerate() {
            if let Some(ended) = lane.take_if(|lane| lane.taken == lane.blocks) {
                done[ended.index] = Some(Digest::from_words(state.map(|words| words[n])));
            }
        }
    }
    // Every message went through a lane; if not, this is slow but right.
    done.into_iter()
        .zip(messages)
        .map(|(digest, message)| digest.unwrap_or_else(|| Digest::of(message)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of lengths around every border of padding, and longer ones.
    fn messages() -> Vec<Vec<u8>> {
        let lengths = (0..=130).chain([1000, 4095, 4096, 4097, 70_000]);
        lengths
            .map(|len| (0..len).map(|n: usize| (n * 7 + len) as u8).collect())
            .collect()
    }

    #[test]
    fn every_way_gives_the_digests_of_one_after_the_other() {
        let messages = messages();
        let all: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let expected: Vec<Digest> = all.iter().map(|m| Digest::of(m)).collect();
        for vectors in Vectors::all() {
            assert!(beside(vectors, &all) == expected, "{vectors:?}");
            for count in 0..=20 {
                let some = beside(vectors, &all[100..100 + count]);
                assert!(some == expected[100..100 + count], "{vectors:?} {count}");
            }
        }
        assert!(digests(&all) == expected);
        assert!(digests(&all[..2]) == expected[..2]);
    }
}
