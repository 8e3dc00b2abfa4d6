//! One sandbox as the supervisor knows it, and what its relay says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Child;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::cgroup::SandboxCgroup;
use super::held::Held;
use super::links::Links;
use super::named::Named;
use super::recall::Recalled;
use super::state::SandboxState;
use crate::audit::enrich::{alert, call_info};
use crate::audit::event::{Body, Call, CallInfo, Loss, SandboxRef};
use crate::audit::words::{Digest, Reason};
use crate::audit::{AuditEvent, from_call_end, from_call_start, from_protocol_note};
use crate::kernel::Published;
use crate::policy::CompiledPolicy;
use crate::wire::{Numbered, RelayNote, RelayRecord};

/// Calls whose records are kept after their end: kernel events come late.
const MAX_ENDED: usize = 4096;
/// Records taken at once, so that one relay cannot keep the supervisor busy.
const MAX_RECORDS: usize = 1024;
/// Written records after which the relay is told, at the latest.
const TELL_RECORDS: u64 = 64;
/// Bytes of them after which it is told: it keeps 8 MiB at most.
const TELL_BYTES: usize = 1 << 20;
/// Bytes of a record that is no record, as an alert quotes it.
const QUOTE: usize = 256;

/// A live sandbox.
#[derive(Debug)]
pub struct Session {
    /// What is on disk of it.
    pub state: SandboxState,
    /// As events name it.
    pub name: SandboxRef,
    /// Its policy; `None` when an adopted one cannot be compiled any more.
    pub policy: Option<Rc<CompiledPolicy>>,
    /// Its cgroup.
    pub cgroup: Option<SandboxCgroup>,
    /// Its table.
    pub table: Option<Published>,
    /// Files that its rules deny.
    pub links: Links,
    /// `--audit-only`: nothing is denied.
    pub audit_only: bool,
    /// Addresses that names led it to.
    pub named: Named,
    /// Its policy allows names: it has sockets in the process that resolves them.
    pub asks: bool,
    /// Socket to the relay; `None` until an adopted relay is back.
    pub wire: Option<Rc<OwnedFd>>,
    /// The relay, if it is this supervisor's child.
    pub relay: Option<Child>,
    /// Calls by number.
    pub calls: BTreeMap<u64, CallInfo>,
    in_flight: BTreeSet<u64>,
    ended: VecDeque<u64>,
    /// Number of the last relay record that was taken.
    pub heard: u64,
    /// Records up to this number are in the trail.
    pub written: u64,
    /// Records up to this number were acknowledged to the relay.
    told: u64,
    /// Bytes of records that were taken and not acknowledged.
    untold: usize,
    /// Kernel events whose calls have no record yet.
    pub held: Held,
    /// What processes ran, by number, for events of those that are gone.
    pub programs: BTreeMap<u32, Vec<u8>>,
    /// How the server ended: status, signal.
    pub exit: (Option<u8>, Option<i32>),
    /// Taken over from an earlier supervisor.
    pub adopted: Option<Instant>,
    /// The relay as it came back, if it is no child of this supervisor.
    pub relay_pidfd: Option<OwnedFd>,
    /// The trail knows of it, and is to have its end.
    pub announced: bool,
    /// Of an earlier supervisor, and not taken over.
    pub swept: bool,
    /// Being taken down.
    pub ending: bool,
}

/// What [`Session::hear`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing waits.
    All,
    /// More waits.
    More,
    /// The relay is gone.
    Gone,
}

impl Session {
    /// A sandbox that is about to be started, or was adopted.
    #[must_use]
    pub fn new(state: SandboxState, policy: Option<Rc<CompiledPolicy>>) -> Self {
        let digest = Digest::try_from(state.policy.hash.clone())
            .unwrap_or_else(|_| Digest::of(state.policy.text.as_bytes()));
        let name = SandboxRef {
            id: state.id.clone(),
            server: state.server.clone(),
            policy: state.policy.name.clone(),
            policy_hash: digest,
            generation: state.policy.generation,
        };
        Self {
            state,
            name,
            policy,
            cgroup: None,
            table: None,
            links: Links::default(),
            audit_only: false,
            named: Named::default(),
            asks: false,
            wire: None,
            relay: None,
            calls: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            ended: VecDeque::new(),
            heard: 0,
            written: 0,
            told: 0,
            untold: 0,
            held: Held::default(),
            programs: BTreeMap::new(),
            exit: (None, None),
            adopted: None,
            relay_pidfd: None,
            announced: false,
            swept: false,
            ending: false,
        }
    }

    /// Calls whose end was not recorded.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Their numbers.
    #[must_use]
    pub fn calls_in_flight(&self) -> &BTreeSet<u64> {
        &self.in_flight
    }

