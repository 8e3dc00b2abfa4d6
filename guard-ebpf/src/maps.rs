//! The maps. All are pinned and outlive the supervisor.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, RingBuf};
use aya_ebpf::macros::btf_map;
use guard_common::event::LargeEvent;
use guard_common::limits::{MAX_SANDBOXES, REGION_SIZE, REGIONS};
use guard_common::sandbox::{Config, Counters, SandboxEntry, Slot};

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
pub static ARENA: Array<[u64; REGION_SIZE as usize / 8], { REGIONS as usize }, MMAPABLE> =
    Array::new();

/// Counters by slot.
#[btf_map]
pub static COUNTERS: Array<Counters, { MAX_SANDBOXES as usize }> = Array::new();

/// Events of denied accesses.
#[btf_map]
pub static DENIALS: RingBuf<LargeEvent, { 1 << 20 }> = RingBuf::new();

/// Events of allowed accesses.
#[btf_map]
pub static ALLOWS: RingBuf<LargeEvent, { 2 << 20 }> = RingBuf::new();
