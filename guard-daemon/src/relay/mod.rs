//! The relay: the process of one session that alone parses hostile bytes. It
//! runs unprivileged under seccomp, owns the pipes between client and server,
//! and says in its slot which calls are in flight.
//!
//! Five threads, all started before the filter is in place and before the
//! first byte is read: client → server, server → client, the server's stderr,
//! digests, and the control thread (lease, signals, ends). A call goes: record to the
//! supervisor, slot, bytes; a response: read whole, slot, record, bytes.
//! Locks are taken in the order session, outbox; none is held over a write to
//! a pipe but that pipe's own.

pub mod clock;
pub mod config;
mod control;
mod digests;
pub mod ending;
pub mod gate;
mod kept;
mod lanes;
mod later;
pub mod outbox;
mod pump;
mod recorder;
pub mod seccomp;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::mcp::session::{End, Session};
use crate::sys::relay::{grow_pipe, inherited, one_arena};
use crate::sys::slot::SlotPage;
use config::RelayConfig;
use digests::Digests;
use outbox::{Back, Outbox};
use pump::Steady;
use recorder::Recorder;

/// Descriptors that the launcher hands over, `0..`.
pub const DESCRIPTORS: i32 = 11;
/// Bytes that the pipes should hold, so that large messages take few switches.
const PIPE_SIZE: i32 = 1 << 20;

/// What the threads share.
struct Shared {
    config: RelayConfig,
    session: Mutex<Session>,
    outbox: Outbox,
    gates: recorder::Gates,
    digests: Digests,
    slot: Option<SlotPage>,
    /// Write end of the server's stdin; `None` once closed.
    server_in: Mutex<Option<Steady>>,
    /// The client's stdout; `None` once the client is gone.
    client_out: Mutex<Option<Steady>>,
    /// Wakes the control thread.
    wake: EventFd,
    ends: Ends,
}

/// What has ended.
#[derive(Default)]
struct Ends {
    /// No more input from the client: its end, or an error.
    client_in: AtomicBool,
    /// The client takes no more output.
    client_gone: AtomicBool,
    server_out: AtomicBool,
    server_err: AtomicBool,
    /// The thread that reads the server's output waits for more.
    waiting_out: AtomicBool,
}

impl Shared {
    /// Says that something has ended.
    fn ended(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }

    /// Runs a decision of the session with its recorder. What ended is to be
    /// told by [`Digests::tell`] or [`later::Later`].
    fn decide<T>(
        &self,
        ends: &mut Vec<End>,
        decide: impl FnOnce(&mut Session, &mut Recorder<'_>) -> T,
    ) -> T {
        let mut session = lock(&self.session);
        decide(
            &mut session,
            &mut Recorder {
                outbox: &self.outbox,
                gates: &self.gates,
                digests: &self.digests,
                slot: self.slot.as_ref(),
                call_sets: self.config.call_sets,
                lease: self.lease(),
                args_max: self.config.args_max,
                ends,
            },
        )
    }

    const fn lease(&self) -> u64 {
        self.config.lease_ms * 1_000_000
    }
}

/// A lock whose holder panicked is taken as it is: the session goes on or
/// ends, but no thread is stuck.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the relay of one session until its end. `json` is a [`RelayConfig`];
/// the descriptors are as the launcher set them up.
#[must_use]
pub fn main(json: &str) -> ExitCode {
    match run(json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guard: the relay cannot start: {error}");
            ExitCode::from(125)
        }
    }
}

fn run(json: &str) -> Result<(), Box<dyn std::error::Error>> {
    one_arena();
    let config = RelayConfig::read(json)?;
    let fds = inherited(DESCRIPTORS)?.ok_or("started twice in one process")?;
    let fds: [OwnedFd; DESCRIPTORS as usize] = fds.try_into().map_err(|_| "too few descriptors")?;
    let [
        client_in,
        client_out,
        client_err,
        server_in,
        server_out,
        server_err,
        wire,
        control,
        slot,
        kill,
        server,
    ] = fds;
    let slot = match config.gateway_only {
        true => None,
        false => Some(
            SlotPage::map(slot.as_fd())
                .map_err(|error| io::Error::new(error.kind(), format!("slot: {error}")))?,
        ),
    };
    for pipe in [&client_in, &client_out, &server_in, &server_out] {
        grow_pipe(pipe.as_fd(), PIPE_SIZE);
    }
    let back = config.reconnect.clone().map(|path| Back {
        path,
        sandbox: config.sandbox,
        token: config.token.clone(),
    });
    let shared = Arc::new(Shared {
        session: Mutex::default(),
        outbox: Outbox::new(wire, back),
        gates: Mutex::default(),
        digests: Digests::default(),
        slot,
        server_in: Mutex::new(Some(Steady(server_in.into()))),
        client_out: Mutex::new(Some(Steady(client_out.into()))),
        wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        ends: Ends::default(),
        config,
    });
    // Nobody reads before the filter holds for every thread, and the filter
    // comes when all have started: what a thread does to start is forbidden.
    let filtered = Arc::new(Barrier::new(5));
    let start = |name: &str, body: Box<dyn FnOnce(&Shared) + Send>| {
        let (shared, filtered) = (Arc::clone(&shared), Arc::clone(&filtered));
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                filtered.wait(); // started
                filtered.wait(); // filtered
                body(&shared);
            })
    };
    start("client", Box::new(|s| pump::client(s, client_in.into())))?;
    start("server", Box::new(|s| pump::server(s, server_out.into())))?;
    start(
        "stderr",
        Box::new(|s| pump::stderr(s, server_err.into(), client_err.into())),
    )?;
    start("digests", Box::new(|s| s.digests.run(&s.outbox)))?;
    nix::sys::prctl::set_dumpable(false)?;
    filtered.wait();
    seccomp::install()?;
    filtered.wait();
    control::Control::new(&shared, control, kill.into(), server).run();
    Ok(())
}
