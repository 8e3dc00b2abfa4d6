//! Putting a sandbox in force: cgroup, slot, table and registration, in an
//! order in which nothing is ever less strict than it will be.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use guard_common::limits::MAX_SANDBOXES;
use guard_common::sandbox::{
    SANDBOX_AUDIT_ONLY, SANDBOX_DATAGRAM, SANDBOX_LINKS, SANDBOX_LOG_ALLOWS,
    SANDBOX_RING_FULL_DENY, SandboxEntry,
};

use super::launch::set_nonblocking;
use super::links::Links;
use super::prepare::{Prepared, Refused, Rights};
use super::session::Session;
use super::spec::{Identity, Walls};
use super::state::system_dir;
use super::{Supervisor, limits, paths, walls};
use crate::audit::AuditEvent;
use crate::audit::event::{Body, Policy, Sandbox, Wall};
use crate::kernel::{Kernel, SlotHandle};
use crate::policy::CompiledPolicy;
use crate::wire::{Enforcement, RunRequest, escape, transport};

/// First uid of relays: the range that systemd, too, gives to nobody for long
/// (61184 to 65519).
pub(super) const RELAY_UIDS: u32 = 61184;

/// What a launch needs besides the session.
pub(super) struct Parts {
    pub(super) identity: Option<Identity>,
    pub(super) program: PathBuf,
    pub(super) argv: Vec<Vec<u8>>,
    pub(super) env: Vec<Vec<u8>>,
    pub(super) slot: Option<SlotHandle>,
    pub(super) wire: OwnedFd,
    pub(super) walls: Option<Walls>,
}

impl Supervisor {
    /// Makes everything that judges the sandbox.
    pub(super) fn put_in_force(
        &mut self,
        number: u64,
        request: &RunRequest,
        prepared: Prepared,
    ) -> Result<Parts, Refused> {
        let Prepared {
            identity,
            policy,
            program,
            argv,
            env,
            ..
        } = prepared;
        let policy = Rc::new(policy);
        let trail = self.trail_of(number);
        self.evidence
            .open(&trail)
            .map_err(|e| Refused::new(format!("{e}: no server runs without its trail")))?;
        self.make_cgroup(number, request.enforcement)?;
        if walls::limits_hold(request) && policy.limits().any() {
            self.limit(number, &policy)?;
        }
        let slot = match request.enforcement {
            Enforcement::GatewayOnly => None,
            Enforcement::Kernel => Some(self.register(number, request, &policy)?),
        };
        let relay_uid = (self.rights == Rights::Root)
            .then(|| self.relay_uid(slot.as_ref()))
            .transpose()?;
        let (ours, theirs) = transport::pair().map_err(Refused::new)?;
        set_nonblocking(&ours).map_err(Refused::new)?;
        let is_root = self.rights == Rights::Root;
        let mark = self.evidence.end(&trail).unwrap_or_default();
        let session = self.session(number)?;
        session.state.mark = mark;
        session.wire = Some(Rc::new(ours));
        session.policy = Some(Rc::clone(&policy));
        session.audit_only = request.audit_only;
        session.state.relay_uid = relay_uid;
        if is_root {
            session.state.save(system_dir()).map_err(|e| {
                Refused::new(format!(
                    "cannot keep the sandbox's state in {}: {e}",
                    paths::SANDBOXES
                ))
            })?;
        }
        self.open_names(number)?;
        let walls = walls::of_launch(request, &policy, walls::landlock_here());
        let names = walls::names(request, &policy, walls.as_ref());
        self.announce(number, request, identity.as_ref(), &env.removed, names)?;
        Ok(Parts {
            identity,
            program,
            argv,
            env: env.kept,
            slot,
            wire: theirs,
            walls,
        })
    }

    pub(super) fn session(&mut self, number: u64) -> Result<&mut Session, Refused> {
        self.sessions
            .get_mut(&number)
            .ok_or_else(|| Refused::new("the sandbox was taken down while it was being started"))
    }

    fn make_cgroup(&mut self, number: u64, enforcement: Enforcement) -> Result<(), Refused> {
        let id = self.session(number)?.state.id.clone();
        let made = match &self.cgroups {
            Some(cgroups) => cgroups.create(&id).map(Some),
            None => Ok(None),
        };
        let cgroup = match (made, enforcement) {
            (Ok(Some(cgroup)), _) => Some(cgroup),
            (Err(error), Enforcement::Kernel) => return Err(Refused::new(error)),
            (Ok(None), Enforcement::Kernel) => {
                return Err(Refused::new(super::cgroup::CgroupError::NotMounted));
            }
            (Err(error), Enforcement::GatewayOnly) => {
                tracing::warn!("{error}; gateway-only goes on without a cgroup");
                None
            }
            (Ok(None), Enforcement::GatewayOnly) => None,
        };
        let session = self.session(number)?;
        session.state.cgroup_id = cgroup.as_ref().map(|c| c.id);
        session.cgroup = cgroup;
        Ok(())
    }

    fn limit(&mut self, number: u64, policy: &CompiledPolicy) -> Result<(), Refused> {
        let cgroups = self.cgroups.clone();
        let session = self.session(number)?;
        match (&cgroups, &session.cgroup) {
            (Some(cgroups), Some(cgroup)) => {
                limits::apply(cgroups, cgroup, &policy.limits()).map_err(Refused::new)
            }
            _ => Err(Refused::new(super::cgroup::CgroupError::NotMounted)),
        }
    }

