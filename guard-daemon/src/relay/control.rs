//! The thread that decides when the session ends, keeps the lease alive, and
//! passes signals on. It never waits for a pipe or for another thread's write.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::ending::{Ending, Step};
use super::recorder::{self, Recorder};
use super::{Shared, clock};
use crate::mcp::session::Session;
use crate::sys::relay::{Ended, reap_pidfd, signal_pidfd};
use crate::wire::{ControlMessage, ControlReply, RelayRecord};

/// Milliseconds between two looks at lease, deadlines and wire.
const TICK_MS: u16 = 500;
/// Nanoseconds that a server's descendants may go on writing after its end.
const DRAIN: u64 = 1_000_000_000;
/// Nanoseconds that the last records may take while the supervisor is away.
const LAST_FLUSH: u64 = 3_000_000_000;
/// How often it is asked whether they were written.
const ACKNOWLEDGED: Duration = Duration::from_millis(5);

/// The control thread's state.
pub(super) struct Control<'a> {
    shared: &'a Shared,
    /// The client's end of the session; `None` once closed.
    control: Option<OwnedFd>,
    kill: File,
    server: OwnedFd,
    ending: Ending,
}

impl<'a> Control<'a> {
    pub(super) fn new(shared: &'a Shared, control: OwnedFd, kill: File, server: OwnedFd) -> Self {
        Self {
            shared,
            control: Some(control),
            kill,
            server,
            ending: Ending::default(),
        }
    }

    /// Runs until the server has ended and everything is told.
    pub(super) fn run(mut self) {
        let ended = loop {
            self.wait(true, TICK_MS);
            match reap_pidfd(self.server.as_fd()) {
                Ok(None) => {}
                Ok(Some(ended)) => break ended,
                // Not our child: the launcher's fault, and nothing is known of its end.
                Err(_) => break Ended::Status(125),
            }
            self.look_after();
            self.end_with_the_client();
        };
        self.drain();
        self.tell(ended);
    }

    /// Waits for the client, the server's end (if `server`) or another thread.
    fn wait(&mut self, server: bool, timeout_ms: u16) {
        let mut fds = vec![PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN)];
        if server {
            fds.push(PollFd::new(self.server.as_fd(), PollFlags::POLLIN));
        }
        if let Some(control) = &self.control {
            fds.push(PollFd::new(control.as_fd(), PollFlags::POLLIN));
        }
        let _ = poll(&mut fds, PollTimeout::from(timeout_ms));
        let _ = self.shared.wake.read();
        self.hear_client();
    }

    /// Takes what the client says; its end of the socket closes with it.
    fn hear_client(&mut self) {
        let mut packet = [0; 512];
        while let Some(control) = &self.control {
            match recv(control.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.control = None,
                Ok(count) => match serde_json::from_slice(&packet[..count]) {
                    Ok(ControlMessage::Signal(signal)) => self.signal(signal),
                    Err(_) => {} // a newer client's message; this relay knows only one
                },
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.control = None,
            }
        }
    }

    /// What must not stop: the lease, the wire, the calls' own deadlines.
    fn look_after(&self) {
        let now = clock::boot();
        if let Some(slot) = &self.shared.slot {
            slot.renew(now.saturating_add(self.shared.lease()));
        }
        self.shared.outbox.flush();
        recorder::untold(&self.shared.outbox, &self.shared.gates, false);
        self.decide(|session, out| session.expire(clock::boot(), out));
    }

    fn decide(&self, decide: impl FnOnce(&mut Session, &mut Recorder<'_>)) {
        let mut ends = Vec::new();
        self.shared.decide(&mut ends, decide);
        let Shared {
            outbox, digests, ..
        } = self.shared;
        digests.tell(outbox, &mut ends, clock::wall(), b"");
    }

    fn client_gone(&self) -> bool {
        self.control.is_none() || self.shared.ends.client_gone.load(Ordering::Acquire)
    }

    fn end_with_the_client(&mut self) {
        let gone = self.client_gone();
        if gone {
            // Locked: its writer waits for a server that reads nothing, and
            // would not see the end of its input either.
            if let Ok(mut server_in) = self.shared.server_in.try_lock() {
                drop(server_in.take());
            }
        }
        if gone || self.shared.ends.client_in.load(Ordering::Acquire) {
            self.ending.begin(clock::boot());
        }
        match self.ending.due(clock::boot()) {
            Some(Step::Terminate) => self.signal(libc::SIGTERM),
            Some(Step::Kill) => {
                self.signal(libc::SIGKILL);
                self.kill();
            }
            None => {}
        }
    }

    fn signal(&self, signal: i32) {
        // ESRCH: it has ended, which the next look finds out.
        let _ = signal_pidfd(self.server.as_fd(), signal);
    }

    /// Kills everything in the sandbox.
    fn kill(&mut self) {
        // ENODEV: the cgroup is gone, and so is all that was in it.
        let _ = self.kill.write_all(b"1");
    }

    /// Lets the other threads take all that the server and its descendants
    /// wrote. What a descendant writes later than [`DRAIN`] is cut by killing it.
    fn drain(&mut self) {
        let since = clock::boot();
        let ends = &self.shared.ends;
        let mut killed = false;
        let mut waited = false;
        loop {
            let out = ends.server_out.load(Ordering::Acquire);
            if out && ends.server_err.load(Ordering::Acquire) {
                return;
            }
            let passed = clock::boot().saturating_sub(since);
            if passed >= DRAIN && !killed {
                killed = true;
                self.kill();
            }
            // A pipe can outlive them all, held by a process outside of the
            // sandbox. An empty pipe that is read twice is drained.
            let waits = ends.waiting_out.load(Ordering::Acquire);
            if passed >= 2 * DRAIN && (out || self.client_gone() || (waits && waited)) {
                return;
            }
            waited = waits && passed >= DRAIN;
            self.wait(false, 100);
            self.look_after();
        }
    }

    /// Tells both sides, leaves nothing running, and empties the outbox.
    fn tell(&mut self, ended: Ended) {
        let (reply, mut record) = match ended {
            Ended::Status(status) => (
                ControlReply::Exited(status),
                RelayRecord::ServerExit {
                    status: Some(status),
                    signal: None,
                },
            ),
            Ended::Signal(signal) => (
                ControlReply::Signalled(signal),
                RelayRecord::ServerExit {
                    status: None,
                    signal: Some(signal),
                },
            ),
        };
        self.decide(|session, out| session.end(clock::boot(), out));
        // The server's end comes last.
        self.shared.digests.finish();
        recorder::untold(&self.shared.outbox, &self.shared.gates, true);
        self.shared.outbox.send(&mut record, |_| false);
        if let (Some(control), Ok(packet)) = (&self.control, serde_json::to_vec(&reply)) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = send(control.as_raw_fd(), &packet, flags);
        }
        self.kill();
        // The client need not wait for the records. Locked: it takes no more.
        if let Ok(mut client_out) = self.shared.client_out.try_lock() {
            drop(client_out.take());
        }
        let since = clock::boot();
        loop {
            let outbox = &self.shared.outbox;
            outbox.flush();
            if outbox.is_empty() || clock::boot().saturating_sub(since) >= LAST_FLUSH {
                return;
            }
            std::thread::sleep(ACKNOWLEDGED);
        }
    }
}
