//! Making sockets and sending to addresses.
//!
//! A destination is judged twice: by lsm/socket_connect, which sees every
//! family, and by the cgroup programs, which see what LSM does not
//! (`MSG_FASTOPEN`, addressed datagrams).

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::macros::{cgroup_sock_addr, lsm};
use aya_ebpf::programs::{LsmContext, SockAddrContext};
use guard_common::event::{NetPayload, Op, Reason};
use guard_common::sandbox::SANDBOX_DATAGRAM;

use super::REFUSED;
use super::address::{halves, judge_destination, mapped, payload, refuse_socket};
use crate::kernel::{Typed, offset, read};
use crate::subject::{Subject, Who, who};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const SOCK_RAW: u16 = 3;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const NETLINK_ROUTE: u16 = 0;

/// `int security_socket_create(int family, int type, int protocol, int kern)`.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let kernel: i32 = ctx.arg(3);
    if kernel != 0 {
        return 0;
    }
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 0,
        Who::Unknown => REFUSED,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            let family: i32 = ctx.arg(0);
            let socket_type: i32 = ctx.arg(1);
            let protocol: i32 = ctx.arg(2);
            if may_create(subject, family, socket_type, protocol) {
                return 0;
            }
            let net = payload(
                family as u16,
                (0, 0),
                0,
                socket_type as u16,
                protocol as u16,
            );
            if refuse_socket(subject, Op::Socket, Reason::SocketFamily, net) {
                REFUSED
            } else {
                0
            }
        }
    }
}

/// Sockets that may exist: what they reach is judged when they reach for it.
#[inline(always)]
fn may_create(subject: &Subject, family: i32, socket_type: i32, protocol: i32) -> bool {
    if family == AF_UNIX as i32 {
        return true;
    }
    if family == AF_INET as i32 || family == AF_INET6 as i32 {
        if socket_type == SOCK_STREAM as i32 {
            return protocol == 0 || protocol == IPPROTO_TCP as i32;
        }
        return socket_type == SOCK_DGRAM as i32
            && (protocol == 0 || protocol == IPPROTO_UDP as i32)
            && subject.entry.flags & SANDBOX_DATAGRAM != 0;
    }
    family == AF_NETLINK as i32
        && (socket_type == SOCK_RAW as i32 || socket_type == SOCK_DGRAM as i32)
        && protocol == NETLINK_ROUTE as i32
}

/// `int security_socket_connect(struct socket *sock, struct sockaddr
/// *address, int addrlen)`. The address is a kernel copy: it cannot change.
#[lsm(hook = "socket_connect")]
pub fn socket_connect(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 0,
        Who::Unknown => REFUSED,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            let socket = Typed(ctx.arg::<*const c_void>(0));
            let address = Typed(ctx.arg::<*const c_void>(1)).address();
            // SAFETY: a 16-bit field of struct socket.
            let socket_type = unsafe { socket.u16(offset!(socket_type)) };
            if connect(subject, address, socket_type) {
                REFUSED
            } else {
                0
            }
        }
    }
}

/// Judges a connect. True: refuse.
#[inline(always)]
fn connect(subject: &Subject, address: u64, socket_type: u16) -> bool {
    let Some(family) = read::<u16>(address) else {
        return refuse_socket(
            subject,
            Op::Connect,
            Reason::ReadFailed,
            NetPayload::default(),
        );
    };
    // AF_UNSPEC dissolves an association; AF_NETLINK sockets are ROUTE only.
    if family == AF_UNSPEC || family == AF_NETLINK {
        return false;
    }
    let (addr, port) = if family == AF_INET {
        match (read::<u32>(address + 4), read::<u16>(address + 2)) {
            (Some(ip), Some(port)) => (mapped(ip), port),
            _ => {
                return refuse_socket(
                    subject,
                    Op::Connect,
                    Reason::ReadFailed,
                    NetPayload::default(),
                );
            }
        }
    } else if family == AF_INET6 {
        match (read::<[u32; 4]>(address + 8), read::<u16>(address + 2)) {
            (Some(words), Some(port)) => (halves(words), port),
            _ => {
                return refuse_socket(
                    subject,
                    Op::Connect,
                    Reason::ReadFailed,
                    NetPayload::default(),
                );
            }
        }
    } else {
        let reason = if family == AF_UNIX {
            Reason::Rule
        } else {
            Reason::AddressForm
        };
        let net = payload(family, (0, 0), 0, socket_type, 0);
        return refuse_socket(subject, Op::Connect, reason, net);
    };
    let net = payload(family, addr, u16::from_be(port), socket_type, 0);
    judge_destination(subject, Op::Connect, addr, net, false)
}

/// Judges what a cgroup program was asked: 1 goes on, 0 is `EPERM`.
#[inline(always)]
fn sock_addr(op: Op, family: u16, socket_type: u32, addr: (u64, u64), port: u32) -> i32 {
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 1,
        Who::Unknown => 0,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            let net = payload(
                family,
                addr,
                u16::from_be(port as u16),
                socket_type as u16,
                0,
            );
            // lsm/socket_connect has reported an allowed connect already.
            let silent_allow = op as u8 == Op::Connect as u8;
            !judge_destination(subject, op, addr, net, silent_allow) as i32
        }
    }
}

macro_rules! sock_addr_program {
    ($name:ident, $attach:ident, $op:ident, v4) => {
        #[doc = concat!("cgroup/", stringify!($attach), ".")]
        #[cgroup_sock_addr($attach)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            // SAFETY: the context outlives the program; each is a load that the verifier allows.
            let (ip, port, kind) = unsafe {
                (
                    core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4),
                    core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_port),
                    core::ptr::read_volatile(&raw const (*ctx.sock_addr).type_),
                )
            };
            sock_addr(Op::$op, AF_INET, kind, mapped(ip), port)
        }
    };
    ($name:ident, $attach:ident, $op:ident, v6) => {
        #[doc = concat!("cgroup/", stringify!($attach), ".")]
        #[cgroup_sock_addr($attach)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            // SAFETY: as for v4.
            let (words, port, kind) = unsafe {
                let ip = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
                (
                    [
                        core::ptr::read_volatile(ip),
                        core::ptr::read_volatile(ip.add(1)),
                        core::ptr::read_volatile(ip.add(2)),
                        core::ptr::read_volatile(ip.add(3)),
                    ],
                    core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_port),
                    core::ptr::read_volatile(&raw const (*ctx.sock_addr).type_),
                )
            };
            sock_addr(Op::$op, AF_INET6, kind, halves(words), port)
        }
    };
}

sock_addr_program!(guard_connect4, connect4, Connect, v4);
sock_addr_program!(guard_connect6, connect6, Connect, v6);
sock_addr_program!(guard_sendmsg4, sendmsg4, Send, v4);
sock_addr_program!(guard_sendmsg6, sendmsg6, Send, v6);
