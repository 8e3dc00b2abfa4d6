//! `guard __launch`: a fresh process with one thread that makes the server's
//! process in its cgroup, then becomes that session's relay.
//!
//! Standard input is a socket to the supervisor. One packet comes in (the
//! [`LaunchSpec`] and its descriptors), [`LaunchReport`]s go out; the socket
//! closes when the relay was executed.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use libc::sock_filter;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid, setsid};

use super::landlock;
use super::seccomp;
use super::spec::{LaunchReport, LaunchSpec, Stage};
use crate::relay::config::RelayConfig;
use crate::sys::child::{Cloned, clone_into, exit_now};
use crate::sys::{self, caps, fds, signals};
use crate::wire::transport::{self, Packet, TransportError};
use crate::wire::unescape;

use serde::{Deserialize, Serialize};

/// A step that failed.
struct Failure {
    stage: Stage,
    errno: i32,
    detail: Option<String>,
}

trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            stage,
            errno: e.raw_os_error().unwrap_or(0),
            detail: e.raw_os_error().is_none().then(|| e.to_string()),
        })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.map_err(|e| Failure {
            stage,
            errno: e as i32,
            detail: None,
        })
    }
}

fn other(stage: Stage, detail: impl ToString) -> Failure {
    Failure {
        stage,
        errno: 0,
        detail: Some(detail.to_string()),
    }
}

/// Runs the launcher. Returns only when something failed; it was reported.
#[must_use]
pub fn main() -> u8 {
    let Ok(socket) = nix::unistd::dup(io::stdin().as_fd()) else {
        return 125;
    };
    let Ok(socket) = with_cloexec(socket) else {
        return 125;
    };
    let reporter = Reporter(socket);
    match launch(&reporter) {
        Ok(never) => match never {},
        Err(failure) => {
            reporter.send(&LaunchReport::Failed {
                stage: failure.stage,
                errno: failure.errno,
                detail: failure.detail,
            });
            125
        }
    }
}

fn with_cloexec(fd: OwnedFd) -> nix::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// The socket to the supervisor.
struct Reporter(OwnedFd);

impl Reporter {
    /// The supervisor may be gone: then nobody needs the report.
    fn send(&self, report: &LaunchReport) {
        let _ = transport::send(self.0.as_fd(), report, &[]);
    }

    fn started(&self, pid: i32, listener: Option<OwnedFd>) {
        let fds: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
        let _ = transport::send(self.0.as_fd(), &LaunchReport::Started { pid }, &fds);
    }
}

/// What the child says before it executes the server; then its socket closes.
#[derive(Serialize, Deserialize)]
enum ChildReport {
    /// The filter is in force; its listener comes along.
    Filtered,
    /// A step failed.
    Failed(Stage, i32, Option<String>),
}

/// Everything that the child needs, made before it exists: it may open nothing.
struct Server {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    umask: Mode,
    identity: Option<(Uid, Gid, Vec<Gid>)>,
    filter: Option<Vec<sock_filter>>,
    ruleset: Option<OwnedFd>,
    max_write_size: Option<u64>,
    ipc_namespace: bool,
    launcher: Pid,
}

struct Descriptors {
    client: [OwnedFd; 3],
    wire: OwnedFd,
    control: OwnedFd,
    slot: OwnedFd,
    kill: OwnedFd,
    cgroup: Option<(OwnedFd, OwnedFd)>,
}

