//! Starting a sandbox: everything that judges it is in force before its first
//! process exists.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::force::Parts;
use super::launch::launch;
use super::prepare::{Prepared, Refused, Rights, Wanted, choose, prepare};
use super::session::{Heard, Session};
use super::spec::{Identity, LaunchSpec};
use super::state::{SandboxState, system_dir};
use super::stop::stop;
use super::{Shared, Supervisor, net, paths, random, second_wall, serve};
use crate::relay::config::RelayConfig;
use crate::sys::fds::watch_shared;
use crate::wire::{Enforcement, RunReply, RunRequest, escape};

/// Answers a request to run a server.
pub(super) async fn run(shared: &Shared, request: &RunRequest, fds: Vec<OwnedFd>) -> RunReply {
    match start(shared, request, fds).await {
        Ok(reply) => reply,
        Err(Refused { status, reason }) => RunReply::Refused { status, reason },
    }
}

async fn start(
    shared: &Shared,
    request: &RunRequest,
    fds: Vec<OwnedFd>,
) -> Result<RunReply, Refused> {
    let [stdin, stdout, stderr, control] = <[OwnedFd; 4]>::try_from(fds).map_err(|fds| {
        Refused::new(format!(
            "{} descriptors came with the request, not 4",
            fds.len()
        ))
    })?;
    let rights = shared.borrow().rights;
    if rights == Rights::Own && request.enforcement == Enforcement::Kernel {
        return Err(Refused::new(
            "only root can have the kernel enforce a policy",
        ));
    }
    let wanted = Wanted::read(request)?;
    let chosen = choose(request, &wanted, rights)?;
    let owner = chosen.account.as_ref().map(|a| a.identity.clone());
    let audit_file = audit_file(request, &wanted, rights)?;
    let id = random::hex::<6>().map_err(|e| Refused::new(format!("no random bytes: {e}")))?;
    let tmp = TmpDir::make(&id, owner.as_ref())?;
    let prepared = prepare(request, &wanted, chosen, &tmp.0, &audit_file)?;
    let notes = prepared.notes.clone();

    // From here on there is something to take down again.
    let number = shared.borrow_mut().next_number();
    let parts = {
        let mut supervisor = shared.borrow_mut();
        let session = new_session(&prepared, number, &id, request, audit_file, tmp)?;
        supervisor.sessions.insert(number, session);
        supervisor.put_in_force(number, request, prepared)
    };
    let launched = match parts {
        Err(refused) => Err(refused),
        Ok(parts) => {
            if shared.borrow().kernel.is_some() {
                serve::watch_kernel(shared);
            }
            net::attend(shared);
            let client = [stdin, stdout, stderr, control];
            launch_with(shared, number, request, parts, client).await
        }
    };
    if let Err(refused) = launched {
        stop(shared, number).await;
        return Err(refused);
    }
    attend(shared, number);
    Ok(RunReply::Started { sandbox: id, notes })
}

fn audit_file(request: &RunRequest, wanted: &Wanted, rights: Rights) -> Result<PathBuf, Refused> {
    if let Some(file) = &request.audit_file {
        let file = PathBuf::from(file);
        return match file.is_absolute() {
            true => Ok(file),
            false => Err(Refused::new("--audit-file is not absolute")),
        };
    }
    if rights == Rights::Root {
        return Ok(paths::AUDIT_FILE.into());
    }
    let var = |name: &str| {
        super::env::get(&wanted.env, name)
            .map(|v| PathBuf::from(std::ffi::OsStr::from_bytes(v)))
            .filter(|p| p.is_absolute())
    };
    var("XDG_STATE_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("guard/audit.jsonl"))
        .ok_or_else(|| {
            Refused::new("nowhere to write the audit trail: set HOME or give --audit-file FILE")
        })
}

/// A private temporary directory; removed again unless it is handed on.
struct TmpDir(PathBuf);

impl TmpDir {
    fn make(id: &str, owner: Option<&Identity>) -> Result<Self, Refused> {
        Self::try_make(id, owner)
            .map_err(|e| Refused::new(format!("cannot make a private temporary directory: {e}")))
    }

    fn try_make(id: &str, owner: Option<&Identity>) -> io::Result<Self> {
        let Some(owner) = owner else {
            let made = nix::unistd::mkdtemp("/tmp/guard-XXXXXX")?;
            return Ok(Self(made.canonicalize()?));
        };
        let dir = Path::new(paths::TMP).join(id);
        DirBuilder::new().mode(0o700).create(&dir)?;
        let made = Self(dir.canonicalize()?);
        std::os::unix::fs::chown(&made.0, Some(owner.uid), Some(owner.gid))?;
        Ok(made)
    }

    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty()
            && let Err(error) = std::fs::remove_dir_all(&self.0)
        {
            tracing::warn!("{} stays: {error}", self.0.display());
        }
    }
}

fn new_session(
    prepared: &Prepared,
    number: u64,
    id: &str,
    request: &RunRequest,
    audit_file: PathBuf,
    tmp: TmpDir,
) -> Result<Session, Refused> {
    let token = random::hex::<16>().map_err(|e| Refused::new(format!("no random bytes: {e}")))?;
    let mut state = SandboxState::new(
        number,
        id.to_owned(),
        prepared.server.clone(),
        request.enforcement,
        token,
        audit_file,
        tmp.keep(),
        prepared.policy_state.clone(),
    );
    state.uid = prepared
        .identity
        .as_ref()
        .map_or_else(|| nix::unistd::geteuid().as_raw(), |i| i.uid);
    state.started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Ok(Session::new(state, None))
}

