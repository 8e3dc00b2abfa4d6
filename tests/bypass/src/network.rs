//! Getting bytes out of the host, or a process of the host to listen.

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::attack::{At, Failure, Outcome, Reached, Technique, absent};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("tcp-connect", tcp_connect).outside(),
    Technique::new("tcp6-connect", tcp6_connect).outside(),
    Technique::new("tcp-connect-mapped", tcp_connect_mapped).outside(),
    Technique::new("tcp-nonblocking", tcp_nonblocking).outside(),
    Technique::new("tcp-fast-open", tcp_fast_open).outside(),
    Technique::new("mptcp-connect", mptcp_connect).outside(),
    Technique::new("udp-sendto", udp_sendto).outside(),
    Technique::new("udp6-sendto", udp6_sendto).outside(),
    Technique::new("udp-sendto-mapped", udp_sendto_mapped).outside(),
    Technique::new("udp-sendmmsg", udp_sendmmsg).outside(),
    Technique::new("udp-connect", udp_connect).outside(),
    Technique::new("udp-reconnect", udp_reconnect).outside(),
    Technique::new("udp-unspecified-family", udp_unspecified_family).outside(),
    Technique::new("udplite-sendto", udplite_sendto).outside(),
    Technique::new("bind-port", bind_port),
    Technique::new("listen", listen),
    Technique::new("listen-unbound", listen_unbound),
    Technique::new("icmp-datagram", icmp_datagram),
    Technique::new("raw-socket", raw_socket),
    Technique::new("packet-socket", packet_socket),
    Technique::new("vsock-socket", vsock_socket),
    Technique::new("alg-socket", alg_socket),
    Technique::new("netlink-generic", netlink_generic),
    Technique::new("netlink-sock-diag", netlink_sock_diag),
    Technique::new("netlink-audit", netlink_audit),
];

const DONE: Outcome = Ok(Reached::Done);

fn port(place: &Place, key: &str) -> Result<u16, Failure> {
    Ok(place.number(key)? as u16)
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn mapped(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port))
}

/// An address as the kernel takes it.
fn raw(address: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![];
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failure> {
    call!(
        "socket",
        libc::SYS_socket,
        family,
        kind | libc::SOCK_CLOEXEC,
        protocol
    )
    .map(sys::fd)
}

fn connect(socket: &OwnedFd, address: &[u8]) -> Result<usize, Failure> {
    call!(
        "connect",
        libc::SYS_connect,
        socket,
        Memory::of(address),
        address.len()
    )
}

fn send_to(socket: &OwnedFd, flags: i32, address: &[u8]) -> Result<usize, Failure> {
    let (text, to) = (Memory::of(b"hello"), Memory::of(address));
    call!(
        "sendto",
        libc::SYS_sendto,
        socket,
        text,
        5,
        flags,
        to,
        address.len()
    )
}

fn secret_of(mut stream: impl Read) -> Outcome {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).at("read")?;
    Ok(Reached::Secret(bytes))
}

/// Connects to an address that no rule names.
fn tcp_connect(place: &Place) -> Outcome {
    secret_of(TcpStream::connect(v4(port(place, "tcp4")?)).at("connect")?)
}

/// The same over IPv6.
fn tcp6_connect(place: &Place) -> Outcome {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port(place, "tcp6")?));
    secret_of(TcpStream::connect(address).at("connect")?)
}

/// IPv4 through an IPv6 socket, by an IPv4-mapped address.
fn tcp_connect_mapped(place: &Place) -> Outcome {
    secret_of(TcpStream::connect(mapped(port(place, "tcp4")?)).at("connect")?)
}

/// Without waiting for the connection.
fn tcp_nonblocking(place: &Place) -> Outcome {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match connect(&socket, &raw(v4(port(place, "tcp4")?))) {
        Ok(_)
        | Err(Failure::Stopped {
            errno: libc::EINPROGRESS,
            ..
        }) => {}
        Err(other) => return Err(other),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).at("fcntl")?;
    let ready = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    call!("poll", libc::SYS_poll, Memory::to(&mut [ready]), 1, 3000)?;
    secret_of(stream)
}

/// With the first bytes in the first packet, which skips `connect` and its hook.
fn tcp_fast_open(place: &Place) -> Outcome {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    send_to(&socket, libc::MSG_FASTOPEN, &raw(v4(port(place, "tcp4")?)))?;
    secret_of(TcpStream::from(socket))
}

/// By multipath TCP, another protocol for the same.
fn mptcp_connect(place: &Place) -> Outcome {
    const IPPROTO_MPTCP: i32 = 262;
    // To a listener of plain TCP: where the machine is busy, falling back to that
    // may come to no end. Then once more.
    let patience = Some(Duration::from_secs(5));
    let mut outcome = Err(Failure::Untried("MPTCP".into()));
    for _ in 0..4 {
        let socket = socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP);
        let socket =
            socket.map_err(|e| absent(e, &[libc::EPROTONOSUPPORT, libc::EINVAL], "MPTCP"))?;
        let stream = TcpStream::from(socket.try_clone().at("dup")?);
        stream.set_read_timeout(patience).at("a timeout")?;
        stream.set_write_timeout(patience).at("a timeout")?;
        outcome = connect(&socket, &raw(v4(port(place, "tcp4")?))).and_then(|_| secret_of(&stream));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn datagram(address: SocketAddr) -> Result<OwnedFd, Failure> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    socket(family, libc::SOCK_DGRAM, 0)
}

/// Sends a datagram without `connect`.
fn udp_sendto(place: &Place) -> Outcome {
    let address = v4(port(place, "udp4")?);
    send_to(&datagram(address)?, 0, &raw(address))?;
    place.noticed()
}

