//! Events into the two rings.
//!
//! A full ring never changes a verdict unless the policy asks for that, and
//! every loss is counted: `kseq` goes on, so that it shows as a gap.

use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::{bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_boot_ns};
use guard_common::event::{
    EVENT_LEASE_EXPIRED, EVENT_NOT_APPLIED, EVENT_PATH_PARTIAL, EVENT_PROC_SELF, EVENT_TORN,
    EventHeader, Kind, LargeEvent, NetPayload, Op, RING_ALLOWS, RING_DENIALS, SMALL_CALLS,
    SMALL_PATH, SmallEvent,
};
use guard_common::limits::{MAX_CALLS, MAX_PATH};
use guard_common::matcher::Verdict;
use guard_common::sandbox::{Counters, SANDBOX_LOG_ALLOWS, SANDBOX_RING_FULL_DENY, Slot};
use guard_common::table::AccessMasks;

use crate::kernel::{Typed, current, offset};
use crate::maps::{ALLOWS, COUNTERS, DENIALS};
use crate::subject::Subject;

/// `BPF_RB_NO_WAKEUP`: waking a reader costs more than all the rest.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA`.
const AVAILABLE: u64 = 0;
/// Bytes of unread allows at which the reader is woken.
const WAKE_AT: u64 = 512 << 10;

/// A judged access.
pub struct Access {
    /// What it is about.
    pub kind: Kind,
    /// The hook.
    pub op: Op,
    /// [`guard_common::table::FileAccess`] bits.
    pub bits: u8,
    /// Number of the policy's [`Verdict`].
    pub verdict: u32,
    /// Number of the [`Reason`](guard_common::event::Reason).
    pub reason: u32,
    /// What the table said.
    pub masks: AccessMasks,
    /// `self` was fed for a process id.
    pub fed_self: bool,
}

/// What goes behind the header.
pub enum Payload {
    /// The file, and the length of its path as judged.
    File(Typed, u32),
    /// A socket or destination.
    Net(NetPayload),
}

/// Reports an access and says whether to refuse it.
#[inline(always)]
pub fn conclude(subject: &Subject, access: &Access, payload: &Payload) -> bool {
    let denied = access.verdict != Verdict::Allow as u32;
    let Some(counters) = COUNTERS.get_ptr_mut(subject.entry.slot) else {
        return !subject.audit_only();
    };
    count(if denied {
        field!(counters, denied)
    } else {
        field!(counters, allowed)
    });
    let mut refuse = denied;
    if denied || subject.entry.flags & SANDBOX_LOG_ALLOWS != 0 {
        let ring = if denied { RING_DENIALS } else { RING_ALLOWS };
        if !report(subject, access, payload, counters, ring) {
            count(if denied {
                ring_field!(counters, ring_full, RING_DENIALS)
            } else {
                ring_field!(counters, ring_full, RING_ALLOWS)
            });
            refuse |= subject.entry.flags & SANDBOX_RING_FULL_DENY != 0;
        }
    }
    refuse && !subject.audit_only()
}

macro_rules! field {
    ($counters:ident, $name:ident) => {
        // SAFETY: a field of a live map value.
        unsafe { &raw mut (*$counters).$name }
    };
}
use field;

macro_rules! ring_field {
    ($counters:ident, $name:ident, $ring:expr) => {
        // SAFETY: an element of a field of a live map value; the index is a constant.
        unsafe { (&raw mut (*$counters).$name).cast::<u64>().add($ring) }
    };
}
use ring_field;

/// Adds one to a counter that all CPUs share, and returns what it was.
#[inline(always)]
fn count(counter: *mut u64) -> u64 {
    // SAFETY: a live, aligned map value that is only ever accessed atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, 1) }
}

