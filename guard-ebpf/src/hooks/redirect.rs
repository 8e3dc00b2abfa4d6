//! Questions for names go to guard's own resolver, whatever server a program
//! asks: the destination is rewritten after it was judged, and put back where
//! the program looks at it.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use guard_common::names::{
    Origin, RESOLVER_MASK, RESOLVER_NET, RESOLVER_PORTS6, Resolver, is_resolvers,
};

use crate::maps::{ORIGINS, RESOLVERS};
use crate::subject::Subject;

/// The third word of an IPv4-mapped address, network order.
const MAPPED: u32 = 0xffff_u32.to_be();
/// The last word of ::1, network order.
const LOOPBACK: u32 = 1_u32.to_be();

/// Where a sandbox's questions go; `None` where it has no resolver.
#[inline(always)]
pub fn resolver_of(slot: u32) -> Option<Resolver> {
    let resolver = RESOLVERS.get(slot)?;
    // SAFETY: a live map value of whole words.
    let resolver = unsafe { read_volatile(resolver) };
    (resolver.port != 0).then_some(resolver)
}

/// Whether a socket that was connected to the resolver sends to it. An IPv6
/// socket that is connected to an IPv4-mapped address sends as if it was told
/// the address each time (`udpv6_sendmsg`, net/ipv6/udp.c).
#[inline(always)]
pub fn is_answered(
    ctx: *mut bpf_sock_addr,
    subject: &Subject,
    addr: (u64, u64),
    port: u16,
) -> bool {
    if !is_resolvers(addr, port) {
        return false;
    }
    let own =
        resolver_of(subject.slot).is_some_and(|own| addr.1 as u32 == own.addr && port == own.port);
    own && !origin_of(ctx).is_null()
}

/// Where the socket's last question was sent to; null when it has sent none.
#[inline(always)]
fn origin_of(ctx: *mut bpf_sock_addr) -> *mut Origin {
    // SAFETY: plain helper call with the socket of the program's context.
    unsafe { ORIGINS.get_ptr_mut(&SockAddrContext::new(ctx)) }
}

/// Remembers where a socket's question was sent to. False: it cannot be put back.
#[inline(always)]
fn remember(ctx: *mut bpf_sock_addr, addr: [u32; 4], port: u32) -> bool {
    let mut origin = Origin {
        addr,
        port,
        reserved: 0,
    };
    // SAFETY: plain helper call with the socket of the program's context.
    let kept =
        unsafe { ORIGINS.get_or_insert_ptr_mut(&SockAddrContext::new(ctx), Some(&mut origin)) };
    if kept.is_null() {
        return false;
    }
    // SAFETY: a live value of this socket, which may be an earlier one's.
    unsafe { kept.write_volatile(origin) };
    true
}

/// Sends an IPv4 destination to the resolver. False: it stays as it was.
#[inline(always)]
pub fn redirect4(ctx: *mut bpf_sock_addr, resolver: &Resolver) -> bool {
    // SAFETY: the context outlives the program; each is an access that the verifier allows.
    unsafe {
        let ip = read_volatile(&raw const (*ctx).user_ip4);
        let port = read_volatile(&raw const (*ctx).user_port);
        if !remember(ctx, [0, 0, MAPPED, ip], port) {
            return false;
        }
        write_volatile(&raw mut (*ctx).user_ip4, resolver.addr.to_be());
        write_volatile(&raw mut (*ctx).user_port, resolver.port.to_be() as u32);
    }
    true
}

/// Sends an IPv6 destination to the resolver: an IPv4-mapped one to its IPv4
/// address, which is all that such a socket may reach. False: it stays as it was.
#[inline(always)]
pub fn redirect6(ctx: *mut bpf_sock_addr, words: [u32; 4], resolver: &Resolver) -> bool {
    let is_mapped = words[0] | words[1] == 0 && words[2] == MAPPED;
    if !is_mapped && resolver.port6 == 0 {
        return false;
    }
    // SAFETY: as in `redirect4`.
    unsafe {
        let port = read_volatile(&raw const (*ctx).user_port);
        if !remember(ctx, words, port) {
            return false;
        }
        let ip = (&raw mut (*ctx).user_ip6).cast::<u32>();
        if is_mapped {
            write_volatile(ip.add(3), resolver.addr.to_be());
            write_volatile(&raw mut (*ctx).user_port, resolver.port.to_be() as u32);
        } else {
            write_volatile(ip, 0);
            write_volatile(ip.add(1), 0);
            write_volatile(ip.add(2), 0);
            write_volatile(ip.add(3), LOOPBACK);
            write_volatile(&raw mut (*ctx).user_port, resolver.port6.to_be() as u32);
        }
    }
    true
}

/// Puts an IPv4 source or peer back.
#[inline(always)]
fn restore4(ctx: *mut bpf_sock_addr) -> i32 {
    // SAFETY: as in `redirect4`.
    unsafe {
        let ip = read_volatile(&raw const (*ctx).user_ip4);
        if u32::from_be(ip) & RESOLVER_MASK != RESOLVER_NET {
            return 1;
        }
        let origin = origin_of(ctx);
        if !origin.is_null() {
            write_volatile(&raw mut (*ctx).user_ip4, (*origin).addr[3]);
            write_volatile(&raw mut (*ctx).user_port, (*origin).port);
        }
    }
    1
}

/// Puts an IPv6 source or peer back.
#[inline(always)]
fn restore6(ctx: *mut bpf_sock_addr) -> i32 {
    // SAFETY: as in `redirect4`.
    unsafe {
        let ip = (&raw mut (*ctx).user_ip6).cast::<u32>();
        let words = [
            read_volatile(ip),
            read_volatile(ip.add(1)),
            read_volatile(ip.add(2)),
            read_volatile(ip.add(3)),
        ];
        let port = u16::from_be(read_volatile(&raw const (*ctx).user_port) as u16);
        let mapped = words[0] | words[1] == 0
            && words[2] == MAPPED
            && u32::from_be(words[3]) & RESOLVER_MASK == RESOLVER_NET;
        let loopback = words[0] | words[1] | words[2] == 0
            && words[3] == LOOPBACK
            && port >= RESOLVER_PORTS6.0
            && port <= RESOLVER_PORTS6.1;
        if !mapped && !loopback {
            return 1;
        }
        let origin = origin_of(ctx);
        if !origin.is_null() {
            write_volatile(ip, (*origin).addr[0]);
            write_volatile(ip.add(1), (*origin).addr[1]);
            write_volatile(ip.add(2), (*origin).addr[2]);
            write_volatile(ip.add(3), (*origin).addr[3]);
            write_volatile(&raw mut (*ctx).user_port, (*origin).port);
        }
    }
    1
}

macro_rules! restoring {
    ($name:ident, $attach:ident, $restore:ident) => {
        #[doc = concat!("cgroup/", stringify!($attach), ". Refuses nothing.")]
        #[cgroup_sock_addr($attach)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            $restore(ctx.sock_addr)
        }
    };
}

restoring!(guard_recvmsg4, recvmsg4, restore4);
restoring!(guard_recvmsg6, recvmsg6, restore6);
restoring!(guard_getpeer4, getpeername4, restore4);
restoring!(guard_getpeer6, getpeername6, restore6);
