//! The DFA over the bytes of a path, eight bytes at a time.
//!
//! A step of eight bytes is a function of the state and the bytes, so its
//! result can be remembered. The memory is one for each sandbox: what one
//! sandbox opens, another cannot learn from how long its own opens take.
//! A reader tells a half-written entry by reading its tag twice.

use guard_common::limits::{ARENA_SIZE, MAX_SANDBOXES, MAX_TABLE, MEMO_ENTRIES};
use guard_common::matcher::Table;
use guard_common::sandbox::Memo;
use guard_common::table::{CLASS_MAP_OFFSET, ROW_SHIFT, TRANSITIONS_OFFSET};

use crate::kernel::{bits_over, bounded};
use crate::maps::{ARENA, MEMO};
use crate::memory;
use crate::subject::Subject;

/// A table in the arena.
#[derive(Clone, Copy)]
pub struct ArenaTable {
    /// The arena, whole.
    arena: *const u8,
    /// Where the table starts.
    base: u32,
}

impl ArenaTable {
    /// The subject's table.
    #[inline(always)]
    pub fn of(subject: &Subject) -> Self {
        Self::at_base(subject.base)
    }

    /// The table at a base.
    #[inline(always)]
    pub fn at_base(base: u32) -> Self {
        Self {
            arena: ARENA.start().cast_const().cast(),
            base,
        }
    }

    /// The address of an offset, with a bound that the verifier sees.
    #[inline(always)]
    fn at(&self, offset: u32, size: u32) -> *const u8 {
        let index = (self.base.wrapping_add(offset)) & (ARENA_SIZE - size);
        // SAFETY: below ARENA_SIZE, rounded down to a multiple of `size`.
        unsafe { self.arena.add(index as usize) }
    }

    /// Where it starts; `None` when rows could lie outside the arena.
    #[inline(always)]
    pub fn start(&self) -> Option<*const u8> {
        let base = bounded::<{ ARENA_SIZE as i32 - 1 }>(self.base as u64);
        if base > (ARENA_SIZE - MAX_TABLE - 8192) as u64 {
            return None;
        }
        // SAFETY: inside the arena.
        Some(unsafe { self.arena.add(base as usize) })
    }
}

impl Table for ArenaTable {
    #[inline(always)]
    fn u8(&self, offset: u32) -> u8 {
        // SAFETY: `at` stays inside the arena.
        unsafe { core::ptr::read_volatile(self.at(offset, 1)) }
    }
    #[inline(always)]
    fn u16(&self, offset: u32) -> u16 {
        // SAFETY: `at` stays inside the arena and is aligned.
        unsafe { core::ptr::read_volatile(self.at(offset, 2).cast()) }
    }
    #[inline(always)]
    fn u32(&self, offset: u32) -> u32 {
        // SAFETY: as for u16.
        unsafe { core::ptr::read_volatile(self.at(offset, 4).cast()) }
    }
    #[inline(always)]
    fn u64(&self, offset: u32) -> u64 {
        // SAFETY: as for u16.
        unsafe { core::ptr::read_volatile(self.at(offset, 8).cast()) }
    }
}

/// What feeding needs of the subject, as plain pointers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Feeder {
    /// Start of the table.
    pub table: *const u8,
    /// Start of the sandbox's remembered steps.
    memo: *mut u8,
    /// Tag of the entries of this policy: valid, and its generation.
    tag: u64,
    /// Where table and memory are: slot and base, for [`feed`].
    place: u64,
}

/// Bits of a hash that do not number an entry.
const UNUSED_BITS: u32 = 64 - MEMO_ENTRIES.trailing_zeros();

impl Feeder {
    /// For a subject.
    #[inline(always)]
    pub fn of(subject: &Subject) -> Option<Self> {
        Some(Self {
            table: ArenaTable::of(subject).start()?,
            memo: memo_of(subject.slot),
            tag: memory::tag(subject.generation),
            place: (subject.slot as u64) << 32 | subject.base as u64,
        })
    }

