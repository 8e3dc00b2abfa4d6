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
    EventHeader, Kind, LargeEvent, NetPayload, Op, RING_ALLOWS, RING_DENIALS, Reason, SMALL_CALLS,
    SMALL_PATH, SmallEvent,
};
use guard_common::limits::{MAX_CALLS, MAX_PATH};
use guard_common::matcher::Verdict;
use guard_common::sandbox::{SANDBOX_LOG_ALLOWS, SANDBOX_RING_FULL_DENY, Slot};
use guard_common::table::AccessMasks;

use crate::kernel::{Typed, Zero, current, offset};
use crate::maps::{ALLOWS, COUNTERS, DENIALS};
use crate::path::{WHOLE, record_large, record_small};
use crate::subject::Subject;

/// `BPF_RB_NO_WAKEUP`: waking a reader costs more than all the rest.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA`.
const AVAILABLE: u64 = 0;
/// Bytes of unread allows at which the reader is woken.
const WAKE_AT: u64 = 512 << 10;

/// A judged access. All numbers are unknown to the verifier (see
/// [`crate::kernel::Zero`]): it compares them at every loop, and would walk
/// each combination of constants by itself.
pub struct Access {
    /// What it is about: a [`guard_common::event::Kind`].
    pub kind: u32,
    /// The hook: an [`guard_common::event::Op`].
    pub op: u32,
    /// [`guard_common::table::FileAccess`] bits.
    pub bits: u32,
    /// The policy's [`Verdict`].
    pub verdict: u32,
    /// Why, when not by a rule: a [`Reason`].
    pub reason: u32,
    /// What the table said.
    pub masks: AccessMasks,
    /// 1 when `self` was fed for a process id.
    pub fed_self: u32,
}

impl Access {
    /// Not judged yet: denied, by an error in guard.
    #[inline(always)]
    pub fn unjudged(zero: Zero, kind: Kind, op: Op, bits: u32) -> Self {
        Self {
            kind: zero.plus32(kind as u32),
            op: zero.plus32(op as u32),
            bits,
            verdict: zero.plus32(Verdict::Deny as u32),
            reason: zero.plus32(Reason::Internal as u32),
            masks: AccessMasks {
                allow: zero.plus(0),
                deny: zero.plus(0),
                approve: zero.plus(0),
            },
            fed_self: zero.plus32(0),
        }
    }
}

/// What goes behind the header.
pub trait Payload {
    /// Whether a path is too long for a small record.
    fn long(&self) -> bool;
    /// Writes into `out`, which has `PATH` bytes and the slack behind them;
    /// returns the bytes written and whether that is all.
    ///
    /// # Safety
    /// `out` has that room.
    unsafe fn write<const PATH: usize>(&self, out: *mut u8, zero: Zero) -> (u32, bool);
    /// Reports into the ring of denials. 0 when it is full.
    fn report_denial(&self, subject: &Subject, access: &Access) -> u64;
    /// Reports into the ring of allowed accesses. 0 when it is full.
    fn report_allow(&self, subject: &Subject, access: &Access) -> u64;
}

/// A file, and the length of its path as judged.
pub struct Path {
    /// The file.
    pub file: Typed,
    /// Bytes.
    pub len: u32,
}

impl Payload for Path {
    #[inline(always)]
    fn long(&self) -> bool {
        self.len as usize > SMALL_PATH
    }
    #[inline(always)]
    unsafe fn write<const PATH: usize>(&self, out: *mut u8, zero: Zero) -> (u32, bool) {
        let written = if PATH > SMALL_PATH {
            record_large(self.file.0, out, zero.plus(0))
        } else {
            record_small(self.file.0, out, zero.plus(0))
        };
        (written as u32, written & WHOLE != 0)
    }
    #[inline(always)]
    fn report_denial(&self, subject: &Subject, access: &Access) -> u64 {
        path_denied(subject, access, self)
    }
    #[inline(always)]
    fn report_allow(&self, subject: &Subject, access: &Access) -> u64 {
        path_allowed(subject, access, self)
    }
}

impl Payload for NetPayload {
    #[inline(always)]
    fn long(&self) -> bool {
        false
    }
    #[inline(always)]
    unsafe fn write<const PATH: usize>(&self, out: *mut u8, _: Zero) -> (u32, bool) {
        // SAFETY: `out` has more room than that, by contract.
        unsafe { out.cast::<Self>().write_unaligned(*self) };
        (size_of::<Self>() as u32, true)
    }
    #[inline(always)]
    fn report_denial(&self, subject: &Subject, access: &Access) -> u64 {
        net_denied(subject, access, self)
    }
    #[inline(always)]
    fn report_allow(&self, subject: &Subject, access: &Access) -> u64 {
        net_allowed(subject, access, self)
    }
}

