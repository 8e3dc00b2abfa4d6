//! Whether a directory may get another name: all that lies below it moves along.
//!
//! The DFA reads paths leaf first, so that what lies below has led to one of
//! the table's boundary states when the directory's own name comes. The old
//! and the new name are fed from each of them: nothing below gains anything
//! exactly when no boundary ends in a less strict verdict by the new name.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use guard_common::event::Reason;
use guard_common::limits::{MAX_MOVE_STEPS, MAX_PATH};
use guard_common::matcher::{Table, decide, masks_of, step};
use guard_common::sandbox::Scratch;
use guard_common::table::{FileAccess, MAX_ROW_UNITS};

use crate::dfa::ArenaTable;
use crate::emit::Access;
use crate::kernel::{Zero, bits_over, bounded};
use crate::maps::SCRATCH;
use crate::subject::Subject;
use crate::walk::NOWHERE;

/// A path that a walk has recorded.
#[derive(Clone, Copy)]
pub struct Recorded {
    /// Index of the scratch record, or [`NOWHERE`].
    pub scratch: u32,
    /// Bytes.
    pub len: u32,
}

impl Recorded {
    /// No path.
    #[inline(always)]
    pub fn none() -> Self {
        Self {
            scratch: NOWHERE,
            len: 0,
        }
    }

    /// What the walk of an allowed access has recorded. That of another may have
    /// ended early, or have seen names change: it is no path.
    #[inline(always)]
    pub fn by(access: &Access) -> Self {
        Self {
            scratch: access.scratch,
            len: if access.allowed() {
                access.payload_len
            } else {
                u32::MAX
            },
        }
    }

    /// As one number.
    #[inline(always)]
    pub fn packed(self) -> u64 {
        (self.scratch as u64) << 32 | self.len as u64
    }
}

/// One name, being fed from one boundary.
#[repr(C)]
struct Feed {
    table: ArenaTable,
    bytes: *const u8,
    len: u64,
    state: u64,
    zero: Zero,
}

/// All boundaries, one after the other.
#[repr(C)]
struct Compare {
    feed: Feed,
    old: *const Scratch,
    new: *const Scratch,
    old_len: u64,
    new_len: u64,
    active: u64,
    boundaries: u32,
    count: u32,
    outputs: u32,
    both_ways: u32,
    found: u32,
}

/// What is against the move of a directory from the path `old` to `new`, both
/// as [`Recorded::packed`]: a [`Reason`], or 0. With `both_ways`, what is at
/// `new` comes to `old` too. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn move_gains(subject: *const Subject, old: u64, new: u64, both_ways: u64) -> u64 {
    if subject.is_null() {
        return Reason::Internal as u64;
    }
    // SAFETY: on the caller's stack.
    let subject = unsafe { &*subject };
    let zero = subject.zero;
    let (old_len, new_len) = (old & 0xffff_ffff, new & 0xffff_ffff);
    let table = ArenaTable::of(subject);
    let (Some(old), Some(new)) = (
        SCRATCH.get_ptr_mut((old >> 32) as u32),
        SCRATCH.get_ptr_mut((new >> 32) as u32),
    ) else {
        return Reason::Internal as u64;
    };
    if old_len > MAX_PATH as u64 || new_len > MAX_PATH as u64 {
        return Reason::Internal as u64;
    }
    let count = table.u32(52);
    if count as u64 * (old_len + new_len) > MAX_MOVE_STEPS {
        return Reason::TooLarge as u64;
    }
    let mut compare = Compare {
        feed: Feed {
            table,
            bytes: payload(old),
            len: zero.plus(0),
            state: zero.plus(0),
            zero,
        },
        old,
        new,
        old_len: zero.plus(old_len),
        new_len: zero.plus(new_len),
        active: subject.active,
        boundaries: table.u32(48),
        count: zero.plus32(count),
        outputs: table.u32(28),
        both_ways: zero.plus32(both_ways as u32),
        found: zero.plus32(0),
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_ROW_UNITS,
            boundary as *mut c_void,
            (&raw mut compare).cast::<c_void>(),
            0,
        );
    }
    zero.plus32(compare.found) as u64
}

#[inline(always)]
fn payload(scratch: *const Scratch) -> *const u8 {
    // SAFETY: a field of a live map value.
    unsafe { (&raw const (*scratch).payload).cast() }
}

/// Compares one boundary. 1: all is known.
#[inline(never)]
extern "C" fn boundary(index: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `move_gains`.
    let compare = unsafe { &mut *context.cast::<Compare>() };
    let zero = compare.feed.zero;
    if index as u32 >= zero.plus32(compare.count) {
        return 1;
    }
    let table = compare.feed.table;
    let state = table.u16(compare.boundaries + 2 * index as u32) as u64;
    let old = run(
        &mut compare.feed,
        payload(compare.old),
        compare.old_len,
        state,
    );
    let new = run(
        &mut compare.feed,
        payload(compare.new),
        compare.new_len,
        state,
    );
    if zero.plus(old) == zero.plus(new) {
        return 0;
    }
    let mut kind = 0;
    let mut gains = zero.plus32(0);
    while kind < FileAccess::COUNT as u32 {
        let verdict = |state: u64| {
            let masks = masks_of(&table, compare.outputs, state as u32, kind);
            zero.plus32(decide(masks, compare.active) as u32)
        };
        let (before, after) = (verdict(old), verdict(new));
        gains |= (zero.plus32(after) < zero.plus32(before)) as u32;
        gains |= compare.both_ways & (zero.plus32(before) < zero.plus32(after)) as u32;
        kind += 1;
    }
    if zero.plus32(gains) != 0 {
        compare.found = zero.plus32(Reason::MoreRights as u32);
        return 1;
    }
    0
}

/// Feeds a whole name.
#[inline(always)]
fn run(feed: &mut Feed, bytes: *const u8, len: u64, state: u64) -> u64 {
    let zero = feed.zero;
    feed.bytes = bytes;
    feed.len = zero.plus(len);
    feed.state = zero.plus(state);
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_PATH as u32 / 8,
            feed_word as *mut c_void,
            (&raw mut *feed).cast::<c_void>(),
            0,
        );
    }
    feed.state
}

/// Feeds eight bytes. 1: there are no more.
#[inline(never)]
extern "C" fn feed_word(index: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `run`.
    let feed = unsafe { &mut *context.cast::<Feed>() };
    let zero = feed.zero;
    let at = bounded::<{ MAX_PATH as i32 - 1 }>(8 * index);
    let left = feed.len.wrapping_sub(at);
    if zero.plus(left) as i64 <= 0 {
        return 1;
    }
    // SAFETY: below MAX_PATH, with room for a word behind it.
    let word = unsafe { core::ptr::read_volatile(feed.bytes.add(at as usize).cast::<u64>()) };
    let unused = bits_over(left);
    let mut rest = (word << unused) >> unused;
    let mut state = feed.state as u32;
    let table = feed.table;
    let mut i = 0;
    while i < 8 {
        state = step(&table, state, rest as u8);
        rest >>= 8;
        i += 1;
    }
    feed.state = zero.plus(state as u64);
    0
}
