//! The wire to the supervisor: requests that wait for their answers, and evidence.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::resolver::sandbox::Supervisor;
use super::splice::Origins;
use super::wire::{Asked, FromNet, Spliced, ToNet};
use crate::policy::names::Name;
use crate::wire::transport::{self, Packet, TransportError};

/// How long the supervisor may take to open addresses. It answers within
/// milliseconds, or is not there.
const PATIENCE: Duration = Duration::from_secs(4);
/// Packets that wait for room in the socket.
const MAX_QUEUED: usize = 4096;
/// Of these, how many may be evidence: who floods leaves room for requests.
const MAX_EVIDENCE: usize = 3072;
/// Events of one sandbox that may come at once, and each second after that.
const EVENTS: f64 = 400.0;
const EVENTS_RATE: f64 = 100.0;

/// Where a connection was to go, and the name that opens it.
type Origin = Option<(SocketAddr, Name)>;

/// Which questions get an event of their own.
#[derive(Debug)]
struct Told {
    left: f64,
    since: Instant,
    unnamed: u64,
}

/// The wire.
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    next: Cell<u64>,
    grants: RefCell<HashMap<u64, oneshot::Sender<bool>>>,
    origins: RefCell<HashMap<u64, oneshot::Sender<Origin>>>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued: Notify,
    told: RefCell<HashMap<u64, Told>>,
}

impl Link {
    pub(crate) fn new(socket: AsyncFd<OwnedFd>) -> Self {
        Self {
            socket,
            next: Cell::new(1),
            grants: RefCell::default(),
            origins: RefCell::default(),
            queue: RefCell::default(),
            queued: Notify::new(),
            told: RefCell::default(),
        }
    }

    fn ticket(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Sends, or queues what the socket has no room for. False: there is no room
    /// at all.
    pub(crate) fn say(&self, message: &FromNet) -> bool {
        self.say_within(message, MAX_QUEUED)
    }

    fn say_within(&self, message: &FromNet, most: usize) -> bool {
        let Ok(packet) = serde_json::to_vec(message) else {
            return false;
        };
        let mut queue = self.queue.borrow_mut();
        // In order: nothing overtakes what waits.
        if queue.is_empty() && self.try_send(&packet).is_ok() {
            return true;
        }
        if queue.len() >= most {
            return false;
        }
        queue.push_back(packet);
        self.queued.notify_one();
        true
    }

    fn try_send(&self, packet: &[u8]) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.get_ref().as_raw_fd(), packet, flags).map(|_| ())
    }

    /// Sends what is queued, for ever.
    pub(crate) async fn send_queued(&self) {
        loop {
            self.queued.notified().await;
            loop {
                let Some(packet) = self.queue.borrow().front().cloned() else {
                    break;
                };
                match self.try_send(&packet) {
                    Ok(()) => {
                        self.queue.borrow_mut().pop_front();
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {
                        let Ok(mut ready) = self.socket.writable().await else {
                            return;
                        };
                        ready.clear_ready();
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// The next packet; `None` when the supervisor is gone.
    pub(crate) async fn receive(&self) -> Result<Option<Packet>, TransportError> {
        loop {
            let Ok(mut ready) = self.socket.readable().await else {
                return Ok(None);
            };
            match transport::receive(self.socket.get_ref().as_fd()) {
                Err(TransportError::System { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    ready.clear_ready();
                }
                other => return other,
            }
        }
    }

    /// Takes an answer to a request.
    pub(crate) fn answered(&self, message: ToNet) {
        match message {
            ToNet::Granted { ticket, open } => {
                if let Some(waiting) = self.grants.borrow_mut().remove(&ticket) {
                    let _ = waiting.send(open);
                }
            }
            ToNet::Origin { ticket, origin } => {
                if let Some(waiting) = self.origins.borrow_mut().remove(&ticket) {
                    let _ = waiting.send(origin);
                }
            }
            ToNet::Open { .. } | ToNet::Close { .. } => {}
        }
    }

    /// Lets nobody wait for a supervisor that is gone.
    pub(crate) fn give_up(&self) {
        self.grants.borrow_mut().clear();
        self.origins.borrow_mut().clear();
        self.queue.borrow_mut().clear();
    }

    /// Says how many questions got no event, once a second.
    pub(crate) fn say_unnamed(&self) {
        let mut told = self.told.borrow_mut();
        for (sandbox, told) in told.iter_mut().filter(|(_, told)| told.unnamed > 0) {
            let count = told.unnamed;
            let sandbox = *sandbox;
            if self.say(&FromNet::Unnamed { sandbox, count }) {
                told.unnamed = 0;
            }
        }
    }

    /// Forgets a sandbox.
    pub(crate) fn forget(&self, sandbox: u64) {
        self.told.borrow_mut().remove(&sandbox);
    }

    fn has_room(&self, sandbox: u64) -> bool {
        let now = Instant::now();
        let mut all = self.told.borrow_mut();
        let told = all.entry(sandbox).or_insert(Told {
            left: EVENTS,
            since: now,
            unnamed: 0,
        });
        let passed = now.duration_since(told.since).as_secs_f64();
        told.left = (told.left + passed * EVENTS_RATE).min(EVENTS);
        told.since = now;
        if told.left < 1.0 {
            told.unnamed += 1;
            return false;
        }
        told.left -= 1.0;
        true
    }

    fn not_told(&self, sandbox: u64) {
        if let Some(told) = self.told.borrow_mut().get_mut(&sandbox) {
            told.unnamed += 1;
        }
    }
}

impl Supervisor for Link {
    async fn open(&self, sandbox: u64, name: Name, addresses: Vec<(IpAddr, u32)>) -> bool {
        let ticket = self.ticket();
        let (sender, answer) = oneshot::channel();
        self.grants.borrow_mut().insert(ticket, sender);
        let said = self.say(&FromNet::Grant {
            ticket,
            sandbox,
            name,
            addresses,
        });
        let open = match said {
            true => tokio::time::timeout(PATIENCE, answer).await,
            false => Ok(Ok(false)),
        };
        self.grants.borrow_mut().remove(&ticket);
        matches!(open, Ok(Ok(true)))
    }

    fn asked(&self, asked: Asked) {
        let sandbox = asked.sandbox;
        if self.has_room(sandbox) && !self.say_within(&FromNet::Asked(asked), MAX_EVIDENCE) {
            self.not_told(sandbox);
        }
    }
}

impl Origins for Link {
    async fn origin(&self, sandbox: u64, cookie: u64) -> Option<(SocketAddr, Name)> {
        let ticket = self.ticket();
        let (sender, answer) = oneshot::channel();
        self.origins.borrow_mut().insert(ticket, sender);
        let said = self.say(&FromNet::Origin {
            ticket,
            sandbox,
            cookie,
        });
        let origin = match said {
            true => tokio::time::timeout(PATIENCE, answer).await,
            false => Ok(Ok(None)),
        };
        self.origins.borrow_mut().remove(&ticket);
        origin.ok()?.ok()?
    }

    fn spliced(&self, what: Spliced) {
        let sandbox = what.sandbox;
        if self.has_room(sandbox) && !self.say_within(&FromNet::Spliced(what), MAX_EVIDENCE) {
            self.not_told(sandbox);
        }
    }
}
