//! The other side of the network: echoes what comes, and keeps every packet that
//! arrives, so that it can be seen what left the host.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use super::{Seen, lab};
use crate::attack::{At, Failure, nothing};
use crate::sys::{self, Memory, call};

enum Served {
    Listener(TcpListener),
    Stream(TcpStream),
    Datagrams(UdpSocket),
    Packets(OwnedFd),
}

impl Served {
    fn fd(&self) -> i32 {
        match self {
            Self::Listener(socket) => socket.as_raw_fd(),
            Self::Stream(socket) => socket.as_raw_fd(),
            Self::Datagrams(socket) => socket.as_raw_fd(),
            Self::Packets(socket) => socket.as_raw_fd(),
        }
    }
}

/// Serves at these addresses until it is killed. Writes each packet with a time
/// (nanoseconds since the epoch) and a length in front, both 8 bytes.
pub(crate) fn run(packets: &Path, addresses: &[&str]) -> Seen {
    let mut log = File::create(packets).at("make the packets' file")?;
    let mut served = vec![Served::Packets(sniff()?)];
    for address in addresses {
        let address: IpAddr = address.parse().map_err(|_| nothing("an address"))?;
        for port in [lab::ECHO[0], lab::ECHO[1], lab::DOT] {
            served.push(Served::Listener(listen((address, port).into())?));
        }
        for port in [lab::ECHO[0], lab::ECHO[1], lab::QUIC] {
            let socket = UdpSocket::bind((address, port)).at("bind")?;
            served.push(Served::Datagrams(socket));
        }
    }
    served.extend(multicast()?.map(Served::Datagrams));
    println!("ready");
    std::io::stdout().flush().at("tell")?;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let mut ready: Vec<libc::pollfd> = served
            .iter()
            .map(|served| libc::pollfd {
                fd: served.fd(),
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        let count = ready.len();
        call!(
            "poll",
            libc::SYS_poll,
            Memory::to(&mut ready[..]),
            count,
            -1
        )?;
        let (mut accepted, mut ended) = (Vec::new(), Vec::new());
        for (index, at) in served.iter_mut().enumerate() {
            if ready[index].revents == 0 {
                continue;
            }
            match at {
                Served::Listener(listener) => {
                    accepted.extend(listener.accept().map(|(stream, _)| Served::Stream(stream)));
                }
                Served::Stream(stream) => match stream.read(&mut buffer) {
                    Ok(length) if length > 0 => drop(stream.write_all(&buffer[..length])),
                    _ => ended.push(index),
                },
                Served::Datagrams(socket) => {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
                Served::Packets(socket) => keep(socket, &mut buffer, &mut log)?,
            }
        }
        ended
            .into_iter()
            .rev()
            .for_each(|index| drop(served.remove(index)));
        served.extend(accepted);
    }
}

/// A listener that takes data in the first packet (TCP_FASTOPEN).
fn listen(at: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(at).at("bind")?;
    let (queue, tcp) = (16_i32, libc::IPPROTO_TCP);
    let socket = listener.as_raw_fd();
    let option = Memory::of(&queue);
    call!(
        "TCP_FASTOPEN",
        libc::SYS_setsockopt,
        socket,
        tcp,
        libc::TCP_FASTOPEN,
        option,
        4
    )?;
    Ok(listener)
}

fn device() -> Result<u32, Failure> {
    let path = format!("/sys/class/net/{}/ifindex", lab::DEVICES.1);
    let text = std::fs::read_to_string(path).at("read the device's number")?;
    text.trim().parse().map_err(|_| nothing("a number"))
}

/// Those who ask all in this network for a name.
fn multicast() -> Result<[UdpSocket; 2], Failure> {
    let (v4, v6) = lab::MDNS_GROUPS;
    let first = UdpSocket::bind(("0.0.0.0", lab::MDNS)).at("bind")?;
    let group = v4.parse().map_err(|_| nothing("a group"))?;
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    first.join_multicast_v4(&group, &any).at("join")?;
    // On the IPv6 side alone, or it would be the same port twice.
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let second = sys::fd(call!("socket", libc::SYS_socket, libc::AF_INET6, kind, 0)?);
    let (only, level) = (1_i32, libc::IPPROTO_IPV6);
    let option = Memory::of(&only);
    call!(
        "V6ONLY",
        libc::SYS_setsockopt,
        second,
        level,
        libc::IPV6_V6ONLY,
        option,
        4
    )?;
    let any: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, lab::MDNS).into();
    let address = super::target::raw(any);
    call!(
        "bind",
        libc::SYS_bind,
        second,
        Memory::of(&address[..]),
        address.len()
    )?;
    let second = UdpSocket::from(second);
    let group = v6.parse().map_err(|_| nothing("a group"))?;
    second.join_multicast_v6(&group, device()?).at("join")?;
    Ok([first, second])
}

/// Everything that comes in by the device: IP packets without their frames.
fn sniff() -> Result<OwnedFd, Failure> {
    let all = 3_u16.to_be();
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call!(
        "socket",
        libc::SYS_socket,
        libc::AF_PACKET,
        kind,
        i32::from(all)
    )?;
    let socket = sys::fd(socket);
    // struct sockaddr_ll: family, protocol, device.
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend(all.to_ne_bytes());
    address.extend(device()?.to_ne_bytes());
    address.extend([0; 12]);
    let (at, len) = (Memory::of(&address[..]), address.len());
    call!("bind", libc::SYS_bind, socket, at, len)?;
    let (room, level) = (64_i32 << 20, libc::SOL_SOCKET);
    let option = Memory::of(&room);
    call!(
        "SO_RCVBUFFORCE",
        libc::SYS_setsockopt,
        socket,
        level,
        libc::SO_RCVBUFFORCE,
        option,
        4
    )?;
    Ok(socket)
}

fn keep(socket: &OwnedFd, buffer: &mut [u8], log: &mut File) -> Result<(), Failure> {
    let mut from = [0_u8; 20];
    let mut size = 20_u32;
    let (into, sender, room) = (
        Memory::to(buffer),
        Memory::to(&mut from),
        Memory::to(&mut size),
    );
    let length = call!(
        "recv",
        libc::SYS_recvfrom,
        socket,
        into,
        buffer.len(),
        0,
        sender,
        room
    )?;
    // PACKET_OUTGOING: what this side answers is not what left the host.
    if from[10] == 4 {
        return Ok(());
    }
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut record = u64::try_from(since.as_nanos())
        .unwrap_or(0)
        .to_ne_bytes()
        .to_vec();
    record.extend((length as u64).to_ne_bytes());
    record.extend(buffer.get(..length).unwrap_or_default());
    log.write_all(&record).at("keep a packet")
}
