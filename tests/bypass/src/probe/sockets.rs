//! Connections and datagrams, made in every way that the kernel has. A step gets
//! through when what it sent comes back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::target::{find, raw};
use super::{Seen, lab};
use crate::attack::{At, Failure, absent, nothing};
use crate::sys::{self, Memory, call};

/// How long an echo is waited for. What is dropped on its way never comes.
const PATIENCE: Duration = Duration::from_secs(5);
const HELLO: &[u8] = b"hello from the probe\n";

/// A socket of the family of an address.
pub(crate) fn socket(to: SocketAddr, kind: i32) -> Result<OwnedFd, Failure> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = kind | libc::SOCK_CLOEXEC;
    call!("socket", libc::SYS_socket, family, kind, 0).map(sys::fd)
}

pub(crate) fn connect(socket: &OwnedFd, address: &[u8]) -> Result<usize, Failure> {
    let to = Memory::of(address);
    call!("connect", libc::SYS_connect, socket, to, address.len())
}

fn send_to(socket: &OwnedFd, bytes: &[u8], flags: i32, address: &[u8]) -> Result<usize, Failure> {
    let (text, to) = (Memory::of(bytes), Memory::of(address));
    call!(
        "sendto",
        libc::SYS_sendto,
        socket,
        text,
        bytes.len(),
        flags,
        to,
        address.len()
    )
}

/// Undoes a connection: an address whose family says nothing.
fn dissolve(socket: &OwnedFd) -> Result<usize, Failure> {
    connect(socket, &[0; 16]).map_err(|failure| match failure {
        Failure::Stopped { errno, .. } => Failure::Stopped {
            step: "connect to nothing".into(),
            errno,
        },
        other => other,
    })
}

fn echoed(mut stream: TcpStream) -> Seen {
    let to = stream.peer_addr().at("getpeername")?;
    stream.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    stream.write_all(HELLO).at("write")?;
    same(&mut stream, to)
}

fn same(stream: &mut TcpStream, to: SocketAddr) -> Seen {
    let mut bytes = vec![0; HELLO.len()];
    stream.read_exact(&mut bytes).at("read")?;
    match bytes == HELLO {
        true => Ok(format!("echo of {to}")),
        false => Err(nothing("an echo")),
    }
}

fn heard(socket: OwnedFd, to: SocketAddr) -> Seen {
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    let mut bytes = [0; 64];
    let count = socket.recv(&mut bytes).at("receive")?;
    match bytes.get(..count) == Some(HELLO) {
        true => Ok(format!("echo of {to}")),
        false => Err(nothing("an echo")),
    }
}

pub(crate) fn tcp(to: &str) -> Seen {
    echoed(TcpStream::connect(find(to)?).at("connect")?)
}

/// With the first bytes in the first packet, which skips `connect` and its hook.
pub(crate) fn fast_open(to: &str) -> Seen {
    let to = find(to)?;
    let mut stream = fast_open_with(to, HELLO)?;
    stream.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    same(&mut stream, to)
}

pub(crate) fn fast_open_with(to: SocketAddr, bytes: &[u8]) -> Result<TcpStream, Failure> {
    let socket = socket(to, libc::SOCK_STREAM)?;
    send_to(&socket, bytes, libc::MSG_FASTOPEN, &raw(to))?;
    Ok(TcpStream::from(socket))
}

/// Connects, dissolves that with `AF_UNSPEC`, and connects anew.
pub(crate) fn tcp_reconnect(first: &str, to: &str) -> Seen {
    let (first, to) = (find(first)?, find(to)?);
    let socket = socket(first, libc::SOCK_STREAM)?;
    connect(&socket, &raw(first))?;
    dissolve(&socket)?;
    connect(&socket, &raw(to))?;
    echoed(TcpStream::from(socket))
}

/// Sends without `connect`.
pub(crate) fn udp(to: &str) -> Seen {
    let to = find(to)?;
    let socket = socket(to, libc::SOCK_DGRAM)?;
    send_to(&socket, HELLO, 0, &raw(to))?;
    heard(socket, to)
}

