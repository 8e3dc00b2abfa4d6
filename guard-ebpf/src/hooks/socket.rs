//! Making sockets and sending to addresses.
//!
//! A destination is judged twice: by lsm/socket_connect, which sees every
//! family, and by the cgroup programs, which see what LSM does not
//! (`MSG_FASTOPEN`, addressed datagrams).

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use guard_common::event::{Kind, Op, Reason};
use guard_common::names::{DNS_PORT, is_resolvers};
use guard_common::sandbox::SANDBOX_DATAGRAM;

use super::address::{
    Destination, Way, allow_socket, halves, is_mapped, judge_destination, judge_listening, mapped,
    refuse_socket,
};
use super::hook;
use super::redirect::{is_answered, keep_target, redirect, resolver_of, splice_of};
use super::unix::abstract_name;
use crate::emit::{Access, conclude};
use crate::kernel::{Object, bounded, load, load16, load32, offset, read};
use crate::lately;
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

hook! {
    /// `int security_socket_create(int family, int type, int protocol, int kern)`.
    socket_create = "socket_create"(4) |ctx, subject|
    @if ctx.arg::<i32>(3) == 0 => created(subject, ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

hook! {
    /// `int security_socket_connect(struct socket *sock, struct sockaddr
    /// *address, int addrlen)`. The address is a kernel copy: it cannot change.
    socket_connect = "socket_connect"(3) |ctx, subject| {
        let socket: Object = ctx.arg(0);
        connect(subject, socket, ctx.arg(1))
    }
}

hook! {
    /// `int security_socket_bind(struct socket *sock, struct sockaddr
    /// *address, int addrlen)`.
    socket_bind = "socket_bind"(3) |ctx, subject| {
        let socket: Object = ctx.arg(0);
        bind(subject, ctx.arg(1), ctx.arg(2), load!(socket, socket_type as u16))
    }
}

hook! {
    /// `int security_socket_listen(struct socket *sock, int backlog)`. A socket
    /// without a port gets one here, which nothing asks about again.
    socket_listen = "socket_listen"(2) |ctx, subject| listen(subject, ctx.arg(0))
}

#[inline(always)]
fn created(subject: &Subject, family: i32, socket_type: i32, protocol: i32) -> bool {
    if may_create(subject, family, socket_type, protocol) {
        return false;
    }
    let wanted = Destination::new(
        subject,
        family as u16,
        (0, 0),
        0,
        socket_type as u16,
        protocol as u16,
    );
    refuse_socket(subject, Op::Socket, Reason::SocketFamily, &wanted)
}

#[inline(always)]
fn listen(subject: &Subject, socket: Object) -> bool {
    let sk = load!(socket, socket_sk);
    if sk.is_null() {
        return unreadable(subject, Op::Listen);
    }
    let family = load!(sk, sock_family as u16);
    if family == AF_UNIX {
        return false;
    }
    let socket_type = load!(socket, socket_type as u16);
    let addr = if family == AF_INET {
        mapped(load!(sk, sock_rcv_saddr as u32))
    } else if family == AF_INET6 {
        let at = sk as u64 + offset!(sock_v6_rcv_saddr);
        match read::<[u32; 4]>(at) {
            Some(words) => halves(words),
            None => return unreadable(subject, Op::Listen),
        }
    } else {
        let at = Destination::new(subject, family, (0, 0), 0, socket_type, 0);
        return refuse_socket(subject, Op::Listen, Reason::AddressForm, &at);
    };
    let port = load!(sk, sock_num as u16);
    let mut at = Destination::new(subject, family, addr, port, socket_type, 0);
    judge_listening(subject, Op::Listen, &mut at)
}

/// Binding to a port is being reachable there; port 0 is what every client has.
#[inline(always)]
fn bind(subject: &Subject, address: u64, len: u32, socket_type: u16) -> bool {
    let Some(family) = read::<u16>(address) else {
        return unreadable(subject, Op::Bind);
    };
    if family == AF_UNIX {
        // A path is judged by path_mknod; without a name it gets one that nobody knows.
        if len <= 2 || read::<u8>(address + 2) != Some(0) {
            return false;
        }
        let mut access = Access::unjudged(Kind::Network, Op::Bind, 0);
        access.reason = Reason::UnixSocket as u8;
        abstract_name(&mut access, address, len.wrapping_sub(3));
        return conclude(subject, &access);
    }
    if family == AF_NETLINK {
        return false;
    }
    let Some(port) = read::<u16>(address + 2) else {
        return unreadable(subject, Op::Bind);
    };
    if port == 0 && (family == AF_INET || family == AF_INET6 || family == AF_UNSPEC) {
        return false;
    }
    // An address without a family is IPv4 (`__inet_bind`, net/ipv4/af_inet.c).
    let addr = if family == AF_INET || family == AF_UNSPEC {
        read::<u32>(address + 4).map(mapped)
    } else if family == AF_INET6 {
        read::<[u32; 4]>(address + 8).map(halves)
    } else {
        let port = u16::from_be(port);
        let at = Destination::new(subject, family, (0, 0), port, socket_type, 0);
        return refuse_socket(subject, Op::Bind, Reason::AddressForm, &at);
    };
    let Some(addr) = addr else {
        return unreadable(subject, Op::Bind);
    };
    let mut at = Destination::new(subject, family, addr, u16::from_be(port), socket_type, 0);
    judge_listening(subject, Op::Bind, &mut at)
}

#[inline(always)]
fn unreadable(subject: &Subject, op: Op) -> bool {
    let unknown = Destination::new(subject, 0, (0, 0), 0, 0, 0);
    refuse_socket(subject, op, Reason::ReadFailed, &unknown)
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
            && subject.flags & SANDBOX_DATAGRAM != 0;
    }
    family == AF_NETLINK as i32
        && (socket_type == SOCK_RAW as i32 || socket_type == SOCK_DGRAM as i32)
        && protocol == NETLINK_ROUTE as i32
}

/// Judges a connect. True: refuse.
#[inline(always)]
fn connect(subject: &Subject, socket: Object, address: Object) -> bool {
    let socket_type = load!(socket, socket_type as u16);
    // `struct sockaddr` and `sockaddr_in` (include/uapi/linux/in.h).
    let family = load16::<0>(address);
    // AF_UNSPEC dissolves an association; AF_NETLINK sockets are ROUTE only;
    // AF_UNIX has hooks that know the other end.
    if family == AF_UNSPEC || family == AF_NETLINK || family == AF_UNIX {
        return false;
    }
    let addr = if family == AF_INET {
        mapped(load32::<4>(address))
    } else if family == AF_INET6 {
        // Behind the end of `struct sockaddr`: no typed load reaches there.
        match read::<[u32; 4]>(address as u64 + 8) {
            Some(words) => halves(words),
            None => return unreadable(subject, Op::Connect),
        }
    } else {
        let to = Destination::new(subject, family, (0, 0), 0, socket_type, 0);
        return refuse_socket(subject, Op::Connect, Reason::AddressForm, &to);
    };
    let port = u16::from_be(load16::<2>(address));
    let mut to = Destination::new(subject, family, addr, port, socket_type, 0);
    if is_question(subject, addr, port) {
        // It is rewritten after this: connect4 and connect6 send it to the resolver.
        allow_socket(subject, Op::Connect, Reason::Resolver, &to);
        return false;
    }
    match judge_destination(subject, Op::Connect, &mut to, false) {
        Way::Refused => true,
        Way::Direct => {
            lately::allow(load!(socket, socket_sk), addr, port);
            false
        }
        Way::Spliced => {
            // Rewritten later, too.
            if socket_type == SOCK_STREAM
                && splice_of(subject.slot).is_some_and(|splice| splice.serves(is_mapped(addr)))
            {
                return allow_socket(subject, Op::Connect, Reason::Rule, &to);
            }
            refuse_socket(subject, Op::Connect, Reason::SniRequired, &to)
        }
    }
}

/// Whether it goes to the sandbox's resolver, whatever server it is for.
#[inline(always)]
fn is_question(subject: &Subject, addr: (u64, u64), port: u16) -> bool {
    port == DNS_PORT && !is_resolvers(addr, port) && resolver_of(subject.slot).is_some()
}

/// Judges what a cgroup program was asked: 1 goes on, 0 is `EPERM`.
#[inline(always)]
fn sock_addr<const V6: bool>(
    op: Op,
    family: u16,
    socket_type: u32,
    addr: (u64, u64),
    port: u32,
    ctx: *mut bpf_sock_addr,
) -> i32 {
    let port = u16::from_be(port as u16);
    let connects = op as u8 == Op::Connect as u8;
    if connects && lately::is_allowed(ctx, addr, port) {
        return 1;
    }
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 1,
        Who::Unknown => 0,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            // As a number that the verifier sees to be 0 or 1.
            let mut to = Destination::new(subject, family, addr, port, socket_type as u16, 0);
            let refused = goes::<V6>(subject, op, connects, &mut to, ctx);
            bounded::<1>(!refused as u64) as i32
        }
    }
}

