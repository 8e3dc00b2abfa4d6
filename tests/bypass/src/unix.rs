//! Unix sockets: those of services, and descriptors that come through them.

use std::fs;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use crate::attack::{At, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("unix-stream", unix_stream).outside(),
    Technique::new("unix-stream-relative", unix_stream_relative).outside(),
    Technique::new("unix-stream-symlink", unix_stream_symlink).outside(),
    Technique::new("unix-abstract", unix_abstract).outside(),
    Technique::new("unix-seqpacket", unix_seqpacket).outside(),
    Technique::new("unix-datagram", unix_datagram).outside(),
    Technique::new("unix-datagram-connect", unix_datagram_connect).outside(),
    Technique::new("unix-datagram-abstract", unix_datagram_abstract).outside(),
    Technique::new("descriptor-received", descriptor_received).outside(),
    Technique::new("descriptor-o-path-received", descriptor_o_path_received).outside(),
    Technique::new("descriptor-inherited", descriptor_inherited),
    Technique::new("environment-secret", environment_secret),
];

fn secret_of(mut stream: UnixStream) -> Outcome {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).at("read")?;
    Ok(Reached::Secret(bytes))
}

/// Connects to a service's socket, as docker's or systemd's.
fn unix_stream(place: &Place) -> Outcome {
    secret_of(UnixStream::connect(place.at("sock/stream")).at("connect")?)
}

/// By a name relative to the working directory.
fn unix_stream_relative(place: &Place) -> Outcome {
    std::env::set_current_dir(place.at("sock")).at("chdir")?;
    secret_of(UnixStream::connect("stream").at("connect")?)
}

/// By a symbolic link where all is allowed.
fn unix_stream_symlink(place: &Place) -> Outcome {
    std::os::unix::fs::symlink("../sock/stream", place.at("open/s")).at("symlink")?;
    secret_of(UnixStream::connect(place.at("open/s")).at("connect")?)
}

/// By an abstract name, which is in no file system, as the session bus's.
fn unix_abstract(place: &Place) -> Outcome {
    let address = SocketAddr::from_abstract_name(place.told("abstract")?).at("address")?;
    secret_of(UnixStream::connect_addr(&address).at("connect")?)
}

/// With packets in order, another type of socket with the same names.
fn unix_seqpacket(place: &Place) -> Outcome {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let socket = sys::fd(call!("socket", libc::SYS_socket, libc::AF_UNIX, kind, 0)?);
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.push(0);
    address.extend(place.told("seqpacket")?.as_bytes());
    call!(
        "connect",
        libc::SYS_connect,
        socket,
        Memory::of(&address[..]),
        address.len()
    )?;
    sys::read_all(socket).map(Reached::Secret)
}

/// Sends a datagram to a service's socket, as the system log's.
fn unix_datagram(place: &Place) -> Outcome {
    let socket = UnixDatagram::unbound().at("socket")?;
    socket
        .send_to(b"hello", place.at("sock/datagram"))
        .at("sendto")?;
    place.noticed()
}

/// Connects the datagram socket, then only writes.
fn unix_datagram_connect(place: &Place) -> Outcome {
    let socket = UnixDatagram::unbound().at("socket")?;
    socket.connect(place.at("sock/datagram")).at("connect")?;
    socket.send(b"hello").at("send")?;
    place.noticed()
}

/// Sends a datagram to an abstract name.
fn unix_datagram_abstract(place: &Place) -> Outcome {
    let address = SocketAddr::from_abstract_name(place.told("abstract-datagram")?).at("address")?;
    let socket = UnixDatagram::unbound().at("socket")?;
    socket.send_to_addr(b"hello", &address).at("sendto")?;
    place.noticed()
}

/// Takes a descriptor from a process outside that connects to a socket of its own.
fn received(place: &Place, name: &str) -> Result<std::os::fd::OwnedFd, crate::attack::Failure> {
    let listener = UnixListener::bind(place.at(name)).at("bind")?;
    let ready = libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&listener),
        events: libc::POLLIN,
        revents: 0,
    };
    if call!("poll", libc::SYS_poll, Memory::to(&mut [ready]), 1, 5000)? == 0 {
        return Err(nothing("the process outside comes"));
    }
    let (stream, _) = listener.accept().at("accept")?;
    let (mut byte, mut control) = ([0_u8; 1], [0_u64; 4]);
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
    let stream = std::os::fd::OwnedFd::from(stream);
    call!(
        "recvmsg",
        libc::SYS_recvmsg,
        stream,
        Memory::to(&mut message),
        libc::MSG_CMSG_CLOEXEC
    )?;
    // struct cmsghdr: length (8 bytes), level, type; then the descriptor.
    if message.msg_controllen < 20 || control[0] < 20 {
        return Err(nothing("recvmsg: the message came, the descriptor did not"));
    }
    Ok(sys::fd((control[2] & 0xffff_ffff) as usize))
}

/// Receives a descriptor of the denied file.
fn descriptor_received(place: &Place) -> Outcome {
    let fd = received(place, "open/accomplice")?;
    sys::read_all(fd).map(Reached::Secret)
}

/// Receives an `O_PATH` descriptor of the denied directory, and opens below it.
fn descriptor_o_path_received(place: &Place) -> Outcome {
    let dir = received(place, "open/accomplice-path")?;
    let fd = sys::open_at(
        std::os::fd::AsRawFd::as_raw_fd(&dir),
        "secret.txt",
        libc::O_RDONLY,
    )?;
    sys::read_all(fd).map(Reached::Secret)
}

/// Reads a descriptor that the client had open when it started the server.
fn descriptor_inherited(_: &Place) -> Outcome {
    let path = format!("/proc/self/fd/{}", crate::place::INHERITED);
    let link = fs::read_link(path).at("readlink")?;
    if !link.ends_with("closed/secret.txt") {
        return Err(nothing("the descriptor is another"));
    }
    let mut buffer = [0_u8; 256];
    let to = Memory::to(&mut buffer);
    let length = call!(
        "pread64",
        libc::SYS_pread64,
        crate::place::INHERITED,
        to,
        256,
        0
    )?;
    Ok(Reached::Secret(buffer[..length].to_vec()))
}

/// Reads a secret in the environment that the client had.
fn environment_secret(_: &Place) -> Outcome {
    let value = std::env::var("BYPASS_SECRET").ok();
    value
        .map(|v| Reached::Secret(v.into_bytes()))
        .ok_or_else(|| nothing("getenv"))
}