fn launch(reporter: &Reporter) -> Result<std::convert::Infallible, Failure> {
    let packet = transport::receive(reporter.0.as_fd())
        .map_err(|e| other(Stage::Spec, e))?
        .ok_or_else(|| other(Stage::Spec, "the supervisor is gone"))?;
    let spec: LaunchSpec = packet.parse().map_err(|e| other(Stage::Spec, e))?;
    let descriptors = descriptors(packet, spec.cgroup)?;
    setsid().at(Stage::Session)?;
    let server = Server::new(&spec)?;

    let cloexec = || nix::unistd::pipe2(OFlag::O_CLOEXEC).at(Stage::Prepare);
    let (stdin_read, stdin_write) = cloexec()?;
    let (stdout_read, stdout_write) = cloexec()?;
    let (stderr_read, stderr_write) = cloexec()?;
    let (ours, theirs) = transport::pair().map_err(|e| other(Stage::Prepare, e))?;
    let cgroup = descriptors.cgroup.as_ref().map(|(dir, _)| dir.as_fd());
    let (pid, pidfd) = match clone_into(cgroup).at(Stage::Clone)? {
        Cloned::Child => {
            let stdio = [stdin_read, stdout_write, stderr_write];
            server.run(stdio, theirs)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((stdin_read, stdout_write, stderr_write, theirs));
    let listener = await_exec(&ours)?;
    reporter.started(pid, listener);
    let relay = RelayConfig {
        server_pid: pid,
        ..spec.relay
    };
    let relay = serde_json::to_string(&relay).map_err(|e| other(Stage::RelayExec, e))?;

    let [client_in, client_out, client_err] = descriptors.client;
    become_relay(
        vec![
            client_in,
            client_out,
            client_err,
            stdin_write,
            stdout_read,
            stderr_read,
            descriptors.wire,
            descriptors.control,
            descriptors.slot,
            descriptors.kill,
            pidfd,
        ],
        reporter,
        descriptors.cgroup.map(|(_, procs)| procs),
        spec.relay_id,
        &text(&relay)?,
    )
}

fn text(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|e| other(Stage::Spec, e))
}

fn bytes(escaped: &str) -> Result<CString, Failure> {
    let bytes = unescape(escaped).ok_or_else(|| other(Stage::Spec, "badly escaped text"))?;
    CString::new(bytes).map_err(|e| other(Stage::Spec, e))
}

fn descriptors(packet: Packet, with_cgroup: bool) -> Result<Descriptors, Failure> {
    let came = packet.fds.len();
    let mut rest = packet.fds.into_iter();
    let mut next = || {
        rest.next()
            .ok_or_else(|| other(Stage::Spec, format!("only {came} descriptors came")))
    };
    let descriptors = Descriptors {
        client: [next()?, next()?, next()?],
        wire: next()?,
        control: next()?,
        slot: next()?,
        kill: next()?,
        cgroup: if with_cgroup {
            Some((next()?, next()?))
        } else {
            None
        },
    };
    match rest.next() {
        None => Ok(descriptors),
        Some(_) => Err(other(
            Stage::Spec,
            format!("{came} descriptors are too many"),
        )),
    }
}

/// Waits until the child has executed the server or says why not. Returns the
/// filter's listener, if the child has sent one.
fn await_exec(child: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let broken = |e: TransportError| other(Stage::Exec, e);
    let mut listener = None;
    while let Some(mut packet) = transport::receive(child.as_fd()).map_err(broken)? {
        match packet.parse().map_err(broken)? {
            ChildReport::Filtered => listener = packet.fds.pop(),
            ChildReport::Failed(stage, errno, detail) => {
                return Err(Failure {
                    stage,
                    errno,
                    detail,
                });
            }
        }
    }
    Ok(listener)
}

impl Server {
    fn new(spec: &LaunchSpec) -> Result<Self, Failure> {
        let all = |list: &[String]| list.iter().map(|s| bytes(s)).collect::<Result<Vec<_>, _>>();
        let prepare = |e: &dyn std::fmt::Display| other(Stage::Prepare, e);
        let (mut filter, mut ruleset, mut max_write_size) = (None, None, None);
        if let Some(walls) = &spec.walls {
            filter = Some(seccomp::filter(walls.io_uring).map_err(|e| prepare(&e))?);
            max_write_size = walls.max_write_size;
            if let Some(roots) = &walls.write_roots {
                ruleset = Some(
                    landlock::ruleset(&all(roots)?, walls.abstract_sockets)
                        .map_err(|e| prepare(&e))?,
                );
            }
        }
        Ok(Self {
            path: bytes(&spec.path)?,
            argv: all(&spec.argv)?,
            env: all(&spec.env)?,
            cwd: bytes(&spec.cwd)?,
            umask: Mode::from_bits_truncate(spec.umask),
            identity: spec.identity.as_ref().map(|i| {
                let groups = i.groups.iter().map(|g| Gid::from_raw(*g)).collect();
                (Uid::from_raw(i.uid), Gid::from_raw(i.gid), groups)
            }),
            filter,
            ruleset,
            max_write_size,
            ipc_namespace: spec.walls.as_ref().is_some_and(|w| w.ipc_namespace),
            launcher: nix::unistd::getpid(),
        })
    }

    /// The child's way to exec. Opens no file: the sandbox is already judged.
    fn run(mut self, stdio: [OwnedFd; 3], launcher: OwnedFd) -> ! {
        let kept = [Some(launcher), self.ruleset.take()];
        let arranged = fds::arrange_for_exec(stdio.into(), kept.into_iter().flatten().collect());
        let failure = match arranged.at(Stage::Descriptors) {
            Ok(kept) => {
                let mut kept = kept.into_iter();
                match kept.next() {
                    Some(launcher) => {
                        let Err(failure) = self.become_server(&launcher, kept.next());
                        let report =
                            ChildReport::Failed(failure.stage, failure.errno, failure.detail);
                        // Nobody is left to tell when even this fails: the status says it.
                        let _ = transport::send(launcher.as_fd(), &report, &[]);
                        failure.stage
                    }
                    None => Stage::Descriptors,
                }
            }
            Err(failure) => failure.stage,
        };
        exit_now(if failure == Stage::Exec { 126 } else { 125 })
    }

    fn become_server(
        &self,
        launcher: &OwnedFd,
        ruleset: Option<OwnedFd>,
    ) -> Result<std::convert::Infallible, Failure> {
        setsid().at(Stage::Session)?;
        if self.ipc_namespace {
            // No kernel program sees those of others: permissions alone would keep them apart.
            unshare(CloneFlags::CLONE_NEWIPC).at(Stage::IpcNamespace)?;
        }
        signals::reset().at(Stage::Limits)?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0).at(Stage::Limits)?;
        if let Some(bytes) = self.max_write_size {
            setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes).at(Stage::Limits)?;
            // A write past the limit then fails with EFBIG instead of ending the server.
            signals::ignore(Signal::SIGXFSZ).at(Stage::Limits)?;
        }
        umask(self.umask);
        caps::limit(None).at(Stage::Capabilities)?;
        caps::lock_no_root().at(Stage::Capabilities)?;
        if let Some((uid, gid, groups)) = &self.identity {
            become_user(*uid, *gid, groups).at(Stage::User)?;
        }
        nix::unistd::chdir(self.cwd.as_c_str()).at(Stage::Directory)?;
        caps::reduce_to(None).at(Stage::Capabilities)?;
        // After the change of user, which clears it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).at(Stage::Session)?;
        if nix::unistd::getppid() != self.launcher {
            return Err(other(Stage::Session, "the launcher is gone"));
        }
        nix::sys::prctl::set_no_new_privs().at(Stage::Capabilities)?;
        if let Some(ruleset) = ruleset {
            sys::landlock::restrict_self(ruleset.as_fd()).at(Stage::Landlock)?;
        }
        if let Some(filter) = &self.filter {
            let listener = sys::seccomp::install(filter).at(Stage::Seccomp)?;
            transport::send(
                launcher.as_fd(),
                &ChildReport::Filtered,
                &[listener.as_fd()],
            )
            .map_err(|e| other(Stage::Seccomp, e))?;
        }
        nix::unistd::execve(&self.path, &self.argv, &self.env).at(Stage::Exec)
    }
}

