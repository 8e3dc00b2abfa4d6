//! Who acts: from the running task to its sandbox and the rule sets in force.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns};
use guard_common::sandbox::{SANDBOX_AUDIT_ONLY, SandboxEntry, Slot, rule_sets_in_force};

use crate::kernel::Zero;
use crate::maps::{CONFIG, SANDBOXES, SLOTS};

/// A task in a sandbox.
pub struct Subject {
    /// Its sandbox, as the supervisor registered it.
    pub entry: &'static SandboxEntry,
    /// Its relay's page.
    pub slot: *const Slot,
    /// The sandbox's cgroup id.
    pub cgroup: u64,
    /// Rule sets in force.
    pub active: u64,
    /// 1 when calls are marked, but the lease has run out.
    pub lease_expired: u32,
    /// See [`Zero`].
    pub zero: Zero,
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
/// stack has no room for a second one. The budget for `Outside` is one array lookup and one helper.
#[inline(always)]
pub fn who(out: &mut MaybeUninit<Subject>) -> Who {
    let Some(config) = CONFIG.get(0) else {
        return Who::Outside;
    };
    // SAFETY: plain helper calls; they return 0 above the root.
    let parent = unsafe { bpf_get_current_ancestor_cgroup_id(config.parent_level as i32) };
    if config.parent_cgroup == 0 || parent != config.parent_cgroup {
        return Who::Outside;
    }
    // SAFETY: as above.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(config.parent_level as i32 + 1) };
    // SAFETY: entries are replaced whole; a stale one stays readable under RCU.
    let Some(entry) = (unsafe { SANDBOXES.get(&cgroup) }) else {
        return Who::Unknown;
    };
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
    // SAFETY: plain helper call. The clock is read only while a call is in flight.
    let lease_ok = in_flight == 0 || unsafe { bpf_ktime_get_boot_ns() } <= lease;
    let zero = Zero::from_equal(parent, config.parent_cgroup);
    out.write(Subject {
        entry,
        slot,
        cgroup,
        active: rule_sets_in_force(entry, active, in_flight, lease_ok),
        lease_expired: zero.plus32(!lease_ok as u32),
        zero,
    });
    Who::Inside
}

impl Subject {
    /// Whether denials are only reported.
    #[inline(always)]
    pub fn audit_only(&self) -> bool {
        self.entry.flags & SANDBOX_AUDIT_ONLY != 0
    }
}
