//! One sandbox as the supervisor knows it, and what its relay says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Child;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;

use super::cgroup::SandboxCgroup;
use super::state::SandboxState;
use crate::audit::enrich::{alert, call_info};
use crate::audit::event::{Body, CallInfo, Loss, SandboxRef};
use crate::audit::words::{Digest, Reason};
use crate::audit::{AuditEvent, from_call_end, from_call_start, from_protocol_note};
use crate::kernel::Published;
use crate::policy::CompiledPolicy;
use crate::wire::RelayRecord;

/// Calls whose records are kept after their end: kernel events come late.
const MAX_ENDED: usize = 4096;
/// Records taken at once, so that one relay cannot keep the supervisor busy.
const MAX_RECORDS: usize = 1024;
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
    /// Socket to the relay; `None` until an adopted relay is back.
    pub wire: Option<Rc<AsyncFd<OwnedFd>>>,
    /// The relay, if it is this supervisor's child.
    pub relay: Option<Child>,
    /// Calls by number.
    pub calls: BTreeMap<u64, CallInfo>,
    in_flight: BTreeSet<u64>,
    ended: VecDeque<u64>,
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
            wire: None,
            relay: None,
            calls: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            ended: VecDeque::new(),
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
                    if let Some(event) = self.record(&buffer[..len], boot) {
                        each(event);
                    }
                }
                Err(Errno::EAGAIN) => return Heard::All,
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let error = io::Error::from(errno);
                    tracing::warn!("wire of sandbox {}: {error}", self.state.id);
                    return Heard::Gone;
                }
            }
        }
        Heard::More
    }

    /// What one packet says.
    fn record(&mut self, packet: &[u8], boot: &str) -> Option<AuditEvent> {
        let alerted = |session: &Self, detail: String| {
            let now = jiff::Timestamp::now();
            alert(
                now,
                boot,
                Some(session.name.clone()),
                Reason::RelayRecord,
                detail,
            )
        };
        let record: RelayRecord = match serde_json::from_slice(packet) {
            Ok(record) => record,
            Err(error) => {
                let shown = &packet[..packet.len().min(QUOTE)];
                let detail = format!(
                    "a packet of {} bytes is no record ({error}): {}",
                    packet.len(),
                    crate::wire::escape(shown)
                );
                return Some(alerted(self, detail));
            }
        };
        match record {
            RelayRecord::Hello { .. } => None, // judged where the connection was accepted
            RelayRecord::CallStart(start) => {
                self.calls.insert(start.call, call_info(&start));
                self.in_flight.insert(start.call);
                self.forget_old_calls();
                Some(from_call_start(&start, boot, &self.name))
            }
            RelayRecord::CallEnd(end) => {
                self.in_flight.remove(&end.call);
                self.ended.push_back(end.call);
                let event = from_call_end(&end, self.calls.get(&end.call), boot, &self.name);
                self.forget_old_calls();
                Some(event)
            }
            RelayRecord::Protocol(note) => Some(from_protocol_note(&note, boot, &self.name)),
            RelayRecord::Lost { records } => {
                let body = Body::Loss(Loss::Relay { count: records });
                let event =
                    AuditEvent::new(jiff::Timestamp::now(), boot, Some(self.name.clone()), body);
                Some(event.because(Reason::RelayBuffer))
            }
            RelayRecord::ServerExit { status, signal } => {
                self.exit = (status, signal);
                None
            }
        }
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
mod tests {
    use super::*;
    use crate::supervisor::state::PolicyState;
    use crate::wire::Enforcement;

    fn session() -> Session {
        let policy = PolicyState {
            name: "p".into(),
            hash: Digest::of(b"").as_str().into(),
            generation: 1,
            text: String::new(),
            source: "p".into(),
            home: None,
            cwd: "/".into(),
            command: vec![],
            env: vec![],
            set: vec![],
        };
        let [id, server, token] = ["id", "server", "token"].map(str::to_owned);
        let (audit, tmp) = ("/a".into(), "/t".into());
        let enforcement = Enforcement::Kernel;
        let state = SandboxState::new(1, id, server, enforcement, token, audit, tmp, policy);
        Session::new(state, None)
    }

    fn start(call: u64) -> String {
        format!(
            "{{\"call_start\":{{\"call\":{call},\"id\":\"{call}\",\"method\":\"tools/call\",\
             \"tool\":\"t\",\"arguments\":null,\"arguments_cut\":false,\"args_hash\":null,\
             \"time\":0}}}}"
        )
    }

    fn end(call: u64) -> String {
        format!(
            "{{\"call_end\":{{\"call\":{call},\"outcome\":\"result\",\"result_bytes\":0,\
             \"result_hash\":null,\"duration\":0,\"time\":0}}}}"
        )
    }

    #[test]
    fn a_call_is_known_after_its_end_too() {
        let mut session = session();
        assert!(session.record(start(1).as_bytes(), "b").is_some());
        assert_eq!(session.in_flight(), 1);
        assert!(session.record(end(1).as_bytes(), "b").is_some());
        assert_eq!(session.in_flight(), 0);
        assert_eq!(session.calls[&1].tool.as_deref(), Some("t"));
    }

    #[test]
    fn a_relay_cannot_fill_the_memory() {
        let mut session = session();
        for call in 1..=(3 * MAX_ENDED as u64) {
            session.record(start(call).as_bytes(), "b");
            session.record(end(call).as_bytes(), "b");
        }
        assert_eq!(session.calls.len(), MAX_ENDED);
        for call in 1..=(3 * MAX_ENDED as u64) {
            session.record(start(1_000_000 + call).as_bytes(), "b");
        }
        assert!(session.calls.len() <= 2 * MAX_ENDED);
        assert!(session.in_flight() <= 2 * MAX_ENDED);
    }

    #[test]
    fn what_is_no_record_is_an_alert() {
        let mut session = session();
        for packet in [&b"{}"[..], b"\xff\x00", b"{\"call_start\":{}}"] {
            let event = session.record(packet, "b").unwrap();
            assert_eq!(event.reason, Some(Reason::RelayRecord));
        }
    }

    #[test]
    fn how_the_server_ended_is_kept_for_the_last_line() {
        let mut session = session();
        let exit = b"{\"server_exit\":{\"status\":null,\"signal\":9}}";
        assert!(session.record(exit, "b").is_none());
        assert_eq!(session.exit, (None, Some(9)));
    }
}
