//! Unix sockets: what listens at the other end is another program, with its
//! own rights.

use guard_common::event::{Kind, NetPayload, Op, PAYLOAD_ABSTRACT, Reason};

use super::hook;
use crate::emit::{Access, acquire_scratch, conclude, with_net};
use crate::judge::{Place, judge_place};
use aya_ebpf::helpers::generated::bpf_skc_to_unix_sock;

use crate::kernel::{Object, bounded, copy, current, load, offset};
use crate::maps::SCRATCH;
use crate::subject::{Subject, cgroup_of};

/// `AF_UNIX`.
const AF_UNIX: u16 = 1;
/// Bytes of a unix address before its name.
const FAMILY: u32 = 2;
/// Bytes of the longest name.
const MAX_NAME: u32 = 108;

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

/// A socket that was made in the sandbox may be reached from it. No rule
/// names others yet.
#[inline(always)]
fn reaches(subject: &Subject, op: Op, other: Object) -> bool {
    if other.is_null() {
        // Nobody is there to be reached.
        return false;
    }
    if load!(other, sock_cgroup as u64) == cgroup_of(current()) {
        return false;
    }
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.forced = Reason::UnixSocket as u8;
    access.reason = access.forced;
    // SAFETY: plain helper call on a socket; null for one of another family.
    let socket = unsafe { bpf_skc_to_unix_sock(other.cast_mut()) }
        .cast::<core::ffi::c_void>()
        .cast_const();
    if !socket.is_null() {
        let dentry = load!(socket, unix_path_dentry);
        if !dentry.is_null() {
            let place = Place::of(dentry, load!(socket, unix_path_mnt));
            return judge_place(subject, place, &mut access);
        }
    }
    let socket = socket as u64;
    named(&mut access, socket);
    conclude(subject, &access)
}

/// Puts the socket's own name into the access: what it was bound as.
#[inline(always)]
fn named(access: &mut Access, socket: u64) {
    let address = copy!(socket, unix_addr as u64).unwrap_or(0);
    let len = copy!(address, unix_address_len as u32).unwrap_or(0);
    abstract_name(
        access,
        address + offset!(unix_address_name),
        len.wrapping_sub(FAMILY + 1),
    );
}

/// Puts an abstract name into the access: `len` bytes behind the family and a
/// zero at `address`.
#[inline(always)]
pub fn abstract_name(access: &mut Access, address: u64, len: u32) {
    if len > MAX_NAME {
        return with_net(access, &unnamed());
    }
    access.scratch = acquire_scratch();
    let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch as u32) else {
        return;
    };
    let from = address + FAMILY as u64 + 1;
    // SAFETY: the payload's room is larger than a name.
    let failed = unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_kernel(
            (&raw mut (*scratch).payload).cast(),
            bounded::<127>(len as u64) as u32,
            from as *const core::ffi::c_void,
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
