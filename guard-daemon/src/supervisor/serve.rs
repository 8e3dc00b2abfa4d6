//! Listening, answering, and ending.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use super::answer::{answer, first_packet};
use super::prepare::Rights;
use super::{Shared, Supervisor, adopt, paths};
use crate::audit::clock::boot_id;
use crate::kernel::load;
use crate::sys::fds::{accept, duplicate, watch};
use crate::wire::{Request, SOCKET_PATH};

/// How long an on-demand supervisor stays after its last sandbox.
const GRACE: Duration = Duration::from_secs(2);
/// How often what is due is looked after while the kernel side is loaded:
/// allowed accesses wake nobody.
const TICK: Duration = Duration::from_millis(50);
/// How often otherwise.
const SLOW_TICK: Duration = Duration::from_millis(500);
/// A former supervisor that ends gives its lock back within this time.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not root.
    #[error("the supervisor needs root: it loads kernel programs and changes users")]
    NotRoot,
    /// Another one runs.
    #[error(
        "a supervisor is running already (it holds {})",
        paths::SUPERVISOR_LOCK
    )]
    Running,
    /// Sandboxes are there.
    #[error("{0} sandboxes are running: end their servers first")]
    Sandboxes(usize),
    /// Pins are there that could not be taken over, and perhaps sandboxes.
    #[error(
        "the pins below /sys/fs/bpf/guard stay: whether sandboxes live under them cannot be told. \
         See that cgroup v2 is mounted and that no cgroup is below its `guard`, and try again"
    )]
    Unknown,
    /// Something failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// Verb and object.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// The kernel side.
    #[error("{0}")]
    Kernel(String),
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ServeError {
    let what = what.into();
    move |e| ServeError::Io {
        what,
        source: e.into(),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ServeError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the event loop"))
}

/// Makes a directory with this mode, whatever the caller's umask.
fn dir(path: &str, mode: u32) -> Result<(), ServeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(failed(format!("make {path}")))
}

fn lock_file(path: &str) -> Result<File, ServeError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(failed(format!("open {path}")))
}

/// Takes the lock that only one supervisor has.
fn only_one() -> Result<Flock<File>, ServeError> {
    // Servers and relays pass through to what is theirs, and cannot list it.
    dir(paths::RUN_DIR, 0o711)?;
    dir(paths::TMP, 0o711)?;
    let begun = Instant::now();
    let mut file = lock_file(paths::SUPERVISOR_LOCK)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if begun.elapsed() >= LOCK_PATIENCE => {
                return Err(ServeError::Running);
            }
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => return Err(failed(format!("lock {}", paths::SUPERVISOR_LOCK))(e)),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Listens at a path, with this mode from the first moment on.
fn listen_at(path: &str, mode: u32) -> Result<AsyncFd<OwnedFd>, ServeError> {
    let what = || format!("listen on {path}");
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(what())(e)),
        _ => {}
    }
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .map_err(failed(what()))?;
    let address = UnixAddr::new(path).map_err(failed(what()))?;
    bind(listener.as_raw_fd(), &address).map_err(failed(what()))?;
    // Nobody can connect before listen(2).
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(what()))?;
    let backlog = Backlog::new(128).map_err(failed(what()))?;
    listen(&listener, backlog).map_err(failed(what()))?;
    watch(listener).map_err(failed(what()))
}

/// Runs the supervisor of the host. `ready` is called once it listens.
/// An on-demand one ends after its last sandbox and takes everything down; the
/// other stays until SIGTERM and leaves sandboxes and pins to the next.
///
/// # Errors
/// When it cannot begin.
pub fn system(on_demand: bool, ready: impl FnOnce()) -> Result<(), ServeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ServeError::NotRoot);
    }
    // Not the mask of whoever started us.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let _only = only_one()?;
    let boot = boot_id().map_err(failed("read the boot's id"))?;
    let runtime = runtime()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let shared: Shared = Rc::new(Supervisor::new(Rights::Root, boot).into());
        adopt::adopt(&shared).await;
        let relays = listen_at(paths::RELAY_SOCKET, 0o666)?;
        let clients = listen_at(SOCKET_PATH, 0o600)?;
        let relay_task = Rc::clone(&shared);
        tokio::task::spawn_local(async move { take_relays(&relay_task, &relays).await });
        tokio::task::spawn_local(tick(Rc::clone(&shared)));
        ready();
        serve_clients(&shared, clients, on_demand).await
    })
}