fn become_user(uid: Uid, gid: Gid, groups: &[Gid]) -> nix::Result<()> {
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// The launcher's second life. The server is its child and dies with it.
fn become_relay(
    places: Vec<OwnedFd>,
    reporter: &Reporter,
    procs: Option<OwnedFd>,
    relay_id: Option<u32>,
    config: &CString,
) -> Result<std::convert::Infallible, Failure> {
    if let Some(procs) = procs {
        std::fs::File::from(procs)
            .write_all(b"0")
            .at(Stage::RelayCgroup)?;
    }
    let reporter = reporter.0.try_clone().at(Stage::RelayPrivileges)?;
    let kept = fds::arrange_for_exec(places, vec![reporter]).at(Stage::Descriptors)?;
    let reporter = match kept.into_iter().next() {
        Some(socket) => Reporter(socket),
        None => return Err(other(Stage::Descriptors, "the supervisor's socket is gone")),
    };
    let Err(failure) = execute_relay(relay_id, config);
    // The caller's copy of the socket is closed by now: report here, and end.
    reporter.send(&LaunchReport::Failed {
        stage: failure.stage,
        errno: failure.errno,
        detail: failure.detail,
    });
    exit_now(125)
}

fn execute_relay(
    relay_id: Option<u32>,
    config: &CString,
) -> Result<std::convert::Infallible, Failure> {
    let keep = relay_id.map(|_| caps::CAP_KILL);
    signals::reset().at(Stage::RelayPrivileges)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).at(Stage::RelayPrivileges)?;
    umask(Mode::from_bits_truncate(0o077));
    nix::unistd::chdir("/").at(Stage::RelayPrivileges)?;
    caps::limit(keep).at(Stage::RelayPrivileges)?;
    caps::lock_no_root().at(Stage::RelayPrivileges)?;
    if let Some(id) = relay_id {
        nix::sys::prctl::set_keepcaps(true).at(Stage::RelayPrivileges)?;
        become_user(Uid::from_raw(id), Gid::from_raw(id), &[]).at(Stage::RelayPrivileges)?;
    }
    caps::reduce_to(keep).at(Stage::RelayPrivileges)?;
    nix::sys::prctl::set_no_new_privs().at(Stage::RelayPrivileges)?;
    let argv = [c"guard", c"__relay", config.as_c_str()];
    let no_env: [CString; 0] = [];
    nix::unistd::execve(c"/proc/self/exe", &argv, &no_env).at(Stage::RelayExec)
}