async fn launch_with(
    shared: &Shared,
    number: u64,
    request: &RunRequest,
    parts: Parts,
    client: [OwnedFd; 4],
) -> Result<(), Refused> {
    let null = || -> Result<OwnedFd, Refused> {
        let file = File::options().write(true).open("/dev/null");
        file.map(Into::into).map_err(Refused::new)
    };
    let (spec, kill, cgroup) = {
        let mut supervisor = shared.borrow_mut();
        let relays = match (&supervisor.cgroups, supervisor.session_cgroup(number)) {
            (Some(cgroups), true) => Some(cgroups.relays().map_err(Refused::new)?),
            _ => None,
        };
        let rights = supervisor.rights;
        let session = supervisor.session(number)?;
        let kill = match &session.cgroup {
            Some(cgroup) => cgroup.kill_fd().map_err(Refused::new)?,
            None => null()?,
        };
        let dir = match &session.cgroup {
            Some(cgroup) => Some(cgroup.dir_fd().map_err(Refused::new)?),
            None => None,
        };
        let spec = LaunchSpec {
            path: escape(parts.program.as_os_str().as_bytes()),
            argv: parts.argv.iter().map(|a| escape(a)).collect(),
            env: parts.env.iter().map(|e| escape(e)).collect(),
            cwd: request.cwd.clone(),
            umask: request.umask,
            identity: parts.identity,
            relay_id: session.state.relay_uid,
            cgroup: dir.is_some(),
            relay: relay_config(session, rights),
            walls: parts.walls,
        };
        (spec, kill, dir.zip(relays))
    };
    let slot = match parts.slot {
        Some(slot) => slot.fd,
        None => null()?,
    };
    let [stdin, stdout, stderr, control] = client;
    let mut fds: Vec<BorrowedFd<'_>> = [
        &stdin,
        &stdout,
        &stderr,
        &parts.wire,
        &control,
        &slot,
        &kill,
    ]
    .into_iter()
    .map(AsFd::as_fd)
    .collect();
    if let Some((dir, relays)) = &cgroup {
        fds.extend([dir.as_fd(), relays.as_fd()]);
    }
    let launched = launch(&spec, &fds).await.map_err(|failure| Refused {
        status: failure.status,
        reason: failure.reason,
    })?;
    if let Some(listener) = launched.listener {
        second_wall::attend(shared, number, listener);
    }
    let mut supervisor = shared.borrow_mut();
    let is_root = supervisor.rights == Rights::Root;
    let session = supervisor.session(number)?;
    session.state.pid = launched.pid;
    session.relay = Some(launched.relay);
    if is_root && let Err(error) = session.state.save(system_dir()) {
        tracing::error!("state of sandbox {}: {error}", session.state.id);
    }
    Ok(())
}

fn relay_config(session: &Session, rights: Rights) -> RelayConfig {
    let sets = session.policy.as_ref().map_or(1, |p| p.valid_sets());
    RelayConfig {
        sandbox: session.state.number,
        token: session.state.token.clone(),
        server_pid: 0,
        max_message: 16 << 20,
        call_sets: sets,
        gateway_only: session.state.enforcement == Enforcement::GatewayOnly,
        reconnect: (rights == Rights::Root).then(|| paths::RELAY_SOCKET.to_owned()),
        lease_ms: 3000,
        args_max: 16 << 10,
    }
}

impl Supervisor {
    fn session_cgroup(&self, number: u64) -> bool {
        self.sessions
            .get(&number)
            .is_some_and(|s| s.cgroup.is_some())
    }
}

/// How long a session's records may gather before they are taken: to wake for
/// each would cost the relay, which sends them, more than all else that it does.
const GATHER: Duration = Duration::from_millis(2);

/// Follows a session's wire until its relay is gone, then takes it down.
pub(super) fn attend(shared: &Shared, number: u64) {
    let wire = shared
        .borrow()
        .sessions
        .get(&number)
        .and_then(|s| s.wire.clone());
    let Some(wire) = wire else { return };
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        loop {
            // Watched only while it waits: a watched socket wakes this process
            // for each record that comes while it rests.
            let Ok(watched) = watch_shared(Rc::clone(&wire)) else {
                break;
            };
            if watched.readable().await.is_err() {
                break;
            }
            drop(watched);
            loop {
                let heard = shared.borrow_mut().hear(number);
                match heard {
                    Heard::All => break,
                    Heard::More => tokio::task::yield_now().await,
                    Heard::Gone => return stop(&shared, number).await,
                }
            }
            tokio::time::sleep(GATHER).await;
        }
        stop(&shared, number).await;
    });
}

/// Keeps the pool of slots filled while nobody waits for one.
pub(super) fn fill_pool(shared: &Shared) {
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        loop {
            let more = match &mut shared.borrow_mut().kernel {
                Some(kernel) => kernel.fill_pool(),
                None => Ok(false),
            };
            match more {
                Ok(true) => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(false) => return,
                Err(error) => {
                    tracing::error!("cannot make slots ahead: {error}");
                    return;
                }
            }
        }
    });
}
