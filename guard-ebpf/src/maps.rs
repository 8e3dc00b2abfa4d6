//! The maps. All are pinned and outlive the supervisor.
//!
//! What the programs only index is *memory*: an array of one value that
//! programs address without a lookup (`BPF_PSEUDO_MAP_VALUE`), and that user
//! space has mapped. Each is a section of its own, of which the loader makes
//! a map.

use core::cell::UnsafeCell;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, RingBuf, SkStorage};
use aya_ebpf::macros::btf_map;
use guard_common::limits::{ARENA_SIZE, MAX_ABSTRACT_NAMES, MAX_SANDBOXES};
use guard_common::names::{Grants, MAX_NAMED_ADDRESSES, NamedAddress, Origin, Resolver, Splices};
use guard_common::sandbox::{
    AbstractName, CELLS, CONNECTS as CONNECTS_KEPT, Config, Connect, Counters, Directories,
    HardLink, MAX_HARD_LINKS, Memo, SandboxEntry, Scratch, Slot,
};
use guard_common::table::AccessMasks;

/// `BPF_F_MMAPABLE`: user space writes by plain stores.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`: memory is taken when an entry is made.
const NO_PREALLOC: usize = 1;

/// Memory that programs, and user space, access by whole words.
#[repr(transparent)]
pub struct Memory<T>(UnsafeCell<T>);

// SAFETY: it is only ever accessed by volatile or atomic accesses of whole words.
unsafe impl<T> Sync for Memory<T> {}

impl<T> Memory<T> {
    /// Its start. What is added to it must have a bound that the verifier sees.
    #[inline(always)]
    pub fn start(&self) -> *mut T {
        self.0.get()
    }
}

/// Declares memory of zeros, in a section that names it.
macro_rules! memory {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $zero:expr, $section:literal;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            #[unsafe(link_section = $section)]
            pub static $name: Memory<$ty> = Memory(UnsafeCell::new($zero));
        )*
    };
}

memory! {
    /// Where the sandboxes live.
    CONFIG: Config = Config { parent_cgroup: 0, parent_level: 0, reserved: 0 }, ".bss.config";
    /// Sandboxes where they are found fastest, eight words each.
    CELL_MEMORY: [u64; 8 * CELLS] = [0; 8 * CELLS], ".bss.cells";
    /// Compiled policies. Written into free room, then named by a sandbox's
    /// entry, never changed in place.
    ARENA: [u64; ARENA_SIZE as usize / 8] = [0; ARENA_SIZE as usize / 8], ".bss.arena";
    /// Steps of eight bytes that a sandbox's paths have taken: see [`crate::dfa`].
    MEMO: [Memo; MAX_SANDBOXES as usize] = [[0; _]; MAX_SANDBOXES as usize], ".bss.memo";
    /// Directories whose paths were fed to the end: see [`crate::directories`].
    DIRECTORIES: [Directories; MAX_SANDBOXES as usize] = [[0; _]; MAX_SANDBOXES as usize], ".bss.directories";
    /// Where connections were to go that went to the splice, by slot.
    SPLICES: [Splices; MAX_SANDBOXES as usize] = [[0; _]; MAX_SANDBOXES as usize], ".bss.splices";
    /// Connects that were just allowed: see [`crate::lately`].
    CONNECTS: [Connect; CONNECTS_KEPT] = [[0; _]; CONNECTS_KEPT], ".bss.connects";
}

/// Sandboxes by cgroup id.
#[btf_map]
pub static SANDBOXES: HashMap<u64, SandboxEntry, { MAX_SANDBOXES as usize }> = HashMap::new();

/// One page for each sandbox, written by its relay. Filled ahead of use:
/// putting a map in takes 14 to 31 ms on kernels before 7.
#[btf_map]
pub static SLOTS: ArrayOfMaps<Array<Slot, 1, MMAPABLE>, { MAX_SANDBOXES as usize }> =
    ArrayOfMaps::new();

/// Files that a deny rule of a sandbox names, by what they are, and the
/// access bits that it denies: for names that were linked to them elsewhere.
#[btf_map]
pub static HARD_LINKS: HashMap<HardLink, u32, { MAX_HARD_LINKS as usize }> = HashMap::new();

/// Abstract names that rules of a sandbox name, and what they say.
#[btf_map]
pub static ABSTRACT_NAMES: HashMap<AbstractName, AccessMasks, { MAX_ABSTRACT_NAMES as usize }> =
    HashMap::new();

/// Addresses that names led to.
#[btf_map]
pub static NAMED_ADDRESSES: HashMap<
    NamedAddress,
    Grants,
    { MAX_NAMED_ADDRESSES as usize },
    NO_PREALLOC,
> = HashMap::new();

/// Where the questions of each sandbox for names go, and its streams whose
/// server name is to be read, by slot.
#[btf_map]
pub static RESOLVERS: Array<Resolver, { MAX_SANDBOXES as usize }> = Array::new();

/// Where a socket's last question for a name was sent to, or its connection
/// that went to the splice. Kept with the socket:
/// no other sandbox's can displace it.
#[btf_map]
pub static ORIGINS: SkStorage<Origin> = SkStorage::new();

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
pub static ALLOWS: RingBuf<u8, { 4 << 20 }> = RingBuf::new();
