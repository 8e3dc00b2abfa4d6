//! Who acts: from the running task to its sandbox and the rule sets in force.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns};
use guard_common::sandbox::{SANDBOX_AUDIT_ONLY, SandboxEntry, Slot, rule_sets_in_force};

use crate::kernel::{Object, Zero, current, load};
use crate::maps::{CONFIG, SANDBOXES, SLOTS};

/// A task in a sandbox. Numbers only: it is handed to functions that the
/// verifier checks by themselves, to which a pointer in memory is a number.
#[repr(C)]
pub struct Subject {
    /// Number of the sandbox.
    pub sandbox: u64,
    /// Rule sets in force.
    pub active: u64,
    /// See [`Zero`].
    pub zero: Zero,
    /// Where its table starts in the arena.
    pub base: u32,
    /// Index of its slot and all that goes with it.
    pub slot: u32,
    /// Counts the policies that it has been under.
    pub generation: u32,
    /// `SANDBOX_*`.
    pub flags: u32,
}

/// What the running task is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// In no sandbox: nothing of guard's concerns it.
    Outside,
    /// Below the parent cgroup, but in no sandbox that is registered.
    Unknown,
    /// In a sandbox.
    Inside,
}

/// Finds out, and fills `out` for a task that is inside: in place, since the
/// stack has no room for a second one. The budget for `Outside` is one array
/// lookup and one helper.
#[inline(always)]
pub fn who(out: &mut MaybeUninit<Subject>) -> Who {
    let Some(config) = CONFIG.get(0) else {
        return Who::Outside;
    };
    // SAFETY: plain helper calls; they return 0 above the root.
    let parent = unsafe { bpf_get_current_ancestor_cgroup_id(config.parent_level as i32) };
    // Without sandboxes the parent is a number that no cgroup has.
    if parent != config.parent_cgroup {
        return Who::Outside;
    }
    let zero = Zero::from_equal(parent, config.parent_cgroup);
    // SAFETY: as above.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(config.parent_level as i32 + 1) };
    // SAFETY: entries are replaced whole; a stale one stays readable under RCU.
    let Some(entry) = (unsafe { SANDBOXES.get(&cgroup) }) else {
        return Who::Unknown;
    };
    if entry.valid_sets == entry.background {
        // There is no choice to make.
        out.write(Subject::of(entry, entry.background, zero));
        return Who::Inside;
    }
    let Some(slot) = SLOTS.get_value_ptr_mut(entry.slot, &0) else {
        return Who::Unknown;
    };
    let slot = slot.cast_const();
    // SAFETY: the page stays mapped while the map is in SLOTS, and under RCU after that.
    let (active, in_flight, lease) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*slot).active),
            core::ptr::read_volatile(&raw const (*slot).in_flight),
            core::ptr::read_volatile(&raw const (*slot).lease),
        )
    };
    let active = rule_sets_in_force(entry, active, in_flight, lease_holds(in_flight, lease));
    out.write(Subject::of(entry, active, zero));
    Who::Inside
}

/// Whether the relay still vouches for the slot. The clock is read only while
/// a call is in flight.
#[inline(always)]
pub fn lease_holds(in_flight: u32, lease: u64) -> bool {
    // SAFETY: plain helper call.
    in_flight == 0 || unsafe { bpf_ktime_get_boot_ns() } <= lease
}

impl Subject {
    #[inline(always)]
    fn of(entry: &SandboxEntry, active: u64, zero: Zero) -> Self {
        Self {
            sandbox: entry.sandbox,
            active,
            zero,
            base: entry.base,
            slot: entry.slot,
            generation: entry.generation,
            flags: entry.flags,
        }
    }

    /// Whether denials are only reported.
    #[inline(always)]
    pub fn audit_only(&self) -> bool {
        self.flags & SANDBOX_AUDIT_ONLY != 0
    }

    /// The relay's page.
    #[inline(always)]
    pub fn page(&self) -> Option<*const Slot> {
        Some(SLOTS.get_value_ptr_mut(self.slot, &0)?.cast_const())
    }
}

/// The cgroup that a task is in. Sandboxes have none below them, so two tasks
/// are in the same sandbox exactly when this is the same.
#[inline(always)]
pub fn cgroup_of(task: Object) -> u64 {
    load!(load!(task, task_cgroups), css_set_default as u64)
}

/// The id of the running task's sandbox's cgroup.
#[inline(always)]
pub fn cgroup_id() -> u64 {
    let level = CONFIG.get(0).map_or(0, |config| config.parent_level);
    // SAFETY: plain helper call.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32 + 1) }
}

/// Whether another task is in the running task's sandbox.
#[inline(always)]
pub fn same_sandbox(task: Object) -> bool {
    cgroup_of(task) == cgroup_of(current())
}
