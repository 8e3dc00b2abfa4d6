//! A sandbox as the kernel programs know it, and the slot through which its
//! relay says which calls are in flight.

use crate::event::EventHeader;
use crate::limits::{
    DIRECTORY_ENTRIES, MAX_ABSTRACT_NAME, MAX_CALLS, MAX_NAME, MAX_PATH, MEMO_ENTRIES, SLOT_SIZE,
};

/// Global settings, memory `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Id of the cgroup that all sandboxes live under. 0: no sandbox anywhere.
    pub parent_cgroup: u64,
    /// Its level below the root of the hierarchy; sandboxes are one below.
    pub parent_level: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Value of the map `SANDBOXES`, keyed by the sandbox's cgroup id. Only the
/// supervisor writes it, always whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxEntry {
    /// Number of the sandbox, never used twice in one boot.
    pub sandbox: u64,
    /// Rule sets in force outside of any call. Never 0.
    pub background: u64,
    /// Rule sets that this policy has: a slot can choose no others.
    pub valid_sets: u64,
    /// Offset of the table in the arena, a multiple of
    /// [`crate::table::ROW_UNIT`].
    pub base: u32,
    /// Always zero.
    pub reserved: u32,
    /// Index of the slot and of the counters.
    pub slot: u32,
    /// Counts the policies that this sandbox has been under, from 1.
    pub generation: u32,
    /// `SANDBOX_*` flags.
    pub flags: u32,
    /// Always zero.
    pub reserved2: u32,
}

/// A sandbox where it is found fastest (memory `CELLS`): in one of the
/// [`CELLS_OF_GROUP`] cells of [`group_of`] its cgroup's id, unless others have
/// them all. What `SANDBOXES` says is the same;
/// it is asked where the cell does not answer. Only the supervisor writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Counts changes; odd while one is being made.
    pub version: u64,
    /// Id of the sandbox's cgroup; 0: nobody's.
    pub cgroup: u64,
    /// As in `SANDBOXES`.
    pub entry: SandboxEntry,
}

/// Groups of cells, a power of two: twice as many as there are sandboxes.
pub const GROUPS: usize = 1024;

/// Cells in a group.
pub const CELLS_OF_GROUP: usize = 4;

/// All cells.
pub const CELLS: usize = GROUPS * CELLS_OF_GROUP;

/// The group that the sandbox of a cgroup is in.
#[inline(always)]
#[must_use]
pub const fn group_of(cgroup: u64) -> u64 {
    // 2^64 divided by the golden ratio: ids that follow one another lie apart.
    cgroup.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - GROUPS.trailing_zeros())
}

/// Judge and report, but deny nothing.
pub const SANDBOX_AUDIT_ONLY: u32 = 1;
/// Report allowed accesses too.
pub const SANDBOX_LOG_ALLOWS: u32 = 2;
/// Deny what cannot be reported because a ring is full.
pub const SANDBOX_RING_FULL_DENY: u32 = 4;
/// An IP rule of the policy needs datagram sockets.
pub const SANDBOX_DATAGRAM: u32 = 8;
/// Files that a deny rule names are in `HARD_LINKS`.
pub const SANDBOX_LINKS: u32 = 16;

/// The page that the relay writes and the kernel reads. The relay is trusted
/// with nothing but the choice among its policy's rule sets.
///
/// The relay makes `epoch` odd before it changes anything and even after, so
/// that a reader can tell a whole set of call numbers from a torn one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Counts changes; odd while one is being made.
    pub epoch: u64,
    /// Rule sets in force while calls are in flight.
    pub active: u64,
    /// `CLOCK_BOOTTIME` nanoseconds after which the slot counts as abandoned:
    /// background rules, attribution `none`.
    pub lease: u64,
    /// Calls in flight, up to [`MAX_CALLS`].
    pub in_flight: u32,
    /// Always zero.
    pub reserved: u32,
    /// Numbers of the calls in flight, the first `in_flight` of them valid.
    pub calls: [u64; MAX_CALLS],
    /// Rest of the page.
    pub unused: [u8; SLOT_SIZE - 32 - 8 * MAX_CALLS],
}

/// The rule sets that an access must pass. A slot that names none of the
/// policy's sets, has no call in flight, or whose lease ran out, means
/// background rules.
#[inline(always)]
#[must_use]
pub const fn rule_sets_in_force(
    background: u64,
    valid_sets: u64,
    active: u64,
    in_flight: u32,
    lease_ok: bool,
) -> u64 {
    let chosen = active & valid_sets;
    if in_flight == 0 || !lease_ok || chosen == 0 {
        background
    } else {
        chosen
    }
}

/// Per-sandbox counters, map `COUNTERS`, indexed by slot. Written by the
/// kernel programs only, except that the supervisor zeroes them for a new
/// sandbox.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Next `kseq` of each ring; counts lost events too, so that a loss is a gap.
    pub kseq: [u64; 2],
    /// Events that found the ring full, for each ring.
    pub ring_full: [u64; 2],
}

/// Steps of eight bytes that a sandbox's paths have taken (memory `MEMO`): a tag
/// and the eight bytes, one after the other. Only the kernel programs read them.
pub type Memo = [u64; 2 * MEMO_ENTRIES];

