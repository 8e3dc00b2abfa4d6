//! Questions for names go to guard's own resolver, whatever server a program
//! asks, and streams whose server name is to be read to guard's splice: the
//! destination is rewritten after it was judged, and put back where the program
//! looks at it.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use guard_common::limits::MAX_SANDBOXES;
use guard_common::names::{
    Origin, RESOLVER_MASK, RESOLVER_NET, RESOLVER_PORTS6, Resolver, SPLICE_BUSY, SPLICES_OF_SLOT,
    Splice, Splices, is_resolvers,
};

use super::address::{Destination, is_mapped};
use crate::emit::count;
use crate::kernel::bounded;
use crate::maps::{ORIGINS, RESOLVERS, SPLICES};
use crate::subject::Subject;

/// The third word of an IPv4-mapped address, network order.
const MAPPED: u32 = 0xffff_u32.to_be();
/// The last word of ::1, network order.
const LOOPBACK: u32 = 1_u32.to_be();

/// Where something of guard's listens for one sandbox.
pub struct Listener {
    /// IPv4 address, host order.
    addr: u32,
    /// Port there; 0: none.
    port: u16,
    /// Port on \[::1\]; 0: none.
    port6: u16,
}

impl Listener {
    /// Whether what goes to an IPv4-mapped address, or to another, can go there.
    #[inline(always)]
    pub fn serves(&self, is_mapped: bool) -> bool {
        (if is_mapped { self.port } else { self.port6 }) != 0
    }
}

/// What is said for a slot.
#[inline(always)]
fn resolver(slot: u32) -> Option<*const Resolver> {
    RESOLVERS.get_ptr(slot)
}

/// Where a sandbox's questions go; `None` where it has no resolver.
#[inline(always)]
pub fn resolver_of(slot: u32) -> Option<Listener> {
    let resolver = resolver(slot)?;
    // SAFETY: a live map value.
    let listener = unsafe {
        Listener {
            addr: read_volatile(&raw const (*resolver).addr),
            port: read_volatile(&raw const (*resolver).port),
            port6: read_volatile(&raw const (*resolver).port6),
        }
    };
    (listener.port != 0).then_some(listener)
}

/// Where a sandbox's streams go whose server name is to be read.
#[inline(always)]
pub fn splice_of(slot: u32) -> Option<Listener> {
    let resolver = resolver(slot)?;
    // SAFETY: a live map value.
    unsafe {
        Some(Listener {
            addr: read_volatile(&raw const (*resolver).addr),
            port: read_volatile(&raw const (*resolver).splice),
            port6: read_volatile(&raw const (*resolver).splice6),
        })
    }
}

/// Writes down where a connection was to go that goes to the splice, for the
/// supervisor. False: it cannot be.
#[inline(always)]
pub fn keep_target(ctx: *mut bpf_sock_addr, subject: &Subject, to: &Destination) -> bool {
    // SAFETY: plain helper call with the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let slot = bounded::<{ MAX_SANDBOXES as i32 - 1 }>(subject.slot as u64) as usize;
    // SAFETY: live memory of so many slots and places, whose first word is only
    // ever counted up. A place belongs to whoever put the mark there. Stores are
    // seen in order on x86-64.
    unsafe {
        let splices = SPLICES.start().cast::<Splices>().add(slot).cast::<u64>();
        let place = bounded::<{ SPLICES_OF_SLOT as i32 - 1 }>(count(splices));
        let kept = splices.add(1).cast::<Splice>().add(place as usize);
        let tag = &raw mut (*kept).cookie;
        let found = read_volatile(tag);
        if found == SPLICE_BUSY {
            return false;
        }
        let (_, taken) = atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            tag,
            found,
            SPLICE_BUSY,
        );
        if !taken {
            return false;
        }
        write_volatile(&raw mut (*kept).sandbox, subject.sandbox);
        write_volatile(&raw mut (*kept).addr_hi, to.addr.0);
        write_volatile(&raw mut (*kept).addr_lo, to.addr.1);
        write_volatile(&raw mut (*kept).port, to.port as u32);
        write_volatile(&raw mut (*kept).name, to.name);
        write_volatile(tag, cookie);
    }
    true
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

/// Where what the socket sent elsewhere was to go; null when nothing was.
#[inline(always)]
fn origin_of(ctx: *mut bpf_sock_addr) -> *mut Origin {
    // SAFETY: plain helper call with the socket of the program's context.
    unsafe { ORIGINS.get_ptr_mut(&SockAddrContext::new(ctx)) }
}

/// Remembers where it was to go. False: it cannot be put back. A function of
/// its own, with the stack that it needs.
#[inline(never)]
fn remember(ctx: *mut bpf_sock_addr, addr_hi: u64, addr_lo: u64, port: u32) -> bool {
    let mut origin = Origin {
        addr_hi: addr_hi.to_be(),
        addr_lo: addr_lo.to_be(),
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

/// Sends a destination of a family elsewhere: an IPv4-mapped one to the IPv4
/// address, which is all that such a socket may reach. False: it stays as it was.
#[inline(always)]
pub fn redirect<const V6: bool>(
    ctx: *mut bpf_sock_addr,
    addr: (u64, u64),
    listener: &Listener,
) -> bool {
    let v4 = is_mapped(addr);
    if !listener.serves(v4) {
        return false;
    }
    // SAFETY: the context outlives the program; each is an access that the verifier allows.
    unsafe {
        let port = read_volatile(&raw const (*ctx).user_port);
        if !remember(ctx, addr.0, addr.1, port) {
            return false;
        }
        let port = if v4 { listener.port } else { listener.port6 };
        write_volatile(&raw mut (*ctx).user_port, port.to_be() as u32);
        if !V6 {
            write_volatile(&raw mut (*ctx).user_ip4, listener.addr.to_be());
            return true;
        }
        let ip = (&raw mut (*ctx).user_ip6).cast::<u32>();
        if v4 {
            write_volatile(ip.add(3), listener.addr.to_be());
        } else {
            write_volatile(ip, 0);
            write_volatile(ip.add(1), 0);
            write_volatile(ip.add(2), 0);
            write_volatile(ip.add(3), LOOPBACK);
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
            write_volatile(&raw mut (*ctx).user_ip4, ((*origin).addr_lo >> 32) as u32);
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
            write_volatile(ip, (*origin).addr_hi as u32);
            write_volatile(ip.add(1), ((*origin).addr_hi >> 32) as u32);
            write_volatile(ip.add(2), (*origin).addr_lo as u32);
            write_volatile(ip.add(3), ((*origin).addr_lo >> 32) as u32);
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
