//! The privileged side: sessions, launch, adoption, and the way from kernel
//! events to the trail. One thread; whatever may wait is a task.

mod adopt;
mod answer;
pub mod cgroup;
pub mod env;
pub mod evidence;
mod force;
pub mod handover;
pub mod held;
pub mod landlock;
pub mod launch;
pub mod launcher;
pub mod limits;
pub mod links;
pub mod named;
mod names_file;
mod net;
pub mod observe;
pub mod paths;
pub mod prepare;
pub mod random;
pub mod recall;
pub mod seccomp;
mod second_wall;
mod serve;
pub mod session;
pub mod spec;
mod start;
pub mod state;
mod stop;
pub mod users;
pub mod walls;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use guard_common::event::Event;
use nix::time::{ClockId, clock_gettime};

use crate::audit::enrich::{alert, from_gap};
use crate::audit::loss::{Gap, Tracker};
use crate::audit::words::Reason;
use crate::kernel::{Kernel, Ring};
use cgroup::Cgroups;
use evidence::Evidence;
use held::Waiting;
use prepare::Rights;
pub use serve::{ServeError, private, system, teardown};
use session::{Heard, Session};

/// Kernel events that are taken at once: others get their turn after them.
const MAX_EVENTS: usize = 1024;
/// More than both rings can hold.
const MOST_IN_RINGS: usize = 32 * MAX_EVENTS;

/// Bytes that a trail grows before the next supervisor's look at it begins later.
const MARK_EVERY: u64 = 16 << 20;

/// The supervisor's state. Never borrowed across an await.
type Shared = Rc<RefCell<Supervisor>>;

struct Supervisor {
    rights: Rights,
    kernel: Option<Kernel>,
    cgroups: Option<Cgroups>,
    sessions: BTreeMap<u64, Session>,
    evidence: Evidence,
    losses: Tracker,
    /// The process that resolves names, once a policy has some.
    net: Option<net::Net>,
    last_number: u64,
    /// Requests and ends that are being worked on.
    busy: usize,
    /// The rings have their tasks.
    watched: bool,
    /// For packets.
    buffer: Vec<u8>,
}

impl Supervisor {
    fn new(rights: Rights, boot: String) -> Self {
        let cgroups = match rights {
            Rights::Root => Cgroups::find().inspect_err(|e| tracing::warn!("{e}")).ok(),
            Rights::Own => None,
        };
        Self {
            rights,
            kernel: None,
            cgroups,
            sessions: BTreeMap::new(),
            evidence: Evidence::new(boot),
            losses: Tracker::default(),
            net: None,
            last_number: 0,
            busy: 0,
            watched: false,
            buffer: vec![0; crate::wire::MAX_PACKET + 1],
        }
    }

