//! Events into the two rings.
//!
//! A full ring never changes a verdict unless the policy asks for that, and
//! every loss is counted: `kseq` goes on, so that it shows as a gap.

use core::arch::asm;
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ringbuf_output, bpf_ringbuf_query, bpf_ringbuf_reserve,
    bpf_ringbuf_submit,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_boot_ns};
use guard_common::event::{
    EVENT_LEASE_EXPIRED, EVENT_NOT_APPLIED, EVENT_TORN, EscapePayload, EventHeader, FEW_CALLS,
    Kind, MAX_RECORD, NetPayload, Op, PAYLOAD_NET, PAYLOAD_PATH, PAYLOAD_TARGET, RING_ALLOWS,
    RING_DENIALS, Reason, SHORT_RECORD,
};
use guard_common::limits::{MAX_CALLS, MAX_PATH};
use guard_common::matcher::Verdict;
use guard_common::sandbox::{
    SANDBOX_LOG_ALLOWS, SANDBOX_RING_FULL_DENY, SCRATCHES, SCRATCHES_OF_CPU, Scratch, Slot,
};
use guard_common::table::AccessMasks;

use crate::kernel::{bounded, current, load};
use crate::maps::{ALLOWS, COUNTERS, DENIALS, SCRATCH};
use crate::subject::{Subject, cgroup_id, lease_holds};
use crate::walk::NOWHERE;

/// `BPF_RB_NO_WAKEUP`: waking a reader costs more than all the rest.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA`.
const AVAILABLE: u64 = 0;
/// The reader is woken each time that this many bytes of allows more are
/// unread: a power of two.
const WAKE_AT: u64 = 512 << 10;

/// A number that the compiler does not know: it would make one call of memset
/// of all that is zero, which goes byte by byte.
#[inline(always)]
fn opaque<const NUMBER: i32>() -> u64 {
    let out: u64;
    // SAFETY: one move of a constant.
    unsafe { asm!("{0} = {1}", out(reg) out, const NUMBER, options(pure, nomem, nostack)) };
    out
}

/// A judged access. Numbers only, as in [`Subject`].
#[repr(C)]
pub struct Access {
    /// What the table said.
    pub masks: AccessMasks,
    /// Bytes of payload in the scratch record.
    pub payload_len: u32,
    /// Index of the scratch record that holds the payload, or [`NOWHERE`].
    pub scratch: u32,
    /// `EVENT_*`.
    pub flags: u16,
    /// What it is about: a [`guard_common::event::Kind`].
    pub kind: u8,
    /// The hook: an [`guard_common::event::Op`].
    pub op: u8,
    /// [`guard_common::table::FileAccess`] bits.
    pub bits: u8,
    /// The policy's [`Verdict`].
    pub verdict: u8,
    /// Why, when not by a rule: a [`Reason`].
    pub reason: u8,
    /// Always zero.
    unused: u8,
    /// What the payload is: `PAYLOAD_*`.
    pub payload_kind: u8,
    /// Not 0: it is denied for this [`Reason`], whatever the rules say.
    pub forced: u8,
    /// 1: `verdicts` is to be found out for every kind of access.
    pub want_verdicts: u8,
    /// What the rules say of each kind of access, two bits each.
    pub verdicts: u8,
    /// What they must say at least, two bits each.
    pub floor: u8,
    /// What is denied by another name of the file, see [`crate::judge::denied_by_links`].
    pub denied_link: u8,
    /// 1: only a denial is reported.
    pub silent_allow: u8,
    /// Always zero.
    reserved: u8,
}

/// Bytes from `payload_kind` on, which are written at once.
const SMALL: usize = core::mem::offset_of!(Access, payload_kind);
const _: () = assert!(SMALL % 8 == 0 && SMALL + 8 == size_of::<Access>());

impl Access {
    /// Not judged yet: denied, by an error in guard.
    #[inline(always)]
    pub fn unjudged(kind: Kind, op: Op, bits: u8) -> Self {
        let none = opaque::<0>();
        let mut access = core::mem::MaybeUninit::<Self>::uninit();
        let start = access.as_mut_ptr();
        macro_rules! set {
            ($($field:ident $(. $part:ident)? = $value:expr;)*) => {
                $((&raw mut (*start).$field$(.$part)?).write($value);)*
            };
        }
        // SAFETY: all fields are written.
        unsafe {
            set! {
                masks.allow = none;
                masks.deny = none;
                masks.approve = none;
                payload_len = none as u32;
                scratch = NOWHERE;
                flags = none as u16;
                kind = kind as u8;
                op = op as u8;
                bits = bits;
                verdict = Verdict::Deny as u8;
                reason = Reason::Internal as u8;
                unused = none as u8;
            }
            // The first byte is `payload_kind`, the others are zero.
            start
                .cast::<u8>()
                .add(SMALL)
                .cast::<u64>()
                .write(opaque::<{ PAYLOAD_PATH as i32 }>());
            access.assume_init()
        }
    }

