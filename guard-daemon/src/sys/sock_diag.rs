//! The kernel's own list of sockets (`NETLINK_SOCK_DIAG`, sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `NETLINK_SOCK_DIAG` (include/uapi/linux/netlink.h).
const NETLINK_SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
/// Bytes of `struct nlmsghdr` and `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Where `id.idiag_cookie` is in `struct inet_diag_msg` (include/uapi/linux/inet_diag.h).
const COOKIE_AT: usize = 4 + 4 + 16 + 16 + 4;
/// `INET_DIAG_NOCOOKIE`.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The cookie (`SO_COOKIE`) of the TCP socket that is connected from `local` to
/// `peer` in this network namespace. Needs no privilege.
///
/// # Errors
/// `NotFound` where there is none; as socket(2), send(2) and recv(2) else.
pub fn cookie(local: SocketAddr, peer: SocketAddr) -> io::Result<u64> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: integers only.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = request(local, peer)?;
    // SAFETY: a live buffer of that many bytes.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 1024];
    // The kernel answers within the send.
    // SAFETY: a live buffer of that many bytes.
    let len = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            answer.as_mut_ptr().cast(),
            answer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    read(&answer[..len.unsigned_abs()])
}

/// Whether the kernel has such a list for TCP, by looking a connection of our own
/// up in it: it is a module on many hosts (`tcp_diag`), which the kernel loads
/// when it is asked for the first time, if it is there.
///
/// # Errors
/// What went wrong.
pub fn try_out() -> io::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let client = std::net::TcpStream::connect(listener.local_addr()?)?;
    cookie(client.local_addr()?, client.peer_addr()?).map(drop)
}

/// An exact question for one socket: `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(local: SocketAddr, peer: SocketAddr) -> io::Result<[u8; HEADER + REQUEST]> {
    let mut out = [0; HEADER + REQUEST];
    out[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    let body = &mut out[HEADER..];
    body[1] = libc::IPPROTO_TCP as u8;
    // Sockets in any state.
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    body[8..10].copy_from_slice(&local.port().to_be_bytes());
    body[10..12].copy_from_slice(&peer.port().to_be_bytes());
    match (local.ip(), peer.ip()) {
        (IpAddr::V4(local), IpAddr::V4(peer)) => {
            body[0] = libc::AF_INET as u8;
            body[12..16].copy_from_slice(&local.octets());
            body[28..32].copy_from_slice(&peer.octets());
        }
        (IpAddr::V6(local), IpAddr::V6(peer)) => {
            body[0] = libc::AF_INET6 as u8;
            body[12..28].copy_from_slice(&local.octets());
            body[28..44].copy_from_slice(&peer.octets());
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    body[48..56].copy_from_slice(&NO_COOKIE);
    Ok(out)
}

fn read(answer: &[u8]) -> io::Result<u64> {
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    // An error is `struct nlmsgerr`, whatever it says.
    let cookie = answer
        .get(HEADER + COOKIE_AT..HEADER + COOKIE_AT + 8)
        .filter(|_| kind == Some(BY_FAMILY))
        .ok_or(io::ErrorKind::NotFound)?;
    let word = |at: usize| {
        let bytes: [u8; 4] = cookie[at..at + 4].try_into().unwrap_or_default();
        u64::from(u32::from_ne_bytes(bytes))
    };
    Ok(word(4) << 32 | word(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// `SO_COOKIE` of a socket.
    fn own(socket: &TcpStream) -> u64 {
        let mut cookie = 0_u64;
        let mut len: libc::socklen_t = 8;
        // SAFETY: a live u64 and its size.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        assert_eq!(got, 0);
        cookie
    }

    #[test]
    fn the_cookie_is_that_of_the_client() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let found = cookie(peer, server.local_addr().unwrap()).unwrap();
            assert_eq!(found, own(&client), "{at}");
            // The other way round it is the other socket.
            assert_eq!(
                cookie(server.local_addr().unwrap(), peer).unwrap(),
                own(&server)
            );
        }
    }

    #[test]
    fn this_host_has_the_list() {
        try_out().unwrap();
    }

    #[test]
    fn a_socket_that_is_not_there_has_none() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let none = cookie(at("127.0.0.1:1"), at("127.0.0.1:2")).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        assert!(cookie(at("127.0.0.1:1"), at("[::1]:2")).is_err());
    }
}
