//! Records on their way to the supervisor. The relay never waits long for it:
//! while it is away, records are kept within a bound, what is over it is
//! counted, and the relay comes back with `Hello` when it is there again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, setsockopt, socket,
    sockopt,
};
use serde::Serialize;

use crate::wire::{MAX_PACKET, RelayRecord};

/// Bytes of records that are kept while the supervisor is away.
pub const MOST_KEPT: usize = 8 << 20;
/// Milliseconds that one record may wait for a supervisor that is slow.
const PATIENCE_MS: u16 = 250;
/// Bytes that the socket should hold; the kernel takes less where its limit is lower.
const SOCKET_BUFFER: usize = 1 << 20;

/// The relay's end of the wire. Threads send beside each other as long as
/// nothing waits: a packet is whole by itself, and a call's end comes after
/// its start because its response does.
#[derive(Debug)]
pub struct Outbox(RwLock<State>);

#[derive(Debug)]
struct State {
    socket: Option<OwnedFd>,
    kept: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    most: usize,
    lost: u64,
    /// Where to reconnect to, and what to say first.
    back: Option<(String, RelayRecord)>,
}

/// What became of a packet.
enum Sent {
    Yes,
    NotNow,
    Gone,
}

thread_local! {
    /// The packet being written; its room stays from one to the next.
    static PACKET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Outbox {
    /// An outbox on a connected socket. `back`: path and `Hello` for later.
    #[must_use]
    pub fn new(socket: OwnedFd, back: Option<(String, RelayRecord)>) -> Self {
        enlarge(&socket);
        Self(RwLock::new(State {
            socket: Some(socket),
            kept: VecDeque::new(),
            kept_bytes: 0,
            most: MOST_KEPT,
            lost: 0,
            back,
        }))
    }

    /// Whether everything is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Sends a record, or keeps it in order behind those that wait.
    /// `shorten` makes it smaller when it does not fit a packet; after it says
    /// `false` the record counts as lost.
    pub fn send<T: Serialize>(&self, record: &mut T, mut shorten: impl FnMut(&mut T) -> bool) {
        let mut packet = PACKET.take();
        loop {
            packet.clear();
            let written = serde_json::to_writer(&mut packet, record);
            if written.is_ok() && packet.len() <= MAX_PACKET {
                break self.post(&packet);
            }
            if !shorten(record) {
                break self.write().lost += 1;
            }
        }
        PACKET.set(packet);
    }

    fn post(&self, packet: &[u8]) {
        {
            let state = self.read();
            if state.is_empty() && matches!(state.try_send(packet, 0), Sent::Yes) {
                return;
            }
        }
        self.write().post(packet);
    }

    /// Reconnects where that is needed and sends what waits; never blocks.
    /// Call it about twice a second.
    pub fn flush(&self) {
        let idle = {
            let state = self.read();
            state.is_empty() && state.socket.is_some() && !state.hung_up()
        };
        if !idle {
            self.write().flush();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.lost == 0
    }

    fn post(&mut self, packet: &[u8]) {
        if self.is_empty() {
            match self.try_send(packet, PATIENCE_MS) {
                Sent::Yes => return,
                Sent::NotNow => {}
                Sent::Gone => self.socket = None,
            }
        }
        // Once something was lost, what comes after waits until `Lost` was said.
        if self.kept_bytes + packet.len() > self.most {
            self.lost += 1;
            return;
        }
        self.kept_bytes += packet.len();
        self.kept.push_back(packet.to_vec());
    }

    fn try_send(&self, packet: &[u8], patience_ms: u16) -> Sent {
        let Some(socket) = &self.socket else {
            return Sent::Gone;
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let mut waited = false;
        loop {
            match send(socket.as_raw_fd(), packet, flags) {
                Ok(_) => return Sent::Yes,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) if waited || patience_ms == 0 => {
                    return Sent::NotNow;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    waited = true;
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::from(patience_ms));
                }
                Err(_) => return Sent::Gone,
            }
        }
    }

    /// Whether the supervisor closed its end; it never writes to ours.
    fn hung_up(&self) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }

    fn flush(&mut self) {
        if self.hung_up() {
            self.socket = None;
        }
        if self.socket.is_none() {
            self.reconnect();
        }
        while let Some(packet) = self.kept.pop_front() {
            match self.try_send(&packet, 0) {
                Sent::Yes => self.kept_bytes -= packet.len(),
                unsent => {
                    self.kept.push_front(packet);
                    if matches!(unsent, Sent::Gone) {
                        self.socket = None;
                    }
                    return;
                }
            }
        }
        if self.lost > 0 {
            let record = RelayRecord::Lost { records: self.lost };
            if let Ok(packet) = serde_json::to_vec(&record)
                && matches!(self.try_send(&packet, 0), Sent::Yes)
            {
                self.lost = 0;
            }
        }
    }

    fn reconnect(&mut self) {
        let Some((path, hello)) = &self.back else {
            return;
        };
        let Ok(address) = UnixAddr::new(path.as_str()) else {
            return;
        };
        let made = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            // Without O_NONBLOCK a full backlog of the listener would hold us up.
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        );
        let Ok(made) = made else { return };
        if connect(made.as_raw_fd(), &address).is_err() {
            return;
        }
        enlarge(&made);
        let Ok(packet) = serde_json::to_vec(hello) else {
            return;
        };
        self.socket = Some(made);
        if !matches!(self.try_send(&packet, 0), Sent::Yes) {
            self.socket = None;
        }
    }
}

fn enlarge(socket: &OwnedFd) {
    // A hint; the default holds a full packet's worth of ordinary records too.
    let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER);
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