/// Connects, then only writes.
pub(crate) fn udp_connect(to: &str) -> Seen {
    let to = find(to)?;
    let socket = socket(to, libc::SOCK_DGRAM)?;
    connect(&socket, &raw(to))?;
    write(&socket)?;
    heard(socket, to)
}

/// Several datagrams in one call.
pub(crate) fn sendmmsg(to: &str) -> Seen {
    let to = find(to)?;
    let socket = socket(to, libc::SOCK_DGRAM)?;
    send_many(&socket, HELLO, &raw(to))?;
    heard(socket, to)
}

fn send_many(socket: &OwnedFd, bytes: &[u8], address: &[u8]) -> Result<usize, Failure> {
    let (mut address, mut bytes) = (address.to_vec(), bytes.to_vec());
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zero is a valid mmsghdr.
    let mut messages: [libc::mmsghdr; 2] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_name = address.as_mut_ptr().cast();
        message.msg_hdr.msg_namelen = address.len() as u32;
        message.msg_hdr.msg_iov = &raw mut vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    let all = Memory::to(&mut messages);
    call!("sendmmsg", libc::SYS_sendmmsg, socket, all, 2, 0)
}

/// Connects to one address, dissolves that, connects to the other.
pub(crate) fn udp_reconnect(first: &str, to: &str) -> Seen {
    let (first, to) = (find(first)?, find(to)?);
    let socket = socket(first, libc::SOCK_DGRAM)?;
    connect(&socket, &raw(first))?;
    dissolve(&socket)?;
    connect(&socket, &raw(to))?;
    write(&socket)?;
    heard(socket, to)
}

/// Sends to an address whose family says nothing: the kernel takes it for IPv4.
pub(crate) fn unspecified_family(to: &str) -> Seen {
    let to = find(to)?;
    let mut address = raw(to);
    address[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    let socket = socket(to, libc::SOCK_DGRAM)?;
    send_to(&socket, HELLO, 0, &address)?;
    heard(socket, to)
}

fn write(socket: &OwnedFd) -> Result<usize, Failure> {
    call!(
        "write",
        libc::SYS_write,
        socket,
        Memory::of(HELLO),
        HELLO.len()
    )
}

/// A datagram there and one back, in one of the ways above.
pub(crate) fn exchange(way: &str, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let socket = super::dns::bound(to)?;
    let descriptor = OwnedFd::from(socket.try_clone().at("dup")?);
    match way {
        "udp" => drop(send_to(&descriptor, bytes, 0, &raw(to))?),
        "sendmmsg" => drop(send_many(&descriptor, bytes, &raw(to))?),
        "udp-connect" => {
            connect(&descriptor, &raw(to))?;
            socket.send(bytes).at("send")?;
        }
        _ => {
            // To a port that nobody asks names of, then to the server.
            let first = SocketAddr::from((to.ip(), 5353));
            let _ = connect(&descriptor, &raw(first));
            dissolve(&descriptor)?;
            connect(&descriptor, &raw(to))?;
            socket.send(bytes).at("send")?;
        }
    }
    let mut answer = vec![0; 65_535];
    let (count, from) = socket.recv_from(&mut answer).at("receive")?;
    // Whoever asks one server takes no answer of another.
    if from.ip().to_canonical() != to.ip().to_canonical() || from.port() != to.port() {
        return Err(nothing(&format!("an answer of {to}, not {from}")));
    }
    answer.truncate(count);
    Ok(answer)
}

/// To all who listen for names in this network.
pub(crate) fn multicast(to: &str) -> Seen {
    let mut to = find(to)?;
    let index = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", lab::DEVICES.0));
    let index: u32 = index
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(2);
    if let SocketAddr::V6(v6) = &mut to {
        v6.set_scope_id(index);
    }
    let socket = socket(to, libc::SOCK_DGRAM)?;
    send_to(&socket, HELLO, 0, &raw(to))?;
    heard(socket, to)
}

/// Offers a port to whoever reaches the host.
pub(crate) fn listen(at: &str) -> Seen {
    let at = find(at)?;
    TcpListener::bind(at).at("bind or listen")?;
    Ok(format!("listens at {at}"))
}

/// Makes a socket by its numbers.
pub(crate) fn family(family: &str, kind: &str, protocol: &str) -> Seen {
    let number = |text: &str| text.parse::<i32>().map_err(|_| nothing("a number"));
    let kind = number(kind)? | libc::SOCK_CLOEXEC;
    let made = call!(
        "socket",
        libc::SYS_socket,
        number(family)?,
        kind,
        number(protocol)?
    );
    made.map(|n| drop(sys::fd(n))).map_err(|e| {
        absent(
            e,
            &[libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT],
            "this family",
        )
    })?;
    Ok("a socket".to_owned())
}

/// An echo request, which carries data, by a datagram socket.
pub(crate) fn ping(to: &str) -> Seen {
    let to = find(to)?;
    let (family, protocol, request) = match to.ip() {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128),
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = sys::fd(call!("socket", libc::SYS_socket, family, kind, protocol)?);
    let mut echo = vec![request, 0, 0, 0, 0, 0, 0, 1];
    echo.extend(HELLO);
    send_to(&socket, &echo, 0, &raw(to))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    let mut bytes = [0; 64];
    let count = socket.recv(&mut bytes).at("receive")?;
    match bytes.get(8..count) == Some(HELLO) {
        true => Ok(format!("echo of {}", to.ip())),
        false => Err(nothing("an echo")),
    }
}

/// What a service of the host says to whoever connects.
pub(crate) fn unix(path: &str) -> Seen {
    let mut stream = UnixStream::connect(path).at("connect")?;
    stream.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).at("read")?;
    Ok(text)
}

