//! A sandbox as the kernel programs know it, and the slot through which its
//! relay says which calls are in flight.

use crate::limits::{MAX_CALLS, SLOT_SIZE};

/// Global settings, entry 0 of the map `CONFIG`.
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
    /// Region of the arena that the table lies in.
    pub region: u32,
    /// Offset of the table in its region, a multiple of 8.
    pub base: u32,
    /// Index of the slot and of the counters.
    pub slot: u32,
    /// Counts the policies that this sandbox has been under, from 1.
    pub generation: u32,
    /// `SANDBOX_*` flags.
    pub flags: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Judge and report, but deny nothing.
pub const SANDBOX_AUDIT_ONLY: u32 = 1;
/// Report allowed accesses too.
pub const SANDBOX_LOG_ALLOWS: u32 = 2;
/// Deny what cannot be reported because a ring is full.
pub const SANDBOX_RING_FULL_DENY: u32 = 4;
/// An IP rule of the policy needs datagram sockets.
pub const SANDBOX_DATAGRAM: u32 = 8;

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
    entry: &SandboxEntry,
    active: u64,
    in_flight: u32,
    lease_ok: bool,
) -> u64 {
    let chosen = active & entry.valid_sets;
    if in_flight == 0 || !lease_ok || chosen == 0 {
        entry.background
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
    /// Accesses judged to be denied.
    pub denied: u64,
    /// Accesses judged to be allowed.
    pub allowed: u64,
}

const _: () = assert!(size_of::<Slot>() == SLOT_SIZE);
const _: () = assert!(size_of::<SandboxEntry>() == 48);
const _: () = assert!(size_of::<Config>() == 16);

#[cfg(feature = "user")]
mod pod {
    use super::{Config, Counters, SandboxEntry, Slot};
    // SAFETY: repr(C), integers only, no padding (sizes asserted above), every bit pattern valid.
    unsafe impl aya::Pod for Config {}
    // SAFETY: as for Config.
    unsafe impl aya::Pod for SandboxEntry {}
    // SAFETY: as for Config.
    unsafe impl aya::Pod for Slot {}
    // SAFETY: as for Config; six u64.
    unsafe impl aya::Pod for Counters {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_chooses_only_among_its_policys_sets() {
        let entry = SandboxEntry {
            background: 1,
            valid_sets: 0b111,
            ..SandboxEntry::default()
        };
        assert_eq!(rule_sets_in_force(&entry, 0b010, 1, true), 0b010);
        assert_eq!(rule_sets_in_force(&entry, 0b1010, 1, true), 0b010);
        assert_eq!(rule_sets_in_force(&entry, 0b1000, 1, true), 1);
        assert_eq!(rule_sets_in_force(&entry, 0b010, 0, true), 1);
        assert_eq!(rule_sets_in_force(&entry, 0b010, 1, false), 1);
    }
}
