//! `guard daemon`: the supervisor, as a service or on demand.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use super::{REFUSED, connect};
use crate::supervisor;
use crate::sys::{child, fds};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// Settings of the service
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Detach and unpin everything, if no sandbox lives
    #[arg(long, conflicts_with = "config")]
    teardown: bool,
    /// End after the last sandbox; started by `guard run`
    #[arg(long, hide = true, conflicts_with_all = ["config", "teardown"])]
    on_demand: bool,
}

pub(super) fn daemon(args: &DaemonArgs) -> u8 {
    if args.config.is_some() {
        eprintln!("guard: --config is not supported yet: the supervisor has no settings");
        return REFUSED;
    }
    if args.on_demand {
        return on_demand();
    }
    diagnostics(tracing::Level::INFO);
    let result = if args.teardown {
        supervisor::teardown()
    } else {
        supervisor::system(false, || tracing::info!("listening"))
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("guard: {error}");
            1
        }
    }
}

fn diagnostics(level: tracing::Level) {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    // Set once a process; a second time is no harm.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .try_init();
}

/// Standard output is a pipe to the client that waits for us: it gets
/// [`connect::READY`], or why there is no supervisor.
fn on_demand() -> u8 {
    // The pipe closes with the first word: the client waits for its end.
    let client = match begin() {
        Ok(client) => std::cell::RefCell::new(Some(client)),
        Err(error) => {
            eprintln!("guard: cannot become a daemon: {error}");
            return REFUSED;
        }
    };
    let tell = |text: &[u8]| {
        if let Some(mut pipe) = client.take() {
            // A client that gave up is no reason to end: the grace time is.
            let _ = pipe.write_all(text);
        }
    };
    diagnostics(tracing::Level::INFO);
    match supervisor::system(true, || tell(connect::READY)) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            tell(error.to_string().as_bytes());
            1
        }
    }
}

fn begin() -> io::Result<File> {
    fds::close_from(3)?;
    let client = nix::unistd::dup(io::stdout().as_fd())?;
    let client = File::from(cloexec(client)?);
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    child::detach()?;
    Ok(client)
}

fn cloexec(fd: OwnedFd) -> nix::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

/// `guard __supervise`: standard input is the socket to the one client.
pub(super) fn private() -> u8 {
    let begun = || -> io::Result<OwnedFd> {
        fds::close_from(3)?;
        let client = cloexec(nix::unistd::dup(io::stdin().as_fd())?)?;
        let null = File::open("/dev/null")?;
        nix::unistd::dup2_stdin(&null)?;
        // The client's terminal and its signals are not ours.
        nix::unistd::setsid()?;
        Ok(client)
    };
    diagnostics(tracing::Level::WARN);
    match begun()
        .map_err(|e| e.to_string())
        .and_then(|client| supervisor::private(client).map_err(|e| e.to_string()))
    {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("guard: {error}");
            REFUSED
        }
    }
}