    /// Whether the policy allows it.
    #[inline(always)]
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allow as u8
    }
}

/// A field of a live map value.
macro_rules! field {
    ($pointer:ident, $name:ident) => {
        &raw mut (*$pointer).$name
    };
}

/// Adds one to a counter that all CPUs share, and returns what it was.
/// Sequentially consistent: for a weaker order the compiler emits the
/// instruction that returns nothing, and passes the operand off as the result.
#[inline(always)]
pub fn count(counter: *mut u64) -> u64 {
    // SAFETY: a live, aligned map value that is only ever accessed atomically.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}

/// Takes a scratch record; [`NOWHERE`] when this CPU's are all in use, by
/// programs that it preempted. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn acquire_scratch() -> u32 {
    // SAFETY: plain helper call.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let mut try_nr = 0;
    while try_nr < SCRATCHES_OF_CPU {
        // Another CPU's may be the same, where there are many.
        let index = (cpu.wrapping_mul(SCRATCHES_OF_CPU) + try_nr) & (SCRATCHES - 1);
        if let Some(scratch) = SCRATCH.get_ptr_mut(index) {
            // SAFETY: a live map value that is only ever accessed atomically.
            let (_, taken) = unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    field!(scratch, busy),
                    0,
                    1,
                )
            };
            if taken {
                return index;
            }
        }
        try_nr += 1;
    }
    NOWHERE
}

/// Gives a scratch record back; [`NOWHERE`] is none.
#[inline(always)]
pub fn release_scratch(index: u32) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(index) {
        // SAFETY: a live map value; whoever holds the index holds the record.
        unsafe { core::ptr::write_volatile(field!(scratch, busy), 0) };
    }
}

/// Puts a destination into the access as its payload.
#[inline(always)]
pub fn with_net(access: &mut Access, net: &NetPayload) {
    access.payload_kind = PAYLOAD_NET;
    access.scratch = acquire_scratch();
    if let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) {
        // SAFETY: the payload's room is larger.
        unsafe {
            field!(scratch, payload)
                .cast::<NetPayload>()
                .write_unaligned(*net)
        };
        access.payload_len = size_of::<NetPayload>() as u32;
    }
}

/// Puts the target of an attempt to get out into the access as its payload.
#[inline(always)]
pub fn with_target(access: &mut Access, target: EscapePayload) {
    access.payload_kind = PAYLOAD_TARGET;
    access.scratch = acquire_scratch();
    if let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) {
        // SAFETY: the payload's room is larger.
        unsafe {
            field!(scratch, payload)
                .cast::<EscapePayload>()
                .write_unaligned(target)
        };
        access.payload_len = size_of::<EscapePayload>() as u32;
    }
}

/// Reports an access and says whether to refuse it.
#[inline(always)]
pub fn conclude(subject: &Subject, access: &Access) -> bool {
    let denied = !access.allowed();
    let reported = denied || subject.flags & SANDBOX_LOG_ALLOWS != 0;
    // A scratch record that was taken is given back there.
    if !reported && access.scratch == NOWHERE {
        return false;
    }
    report(subject, access) != 0
}

/// Reports what is denied in any case, and says whether to refuse it.
#[inline(always)]
pub fn conclude_denial(subject: &Subject, access: &Access) -> bool {
    report_denial(subject, access) != 0
}

/// Reports an access. 1: it is to be refused. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report(subject: *const Subject, access: *const Access) -> u64 {
    if subject.is_null() || access.is_null() {
        return 1;
    }
    // SAFETY: both are on the caller's stack.
    unsafe { reported::<true>(&*subject, &*access) }
}

/// As [`report`], of what is denied: the most programs know nothing else, and
/// have less verified.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn report_denial(subject: *const Subject, access: *const Access) -> u64 {
    if subject.is_null() || access.is_null() {
        return 1;
    }
    // SAFETY: both are on the caller's stack.
    unsafe { reported::<false>(&*subject, &*access) }
}

#[inline(always)]
fn reported<const MAY_ALLOW: bool>(subject: &Subject, access: &Access) -> u64 {
    let denied = !MAY_ALLOW || !access.allowed();
    let flags = subject.flags;
    let index = if access.scratch == NOWHERE {
        acquire_scratch()
    } else {
        access.scratch
    };
    let mut refuse = denied;
    if denied || (access.silent_allow == 0 && flags & SANDBOX_LOG_ALLOWS != 0) {
        let written = record(subject, access, index, denied);
        refuse |= !written && flags & SANDBOX_RING_FULL_DENY != 0;
    }
    release_scratch(index);
    (refuse && !subject.audit_only()) as u64
}

