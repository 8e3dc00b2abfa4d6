//! After an earlier supervisor died: its sandboxes are taken over, or swept
//! when nothing can vouch for them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use guard_common::sandbox::{SANDBOX_AUDIT_ONLY, SandboxEntry};
use nix::sys::socket::{getsockopt, sockopt};

use super::cgroup::SandboxCgroup;
use super::launch::set_nonblocking;
use super::links::Links;
use super::named::Named;
use super::prepare::recompile;
use super::recall::recall;
use super::session::Session;
use super::start::attend;
use super::state::{self, SandboxState, system_dir};
use super::stop::stop;
use super::{Shared, Supervisor, names_file, net, paths, random};
use crate::audit::AuditEvent;
use crate::audit::event::{Body, Policy};
use crate::audit::words::Reason;
use crate::kernel::load;
use crate::sys::pidfd;
use crate::wire::Enforcement;

/// How long the relay of an adopted sandbox may take to come back.
const RELAY_PATIENCE: Duration = Duration::from_secs(15);

/// What there is of one sandbox of an earlier supervisor.
#[derive(Debug, Default)]
struct Remains {
    state: Option<SandboxState>,
    cgroup: Option<SandboxCgroup>,
}

/// Why one cannot be taken over.
fn reason_to_sweep(remains: &Remains, registered: Option<&SandboxEntry>) -> Option<&'static str> {
    let Some(state) = &remains.state else {
        return Some("no state of it is left");
    };
    let Some(cgroup) = &remains.cgroup else {
        return Some("its cgroup is gone");
    };
    if state.pid == 0 {
        return Some("it was being started");
    }
    if !cgroup.populated().unwrap_or(false) {
        return Some("it has no processes");
    }
    if state.cgroup_id != Some(cgroup.id) {
        return Some("its cgroup is another one");
    }
    match (state.enforcement, registered) {
        (Enforcement::GatewayOnly, _) => None,
        (Enforcement::Kernel, None) => Some("the kernel does not know it"),
        (Enforcement::Kernel, Some(entry)) if entry.sandbox != state.number => {
            Some("the kernel knows another one in its place")
        }
        (Enforcement::Kernel, Some(entry)) if Some(entry.slot) != state.slot => {
            Some("the kernel has another slot for it")
        }
        (Enforcement::Kernel, Some(_)) => None,
    }
}

/// Takes over what an earlier supervisor left. Once, before any request.
pub(super) async fn adopt(shared: &Shared) {
    let mut swept = Vec::new();
    let mut adopted = Vec::new();
    {
        let mut supervisor = shared.borrow_mut();
        let mut remains: BTreeMap<String, Remains> = BTreeMap::new();
        match state::load_all(system_dir()) {
            Ok(all) => {
                for (id, state) in all {
                    remains.entry(id).or_default().state = state;
                }
            }
            Err(error) => tracing::error!("{}: {error}", paths::SANDBOXES),
        }
        let existing = supervisor.cgroups.as_ref().map(super::Cgroups::existing);
        match existing.transpose() {
            Ok(existing) => {
                for (id, cgroup) in existing.unwrap_or_default() {
                    remains.entry(id).or_default().cgroup = Some(cgroup);
                }
            }
            Err(error) => tracing::error!("{error}"),
        }
        // Pins of an earlier supervisor: their sandboxes are in the kernel's map.
        let pinned = std::fs::read_dir(load::pin_root()).is_ok_and(|mut d| d.next().is_some());
        let needs_kernel = pinned
            || remains
                .values()
                .filter_map(|r| r.state.as_ref())
                .any(|s| s.enforcement == Enforcement::Kernel);
        let mut registered: BTreeMap<u64, SandboxEntry> = BTreeMap::new();
        if needs_kernel {
            match supervisor.kernel() {
                Ok(kernel) => registered = kernel.sandboxes().into_iter().collect(),
                Err(refused) => tracing::error!("{}", refused.reason),
            }
        }
        for (id, remains) in remains {
            let cgroup_id = remains.cgroup.as_ref().map(|c| c.id);
            let entry = cgroup_id.and_then(|id| registered.remove(&id));
            if let Some(why) = reason_to_sweep(&remains, entry.as_ref()) {
                swept.push((supervisor.sweep(id, remains, entry), why));
            } else if let Some(number) = supervisor.take_over(remains, entry) {
                adopted.push(number);
            }
        }
        // Entries whose cgroup is gone.
        for (cgroup_id, entry) in registered {
            if let Some(kernel) = &mut supervisor.kernel {
                kernel.clear_slot(entry.slot);
                kernel.unregister(cgroup_id);
                if let Some(table) = kernel.table_of(&entry) {
                    kernel.retire(table);
                }
                kernel.release_slot(entry.slot);
                kernel.forget_names(entry.sandbox);
            }
        }
    }
    for (number, why) in swept {
        tracing::warn!("sandbox {number} of an earlier supervisor is swept: {why}");
        stop(shared, number).await;
    }
    for number in adopted {
        shared.borrow_mut().open_names_again(number);
        expect_relay(shared, number);
    }
    net::attend(shared);
    if shared.borrow().kernel.is_some() {
        super::serve::watch_kernel(shared);
    }
}

