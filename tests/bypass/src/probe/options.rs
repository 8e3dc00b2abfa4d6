//! Options that send a packet elsewhere than its address says, or that an address
//! carries along. A datagram with a route leaves for the first place of the route;
//! its address comes last. The world's packets show where it went.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use super::target::{find, raw};
use super::{Seen, sockets};
use crate::attack::{Failure, absent, nothing};
use crate::sys::{Memory, call};

/// `in6_flowlabel_req.flr_action`: get a label; `flr_share`: by anybody; flags: create.
const IPV6_FL_A_GET: u8 = 0;
const IPV6_FL_S_ANY: u8 = 255;
const IPV6_FL_F_CREATE: u16 = 1;
const IPV6_FLOWLABEL_MGR: i32 = 32;
const IPV6_FLOWINFO_SEND: i32 = 33;

/// Sends with a flow label that is registered for the same address.
pub(crate) fn flow_label(to: &str) -> Seen {
    let SocketAddr::V6(mut to) = find(to)? else {
        return Err(nothing("an IPv6 address"));
    };
    let socket = sockets::socket(to.into(), libc::SOCK_DGRAM)?;
    // struct in6_flowlabel_req.
    let mut request = to.ip().octets().to_vec();
    request.extend(0x0001_2345_u32.to_be_bytes());
    request.extend([IPV6_FL_A_GET, IPV6_FL_S_ANY]);
    request.extend(IPV6_FL_F_CREATE.to_ne_bytes());
    request.extend([0; 8]);
    set(&socket, libc::IPPROTO_IPV6, IPV6_FLOWLABEL_MGR, &request)?;
    set(
        &socket,
        libc::IPPROTO_IPV6,
        IPV6_FLOWINFO_SEND,
        &1_i32.to_ne_bytes(),
    )?;
    to.set_flowinfo(0x0001_2345);
    sockets::send_hello(&socket, &raw(to.into()))?;
    sockets::hear(socket, to.into())
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: &[u8]) -> Result<usize, Failure> {
    let (bytes, len) = (Memory::of(value), value.len());
    call!(
        "setsockopt",
        libc::SYS_setsockopt,
        socket,
        level,
        option,
        bytes,
        len
    )
}

/// Loose source route over one address (RFC 791, 3.1), padded with a no-op.
fn loose_route(over: SocketAddr) -> Result<Vec<u8>, Failure> {
    let IpAddr::V4(over) = over.ip() else {
        return Err(nothing("an IPv4 address"));
    };
    let mut option = vec![1, 131, 7, 4];
    option.extend(over.octets());
    Ok(option)
}

/// Sends to one address by the way of another: an option of the socket.
pub(crate) fn source_route(over: &str, to: &str) -> Seen {
    let (over, to) = (find(over)?, find(to)?);
    let socket = sockets::socket(to, libc::SOCK_DGRAM)?;
    set(
        &socket,
        libc::IPPROTO_IP,
        libc::IP_OPTIONS,
        &loose_route(over)?,
    )?;
    sockets::send_hello(&socket, &raw(to))?;
    Ok(format!("sent over {}", over.ip()))
}

/// The same with the message alone.
pub(crate) fn source_route_cmsg(over: &str, to: &str) -> Seen {
    let (over, to) = (find(over)?, find(to)?);
    let route = loose_route(over)?;
    with_control(to, libc::IPPROTO_IP, libc::IP_RETOPTS, &route)?;
    Ok(format!("sent over {}", over.ip()))
}

/// A routing header over one address: type 2 (RFC 6275, 6.4), which kernels with
/// mobility take of anybody, else segment routing (RFC 8754).
fn headers(over: SocketAddr) -> Result<[Vec<u8>; 2], Failure> {
    let IpAddr::V6(over) = over.ip() else {
        return Err(nothing("an IPv6 address"));
    };
    // Next header, length in 8 bytes past the first 8, type, segments left, reserved.
    let mut home = vec![0, 2, 2, 1, 0, 0, 0, 0];
    home.extend(over.octets());
    // Two segments: the first of the list is the end, filled in by the kernel.
    let mut segments = vec![0, 4, 4, 1, 1, 0, 0, 0];
    segments.extend([0; 16]);
    segments.extend(over.octets());
    Ok([home, segments])
}

/// Sends to one address by the way of another: an option of the socket.
pub(crate) fn routing_header(over: &str, to: &str) -> Seen {
    let (over, to) = (find(over)?, find(to)?);
    let mut last = nothing("a routing header");
    for header in headers(over)? {
        let socket = sockets::socket(to, libc::SOCK_DGRAM)?;
        let done = set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)
            .and_then(|_| sockets::send_hello(&socket, &raw(to)));
        match done {
            Ok(_) => return Ok(format!("sent over {}", over.ip())),
            Err(failure) => last = failure,
        }
    }
    Err(absent(
        last,
        &[libc::EINVAL, libc::ENOPROTOOPT],
        "routing headers",
    ))
}

/// The same with the message alone.
pub(crate) fn routing_header_cmsg(over: &str, to: &str) -> Seen {
    let (over, to) = (find(over)?, find(to)?);
    let mut last = nothing("a routing header");
    for header in headers(over)? {
        match with_control(to, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header) {
            Ok(()) => return Ok(format!("sent over {}", over.ip())),
            Err(failure) => last = failure,
        }
    }
    Err(absent(
        last,
        &[libc::EINVAL, libc::ENOPROTOOPT],
        "routing headers",
    ))
}

/// Sends a datagram with one control message.
fn with_control(to: SocketAddr, level: i32, kind: i32, data: &[u8]) -> Result<(), Failure> {
    let socket = sockets::socket(to, libc::SOCK_DGRAM)?;
    let mut address = raw(to);
    let mut text = *b"hello with a control message\n";
    let mut vector = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // struct cmsghdr: length, level, type; then the data.
    let mut control = vec![];
    control.extend((16 + data.len()).to_ne_bytes());
    control.extend(level.to_ne_bytes());
    control.extend(kind.to_ne_bytes());
    control.extend(data);
    control.resize(control.len().next_multiple_of(8), 0);
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = address.len() as u32;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    call!(
        "sendmsg",
        libc::SYS_sendmsg,
        socket,
        Memory::of(&message),
        0
    )
    .map(drop)
}