/// Reports an access and says whether to refuse it.
#[inline(always)]
pub fn conclude(subject: &Subject, access: &Access, payload: &impl Payload) -> bool {
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
        let written = if denied {
            payload.report_denial(subject, access)
        } else {
            payload.report_allow(subject, access)
        };
        refuse |= written == 0 && subject.entry.flags & SANDBOX_RING_FULL_DENY != 0;
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

/// Adds one to a counter that all CPUs share, and returns what it was.
/// Sequentially consistent: for a weaker order the compiler emits the
/// instruction that returns nothing, and passes the operand off as the result.
#[inline(always)]
fn count(counter: *mut u64) -> u64 {
    // SAFETY: a live, aligned map value that is only ever accessed atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}

// Functions of their own, since one stack frame is too small for all; and one
// for each kind, since the verifier adds up frames without asking which are used.

/// Reports a denied path. 0 when the ring is full.
#[inline(never)]
extern "C" fn path_denied(
    subject: *const Subject,
    access: *const Access,
    payload: *const Path,
) -> u64 {
    // SAFETY: all are on the caller's stack.
    unsafe { report::<RING_DENIALS, Path>(&*subject, &*access, &*payload) as u64 }
}

/// Reports an allowed path. 0 when the ring is full.
#[inline(never)]
extern "C" fn path_allowed(
    subject: *const Subject,
    access: *const Access,
    payload: *const Path,
) -> u64 {
    // SAFETY: all are on the caller's stack.
    unsafe { report::<RING_ALLOWS, Path>(&*subject, &*access, &*payload) as u64 }
}

/// Reports a denied socket. 0 when the ring is full.
#[inline(never)]
extern "C" fn net_denied(
    subject: *const Subject,
    access: *const Access,
    payload: *const NetPayload,
) -> u64 {
    // SAFETY: all are on the caller's stack.
    unsafe { report::<RING_DENIALS, NetPayload>(&*subject, &*access, &*payload) as u64 }
}

/// Reports an allowed socket. 0 when the ring is full.
#[inline(never)]
extern "C" fn net_allowed(
    subject: *const Subject,
    access: *const Access,
    payload: *const NetPayload,
) -> u64 {
    // SAFETY: all are on the caller's stack.
    unsafe { report::<RING_ALLOWS, NetPayload>(&*subject, &*access, &*payload) as u64 }
}

/// Takes the next sequence number and writes the record. False when the ring
/// is full, which is counted.
#[inline(always)]
fn report<const RING: usize, P: Payload>(subject: &Subject, access: &Access, payload: &P) -> bool {
    let Some(counters) = COUNTERS.get_ptr_mut(subject.entry.slot) else {
        return false;
    };
    let kseq = count(ring_field!(counters, kseq, RING));
    let written = write::<RING, P>(subject, access, payload, kseq);
    if !written {
        count(ring_field!(counters, ring_full, RING));
    }
    written
}

#[inline(always)]
fn write<const RING: usize, P: Payload>(
    subject: &Subject,
    access: &Access,
    payload: &P,
    kseq: u64,
) -> bool {
    // SAFETY: the slot's page is mapped while the subject is.
    let in_flight = unsafe { core::ptr::read_volatile(&raw const (*subject.slot).in_flight) };
    let long = payload.long();
    let map = if RING == RING_DENIALS {
        (&raw const DENIALS).cast_mut().cast::<c_void>()
    } else {
        (&raw const ALLOWS).cast_mut().cast()
    };
    let wake = if RING == RING_DENIALS {
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
            let header = &raw mut (*record).header;
            fill::<MAX_CALLS, MAX_PATH, P>(
                subject, access, payload, kseq, in_flight, header, calls, out,
            );
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
            let header = &raw mut (*record).header;
            fill::<SMALL_CALLS, SMALL_PATH, P>(
                subject, access, payload, kseq, in_flight, header, calls, out,
            );
            bpf_ringbuf_submit(record.cast(), wake);
        }
    }
    true
}

/// Writes calls, payload and header.
///
/// # Safety
/// `header` is a record's, `calls` has room for `CALLS` numbers, `out` for
/// `PATH` bytes and the slack.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one call site for each record size"
)]
unsafe fn fill<const CALLS: usize, const PATH: usize, P: Payload>(
    subject: &Subject,
    access: &Access,
    payload: &P,
    kseq: u64,
    mut in_flight: u32,
    header: *mut EventHeader,
    calls: *mut u64,
    out: *mut u8,
) {
    // First: what is known of the flags is more states for the verifier to walk.
    // SAFETY: `out` has that room by contract.
    let (payload_len, whole) = unsafe { payload.write::<PATH>(out, subject.zero) };
    let mut flags = if whole { 0 } else { EVENT_PATH_PARTIAL };
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
    if subject.lease_expired != 0 {
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
    if access.fed_self != 0 {
        flags |= EVENT_PROC_SELF;
    }
    let ids = bpf_get_current_pid_tgid();
    // SAFETY: fields of struct task_struct.
    let ppid = unsafe {
        current()
            .pointer(offset!(task_real_parent))
            .u32(offset!(task_tgid))
    };
    macro_rules! set {
        ($($field:ident = $value:expr;)*) => {
            // SAFETY: `header` is that of the record. Written in place: the stack has no room for a copy.
            unsafe { $((&raw mut (*header).$field).write_volatile($value);)* }
        };
    }
    set! {
        sandbox = subject.entry.sandbox;
        kseq = kseq;
        time = bpf_ktime_get_boot_ns();
        cgroup = subject.cgroup;
        active = subject.active;
        masks = access.masks;
        epoch = epoch;
        in_flight = in_flight;
        generation = subject.entry.generation;
        pid = (ids >> 32) as u32;
        tid = ids as u32;
        ppid = ppid;
        uid = bpf_get_current_uid_gid() as u32;
        flags = flags;
        payload_len = payload_len;
        kind = access.kind as u8;
        op = access.op as u8;
        access = access.bits as u8;
        verdict = access.verdict as u8;
        reason = access.reason as u8;
        reserved = [0; 3];
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