/// A directory whose path was fed to the end (memory `DIRECTORIES`). Only the
/// kernel programs read and write it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// A valid bit, the policy's generation, the state before, the state after.
    pub tag: u64,
    /// The directory's dentry.
    pub dentry: u64,
    /// The mount that it was come by.
    pub mount: u64,
    /// The mount namespace.
    pub namespace: u64,
    /// Number of its inode.
    pub inode: u64,
    /// The inode's generation; above, the bytes of the path from here on.
    pub generation: u64,
    /// When: how often names and mounts had changed until then.
    pub stamp: u64,
    /// The tag without the state after, while the entry is being written.
    pub reserved: u64,
    /// Bytes of `text`, 0 when the path from here on was not recorded.
    pub recorded: u64,
    /// The path from here on, as events hold it: leaf first.
    pub text: [u64; DIRECTORY_WORDS],
}

/// Words of the longest path that is kept with a directory.
pub const DIRECTORY_WORDS: usize = 23;

/// The directories of one sandbox.
pub type Directories = [u64; DIRECTORY_ENTRIES * size_of::<Directory>() / 8];

/// A connect that was just allowed (memory `CONNECTS`): the socket, the
/// destination and when. Only the kernel programs read and write it.
pub type Connect = [u64; 8];

/// Entries of the memory `CONNECTS`, a power of two.
pub const CONNECTS: usize = 1024;

/// Key of the map `HARD_LINKS`: a file, for one sandbox. Its value holds the
/// access bits that rules which name the file deny.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HardLink {
    /// The sandbox's slot.
    pub slot: u32,
    /// `s_dev` of its filesystem, in the kernel's form (major << 20 | minor).
    pub device: u32,
    /// Number of its inode.
    pub inode: u64,
}

/// Key of the map `ABSTRACT_NAMES`: an abstract name of a unix socket that the
/// rules of one sandbox name. Its value is what they say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbstractName {
    /// The sandbox's number, which no other has had in this boot: what is left
    /// over is nobody's.
    pub sandbox: u64,
    /// Bytes of the name, without the zero in front.
    pub len: u64,
    /// The name, and zeros.
    pub name: [u8; 112],
}

impl AbstractName {
    /// The key of a name; `None` for one that is too long.
    #[must_use]
    pub fn new(sandbox: u64, name: &[u8]) -> Option<Self> {
        let mut key = Self {
            sandbox,
            len: name.len() as u64,
            name: [0; 112],
        };
        if name.len() > MAX_ABSTRACT_NAME {
            return None;
        }
        key.name.get_mut(..name.len())?.copy_from_slice(name);
        Some(key)
    }
}

/// Where one record is put together (map `SCRATCH`). The header lies right
/// before the call numbers, and those right before the payload; for few calls
/// the record starts later.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// 1 while a program uses it.
    pub busy: u64,
    /// Header and call numbers.
    pub head: [u8; size_of::<EventHeader>() + 8 * MAX_CALLS],
    /// Payload. A name is written at most at `MAX_PATH`, in whole words.
    pub payload: [u8; MAX_PATH + MAX_NAME + 9],
    /// Room for what the verifier must think possible.
    pub slack: [u8; 3200],
}

/// Number of them, a power of two.
pub const SCRATCHES: u32 = 256;

/// Those that a program looks for a free one in: the move of a directory needs
/// two, and a program may be preempted by another on its CPU.
pub const SCRATCHES_OF_CPU: u32 = 4;

/// Entries of the map `HARD_LINKS`, for all sandboxes together.
pub const MAX_HARD_LINKS: u32 = 1 << 16;

const _: () = assert!(size_of::<Scratch>() == 8192 && SCRATCHES.is_power_of_two());
const _: () = assert!(size_of::<Slot>() == SLOT_SIZE);
const _: () = assert!(size_of::<Directory>() == 256 && DIRECTORY_ENTRIES.is_power_of_two());
const _: () = assert!(CONNECTS.is_power_of_two());
const _: () = assert!(size_of::<SandboxEntry>() == 48);
const _: () = assert!(size_of::<Cell>() == 64 && GROUPS.is_power_of_two());
const _: () = assert!(size_of::<Config>() == 16);

#[cfg(feature = "user")]
mod pod {
    use crate::table::AccessMasks;

    use super::{AbstractName, Config, Counters, HardLink, SandboxEntry, Slot};
    // SAFETY: repr(C), integers only, no padding (sizes asserted above), every bit pattern valid.
    unsafe impl aya::Pod for Config {}
    // SAFETY: as for Config.
    unsafe impl aya::Pod for SandboxEntry {}
    // SAFETY: as for Config.
    unsafe impl aya::Pod for Slot {}
    // SAFETY: as for Config; six u64.
    unsafe impl aya::Pod for Counters {}
    // SAFETY: as for Config; two u32, one u64.
    unsafe impl aya::Pod for HardLink {}
    // SAFETY: as for Config; two u64, bytes.
    unsafe impl aya::Pod for AbstractName {}
    // SAFETY: as for Config; three u64.
    unsafe impl aya::Pod for AccessMasks {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_chooses_only_among_its_policys_sets() {
        assert_eq!(rule_sets_in_force(1, 0b111, 0b010, 1, true), 0b010);
        assert_eq!(rule_sets_in_force(1, 0b111, 0b1010, 1, true), 0b010);
        assert_eq!(rule_sets_in_force(1, 0b111, 0b1000, 1, true), 1);
        assert_eq!(rule_sets_in_force(1, 0b111, 0b010, 0, true), 1);
        assert_eq!(rule_sets_in_force(1, 0b111, 0b010, 1, false), 1);
    }
}