    /// The kernel side, loaded or adopted when it is first needed, and tried
    /// with a canary before it is trusted.
    pub(super) fn kernel(&mut self) -> Result<&mut Kernel, Refused> {
        let refused = |e: &dyn std::fmt::Display| {
            let e = e.to_string();
            let e = e.trim_end();
            Refused::new(format!(
                "the kernel cannot enforce the policy: {e}. `guard doctor` says what to change; \
                 `--enforcement gateway-only` runs without any protection by the kernel"
            ))
        };
        let parent = match &self.cgroups {
            Some(cgroups) => cgroups.parent().map_err(|e| refused(&e))?,
            None => return Err(refused(&super::cgroup::CgroupError::NotMounted)),
        };
        if let Some(kernel) = &mut self.kernel {
            kernel.set_parent(&parent).map_err(|e| refused(&e))?;
        } else {
            let mut kernel = Kernel::load_or_adopt().map_err(|e| refused(&e))?;
            kernel.set_parent(&parent).map_err(|e| refused(&e))?;
            kernel.canary().map_err(|e| refused(&e))?;
            self.kernel = Some(kernel);
        }
        self.kernel.as_mut().ok_or_else(|| refused(&"it is gone"))
    }

    fn register(
        &mut self,
        number: u64,
        request: &RunRequest,
        policy: &CompiledPolicy,
    ) -> Result<SlotHandle, Refused> {
        let flags = policy.flags();
        let mut bits = 0;
        for (set, bit) in [
            (request.audit_only, SANDBOX_AUDIT_ONLY),
            (flags.log_allows, SANDBOX_LOG_ALLOWS),
            (flags.ring_full_deny, SANDBOX_RING_FULL_DENY),
            (flags.datagram, SANDBOX_DATAGRAM),
        ] {
            if set {
                bits |= bit;
            }
        }
        let cgroup_id = self
            .session(number)?
            .state
            .cgroup_id
            .ok_or_else(|| Refused::new("the sandbox has no cgroup"))?;
        let generation = self.session(number)?.state.policy.generation;
        let kernel = self.kernel()?;
        let slot = kernel.allocate_slot().map_err(Refused::new)?;
        let index = slot.index;
        self.session(number)?.state.slot = Some(index);
        let table = self
            .kernel()?
            .publish(policy.table())
            .map_err(Refused::new)?;
        self.session(number)?.table = Some(table);
        let mut links = Links::of(policy);
        if !links.is_empty() {
            bits |= SANDBOX_LINKS;
        }
        links
            .look(self.kernel()?, index, Instant::now())
            .map_err(Refused::new)?;
        self.session(number)?.links = links;
        for (name, masks) in policy.abstract_names() {
            self.kernel()?
                .name_socket(number, name, masks)
                .map_err(Refused::new)?;
        }
        let entry = SandboxEntry {
            sandbox: number,
            background: policy.background(),
            valid_sets: policy.valid_sets(),
            base: table.base,
            slot: index,
            generation,
            flags: bits,
            reserved: 0,
            reserved2: 0,
        };
        self.losses.start(number);
        self.kernel()?
            .register(cgroup_id, entry)
            .map_err(Refused::new)?;
        Ok(slot)
    }

    /// A uid that no other relay has.
    fn relay_uid(&self, slot: Option<&SlotHandle>) -> Result<u32, Refused> {
        if let Some(slot) = slot {
            return Ok(RELAY_UIDS + slot.index);
        }
        let first = RELAY_UIDS + MAX_SANDBOXES;
        (first..first + MAX_SANDBOXES)
            .find(|uid| {
                !self
                    .sessions
                    .values()
                    .any(|s| s.state.relay_uid == Some(*uid))
            })
            .ok_or_else(|| Refused::new(format!("{MAX_SANDBOXES} sandboxes are running already")))
    }

    /// The first lines of a sandbox in the trail.
    fn announce(
        &mut self,
        number: u64,
        request: &RunRequest,
        identity: Option<&Identity>,
        removed: &[Vec<u8>],
        walls: Vec<Wall>,
    ) -> Result<(), Refused> {
        let trail = self.trail_of(number);
        let session = self.session(number)?;
        let name = session.name.clone();
        let policy = Body::Policy(Policy::Loaded {
            name: name.policy.clone(),
            source: session.state.policy.source.clone(),
            policy_hash: name.policy_hash.clone(),
            generation: name.generation,
        });
        let start = Body::Sandbox(Sandbox::Start {
            command: request.command.clone(),
            uid: session.state.uid,
            gid: identity.map_or_else(|| nix::unistd::getegid().as_raw(), |i| i.gid),
            env_removed: removed.iter().map(|name| escape(name)).collect(),
            enforcement: request.enforcement,
            audit_only: request.audit_only,
            walls,
        });
        for body in [policy, start] {
            let now = jiff::Timestamp::now();
            let event = AuditEvent::new(now, self.evidence.boot(), Some(name.clone()), body);
            self.evidence
                .write_now(&trail, event)
                .map_err(|e| Refused::new(format!("audit trail {}: {e}", trail.display())))?;
        }
        self.session(number)?.announced = true;
        Ok(())
    }
}
