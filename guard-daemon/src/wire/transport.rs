//! One message, one packet, of any size: what does not fit goes through a
//! sealed memory file that travels with the packet. Nothing is ever cut.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType};
use nix::sys::socket::{sendmsg, setsockopt, socketpair, sockopt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MAX_PACKET;
use crate::sys::fds::{MAX_FDS, receive as receive_raw};

/// Bytes up to which a message is put into the packet itself.
const INLINE: usize = 32 << 10;
/// Bytes of the largest message: more than the kernel takes as arguments and
/// environment of a program (`ARG_MAX` is at most 6 MiB).
pub const MAX_MESSAGE: usize = 16 << 20;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// Which.
        what: &'static str,
        /// How.
        source: io::Error,
    },
    /// More than [`MAX_MESSAGE`] bytes.
    #[error("the message has {0} bytes, at most {MAX_MESSAGE} are possible")]
    TooLong(usize),
    /// A packet that this version does not send.
    #[error("the packet is malformed: {0}")]
    Malformed(String),
}

fn system(what: &'static str) -> impl FnOnce(Errno) -> TransportError {
    move |errno| TransportError::System {
        what,
        source: errno.into(),
    }
}

/// Stands in the packet for a message in a memory file, the last descriptor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    in_file: usize,
}

/// A received message.
#[derive(Debug)]
pub struct Packet {
    /// JSON text.
    pub body: Vec<u8>,
    /// Descriptors, in the sender's order.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// The message.
    ///
    /// # Errors
    /// When the text is not such a message.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, TransportError> {
        serde_json::from_slice(&self.body).map_err(|e| TransportError::Malformed(e.to_string()))
    }
}

/// Two connected `SOCK_SEQPACKET` sockets, close-on-exec, with room for
/// packets of [`MAX_PACKET`] bytes.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), TransportError> {
    let (a, b) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(system("socketpair"))?;
    for end in [&a, &b] {
        setsockopt(end, sockopt::SndBuf, &(2 * MAX_PACKET)).map_err(system("SO_SNDBUF"))?;
    }
    Ok((a, b))
}

/// Sends one message with descriptors.
///
/// # Errors
/// When it is too long or the peer is gone.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let text = serde_json::to_vec(message).map_err(|e| TransportError::Malformed(e.to_string()))?;
    if text.len() <= INLINE {
        return send_packet(socket, &text, fds);
    }
    if text.len() > MAX_MESSAGE {
        return Err(TransportError::TooLong(text.len()));
    }
    let file = sealed(&text)?;
    let stand_in = serde_json::to_vec(&InFile {
        in_file: text.len(),
    })
    .map_err(|e| TransportError::Malformed(e.to_string()))?;
    let mut all = fds.to_vec();
    all.push(file.as_fd());
    send_packet(socket, &stand_in, &all)
}

fn send_packet(
    socket: BorrowedFd<'_>,
    text: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), TransportError> {
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    loop {
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(text)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()), // a packet goes whole or not at all
            Err(errno) => return Err(system("sendmsg")(errno)),
        }
    }
}

/// Receives one message; `None` when the peer has closed. On a non-blocking
/// socket without a message the error is [`TransportError::System`] with
/// [`io::ErrorKind::WouldBlock`].
///
/// # Errors
/// When the packet is none that [`send`] makes.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<Packet>, TransportError> {
    let mut buffer = vec![0; MAX_PACKET];
    let received = loop {
        match receive_raw(socket, &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(TransportError::System {
                    what: "recvmsg",
                    source,
                });
            }
            Ok(received) => break received,
        }
    };
    if received.truncated {
        return Err(TransportError::Malformed(format!(
            "more than {MAX_PACKET} bytes or {MAX_FDS} descriptors"
        )));
    }
    if received.len == 0 {
        return Ok(None);
    }
    buffer.truncate(received.len);
    let mut fds = received.fds;
    if let Ok(stand_in) = serde_json::from_slice::<InFile>(&buffer) {
        let file = fds
            .pop()
            .ok_or_else(|| TransportError::Malformed("no file came with it".into()))?;
        buffer = unseal(file, stand_in.in_file)?;
    }
    Ok(Some(Packet { body: buffer, fds }))
}

/// A memory file with these bytes that nobody can change any more.
fn sealed(bytes: &[u8]) -> Result<File, TransportError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"guard", flags).map_err(system("memfd_create"))?);
    file.write_all(bytes)
        .map_err(|source| TransportError::System {
            what: "writing a memory file",
            source,
        })?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).map_err(system("F_ADD_SEALS"))?;
    Ok(file)
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn unseal(file: OwnedFd, len: usize) -> Result<Vec<u8>, TransportError> {
    if len > MAX_MESSAGE {
        return Err(TransportError::TooLong(len));
    }
    // What is not sealed could change, or shrink, while it is read.
    let held = fcntl(&file, FcntlArg::F_GET_SEALS).map_err(system("F_GET_SEALS"))?;
    if held & seals().bits() != seals().bits() {
        return Err(TransportError::Malformed("its file is not sealed".into()));
    }
    let mut bytes = vec![0; len];
    File::from(file)
        .read_exact_at(&mut bytes, 0)
        .map_err(|source| TransportError::System {
            what: "reading a memory file",
            source,
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _};

    fn echo(text: &str) -> String {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), &text, &[]).unwrap();
        receive(b.as_fd()).unwrap().unwrap().parse().unwrap()
    }

    #[test]
    fn messages_of_any_size_arrive_whole() {
        for size in [0, 1, INLINE - 2, INLINE - 1, MAX_PACKET + 1, 5 << 20] {
            let text = "x".repeat(size);
            assert_eq!(echo(&text), text, "{size}");
        }
    }

    #[test]
    fn descriptors_keep_their_order_beside_a_file() {
        let (a, b) = pair().unwrap();
        let mut first = tempfile::tempfile().unwrap();
        first.write_all(b"first").unwrap();
        let second = tempfile::tempfile().unwrap();
        let big = "y".repeat(INLINE + 1);
        send(a.as_fd(), &big, &[first.as_fd(), second.as_fd()]).unwrap();
        let packet = receive(b.as_fd()).unwrap().unwrap();
        assert_eq!(packet.fds.len(), 2);
        let mut read = String::new();
        let mut file = File::from(packet.fds.into_iter().next().unwrap());
        file.rewind().unwrap();
        file.read_to_string(&mut read).unwrap();
        assert_eq!(read, "first");
    }

    #[test]
    fn the_largest_packet_fits_the_socket() {
        let (a, b) = pair().unwrap();
        let text = vec![b'z'; MAX_PACKET];
        send_packet(a.as_fd(), &text, &[]).unwrap();
        assert_eq!(receive(b.as_fd()).unwrap().unwrap().body.len(), MAX_PACKET);
    }

    #[test]
    fn too_long_and_unsealed_are_refused() {
        let (a, b) = pair().unwrap();
        let text = "x".repeat(MAX_MESSAGE);
        assert!(matches!(
            send(a.as_fd(), &text, &[]),
            Err(TransportError::TooLong(_))
        ));
        let file = File::from(memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(10).unwrap();
        send_packet(a.as_fd(), b"{\"in_file\":10}", &[file.as_fd()]).unwrap();
        let error = receive(b.as_fd()).unwrap_err().to_string();
        assert!(error.contains("not sealed"), "{error}");
        send_packet(a.as_fd(), b"{\"in_file\":10}", &[]).unwrap();
        assert!(receive(b.as_fd()).is_err());
    }

    #[test]
    fn a_closed_peer_is_the_end() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(receive(b.as_fd()).unwrap().is_none());
    }
}