    /// A sandbox number: the boot's clock, so that none is used twice, also
    /// not by the next supervisor.
    fn next_number(&mut self) -> u64 {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
            t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs()
        });
        self.last_number = now.max(self.last_number + 1);
        self.last_number
    }

    fn is_idle(&self) -> bool {
        self.busy == 0 && self.sessions.is_empty()
    }

    fn trail_of(&self, number: u64) -> PathBuf {
        self.sessions.get(&number).map_or_else(
            || PathBuf::from(paths::AUDIT_FILE),
            |session| session.state.audit_file.clone(),
        )
    }

    /// Takes what the relay of a session has said.
    fn hear(&mut self, number: u64) -> Heard {
        let Self {
            sessions,
            evidence,
            buffer,
            ..
        } = self;
        let Some(session) = sessions.get_mut(&number) else {
            return Heard::Gone;
        };
        let trail = session.state.audit_file.clone();
        let boot = evidence.boot().to_owned();
        let heard = session.hear(buffer, &boot, &mut |event| evidence.push(&trail, event));
        self.release_held(number, Instant::now());
        self.flush();
        heard
    }

    /// Takes a part of what is in the rings. True when more may wait. The
    /// wires come first: a call's record is in its wire before the kernel can
    /// name the call.
    fn drain_some(&mut self) -> bool {
        if self.kernel.is_none() {
            return false;
        }
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        for number in numbers {
            self.hear(number);
        }
        let mut records = Vec::new();
        let taken = self.kernel.as_mut().map_or(0, |kernel| {
            kernel.drain(MAX_EVENTS, &mut |ring, record| records.push((ring, record)))
        });
        for (ring, record) in records {
            match record {
                Ok(event) => self.observe(ring, event),
                Err(error) => self.alert_all(Reason::KernelRecord, &error.to_string()),
            }
        }
        self.flush();
        taken == MAX_EVENTS
    }

    /// Takes all that was in the rings when it was called.
    fn drain_kernel(&mut self) {
        for _ in 0..=MOST_IN_RINGS / MAX_EVENTS {
            if !self.drain_some() {
                return;
            }
        }
    }

    fn observe(&mut self, ring: Ring, event: Event) {
        let now = Instant::now();
        let number = event.header.sandbox;
        let Self {
            sessions,
            evidence,
            losses,
            ..
        } = self;
        let by_cgroup = |s: &&mut Session| s.state.cgroup_id == Some(event.header.cgroup);
        let known = sessions.contains_key(&number);
        let session = if known {
            losses.observe(number, audit_ring(ring), event.header.kseq, now);
            sessions.get_mut(&number)
        } else {
            sessions.values_mut().find(by_cgroup)
        };
        let Some(session) = session else {
            let detail = format!("kernel event of sandbox {number} that nobody knows: {event:?}");
            self.alert_all(Reason::UnknownSandbox, &detail);
            return;
        };
        let waiting = Waiting {
            since: now,
            exe: observe::program(session, &event),
            event: Box::new(event),
        };
        let known = observe::calls_known(session, &waiting.event);
        let early = session.held.early();
        let due = match known {
            true => Some(waiting),
            false => session.held.push(waiting),
        };
        if let Some(due) = due {
            evidence.push_observed(session, &due);
        }
        if early == 0 && session.held.early() > 0 {
            let detail = format!(
                "{} kernel events name calls of which no record came; more of them are written \
                 without waiting for it",
                held::MOST
            );
            evidence.alert(session, Reason::UnknownCalls, detail);
        }
    }

    /// Writes the held events of a session whose records have come, or that
    /// waited enough.
    fn release_held(&mut self, number: u64, now: Instant) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        let mut held = std::mem::take(&mut session.held);
        for due in held.due(now, |event| observe::calls_known(session, event)) {
            self.evidence.push_observed(session, &due);
        }
        session.held = held;
    }

    /// What is due a few times a second.
    fn tick(&mut self) {
        let now = Instant::now();
        let numbers: Vec<u64> = self.sessions.keys().copied().collect();
        for number in numbers {
            self.release_held(number, now);
        }
        self.look_at_links(now);
        for gap in self.losses.due(now) {
            self.report_gap(&gap);
        }
        self.flush();
        for session in self.sessions.values_mut() {
            session.acknowledge(true);
        }
        self.move_marks();
        self.forget_all_ended();
        self.evidence.sync();
    }

    /// Sees to it that files which deny rules name are known as what they are.
    fn look_at_links(&mut self, now: Instant) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        for session in self.sessions.values_mut() {
            let Some(slot) = session.state.slot else {
                continue;
            };
            if let Err(error) = session.links.look(kernel, slot, now)
                && session.links.complains()
            {
                let detail = format!(
                    "files that the policy denies by name may be reached by other links: {error}"
                );
                self.evidence.alert(session, Reason::Limit, detail);
            }
        }
    }

    /// Lets the next supervisor begin further on in the trails.
    fn move_marks(&mut self) {
        if self.rights == Rights::Own {
            return;
        }
        for session in self.sessions.values_mut() {
            // A call that began before the mark would have no record after it.
            let rests = session.in_flight() == 0
                && session.written == session.heard
                && session.held.is_empty();
            if let Some(mut end) = self
                .evidence
                .end(&session.state.audit_file)
                .filter(|_| rests)
                && end.offset >= session.state.mark.offset + MARK_EVERY
            {
                end.through = session.written;
                session.state.mark = end;
                if let Err(error) = session.state.save(state::system_dir()) {
                    tracing::error!("state of sandbox {}: {error}", session.state.id);
                }
            }
        }
    }

    fn report_gap(&mut self, gap: &Gap) {
        let name = self.sessions.get(&gap.sandbox).map(|s| s.name.clone());
        let ring_full = self
            .sessions
            .get(&gap.sandbox)
            .and_then(|s| s.state.slot)
            .zip(self.kernel.as_ref())
            .and_then(|(slot, kernel)| kernel.counters(slot).ok())
            .is_some_and(|c| c.ring_full.iter().any(|n| *n > 0));
        let now = jiff::Timestamp::now();
        let event = from_gap(gap, now, self.evidence.boot(), name, ring_full);
        let trail = self.trail_of(gap.sandbox);
        self.evidence.push(&trail, event);
    }

    /// An alert that belongs to no sandbox goes to every open trail.
    fn alert_all(&mut self, reason: Reason, detail: &str) {
        tracing::error!("{detail}");
        let trails: std::collections::BTreeSet<PathBuf> = self
            .sessions
            .values()
            .map(|s| s.state.audit_file.clone())
            .collect();
        for trail in trails {
            let event = alert(
                jiff::Timestamp::now(),
                self.evidence.boot(),
                None,
                reason.clone(),
                detail.to_owned(),
            );
            self.evidence.push(&trail, event);
        }
    }

    /// Writes what waits. A policy may want no server to run without its trail.
    fn flush(&mut self) {
        let failed = self.evidence.flush();
        for session in self.sessions.values_mut() {
            // What a full disk has cost is not acknowledged before the trail says so.
            if session.heard > session.written && self.evidence.is_whole(&session.state.audit_file)
            {
                session.written = session.heard;
            }
            session.acknowledge(false);
        }
        if failed.is_empty() {
            return;
        }
        for session in self.sessions.values() {
            let must_stop = failed.contains(&session.state.audit_file) && session.stops_when_full();
            if let Some(cgroup) = session.cgroup.as_ref().filter(|_| must_stop) {
                tracing::error!(
                    "sandbox {} is stopped: disk_full = \"deny\"",
                    session.state.id
                );
                if let Err(error) = cgroup.kill() {
                    tracing::error!("{error}");
                }
            }
        }
    }
}

const fn audit_ring(ring: Ring) -> crate::audit::event::Ring {
    match ring {
        Ring::Denials => crate::audit::event::Ring::Denials,
        Ring::Allows => crate::audit::event::Ring::Allows,
    }
}