/// Takes a connected socket from a process outside, and talks through it.
pub(crate) fn received(meet: &Path) -> Seen {
    let _ = std::fs::remove_file(meet);
    let listener = UnixListener::bind(meet).at("bind")?;
    // It comes by itself, and hands the socket over.
    let (accepted, _) = listener.accept().at("accept")?;
    let taken = take(&OwnedFd::from(accepted));
    let _ = std::fs::remove_file(meet);
    echoed(TcpStream::from(taken?))
}

/// Receives one descriptor.
fn take(from: &OwnedFd) -> Result<OwnedFd, Failure> {
    let (mut byte, mut control) = ([0_u8], [0_u64; 3]);
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC;
    call!(
        "recvmsg",
        libc::SYS_recvmsg,
        from,
        Memory::to(&mut message),
        flags
    )?;
    // struct cmsghdr: length, level and type; then the descriptor. Without one the
    // kernel kept it (`scm_detach_fds`: security_file_receive said no).
    if control[0] != 20 {
        return Err(nothing("no descriptor came along"));
    }
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(control[2] as i32) })
}

/// Connects, and then again and again to the same address without asking for its
/// name anew, until that is refused. The first connection must go on all the while.
pub(crate) fn expiry(to: &str, seconds: &str) -> Seen {
    let to = find(to)?;
    let limit: u64 = seconds.parse().map_err(|_| nothing("seconds"))?;
    let mut first = TcpStream::connect(to).at("the first connect")?;
    first.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    let begun = Instant::now();
    let refused = loop {
        match TcpStream::connect(to).at("connect") {
            Ok(stream) => drop(echoed(stream)?),
            Err(Failure::Stopped {
                errno: libc::EPERM | libc::EACCES,
                ..
            }) => {
                break true;
            }
            Err(other) => return Err(other),
        }
        if begun.elapsed().as_secs() >= limit {
            break false;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    first.write_all(HELLO).at("write to the first")?;
    same(&mut first, to)?;
    let after = begun.elapsed().as_secs();
    Ok(match refused {
        true => format!("refused after {after} s; the first connection goes on"),
        false => format!("open for {after} s; the first connection goes on"),
    })
}

/// Sends to an address, by a socket that has options.
pub(crate) fn send_hello(socket: &OwnedFd, address: &[u8]) -> Result<usize, Failure> {
    send_to(socket, HELLO, 0, address)
}

/// Waits for the echo of it.
pub(crate) fn hear(socket: OwnedFd, to: SocketAddr) -> Seen {
    heard(socket, to)
}