/// Judges it, and sends it elsewhere where it must go there. True: refuse.
#[inline(always)]
fn goes<const V6: bool>(
    subject: &Subject,
    op: Op,
    connects: bool,
    to: &mut Destination,
    ctx: *mut bpf_sock_addr,
) -> bool {
    if !connects && is_answered(ctx, subject, to.addr, to.port) {
        return false;
    }
    if to.port == DNS_PORT
        && !is_resolvers(to.addr, to.port)
        && let Some(resolver) = resolver_of(subject.slot)
    {
        if !redirect::<V6>(ctx, to.addr, &resolver) {
            return refuse_socket(subject, op, Reason::Resolver, to);
        }
        if !connects {
            allow_socket(subject, op, Reason::Resolver, to);
        }
        return false;
    }
    // lsm/socket_connect has reported an allowed connect already.
    match judge_destination(subject, op, to, connects) {
        Way::Refused => true,
        Way::Direct => false,
        Way::Spliced => {
            if connects
                && to.socket_type == SOCK_STREAM
                && let Some(splice) = splice_of(subject.slot)
                && splice.serves(is_mapped(to.addr))
                && keep_target(ctx, subject, to)
                && redirect::<V6>(ctx, to.addr, &splice)
            {
                return false;
            }
            refuse_socket(subject, op, Reason::SniRequired, to)
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
            sock_addr::<false>(Op::$op, AF_INET, kind, mapped(ip), port, ctx.sock_addr)
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
            sock_addr::<true>(Op::$op, AF_INET6, kind, halves(words), port, ctx.sock_addr)
        }
    };
}

sock_addr_program!(guard_connect4, connect4, Connect, v4);
sock_addr_program!(guard_connect6, connect6, Connect, v6);
sock_addr_program!(guard_sendmsg4, sendmsg4, Send, v4);
sock_addr_program!(guard_sendmsg6, sendmsg6, Send, v6);