/// An adopted sandbox whose relay does not come back has lost it.
fn expect_relay(shared: &Shared, number: u64) {
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(RELAY_PATIENCE).await;
        let alone = shared
            .borrow()
            .sessions
            .get(&number)
            .is_some_and(|s| s.wire.is_none());
        if alone {
            tracing::warn!("the relay of adopted sandbox {number} did not come back");
            stop(&shared, number).await;
        }
    });
}

impl Supervisor {
    /// Makes a session of what is left, so that it can be taken down as any other.
    fn sweep(&mut self, id: String, remains: Remains, entry: Option<SandboxEntry>) -> u64 {
        let number = remains
            .state
            .as_ref()
            .map_or_else(|| self.next_number(), |s| s.number);
        let state = remains.state.unwrap_or_else(|| unknown(number, id));
        let mut session = Session::new(state, None);
        session.state.cgroup_id = remains.cgroup.as_ref().map(|c| c.id);
        session.state.slot = entry.map(|e| e.slot);
        session.cgroup = remains.cgroup;
        session.announced = self.open_trail(&session);
        session.swept = true;
        if let (Some(kernel), Some(entry)) = (&mut self.kernel, &entry) {
            session.table = kernel.table_of(entry);
        }
        self.losses.adopt(number);
        self.sessions.insert(number, session);
        number
    }

    fn take_over(&mut self, remains: Remains, entry: Option<SandboxEntry>) -> Option<u64> {
        let state = remains.state?;
        let number = state.number;
        let policy = recompile(&state.policy, &state.tmp).map(Rc::new);
        if policy.is_none() {
            tracing::warn!(
                "the policy of sandbox {} cannot be compiled as it was: its rules stay in force, \
                 but events will not name them",
                state.id
            );
        }
        let mut session = Session::new(state, policy);
        session.cgroup = remains.cgroup;
        session.adopted = Some(Instant::now());
        session.announced = self.open_trail(&session);
        match recall(&session.state) {
            Ok(recalled) => session.recall(recalled),
            // Its relay knows what was acknowledged; a few records may be doubled.
            Err(error) => tracing::error!(
                "audit trail {}: {error}",
                session.state.audit_file.display()
            ),
        }
        if let (Some(kernel), Some(entry)) = (&mut self.kernel, &entry) {
            session.table = kernel.table_of(entry);
            session.audit_only = entry.flags & SANDBOX_AUDIT_ONLY != 0;
            if let Some(policy) = &session.policy {
                session.links = Links::adopt(policy, kernel, entry.slot);
            }
            let names = names_file::load(&session.state.id);
            session.named = Named::adopt(names, kernel.granted(number));
        }
        self.last_number = self.last_number.max(number);
        self.losses.adopt(number);
        let body = Body::Policy(Policy::Loaded {
            name: session.name.policy.clone(),
            source: session.state.policy.source.clone(),
            policy_hash: session.name.policy_hash.clone(),
            generation: session.name.generation,
        });
        let now = jiff::Timestamp::now();
        let event = AuditEvent::new(now, self.evidence.boot(), Some(session.name.clone()), body)
            .because(Reason::Adopted);
        let trail = session.state.audit_file.clone();
        self.sessions.insert(number, session);
        self.evidence.push(&trail, event);
        self.flush();
        Some(number)
    }

    fn open_trail(&mut self, session: &Session) -> bool {
        match self.evidence.open(&session.state.audit_file) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        }
    }
}

/// A sandbox of which only the cgroup is left.
fn unknown(number: u64, id: String) -> SandboxState {
    let policy = state::PolicyState {
        name: "unknown".into(),
        hash: String::new(),
        generation: 1,
        text: String::new(),
        source: String::new(),
        home: None,
        cwd: "/".into(),
        command: Vec::new(),
        env: Vec::new(),
        set: Vec::new(),
        own: Vec::new(),
    };
    let tmp = std::path::Path::new(paths::TMP).join(&id);
    SandboxState::new(
        number,
        id,
        "unknown".into(),
        Enforcement::Kernel,
        String::new(),
        paths::AUDIT_FILE.into(),
        tmp,
        policy,
    )
}

/// A relay is back, and has been told of its records up to `told`. It must be
/// the relay's user, with the sandbox's token.
pub(super) fn welcome(shared: &Shared, socket: OwnedFd, number: u64, token: &str, told: u64) {
    let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials) else {
        return;
    };
    {
        let mut supervisor = shared.borrow_mut();
        let Some(session) = supervisor.sessions.get_mut(&number).filter(|s| !s.ending) else {
            tracing::warn!("a relay came back to sandbox {number}, which is not there");
            return;
        };
        let is_its = session.state.relay_uid == Some(peer.uid())
            && !session.state.token.is_empty()
            && random::same(&session.state.token, token);
        if !is_its || session.wire.is_some() {
            tracing::warn!("uid {} is not the relay of sandbox {number}", peer.uid());
            return;
        }
        // Its number cannot be another process's while the socket is its own.
        let pidfd = match pidfd::open(peer.pid()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                tracing::warn!("the relay of sandbox {number} is gone again: {error}");
                return;
            }
        };
        if let Err(error) = set_nonblocking(&socket) {
            return tracing::error!("{error}");
        }
        session.relay_pidfd = Some(pidfd);
        session.welcome(socket, told);
    }
    attend(shared, number);
}
