//! Records on their way to the supervisor. The relay never waits long for it,
//! and keeps each record until the supervisor has said that it is in the
//! trail: what was merely sent dies with a supervisor that is killed. After a
//! reconnect all that was not acknowledged is sent once more, and the
//! supervisor drops what it has. Records are kept within a bound; what is over
//! it is counted, and told as soon as there is room.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
    sockopt,
};
use serde::Serialize;

use super::kept::Kept;
use crate::wire::{MAX_PACKET, RelayNote, RelayRecord};

/// Bytes of records that are kept until they are acknowledged.
pub const MOST_KEPT: usize = 8 << 20;
/// Milliseconds that one record may wait for a supervisor that is slow.
const PATIENCE_MS: u16 = 250;
/// Bytes that the socket should hold; the kernel takes less where its limit is lower.
const SOCKET_BUFFER: usize = 1 << 20;
/// Bytes that are kept more before the supervisor is looked at again: a system
/// call for hundreds of records, not for each.
const LOOK_EVERY: usize = 256 << 10;

/// What a packet starts with, and the room for its number: whatever is not
/// needed of it stays blank.
const HEAD: &[u8] = b"{\"seq\":                    ,\"record\":";
const NUMBER_AT: usize = 7;

/// Whom to reconnect to.
#[derive(Clone, Debug)]
pub struct Back {
    /// Path of the supervisor's socket.
    pub path: String,
    /// Sandbox number.
    pub sandbox: u64,
    /// Proof that this is its relay.
    pub token: String,
}

/// The relay's end of the wire. Threads send one after the other, so that
/// records arrive in the order of their numbers.
#[derive(Debug)]
pub struct Outbox(Mutex<State>);

#[derive(Debug)]
struct State {
    socket: Option<OwnedFd>,
    kept: Kept,
    /// How many of the kept were sent on this connection.
    sent: usize,
    most: usize,
    lost: u64,
    /// Bytes kept at which the supervisor is looked at.
    look_at: usize,
    back: Option<Back>,
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
    /// An outbox on a connected socket. `back`: where to go when it breaks.
    #[must_use]
    pub fn new(socket: OwnedFd, back: Option<Back>) -> Self {
        enlarge(&socket);
        Self(Mutex::new(State {
            socket: Some(socket),
            kept: Kept::new(),
            sent: 0,
            most: MOST_KEPT,
            lost: 0,
            look_at: LOOK_EVERY,
            back,
        }))
    }

    /// Whether everything was acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.kept.len() == 0 && state.lost == 0
    }

    /// Sends a record, or keeps it in order behind those that wait.
    /// `shorten` makes it smaller when it does not fit a packet; after it says
    /// `false` the record counts as lost.
    pub fn send<T: Serialize>(&self, record: &mut T, mut shorten: impl FnMut(&mut T) -> bool) {
        let mut packet = PACKET.take();
        loop {
            if write(&mut packet, record) {
                break self.lock().post(&mut packet);
            }
            if !shorten(record) {
                break self.lock().lost += 1;
            }
        }
        PACKET.set(packet);
    }

    /// Reads what was acknowledged, reconnects where that is needed and sends
    /// what waits; never blocks. Call it about twice a second.
    pub fn flush(&self) {
        self.lock().flush();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a record's packet, but for its number. False when it does not fit.
fn write<T: Serialize>(packet: &mut Vec<u8>, record: &T) -> bool {
    packet.clear();
    packet.extend_from_slice(HEAD);
    let written = serde_json::to_writer(&mut *packet, record);
    packet.push(b'}');
    written.is_ok() && packet.len() <= MAX_PACKET
}

impl State {
    fn post(&mut self, packet: &mut [u8]) {
        let room =
            |state: &Self| state.lost == 0 && state.kept.bytes() + packet.len() <= state.most;
        if !room(self) {
            self.catch_up();
            if !room(self) {
                // Once something was lost, what comes after waits until `Lost` was said.
                self.lost += 1;
                return;
            }
        }
        let all_sent = self.keep(packet);
        if all_sent {
            match self.try_send(packet, PATIENCE_MS) {
                Sent::Yes => self.sent += 1,
                Sent::NotNow => {}
                Sent::Gone => self.hung_up(),
            }
        }
        if self.kept.bytes() >= self.look_at {
            self.catch_up();
        }
    }

    /// Numbers and keeps a packet. Whether all before it were sent.
    fn keep(&mut self, packet: &mut [u8]) -> bool {
        use std::io::Write as _;
        let mut room = &mut packet[NUMBER_AT..NUMBER_AT + 20];
        // 20 digits are enough for any number.
        let _ = write!(room, "{}", self.kept.next());
        let all_sent = self.sent == self.kept.len();
        self.kept.push(packet);
        all_sent
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

    /// It takes no more; what it has said comes still.
    fn hung_up(&mut self) {
        self.read_notes();
        self.disconnect();
    }

    fn disconnect(&mut self) {
        self.socket = None;
        self.sent = 0;
    }

    fn flush(&mut self) {
        self.read_notes();
        if self.socket.is_none() {
            self.reconnect();
        }
        self.catch_up();
    }

    /// Reads what was acknowledged and sends what waits.
    fn catch_up(&mut self) {
        self.read_notes();
        if self.lost > 0 && self.kept.bytes() <= self.most / 2 {
            let record = RelayRecord::Lost { records: self.lost };
            let mut packet = Vec::new();
            if write(&mut packet, &record) {
                self.keep(&mut packet);
                self.lost = 0;
            }
        }
        if self.socket.is_some() && self.sent < self.kept.len() {
            let mut gone = false;
            let sent = self.kept.each(self.sent, |packet| {
                let sent = self.try_send(packet, 0);
                gone = matches!(sent, Sent::Gone);
                matches!(sent, Sent::Yes)
            });
            self.sent += sent;
            if gone {
                self.hung_up();
            }
        }
        self.look_at = self.kept.bytes() + LOOK_EVERY;
    }

    /// Takes what the supervisor says, and notices when it is gone.
    fn read_notes(&mut self) {
        let mut packet = [0; 128];
        while let Some(socket) = &self.socket {
            match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.disconnect(),
                Ok(count) => match serde_json::from_slice(&packet[..count]) {
                    Ok(RelayNote::Written { through }) => {
                        let count = self.kept.forget(through);
                        self.sent = self.sent.saturating_sub(count);
                    }
                    Err(_) => {} // a newer supervisor's note; this relay knows only one
                },
                // It closed without having read everything; what it said comes still.
                Err(Errno::ECONNRESET | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.disconnect(),
            }
        }
    }

    fn reconnect(&mut self) {
        let Some(back) = &self.back else {
            return;
        };
        let Ok(address) = UnixAddr::new(back.path.as_str()) else {
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
        let hello = RelayRecord::Hello {
            sandbox: back.sandbox,
            token: back.token.clone(),
            written: self.kept.first() - 1,
        };
        let Ok(packet) = serde_json::to_vec(&hello) else {
            return;
        };
        self.socket = Some(made);
        self.sent = 0;
        if !matches!(self.try_send(&packet, 0), Sent::Yes) {
            self.disconnect();
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