/// Takes the next sequence number and writes the record. False when it could
/// not be written, which is counted.
#[inline(always)]
fn record(subject: &Subject, access: &Access, index: u32, denied: bool) -> bool {
    let Some(counters) = COUNTERS.get_ptr_mut(subject.slot) else {
        return false;
    };
    let ring = if denied { RING_DENIALS } else { RING_ALLOWS };
    // SAFETY: an element of a field of a live map value.
    let kseq = count(unsafe { field!(counters, kseq).cast::<u64>().add(ring & 1) });
    // No closure: it would be a function with a frame of its own.
    let written = match SCRATCH.get_ptr_mut(index) {
        Some(scratch) => write(subject, access, scratch, kseq, denied),
        None => false,
    };
    if !written {
        // SAFETY: as above.
        count(unsafe { field!(counters, ring_full).cast::<u64>().add(ring & 1) });
    }
    written
}

/// Bytes before the payload, for many calls.
const HEAD: usize = size_of::<EventHeader>() + 8 * MAX_CALLS;
/// Bytes of them that a record with few calls leaves out.
const SKIPPED: usize = 8 * (MAX_CALLS - FEW_CALLS);

#[inline(always)]
fn write(
    subject: &Subject,
    access: &Access,
    scratch: *mut Scratch,
    kseq: u64,
    denied: bool,
) -> bool {
    let payload_len = access.payload_len;
    if payload_len > MAX_PATH as u32 {
        return false;
    }
    let Some(page) = subject.page() else {
        return false;
    };
    // SAFETY: a live map value.
    let start = unsafe { field!(scratch, head).cast::<u8>() };
    // SAFETY: the slot's page is mapped while the map is in SLOTS, and under RCU after that.
    let in_flight = unsafe { core::ptr::read_volatile(&raw const (*page).in_flight) };
    let few = in_flight as usize <= FEW_CALLS;
    // SAFETY: the scratch record is this program's; header, calls and payload
    // follow one another in it, and the lengths are bounded.
    unsafe {
        let header = if few { start.add(SKIPPED) } else { start };
        let calls = header.add(size_of::<EventHeader>()).cast::<u64>();
        let epoch = if in_flight == 0 {
            core::ptr::read_volatile(&raw const (*page).epoch)
        } else if few {
            copy_few_calls(page, calls)
        } else {
            copy_many_calls(page, calls)
        };
        fill(
            subject,
            access,
            page,
            kseq,
            in_flight,
            epoch,
            few,
            header.cast(),
        );
        let skipped = if few { SKIPPED as u64 } else { 0 };
        let len = HEAD as u64 - skipped + bounded::<0x1fff>(payload_len as u64);
        deliver(header.cast(), len, denied as u64) == 0
    }
}

/// Header, calls and payload.
#[repr(C)]
pub struct Record {
    words: [u64; MAX_RECORD / 8],
}

/// Puts a record of so many bytes into its ring. Not 0: it has no room. Checked
/// by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn deliver(record: *const Record, len: u64, denied: u64) -> u64 {
    if record.is_null() || len > MAX_RECORD as u64 {
        return 1;
    }
    let bytes = record.cast_mut().cast::<c_void>();
    // SAFETY: the record is that long, and the rings are live maps.
    unsafe {
        if denied != 0 {
            let ring = (&raw const DENIALS).cast_mut().cast::<c_void>();
            return bpf_ringbuf_output(ring, bytes, len, FORCE_WAKEUP) as u64;
        }
        let ring = (&raw const ALLOWS).cast_mut().cast::<c_void>();
        if len > SHORT_RECORD as u64 {
            return bpf_ringbuf_output(ring, bytes, len, wake(ring, len)) as u64;
        }
        // The helper above copies byte by byte.
        let wake = wake(ring, SHORT_RECORD as u64);
        let short = bpf_ringbuf_reserve(ring, SHORT_RECORD as u64, 0);
        if short.is_null() {
            return 1;
        }
        copy_short(bytes.cast(), short.cast(), len);
        bpf_ringbuf_submit(short, wake);
    }
    0
}

/// Words that are copied between looks at the length.
const BLOCK: usize = 8;

