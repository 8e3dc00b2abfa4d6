//! The client's way to a supervisor: the one that runs, one that it starts,
//! or a private one without the kernel.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::supervisor::paths::{LOCK, LOG_DIR, RUN_DIR};
use crate::wire::{SOCKET_PATH, transport};

/// This program, whatever became of its file.
const SELF: &str = "/proc/self/exe";
/// What an on-demand supervisor writes when it listens.
pub(super) const READY: &[u8] = b"ready\n";

/// Why there is no supervisor to talk to.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody listens.
    #[error("no supervisor listens on {SOCKET_PATH}")]
    Nobody,
    /// Somebody listens, but not for us.
    #[error("{SOCKET_PATH} may not be used by this user")]
    Forbidden,
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// Verb and object.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// It was started and ended again.
    #[error("the supervisor did not start: {0}")]
    Start(String),
    /// The wire.
    #[error(transparent)]
    Transport(#[from] transport::TransportError),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ConnectError {
    let what = what.into();
    move |source| ConnectError::Io { what, source }
}

/// Connects to the supervisor that runs.
pub(super) fn running() -> Result<OwnedFd, ConnectError> {
    let os = |e: Errno| failed(format!("connect to {SOCKET_PATH}"))(e.into());
    let client = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(os)?;
    let address = UnixAddr::new(SOCKET_PATH).map_err(os)?;
    match connect(client.as_raw_fd(), &address) {
        Ok(()) => Ok(client),
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Err(ConnectError::Nobody),
        Err(Errno::EACCES | Errno::EPERM) => Err(ConnectError::Forbidden),
        Err(errno) => Err(os(errno)),
    }
}

/// Connects to the supervisor that runs, or starts one (as root). The lock
/// keeps two clients from starting two, and a client from meeting one that
/// is about to end.
pub(super) fn running_or_started() -> Result<OwnedFd, ConnectError> {
    match running() {
        Err(ConnectError::Nobody) => {}
        found => return found,
    }
    let _held = lock()?;
    match running() {
        Err(ConnectError::Nobody) => {}
        found => return found,
    }
    start()?;
    running()
}

fn lock() -> Result<Flock<File>, ConnectError> {
    private_dir(RUN_DIR)?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(LOCK)
        .map_err(failed(format!("open {LOCK}")))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| failed(format!("lock {LOCK}"))(e.into()))
}

/// The supervisor widens what others must pass through.
fn private_dir(path: &str) -> Result<(), ConnectError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(format!("make {path}")))
}

/// Starts `guard daemon --on-demand` and waits until it listens.
fn start() -> Result<(), ConnectError> {
    private_dir(LOG_DIR)?;
    let log_path = Path::new(LOG_DIR).join("daemon.log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(failed(format!("open {}", log_path.display())))?;
    let (ready, write_end) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("make a pipe")(e.into()))?;
    let mut child = Command::new(SELF)
        .arg0("guard")
        .args(["daemon", "--on-demand"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(write_end) // the write end; the command's copy closes with it
        .stderr(log)
        .spawn()
        .map_err(failed("start the supervisor"))?;
    // It forks and ends at once: the supervisor is not our child.
    let status = child.wait().map_err(failed("wait for the supervisor"))?;
    let mut said = Vec::new();
    File::from(ready)
        .take(64 << 10)
        .read_to_end(&mut said)
        .map_err(failed("wait for the supervisor"))?;
    if said == READY {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    Err(ConnectError::Start(if said.trim().is_empty() {
        format!(
            "it ended ({status}) and said nothing; see {}",
            log_path.display()
        )
    } else {
        said.trim().to_owned()
    }))
}

/// Starts a supervisor of our own, with our rights and no kernel side. It
/// serves this one session.
pub(super) fn private() -> Result<OwnedFd, ConnectError> {
    let (ours, theirs) = transport::pair()?;
    Command::new(SELF)
        .arg0("guard")
        .arg("__supervise")
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed("start a private supervisor"))?;
    Ok(ours)
}
