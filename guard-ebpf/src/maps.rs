//! The maps. All are pinned and outlive the supervisor.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use guard_common::limits::{ARENA_SIZE, MAX_SANDBOXES};
use guard_common::sandbox::{
    Config, Counters, Directories, HardLink, MAX_HARD_LINKS, Memo, SandboxEntry, Scratch, Slot,
};

/// `BPF_F_MMAPABLE`: user space writes by plain stores.
const MMAPABLE: usize = 1 << 10;

/// Where the sandboxes live.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Sandboxes by cgroup id.
#[btf_map]
pub static SANDBOXES: HashMap<u64, SandboxEntry, { MAX_SANDBOXES as usize }> = HashMap::new();

/// One page for each sandbox, written by its relay. Filled ahead of use:
/// putting a map in takes 14 to 31 ms on kernels before 7.
#[btf_map]
pub static SLOTS: ArrayOfMaps<Array<Slot, 1, MMAPABLE>, { MAX_SANDBOXES as usize }> =
    ArrayOfMaps::new();

/// Compiled policies. Written into free room, then named by a sandbox's
/// entry, never changed in place.
#[btf_map]
pub static ARENA: Array<[u64; ARENA_SIZE as usize / 8], 1, MMAPABLE> = Array::new();

/// Steps of eight bytes that a sandbox's paths have taken: see [`crate::dfa`].
#[btf_map]
pub static MEMO: Array<Memo, { MAX_SANDBOXES as usize }> = Array::new();

/// Directories whose paths were fed to the end: see [`crate::directories`].
#[btf_map]
pub static DIRECTORIES: Array<Directories, { MAX_SANDBOXES as usize }> = Array::new();

/// Files that a deny rule of a sandbox names, by what they are, and the
/// access bits that it denies: for names that were linked to them elsewhere.
#[btf_map]
pub static HARD_LINKS: HashMap<HardLink, u32, { MAX_HARD_LINKS as usize }> = HashMap::new();

/// Counters by slot.
#[btf_map]
pub static COUNTERS: Array<Counters, { MAX_SANDBOXES as usize }> = Array::new();

/// Where records are put together. Each has a lock: a program may be
/// preempted by another on its CPU.
#[btf_map]
pub static SCRATCH: Array<Scratch, { guard_common::sandbox::SCRATCHES as usize }> = Array::new();

/// Events of denied accesses.
#[btf_map]
pub static DENIALS: RingBuf<u8, { 1 << 20 }> = RingBuf::new();

/// Events of allowed accesses.
#[btf_map]
pub static ALLOWS: RingBuf<u8, { 2 << 20 }> = RingBuf::new();