/// Takes the next sequence number and writes the record. False when the ring is full.
#[inline(always)]
fn report(
    subject: &Subject,
    access: &Access,
    payload: &Payload,
    counters: *mut Counters,
    ring: usize,
) -> bool {
    let kseq = count(if ring == RING_DENIALS {
        ring_field!(counters, kseq, RING_DENIALS)
    } else {
        ring_field!(counters, kseq, RING_ALLOWS)
    });
    // SAFETY: the slot's page is mapped while the subject is.
    let in_flight = unsafe { core::ptr::read_volatile(&raw const (*subject.slot).in_flight) };
    let long = matches!(payload, Payload::File(_, len) if *len as usize > SMALL_PATH);
    let map = if ring == RING_DENIALS {
        (&raw const DENIALS).cast_mut().cast::<c_void>()
    } else {
        (&raw const ALLOWS).cast_mut().cast()
    };
    let wake = if ring == RING_DENIALS {
        FORCE_WAKEUP
    } else {
        // SAFETY: plain helper call on a ring buffer map.
        let unread = unsafe { bpf_ringbuf_query(map, AVAILABLE) };
        if unread > WAKE_AT {
            FORCE_WAKEUP
        } else {
            NO_WAKEUP
        }
    };
    if long || in_flight as usize > SMALL_CALLS {
        // SAFETY: constant size; checked for null; submitted below.
        let record = unsafe { bpf_ringbuf_reserve(map, size_of::<LargeEvent>() as u64, 0) }
            .cast::<LargeEvent>();
        if record.is_null() {
            return false;
        }
        // SAFETY: the record is this program's until it is submitted.
        unsafe {
            let calls = (&raw mut (*record).calls).cast::<u64>();
            let out = (&raw mut (*record).payload).cast::<u8>();
            let header =
                fill::<MAX_CALLS, MAX_PATH>(subject, access, payload, kseq, in_flight, calls, out);
            (&raw mut (*record).header).write(header);
            bpf_ringbuf_submit(record.cast(), wake);
        }
    } else {
        // SAFETY: as above.
        let record = unsafe { bpf_ringbuf_reserve(map, size_of::<SmallEvent>() as u64, 0) }
            .cast::<SmallEvent>();
        if record.is_null() {
            return false;
        }
        // SAFETY: as above.
        unsafe {
            let calls = (&raw mut (*record).calls).cast::<u64>();
            let out = (&raw mut (*record).payload).cast::<u8>();
            let header = fill::<SMALL_CALLS, SMALL_PATH>(
                subject, access, payload, kseq, in_flight, calls, out,
            );
            (&raw mut (*record).header).write(header);
            bpf_ringbuf_submit(record.cast(), wake);
        }
    }
    true
}

/// Writes calls and payload and makes the header.
///
/// # Safety
/// `calls` has room for `CALLS` numbers, `out` for `PATH` bytes and the slack.
#[inline(always)]
unsafe fn fill<const CALLS: usize, const PATH: usize>(
    subject: &Subject,
    access: &Access,
    payload: &Payload,
    kseq: u64,
    mut in_flight: u32,
    calls: *mut u64,
    out: *mut u8,
) -> EventHeader {
    let mut flags = 0;
    // SAFETY: the slot's page is mapped; `calls` has room by contract.
    let epoch = unsafe { copy_calls::<CALLS>(subject.slot, calls) };
    // SAFETY: as above.
    let (epoch_after, in_flight_after) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*subject.slot).epoch),
            core::ptr::read_volatile(&raw const (*subject.slot).in_flight),
        )
    };
    if epoch & 1 != 0 || epoch != epoch_after || in_flight != in_flight_after {
        flags |= EVENT_TORN;
    }
    if subject.lease_expired {
        flags |= EVENT_LEASE_EXPIRED;
        in_flight = 0;
    }
    if in_flight as usize > CALLS {
        // Only a relay that lies, or a record chosen a moment too early.
        flags |= EVENT_TORN;
        in_flight = CALLS as u32;
    }
    if access.verdict != Verdict::Allow as u32 && subject.audit_only() {
        flags |= EVENT_NOT_APPLIED;
    }
    if access.fed_self {
        flags |= EVENT_PROC_SELF;
    }
    let payload_len = match payload {
        Payload::File(file, _) => {
            let (written, whole) = crate::path::record::<PATH>(*file, out, subject.zero);
            if !whole {
                flags |= EVENT_PATH_PARTIAL;
            }
            written
        }
        Payload::Net(net) => {
            // SAFETY: `out` has more room than that.
            unsafe { out.cast::<NetPayload>().write_unaligned(*net) };
            size_of::<NetPayload>() as u32
        }
    };
    let ids = bpf_get_current_pid_tgid();
    // SAFETY: fields of struct task_struct.
    let ppid = unsafe {
        current()
            .pointer(offset!(task_real_parent))
            .u32(offset!(task_tgid))
    };
    EventHeader {
        sandbox: subject.entry.sandbox,
        kseq,
        // SAFETY: plain helper call.
        time: unsafe { bpf_ktime_get_boot_ns() },
        cgroup: subject.cgroup,
        active: subject.active,
        masks: access.masks,
        epoch,
        in_flight,
        generation: subject.entry.generation,
        pid: (ids >> 32) as u32,
        tid: ids as u32,
        ppid,
        uid: bpf_get_current_uid_gid() as u32,
        flags,
        payload_len,
        kind: access.kind as u8,
        op: access.op as u8,
        access: access.bits,
        verdict: access.verdict as u8,
        reason: access.reason as u8,
        reserved: [0; 3],
    }
}

/// Copies the call numbers, valid or not, and returns the epoch before them.
///
/// # Safety
/// `slot` is mapped, `calls` has room for `CALLS` numbers.
#[inline(always)]
unsafe fn copy_calls<const CALLS: usize>(slot: *const Slot, calls: *mut u64) -> u64 {
    // SAFETY: by contract.
    unsafe {
        let epoch = core::ptr::read_volatile(&raw const (*slot).epoch);
        let from = (&raw const (*slot).calls).cast::<u64>();
        let mut i = 0;
        while i < CALLS {
            core::ptr::write_volatile(calls.add(i), core::ptr::read_volatile(from.add(i)));
            i += 1;
        }
        epoch
    }
}
