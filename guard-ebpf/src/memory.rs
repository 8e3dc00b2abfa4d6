//! What programs remember, in arrays that several CPUs write.
//!
//! An entry is found by a hash, holds its whole key, so that a hit is never a
//! guess, and is told from a half-written one by its tag: that is the policy's
//! while the entry holds, and [`BUSY`] while somebody writes it.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

/// A tag while the entry is being written.
pub const BUSY: u64 = 1;
/// Set in the tag of an entry that holds.
const VALID: u64 = 1 << 63;
/// Spreads a key over all bits: 2^64 divided by the golden ratio.
pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The tag of what was found out under a generation of a sandbox's policy:
/// valid, 31 bits of the generation, and room for the states before and after.
#[inline(always)]
pub fn tag(generation: u32) -> u64 {
    VALID | (generation as u64 & 0x7fff_ffff) << 32
}

/// Whether a tag is the wanted one, but for the state after.
#[inline(always)]
pub fn is(tag: u64, want: u64) -> bool {
    (tag ^ want) < 1 << 16
}

/// Takes an entry whose tag was seen to be `found`. False: it is another's.
///
/// # Safety
/// `entry` is the tag of a live entry, which is only ever accessed by whole words.
#[inline(always)]
pub unsafe fn take(entry: *mut u64, found: u64) -> bool {
    if found == BUSY {
        return false;
    }
    // SAFETY: by contract.
    let (_, taken) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            entry, found, BUSY,
        )
    };
    taken
}
