//! Unix sockets: what listens at the other end is another program, with its
//! own rights.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_unix_sock};
use guard_common::event::{Kind, NetPayload, Op, PAYLOAD_ABSTRACT, Reason};
use guard_common::limits::MAX_ABSTRACT_NAME;
use guard_common::matcher::{Verdict, decide};
use guard_common::sandbox::AbstractName;
use guard_common::table::FileAccess;

use super::hook;
use crate::emit::{Access, acquire_scratch, conclude, with_net};
use crate::judge::{Place, denied_by_links, is_nameless, judge_place};
use crate::kernel::{Object, bounded, copy, current, load, offset, store64};
use crate::maps::{ABSTRACT_NAMES, SCRATCH};
use crate::subject::{Subject, cgroup_of};

/// `AF_UNIX`.
const AF_UNIX: u16 = 1;
/// Bytes of a unix address before its name.
const FAMILY: u32 = 2;
/// Bytes that a name takes in its key.
const NAME_ROOM: usize = size_of::<AbstractName>() - core::mem::offset_of!(AbstractName, name);
/// Where in a record's payload the key of a name is put together.
const KEY_AT: usize = 256;

hook! {
    /// `int security_unix_stream_connect(struct sock *sock, struct sock
    /// *other, struct sock *newsk)`.
    unix_stream_connect = "unix_stream_connect"(3)
    |ctx, subject| reaches(subject, Op::UnixConnect, ctx.arg(1))
}

hook! {
    /// `int security_unix_may_send(struct socket *sock, struct socket *other)`.
    unix_may_send = "unix_may_send"(2)
    |ctx, subject| reaches(subject, Op::UnixSend, load!(ctx.arg(1), socket_sk))
}

/// A socket that was made in the sandbox may be reached from it; others, where
/// a rule names them: by the path or the abstract name that they were bound to.
#[inline(always)]
fn reaches(subject: &Subject, op: Op, other: Object) -> bool {
    if other.is_null() {
        // Nobody is there to be reached.
        return false;
    }
    if load!(other, sock_cgroup as u64) == cgroup_of(current()) {
        return false;
    }
    // SAFETY: plain helper call on a socket; null for one of another family.
    let socket = unsafe { bpf_skc_to_unix_sock(other.cast_mut()) }
        .cast::<c_void>()
        .cast_const();
    if !socket.is_null() {
        let dentry = load!(socket, unix_path_dentry);
        if !dentry.is_null() {
            let mut access = Access::unjudged(Kind::Network, op, FileAccess::Connect.bit());
            // What decides quickly knows three kinds of access only.
            access.want_verdicts = 1;
            let place = Place::of(dentry, load!(socket, unix_path_mnt));
            if is_nameless(dentry) {
                access.forced = Reason::Deleted as u8;
            }
            access.denied_link = denied_by_links(subject, &place);
            return judge_place(subject, place, &mut access);
        }
    }
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.reason = Reason::UnixSocket as u8;
    let socket = socket as u64;
    let address = copy!(socket, unix_addr as u64).unwrap_or(0);
    let len = copy!(address, unix_address_len as u32).unwrap_or(0);
    let name = address + offset!(unix_address_name);
    abstract_name(&mut access, name, len.wrapping_sub(FAMILY + 1));
    if access.payload_kind == PAYLOAD_ABSTRACT {
        judge_abstract(subject, &mut access);
    }
    conclude(subject, &access)
}

/// Looks the abstract name that is in the access's scratch record up.
#[inline(always)]
fn judge_abstract(subject: &Subject, access: &mut Access) {
    let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) else {
        return;
    };
    // SAFETY: the record is this program's, and behind the name is room for
    // the key. Both are whole words.
    let masks = unsafe {
        let name = (&raw const (*scratch).payload).cast::<u8>();
        let key = name.cast_mut().add(KEY_AT).cast::<AbstractName>();
        (&raw mut (*key).sandbox).write_unaligned(subject.sandbox);
        (&raw mut (*key).len).write_unaligned(access.payload_len as u64);
        let to = (&raw mut (*key).name).cast::<u8>();
        let mut word = 0;
        while word < NAME_ROOM {
            store64(to.add(word), name.add(word).cast::<u64>().read_unaligned());
            word += 8;
        }
        ABSTRACT_NAMES.get_ptr(&*key)
    };
    let Some(masks) = masks else { return };
    // SAFETY: a live map value, copied at once.
    access.masks = unsafe { *masks };
    let verdict = decide(access.masks, subject.active);
    access.verdict = verdict as u8;
    access.reason = match verdict {
        Verdict::Approve => Reason::ApprovalUnavailable,
        _ => Reason::Rule,
    } as u8;
}

/// Puts an abstract name into the access: `len` bytes behind the family and a
/// zero at `address`. Zeros follow it in the record.
#[inline(always)]
pub fn abstract_name(access: &mut Access, address: u64, len: u32) {
    if len > MAX_ABSTRACT_NAME as u32 {
        return with_net(access, &unnamed());
    }
    access.scratch = acquire_scratch();
    let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) else {
        return;
    };
    let from = address + FAMILY as u64 + 1;
    // SAFETY: the payload's room is larger than a name.
    let failed = unsafe {
        let payload = (&raw mut (*scratch).payload).cast::<u8>();
        let mut word = 0;
        while word < NAME_ROOM {
            store64(payload.add(word), 0);
            word += 8;
        }
        bpf_probe_read_kernel(
            payload.cast(),
            bounded::<127>(len as u64) as u32,
            from as *const c_void,
        )
    };
    if failed == 0 {
        access.payload_kind = PAYLOAD_ABSTRACT;
        access.payload_len = len;
    }
}

/// The payload for a unix socket without a name.
fn unnamed() -> NetPayload {
    NetPayload {
        family: AF_UNIX,
        ..NetPayload::default()
    }
}