/// The same over IPv6.
fn udp6_sendto(place: &Place) -> Outcome {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port(place, "udp6")?));
    send_to(&datagram(address)?, 0, &raw(address))?;
    place.noticed()
}

/// To an IPv4-mapped address.
fn udp_sendto_mapped(place: &Place) -> Outcome {
    let address = mapped(port(place, "udp4")?);
    send_to(&datagram(address)?, 0, &raw(address))?;
    place.noticed()
}

/// Several datagrams in one call.
fn udp_sendmmsg(place: &Place) -> Outcome {
    let socket = datagram(v4(0))?;
    let (mut address, mut text) = (raw(v4(port(place, "udp4")?)), *b"hello");
    let mut vector = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: 5,
    };
    // SAFETY: all zero is a valid mmsghdr.
    let mut messages: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_name = address.as_mut_ptr().cast();
        message.msg_hdr.msg_namelen = address.len() as u32;
        message.msg_hdr.msg_iov = &raw mut vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    call!(
        "sendmmsg",
        libc::SYS_sendmmsg,
        socket,
        Memory::to(&mut messages),
        2,
        0
    )?;
    place.noticed()
}

/// Connects a datagram socket, then only writes.
fn udp_connect(place: &Place) -> Outcome {
    let socket = UdpSocket::from(datagram(v4(0))?);
    socket.connect(v4(port(place, "udp4")?)).at("connect")?;
    socket.send(b"hello").at("send")?;
    place.noticed()
}

/// Connects to an allowed address, dissolves that with `AF_UNSPEC`, and connects anew.
fn udp_reconnect(place: &Place) -> Outcome {
    let socket = datagram(v4(0))?;
    connect(&socket, &raw(v4(crate::place::ALLOWED_PORT)))?;
    connect(&socket, &[0; 16])?;
    connect(&socket, &raw(v4(port(place, "udp4")?)))?;
    call!("write", libc::SYS_write, socket, Memory::of(b"hello"), 5)?;
    place.noticed()
}

/// Sends to an address whose family says nothing: the kernel takes it for IPv4.
fn udp_unspecified_family(place: &Place) -> Outcome {
    let mut address = raw(v4(port(place, "udp4")?));
    address[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    send_to(&datagram(v4(0))?, 0, &address)?;
    place.noticed()
}

/// Sends by UDP-Lite, another protocol with the same addresses.
fn udplite_sendto(place: &Place) -> Outcome {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 136);
    let socket = socket.map_err(|e| absent(e, &[libc::EPROTONOSUPPORT], "UDP-Lite"))?;
    send_to(&socket, 0, &raw(v4(port(place, "udp4")?)))?;
    DONE
}

/// Binds a port that others know. (Port 0 is what every client has.)
fn bind_port(_: &Place) -> Outcome {
    let address = raw(v4(47_113));
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    call!(
        "bind",
        libc::SYS_bind,
        socket,
        Memory::of(&address[..]),
        address.len()
    )?;
    DONE
}

/// Offers a port to whoever reaches the host.
fn listen(_: &Place) -> Outcome {
    TcpListener::bind("0.0.0.0:0").at("bind or listen")?;
    DONE
}

/// Listens without `bind`: the kernel picks a port.
fn listen_unbound(_: &Place) -> Outcome {
    let socket = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    call!("listen", libc::SYS_listen, socket, 1)?;
    DONE
}

/// Sends echo requests, which carry data, by a datagram socket.
fn icmp_datagram(_: &Place) -> Outcome {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
    let (echo, to) = ([8_u8, 0, 0, 0, 0, 0, 0, 1, b'x'], raw(v4(0)));
    let (echo, to) = (Memory::of(&echo), Memory::of(&to[..]));
    call!("sendto", libc::SYS_sendto, socket, echo, 9, 0, to, 16)?;
    DONE
}

/// Makes a socket that sends any IP packet.
fn raw_socket(_: &Place) -> Outcome {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(|_| Reached::Done)
}

/// Makes a socket that sends any frame and sees all.
fn packet_socket(_: &Place) -> Outcome {
    let all = i32::from(3_u16.to_be());
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, all);
    socket
        .map(|_| Reached::Done)
        .map_err(|e| absent(e, &[libc::EAFNOSUPPORT], "AF_PACKET"))
}

/// Makes a socket to the machine's host.
fn vsock_socket(_: &Place) -> Outcome {
    let socket = socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    socket
        .map(|_| Reached::Done)
        .map_err(|e| absent(e, &[libc::EAFNOSUPPORT], "AF_VSOCK"))
}

/// Makes a socket to the kernel's ciphers, a surface of many faults.
fn alg_socket(_: &Place) -> Outcome {
    let socket = socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
    socket
        .map(|_| Reached::Done)
        .map_err(|e| absent(e, &[libc::EAFNOSUPPORT], "AF_ALG"))
}

fn netlink(protocol: i32) -> Outcome {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol);
    let socket = socket.map_err(|e| absent(e, &[libc::EPROTONOSUPPORT], "this netlink family"))?;
    let mut address = [0_u8; 12];
    address[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    call!("bind", libc::SYS_bind, socket, Memory::of(&address), 12)?;
    DONE
}

/// Makes a socket to the kernel's generic interfaces.
fn netlink_generic(_: &Place) -> Outcome {
    netlink(libc::NETLINK_GENERIC)
}

/// Lists the host's sockets.
fn netlink_sock_diag(_: &Place) -> Outcome {
    netlink(libc::NETLINK_INET_DIAG)
}

/// Makes a socket to the kernel's audit.
fn netlink_audit(_: &Place) -> Outcome {
    netlink(libc::NETLINK_AUDIT)
}