/// Serves one client, with this process's own rights and without the kernel.
///
/// # Errors
/// When it cannot begin.
pub fn private(client: OwnedFd) -> Result<(), ServeError> {
    // What the server leaves behind becomes our child, and ends with us.
    nix::sys::prctl::set_child_subreaper(true).map_err(failed("become a subreaper"))?;
    let boot = boot_id().map_err(failed("read the boot's id"))?;
    super::launch::set_nonblocking(&client).map_err(failed("set up the client's socket"))?;
    let runtime = runtime()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let shared: Shared = Rc::new(Supervisor::new(Rights::Own, boot).into());
        tokio::task::spawn_local(tick(Rc::clone(&shared)));
        answer(&shared, client).await;
        while !shared.borrow().is_idle() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

/// Detaches and unpins everything, if no sandbox lives.
///
/// # Errors
/// When one lives, or a pin cannot be removed.
pub fn teardown() -> Result<(), ServeError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ServeError::NotRoot);
    }
    let _only = only_one()?;
    let boot = boot_id().map_err(failed("read the boot's id"))?;
    let runtime = runtime()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let shared: Shared = Rc::new(Supervisor::new(Rights::Root, boot).into());
        adopt::adopt(&shared).await;
        let living = shared.borrow().sessions.len();
        if living > 0 {
            return Err(ServeError::Sandboxes(living));
        }
        // Without their cgroups nobody knows whether any lives: what confines
        // them must not be taken away.
        let known_dead = shared
            .borrow()
            .cgroups
            .as_ref()
            .is_some_and(|cgroups| cgroups.existing().is_ok_and(|left| left.is_empty()));
        take_down(&shared)?;
        if !load::pin_root().exists() {
            return Ok(());
        }
        if !known_dead {
            return Err(ServeError::Unknown);
        }
        // What could not be taken over.
        load::clear().map_err(|e| ServeError::Kernel(e.to_string()))
    })
}

fn take_down(shared: &Shared) -> Result<(), ServeError> {
    let mut supervisor = shared.borrow_mut();
    if let Some(kernel) = supervisor.kernel.take() {
        kernel
            .teardown()
            .map_err(|e| ServeError::Kernel(e.to_string()))?;
    }
    if let Some(cgroups) = &supervisor.cgroups {
        cgroups.remove_lasting();
    }
    for path in [SOCKET_PATH, paths::RELAY_SOCKET] {
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{path} stays: {e}");
        }
    }
    for path in [paths::TMP, paths::SANDBOXES] {
        let _ = std::fs::remove_dir(Path::new(path)); // not empty: then it is of use
    }
    Ok(())
}

async fn serve_clients(
    shared: &Shared,
    clients: AsyncFd<OwnedFd>,
    on_demand: bool,
) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("catch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("catch SIGINT"))?;
    let mut idle_since = Instant::now();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            ready = clients.readable() => {
                let mut ready = ready.map_err(failed("wait for clients"))?;
                if take_client(shared, &clients) {
                    idle_since = Instant::now();
                } else {
                    ready.clear_ready();
                }
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if !shared.borrow().is_idle() {
            idle_since = Instant::now();
        } else if on_demand && idle_since.elapsed() >= GRACE {
            // Nobody may start another one, or rely on us, while we take down.
            let file = lock_file(paths::LOCK)?;
            let Ok(_held) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            if take_client(shared, &clients) {
                continue;
            }
            drop(clients);
            return take_down(shared);
        }
    }
}

/// Takes one connection. False when none waits.
fn take_client(shared: &Shared, clients: &AsyncFd<OwnedFd>) -> bool {
    match accept(clients.get_ref().as_fd()) {
        Ok(Some(client)) => {
            shared.borrow_mut().busy += 1;
            let shared = Rc::clone(shared);
            tokio::task::spawn_local(async move {
                answer(&shared, client).await;
                shared.borrow_mut().busy -= 1;
            });
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::warn!("accept: {error}");
            false
        }
    }
}

async fn take_relays(shared: &Shared, relays: &AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = relays.readable().await {
        match accept(relays.get_ref().as_fd()) {
            Ok(Some(relay)) => {
                let shared = Rc::clone(shared);
                tokio::task::spawn_local(async move {
                    let Some((socket, packet)) = first_packet(relay).await else {
                        return;
                    };
                    if let Ok(Request::Relay {
                        sandbox,
                        token,
                        written,
                    }) = packet.parse()
                    {
                        adopt::welcome(&shared, socket, sandbox, &token, written);
                    }
                });
            }
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!("accept: {error}");
                ready.clear_ready();
            }
        }
    }
}

async fn tick(shared: Shared) {
    loop {
        let busy = shared.borrow().kernel.is_some() && !shared.borrow().sessions.is_empty();
        tokio::time::sleep(if busy { TICK } else { SLOW_TICK }).await;
        if !shared.borrow().sessions.is_empty() {
            drain(&shared).await;
        }
        let mut supervisor = shared.borrow_mut();
        if !supervisor.sessions.is_empty() {
            supervisor.tick();
        }
    }
}

/// Takes what is in the rings, with turns for others in between.
async fn drain(shared: &Shared) {
    for _ in 0..=super::MOST_IN_RINGS / super::MAX_EVENTS {
        let more = shared.borrow_mut().drain_some();
        if !more {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Drains the rings when they wake. Idempotent.
pub(super) fn watch_kernel(shared: &Shared) {
    let fds = {
        let mut supervisor = shared.borrow_mut();
        match &supervisor.kernel {
            Some(kernel) if !supervisor.watched => {
                let fds = kernel.ring_fds();
                supervisor.watched = true;
                fds
            }
            _ => return,
        }
    };
    for fd in fds {
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            let ring = duplicate(fd).and_then(watch);
            let ring = match ring {
                Ok(ring) => ring,
                // The timer drains it all the same.
                Err(error) => return tracing::error!("cannot watch a ring: {error}"),
            };
            while let Ok(mut ready) = ring.readable().await {
                ready.clear_ready();
                drain(&shared).await;
            }
        });
    }
}
