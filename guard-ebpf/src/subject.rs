//! Who acts: from the running task to its sandbox and the rule sets in force.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns};
use guard_common::sandbox::{
    CELLS_OF_GROUP, Cell, GROUPS, SANDBOX_AUDIT_ONLY, SandboxEntry, Slot, group_of,
    rule_sets_in_force,
};

use crate::kernel::{Object, Zero, bounded, current, load};
use crate::maps::{CELL_MEMORY, CONFIG, SANDBOXES, SLOTS};

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
/// stack has no room for a second one. The budget for `Outside` is one helper.
#[inline(always)]
pub fn who(out: &mut MaybeUninit<Subject>) -> Who {
    let (parent_cgroup, level) = parent();
    // SAFETY: plain helper calls; they return 0 above the root.
    let parent = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
    // Without sandboxes the parent is a number that no cgroup has.
    if parent != parent_cgroup {
        return Who::Outside;
    }
    let zero = Zero::from_equal(parent, parent_cgroup);
    // SAFETY: as above.
    let cgroup = unsafe { bpf_get_current_ancestor_cgroup_id(level + 1) };
    let subject = out.write(Subject::empty(zero));
    let valid_sets = registered(cgroup, subject);
    if valid_sets == 0 {
        return Who::Unknown;
    }
    if valid_sets == subject.active {
        // There is no choice to make.
        return Who::Inside;
    }
    let Some(slot) = SLOTS.get_value_ptr_mut(subject.slot, &0) else {
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
    let lease_ok = lease_holds(in_flight, lease);
    subject.active = rule_sets_in_force(subject.active, valid_sets, active, in_flight, lease_ok);
    Who::Inside
}

/// The parent cgroup's id and level.
#[inline(always)]
fn parent() -> (u64, i32) {
    let config = CONFIG.start();
    // SAFETY: live memory.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*config).parent_cgroup),
            core::ptr::read_volatile(&raw const (*config).parent_level) as i32,
        )
    }
}

/// Fills in what a sandbox's entry says, with the background rules in force,
/// and returns its rule sets.
///
/// # Safety
/// `entry` is live; it may be written meanwhile. `out` is on the stack of a caller.
#[inline(always)]
unsafe fn fill(entry: *const SandboxEntry, out: *mut Subject) -> u64 {
    macro_rules! get {
        ($field:ident) => {
            // SAFETY: by contract.
            unsafe { core::ptr::read_volatile(&raw const (*entry).$field) }
        };
    }
    // SAFETY: by contract.
    let out = unsafe { &mut *out };
    out.sandbox = get!(sandbox);
    out.active = get!(background);
    out.base = get!(base);
    out.slot = get!(slot);
    out.generation = get!(generation);
    out.flags = get!(flags);
    get!(valid_sets)
}

/// The rule sets of a cgroup's sandbox, if a cell holds it whole, else 0.
///
/// # Safety
/// `out` is on the stack of a caller.
#[inline(always)]
unsafe fn in_cell(cgroup: u64, out: *mut Subject) -> u64 {
    let group = bounded::<{ GROUPS as i32 - 1 }>(group_of(cgroup));
    // SAFETY: a group of live memory.
    let first = unsafe {
        CELL_MEMORY
            .start()
            .cast::<Cell>()
            .add(group as usize * CELLS_OF_GROUP)
    };
    let mut n = 0;
    while n < CELLS_OF_GROUP {
        // SAFETY: a cell of the group. Loads are seen in order on x86-64.
        unsafe {
            let cell = first.add(n);
            let version = core::ptr::read_volatile(&raw const (*cell).version);
            if core::ptr::read_volatile(&raw const (*cell).cgroup) == cgroup {
                let valid_sets = fill(&raw const (*cell).entry, out);
                let after = core::ptr::read_volatile(&raw const (*cell).version);
                return if version & 1 == 0 && after == version {
                    valid_sets
                } else {
                    0
                };
            }
        }
        n += 1;
    }
    0
}

/// The rule sets of a cgroup's sandbox, 0 when there is none. Checked by the
/// verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn registered(cgroup: u64, out: *mut Subject) -> u64 {
    if out.is_null() {
        return 0;
    }
    // SAFETY: entries are replaced whole; a stale one stays readable under RCU.
    unsafe {
        let valid_sets = in_cell(cgroup, out);
        if valid_sets != 0 {
            return valid_sets;
        }
        match SANDBOXES.get_ptr(&cgroup) {
            Some(entry) => fill(entry, out),
            None => 0,
        }
    }
}

/// Whether the relay still vouches for the slot. The clock is read only while
/// a call is in flight.
#[inline(always)]
pub fn lease_holds(in_flight: u32, lease: u64) -> bool {
    // SAFETY: plain helper call.
    in_flight == 0 || unsafe { bpf_ktime_get_boot_ns() } <= lease
}

impl Subject {
    /// One that [`registered`] fills.
    #[inline(always)]
    fn empty(zero: Zero) -> Self {
        let none = zero.plus(0);
        Self {
            sandbox: none,
            active: none,
            zero,
            base: none as u32,
            slot: none as u32,
            generation: none as u32,
            flags: none as u32,
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
    let (_, level) = parent();
    // SAFETY: plain helper call.
    unsafe { bpf_get_current_ancestor_cgroup_id(level + 1) }
}

/// Whether another task is in the running task's sandbox.
#[inline(always)]
pub fn same_sandbox(task: Object) -> bool {
    cgroup_of(task) == cgroup_of(current())
}