/// Copies a short record, and up to a block of what lies behind it.
///
/// # Safety
/// Both have room for [`SHORT_RECORD`] bytes.
#[inline(always)]
unsafe fn copy_short(from: *const u64, to: *mut u64, len: u64) {
    macro_rules! block {
        ($number:literal: $($word:literal)*) => {
            if $number * BLOCK as u64 * 8 >= len {
                return;
            }
            // SAFETY: by contract. Written out: a loop would cost four times as much.
            unsafe {
                $(
                    let at = $number * BLOCK + $word;
                    to.add(at).write_volatile(from.add(at).read_volatile());
                )*
            }
        };
    }
    block!(0: 0 1 2 3 4 5 6 7);
    block!(1: 0 1 2 3 4 5 6 7);
    block!(2: 0 1 2 3 4 5 6 7);
    block!(3: 0 1 2 3 4 5 6 7);
    block!(4: 0 1 2 3 4 5 6 7);
}
const _: () = assert!(5 * BLOCK * 8 == SHORT_RECORD);

/// Whether the reader of the ring of allows is woken for this record.
///
/// # Safety
/// A helper is called with the ring.
#[inline(always)]
unsafe fn wake(ring: *mut c_void, len: u64) -> u64 {
    // SAFETY: by contract.
    let unread = unsafe { bpf_ringbuf_query(ring, AVAILABLE) };
    // With the ring's own header, in whole words (BPF_RINGBUF_HDR_SZ).
    let then = unread + ((len + 15) & !7);
    // Without a branch, which would have all that follows verified twice.
    let crossed = (unread ^ then) / WAKE_AT;
    NO_WAKEUP + ((crossed | crossed.wrapping_neg()) >> 63) * (FORCE_WAKEUP - NO_WAKEUP)
}

/// Writes the header.
///
/// # Safety
/// `header` is that of a scratch record.
#[inline(always)]
unsafe fn fill(
    subject: &Subject,
    access: &Access,
    page: *const Slot,
    kseq: u64,
    mut in_flight: u32,
    epoch: u64,
    few: bool,
    header: *mut EventHeader,
) {
    let zero = subject.zero;
    let mut flags = zero.plus32(access.flags as u32);
    // SAFETY: as in `write`.
    let (epoch_after, in_flight_after, lease) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*page).epoch),
            core::ptr::read_volatile(&raw const (*page).in_flight),
            core::ptr::read_volatile(&raw const (*page).lease),
        )
    };
    let room = if few {
        FEW_CALLS as u32
    } else {
        MAX_CALLS as u32
    };
    // More calls than there is room for: only a relay that lies.
    let torn = epoch & 1 != 0
        || epoch != epoch_after
        || in_flight != in_flight_after
        || zero.plus32(in_flight) > room;
    if torn {
        flags = zero.plus32(flags | EVENT_TORN);
    }
    if zero.plus32(in_flight) > room {
        in_flight = zero.plus32(room);
    }
    if !lease_holds(zero.plus32(in_flight), lease) {
        flags = zero.plus32(flags | EVENT_LEASE_EXPIRED);
        in_flight = zero.plus32(0);
    }
    if zero.plus8(access.verdict) != Verdict::Allow as u8 && subject.audit_only() {
        flags = zero.plus32(flags | EVENT_NOT_APPLIED);
    }
    let ids = bpf_get_current_pid_tgid();
    macro_rules! set {
        ($($field:ident = $value:expr;)*) => {
            // SAFETY: `header` is that of the record. Written in place: the stack has no room for a copy.
            unsafe { $((&raw mut (*header).$field).write_volatile($value);)* }
        };
    }
    set! {
        sandbox = subject.sandbox;
        kseq = kseq;
        time = bpf_ktime_get_boot_ns();
        cgroup = cgroup_id();
        active = subject.active;
        masks = access.masks;
        epoch = epoch;
        in_flight = in_flight;
        generation = subject.generation;
        pid = (ids >> 32) as u32;
        tid = ids as u32;
        ppid = load!(load!(current(), task_real_parent), task_tgid as u32);
        uid = load!(load!(current(), task_cred), cred_euid as u32);
        flags = flags;
        payload_len = access.payload_len;
        kind = access.kind;
        op = access.op;
        access = access.bits;
        verdict = access.verdict;
        reason = access.reason;
        payload_kind = access.payload_kind;
        calls_room = room as u8;
        reserved = 0;
    }
}

/// Copies few call numbers.
#[inline(never)]
extern "C" fn copy_few_calls(slot: *const Slot, calls: *mut u64) -> u64 {
    // SAFETY: both have that room.
    unsafe { copy_calls::<FEW_CALLS>(slot, calls) }
}

/// Copies all call numbers.
#[inline(never)]
extern "C" fn copy_many_calls(slot: *const Slot, calls: *mut u64) -> u64 {
    // SAFETY: both have that room.
    unsafe { copy_calls::<MAX_CALLS>(slot, calls) }
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