    /// Takes the records that wait on the wire; `each` gets their events.
    /// `buffer` has room for more than a packet may have.
    pub fn hear(
        &mut self,
        buffer: &mut [u8],
        boot: &str,
        each: &mut dyn FnMut(AuditEvent),
    ) -> Heard {
        let Some(wire) = self.wire.clone() else {
            return Heard::All;
        };
        for _ in 0..MAX_RECORDS {
            match recv(wire.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Heard::Gone,
                Ok(len) => {
                    self.untold = self.untold.saturating_add(len);
                    self.packet(&buffer[..len], boot, each);
                }
                Err(Errno::EAGAIN) => return Heard::All,
                // Reset: it closed without having read every acknowledgement;
                // what it said comes still.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => {
                    let error = io::Error::from(errno);
                    tracing::warn!("wire of sandbox {}: {error}", self.state.id);
                    return Heard::Gone;
                }
            }
        }
        Heard::More
    }

    /// What one packet says. A record that came before is dropped: the relay
    /// sends again what was not acknowledged when a supervisor died. Numbers
    /// that are missing are a loss.
    fn packet(&mut self, packet: &[u8], boot: &str, each: &mut dyn FnMut(AuditEvent)) {
        let now = jiff::Timestamp::now;
        let numbered: Numbered = match serde_json::from_slice(packet) {
            Ok(numbered) => numbered,
            Err(error) => {
                let shown = &packet[..packet.len().min(QUOTE)];
                let detail = format!(
                    "a packet of {} bytes is no record ({error}): {}",
                    packet.len(),
                    crate::wire::escape(shown)
                );
                let name = Some(self.name.clone());
                return each(alert(now(), boot, name, Reason::RelayRecord, detail));
            }
        };
        let Numbered { seq, record } = numbered;
        let Some(ahead) = seq.checked_sub(self.heard).filter(|n| *n > 0) else {
            return;
        };
        if ahead > 1 {
            let (count, rseq) = (ahead - 1, seq - 1);
            let body = Body::Loss(Loss::Relay { count, rseq });
            let event = AuditEvent::new(now(), boot, Some(self.name.clone()), body);
            each(event.because(Reason::SequenceGap));
        }
        self.heard = seq;
        if let Some(event) = self.record(record, seq, boot) {
            each(event);
        }
    }

    /// What one record says.
    fn record(&mut self, record: RelayRecord, seq: u64, boot: &str) -> Option<AuditEvent> {
        match record {
            RelayRecord::Hello { .. } => None, // judged where the connection was accepted
            RelayRecord::CallStart(start) => {
                self.calls.insert(start.call, call_info(&start));
                self.in_flight.insert(start.call);
                self.forget_old_calls();
                Some(from_call_start(&start, seq, boot, &self.name))
            }
            RelayRecord::CallEnd(end) => {
                self.in_flight.remove(&end.call);
                self.ended.push_back(end.call);
                let call = self.calls.get(&end.call);
                let event = from_call_end(&end, seq, call, boot, &self.name);
                if let Body::Call(Call::End { args_hash, .. }) = &event.body
                    && let Some(call) = self.calls.get_mut(&end.call)
                {
                    call.args_hash.clone_from(args_hash);
                }
                self.forget_old_calls();
                Some(event)
            }
            RelayRecord::Protocol(note) => Some(from_protocol_note(&note, seq, boot, &self.name)),
            RelayRecord::Lost { records } => {
                let body = Body::Loss(Loss::Relay {
                    count: records,
                    rseq: seq,
                });
                let event =
                    AuditEvent::new(jiff::Timestamp::now(), boot, Some(self.name.clone()), body);
                Some(event.because(Reason::RelayBuffer))
            }
            RelayRecord::ServerExit { status, signal } => {
                self.exit = (status, signal);
                self.untold = usize::MAX; // its relay waits to end
                None
            }
        }
    }

    /// Says up to which record all is in the trail, when enough has come for
    /// that, or `now`. A relay that does not read is told another time: it
    /// keeps what it was not told of.
    pub fn acknowledge(&mut self, now: bool) {
        let enough = self.written - self.told >= TELL_RECORDS || self.untold >= TELL_BYTES;
        if self.written == self.told || !(now || enough) {
            return;
        }
        self.tell();
    }

    fn tell(&mut self) {
        let Some(wire) = &self.wire else { return };
        let through = self.written;
        let Ok(packet) = serde_json::to_vec(&RelayNote::Written { through }) else {
            return;
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if send(wire.as_raw_fd(), &packet, flags).is_ok() {
            self.told = through;
            self.untold = 0;
        }
    }

    /// The relay is back, on this wire; up to `told` it knows what is written.
    pub fn welcome(&mut self, wire: OwnedFd, told: u64) {
        self.wire = Some(Rc::new(wire));
        // Where the trail was moved away, what the relay knows is all there is to go by.
        self.heard = self.heard.max(told);
        self.written = self.written.max(told);
        self.told = told;
        self.tell();
    }

    /// What the trail knows of an adopted session.
    pub fn recall(&mut self, recalled: Recalled) {
        (self.heard, self.written) = (recalled.through, recalled.through);
        for (call, ended) in recalled.calls {
            let number = call.number;
            self.calls.insert(number, call);
            if ended {
                self.ended.push_back(number);
            } else {
                self.in_flight.insert(number);
            }
        }
        self.forget_old_calls();
    }

    fn forget_old_calls(&mut self) {
        while self.ended.len() > MAX_ENDED {
            if let Some(number) = self.ended.pop_front() {
                self.calls.remove(&number);
            }
        }
        // A relay in its server's hands may start calls without end.
        while self.calls.len() > 2 * MAX_ENDED {
            if let Some((number, _)) = self.calls.pop_first() {
                self.in_flight.remove(&number);
            }
        }
    }

    /// Whether the server may not go on without its trail.
    #[must_use]
    pub fn stops_when_full(&self) -> bool {
        self.policy
            .as_ref()
            .is_some_and(|p| p.audit().disk_full == crate::policy::WhenFull::Deny)
    }

    /// Remembers what a process runs, within a bound.
    pub fn note_program(&mut self, pid: u32, path: &[u8]) {
        if self.programs.len() >= MAX_ENDED {
            self.programs.clear();
        }
        self.programs.insert(pid, path.to_vec());
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(super) mod tests;
