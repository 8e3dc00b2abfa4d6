//! The supervisor's side of a launch: starts a launcher, hands it everything,
//! and waits for its report.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;

use super::spec::{LaunchReport, LaunchSpec, Stage};
use crate::sys::fds::watch;
use crate::wire::transport::{self, TransportError};

/// A launcher that has not executed the server by then never will.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server that runs.
#[derive(Debug)]
pub struct Launched {
    /// Its process.
    pub pid: i32,
    /// The relay, the launcher's second life.
    pub relay: Child,
    /// Where the calls that the server's filter refuses wait for an answer.
    pub listener: Option<OwnedFd>,
}

/// Why nothing runs.
#[derive(Debug)]
pub struct LaunchFailure {
    /// 125, 126 or 127.
    pub status: u8,
    /// What failed, on what, and what to do.
    pub reason: String,
}

fn failure(reason: String) -> LaunchFailure {
    LaunchFailure {
        status: 125,
        reason,
    }
}

/// Launches a server. The descriptors are those of [`LaunchSpec`].
///
/// # Errors
/// When a step failed. Nothing of the launch runs any more then.
pub async fn launch(spec: &LaunchSpec, fds: &[BorrowedFd<'_>]) -> Result<Launched, LaunchFailure> {
    let (ours, theirs) = transport::pair().map_err(|e| failure(e.to_string()))?;
    let mut relay = Command::new("/proc/self/exe")
        .arg0("guard")
        .arg("__launch")
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| failure(format!("cannot start the launcher: {e}")))?;
    let result = match transport::send(ours.as_fd(), spec, fds) {
        Err(error) => Err(failure(format!("cannot tell the launcher: {error}"))),
        Ok(()) => match tokio::time::timeout(DEADLINE, reports(ours)).await {
            Ok(result) => result,
            Err(_) => Err(failure("the launcher hangs".into())),
        },
    };
    match result {
        Ok(Ok((pid, listener))) => Ok(Launched {
            pid,
            relay,
            listener,
        }),
        Ok(Err((stage, errno, detail))) => {
            end(&mut relay);
            Err(explain(spec, stage, errno, detail))
        }
        Err(failed) => {
            end(&mut relay);
            Err(failed)
        }
    }
}

/// The server dies with its launcher (PDEATHSIG); the cgroup is the caller's.
fn end(relay: &mut Child) {
    let _ = relay.kill();
    let _ = relay.wait();
}

type Failed = (Stage, i32, Option<String>);
type Started = (i32, Option<OwnedFd>);

/// Reads reports until the launcher has executed the relay or given up.
async fn reports(socket: OwnedFd) -> Result<Result<Started, Failed>, LaunchFailure> {
    let broken = |e: &dyn std::fmt::Display| failure(format!("cannot hear the launcher: {e}"));
    set_nonblocking(&socket).map_err(|e| broken(&e))?;
    let socket = watch(socket).map_err(|e| broken(&e))?;
    let mut started = None;
    loop {
        let mut ready = socket.readable().await.map_err(|e| broken(&e))?;
        match transport::receive(socket.get_ref().as_fd()) {
            Ok(Some(mut packet)) => match packet.parse().map_err(|e| broken(&e))? {
                LaunchReport::Started { pid } => started = Some((pid, packet.fds.pop())),
                LaunchReport::Failed {
                    stage,
                    errno,
                    detail,
                } => return Ok(Err((stage, errno, detail))),
            },
            Ok(None) => {
                return started
                    .map(Ok)
                    .ok_or_else(|| failure("the launcher ended without a word".into()));
            }
            Err(TransportError::System { source, .. })
                if source.kind() == io::ErrorKind::WouldBlock =>
            {
                ready.clear_ready();
            }
            Err(error) => return Err(broken(&error)),
        }
    }
}

/// Makes reads and writes on a descriptor of ours return at once.
///
/// # Errors
/// As fcntl(2).
pub fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Says what a failed step means.
fn explain(spec: &LaunchSpec, stage: Stage, errno: i32, detail: Option<String>) -> LaunchFailure {
    let cause = detail.unwrap_or_else(|| Errno::from_raw(errno).desc().to_owned());
    let uid = spec.identity.as_ref().map(|i| i.uid);
    let whom = uid.map_or_else(String::new, |uid| format!(" as uid {uid}"));
    match stage {
        Stage::Exec => {
            let (status, hint) = match Errno::from_raw(errno) {
                Errno::ENOENT => (127, ": the interpreter that it names is not there"),
                Errno::EACCES => (
                    126,
                    ": check that this user may enter every directory on its path and execute it",
                ),
                _ => (126, ""),
            };
            LaunchFailure {
                status,
                reason: format!("cannot execute {}{whom}: {cause}{hint}", spec.path),
            }
        }
        Stage::Directory => failure(format!(
            "cannot enter the working directory {}{whom}: {cause}",
            spec.cwd
        )),
        Stage::RelayExec => failure(format!(
            "cannot execute the relay: {cause}. It runs without privileges: guard's program file \
             must be executable by everybody (chmod 755)"
        )),
        Stage::Clone => failure(format!(
            "cannot make the server's process: {cause} (clone3 with CLONE_INTO_CGROUP, Linux 5.7)"
        )),
        _ => failure(format!("the launch failed at step {stage:?}: {cause}")),
    }
}