    /// The state before the first byte.
    #[inline(always)]
    pub fn start(&self) -> u64 {
        // SAFETY: in the table's header.
        unsafe { core::ptr::read_volatile(self.table.add(20).cast::<u32>()) as u64 }
    }

    /// Feeds eight bytes; zeros change no state.
    #[inline(always)]
    pub fn word(&self, state: u64, word: u64) -> u64 {
        let want = self.tag | state << 16;
        let index = index_of(state, word);
        // SAFETY: the hash has as many bits as number the entries of 16 bytes.
        let (tag, key, after) = unsafe {
            let entry = self.memo.add((index << 4) as usize).cast::<u64>();
            let tag = core::ptr::read_volatile(entry);
            let key = core::ptr::read_volatile(entry.add(1));
            (tag, key, core::ptr::read_volatile(entry))
        };
        if key == word && tag == after && memory::is(tag, want) {
            return tag & 0xffff;
        }
        feed(self.place, self.tag, state, word)
    }

    /// Ends a component.
    #[inline(always)]
    pub fn slash(&self, state: u64) -> u64 {
        // SAFETY: in the table's header.
        let column = unsafe { core::ptr::read_volatile(self.table.add(24).cast::<u32>()) as u64 };
        let row = (bounded::<0xffff>(state) << ROW_SHIFT) + bounded::<0x1fe>(column);
        // SAFETY: a row and a column of the table.
        unsafe { self.load(row + TRANSITIONS_OFFSET as u64) }
    }

    /// # Safety
    /// `offset` is below `MAX_TABLE` plus the class map and one row, to the
    /// verifier's eyes too.
    #[inline(always)]
    unsafe fn load(&self, offset: u64) -> u64 {
        // SAFETY: by contract.
        unsafe { core::ptr::read_volatile(self.table.add(offset as usize).cast::<u16>()) as u64 }
    }
}

/// The bytes of a word of which `len` belong to a name: what is behind its
/// end is shifted out.
#[inline(always)]
pub fn word_of(bytes: u64, len: u64) -> u64 {
    let unused = bits_over(len);
    (bytes << unused) >> unused
}

/// What a slot's sandbox remembers.
#[inline(always)]
fn memo_of(slot: u32) -> *mut u8 {
    let slot = bounded::<{ MAX_SANDBOXES as i32 - 1 }>(slot as u64);
    // SAFETY: one of MAX_SANDBOXES.
    unsafe {
        MEMO.start()
            .cast::<u8>()
            .add(slot as usize * size_of::<Memo>())
    }
}

/// Which entry a step is remembered in.
#[inline(always)]
fn index_of(state: u64, word: u64) -> u64 {
    ((word ^ state << 40).wrapping_mul(memory::SPREAD)) >> UNUSED_BITS
}

/// Feeds eight bytes one by one, and remembers where they led. It is needed
/// once for each new word. The verifier checks it by itself, once, so that it
/// multiplies with nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn feed(place: u64, tag: u64, state: u64, word: u64) -> u64 {
    let table = ArenaTable::at_base(place as u32);
    let memo = memo_of((place >> 32) as u32);
    let mut now = bounded::<0xffff>(state);
    let mut rest = word;
    let mut i = 0;
    while i < 8 {
        let column = table.u16(CLASS_MAP_OFFSET + 2 * (rest & 0xff) as u32);
        now = table.u16(TRANSITIONS_OFFSET + ((now as u32) << ROW_SHIFT) + column as u32) as u64;
        rest >>= 8;
        i += 1;
    }
    let index = bounded::<{ MEMO_ENTRIES as i32 - 1 }>(index_of(state, word));
    // SAFETY: an entry of the memory, which is only ever accessed by whole
    // words. Who finds it busy leaves it. Stores are seen in order on x86-64.
    unsafe {
        let entry = memo.add((index << 4) as usize).cast::<u64>();
        let old = core::ptr::read_volatile(entry);
        if memory::take(entry, old) {
            core::ptr::write_volatile(entry.add(1), word);
            core::ptr::write_volatile(entry, tag | state << 16 | now);
        }
    }
    now
}
