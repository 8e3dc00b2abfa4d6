//! `guard run`: describes what is to be started, hands its descriptors to the
//! supervisor, and then stands between the caller's signals and the relay.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;

use super::connect::{self, ConnectError};
use super::{REFUSED, refuse};
use crate::wire::transport::{self, TransportError};
use crate::wire::{
    ControlMessage, ControlReply, Enforcement, Request, RunReply, RunRequest, WIRE_VERSION, escape,
};

/// Signals that are passed on to the server.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
/// How often a supervisor that ends under the client's hands is followed by another.
const ATTEMPTS: usize = 5;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Policy: a name, or a file
    #[arg(long, value_name = "NAME|FILE")]
    policy: Option<String>,
    /// Name of the server in the audit trail [default: the command's base name]
    #[arg(long)]
    name: Option<String>,
    /// Run the server as this user (root only)
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Value of ${KEY} in the policy
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Judge and record, but deny nothing
    #[arg(long)]
    audit_only: bool,
    /// Who enforces: the kernel, or nobody (only the JSON-RPC stream is read)
    #[arg(long, value_enum, default_value_t = EnforcementArg::Kernel)]
    enforcement: EnforcementArg,
    /// Audit trail [default: /var/log/guard/audit.jsonl as root]
    #[arg(long, value_name = "FILE")]
    audit_file: Option<std::path::PathBuf>,
    /// The MCP server and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EnforcementArg {
    Kernel,
    GatewayOnly,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must be KEY=VALUE".into()),
    }
}

/// A refusal: exit status and reason.
struct Refusal {
    status: u8,
    reason: String,
}

fn refusal(reason: impl ToString) -> Refusal {
    Refusal {
        status: REFUSED,
        reason: reason.to_string(),
    }
}

/// How a session that was started has ended, as an exit status.
type Status = u8;

pub(super) fn run(args: &RunArgs) -> u8 {
    match session(args) {
        Ok(status) => status,
        Err(Refusal { status, reason }) => {
            // From here on a signal ends us as it would any program.
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            refuse::refuse(status, &reason)
        }
    }
}

fn session(args: &RunArgs) -> Result<Status, Refusal> {
    let request = request(args)?;
    let enforcement = request.enforcement;
    let request = Request::Run(Box::new(request));
    for _ in 0..ATTEMPTS {
        let supervisor = supervisor(enforcement)?;
        let signals = catch_signals().map_err(|e| refusal(format!("cannot catch signals: {e}")))?;
        let (control, theirs) = transport::pair().map_err(refusal)?;
        let mut early = None;
        match ask(&supervisor, &request, theirs, &signals, &mut early)? {
            Answer::Reply(RunReply::Started { notes, .. }) => {
                if let Some(signal) = early {
                    pass_on(&control, signal);
                }
                for note in notes {
                    say(&note);
                }
                drop(supervisor);
                return Ok(attend(&control, &signals));
            }
            Answer::Reply(RunReply::Refused { status, reason }) => {
                return Err(Refusal { status, reason });
            }
            Answer::Interrupted(signal) => return Ok(128 + signal),
            Answer::Nothing if is_closed(&control) => {} // it never took the request: once more
            Answer::Nothing => {
                say("the supervisor ended while the server was being started");
                return Ok(attend(&control, &signals));
            }
        }
    }
    Err(refusal(format!(
        "the supervisor ended {ATTEMPTS} times before it took the request; see \
         /var/log/guard/daemon.log"
    )))
}

fn request(args: &RunArgs) -> Result<RunRequest, Refusal> {
    let cwd = std::env::current_dir()
        .map_err(|e| refusal(format!("cannot tell the working directory: {e}")))?;
    let absolute = |path: &std::path::Path, what: &str| {
        cwd.join(path)
            .into_os_string()
            .into_string()
            .map_err(|p| refusal(format!("{what} {}: the path is not UTF-8", p.display())))
    };
    let policy = match &args.policy {
        Some(p) if p.contains('/') || p.ends_with(".toml") => {
            Some(absolute(p.as_ref(), "--policy")?)
        }
        other => other.clone(),
    };
    let audit_file = match &args.audit_file {
        Some(file) => Some(absolute(file, "--audit-file")?),
        None => None,
    };
    // Reading the mask means setting it; nothing else runs in this process.
    let mask = umask(Mode::from_bits_truncate(0o077));
    umask(mask);
    Ok(RunRequest {
        version: WIRE_VERSION,
        policy,
        name: args.name.clone(),
        user: args.user.clone(),
        set: args.set.clone(),
        audit_only: args.audit_only,
        enforcement: match args.enforcement {
            EnforcementArg::Kernel => Enforcement::Kernel,
            EnforcementArg::GatewayOnly => Enforcement::GatewayOnly,
        },
        audit_file,
        command: args.command.iter().map(|a| escape(a.as_bytes())).collect(),
        cwd: escape(cwd.as_os_str().as_bytes()),
        env: std::env::vars_os()
            .map(|(name, value)| {
                escape(&[name.into_vec(), b"=".to_vec(), value.into_vec()].concat())
            })
            .collect(),
        umask: mask.bits(),
        sudo: sudo_caller(),
    })
}

/// Who called sudo. Only of use to root, who could claim anything anyway.
fn sudo_caller() -> Option<(u32, u32)> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

fn supervisor(enforcement: Enforcement) -> Result<OwnedFd, Refusal> {
    if Uid::effective().is_root() {
        return connect::running_or_started().map_err(refusal);
    }
    match (connect::running(), enforcement) {
        (Ok(socket), _) => Ok(socket),
        (Err(ConnectError::Nobody | ConnectError::Forbidden), Enforcement::GatewayOnly) => {
            connect::private().map_err(refusal)
        }
        (Err(error @ (ConnectError::Nobody | ConnectError::Forbidden)), Enforcement::Kernel) => {
            Err(refusal(format!(
                "{error}, and only root can have the kernel enforce a policy. Run `sudo guard run \
                 …` (the server will run as you, not as root), or say `--enforcement gateway-only` \
                 to run without any protection by the kernel"
            )))
        }
        (Err(error), _) => Err(refusal(error)),
    }
}

fn catch_signals() -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter(FORWARDED);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The next signal that waits, as its number.
fn next_signal(signals: &SignalFd) -> Option<i32> {
    let info = signals.read_signal().ok()??;
    i32::try_from(info.ssi_signo).ok()
}

enum Answer {
    Reply(RunReply),
    /// The supervisor closed the connection.
    Nothing,
    /// The caller gave up before there was an answer.
    Interrupted(u8),
}

fn ask(
    supervisor: &OwnedFd,
    request: &Request,
    control: OwnedFd,
    signals: &SignalFd,
    early: &mut Option<i32>,
) -> Result<Answer, Refusal> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fds = [
        stdin.as_fd(),
        stdout.as_fd(),
        stderr.as_fd(),
        control.as_fd(),
    ];
    match transport::send(supervisor.as_fd(), request, &fds) {
        Ok(()) => {}
        Err(TransportError::System { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            return Ok(Answer::Nothing);
        }
        Err(error) => return Err(refusal(format!("cannot ask the supervisor: {error}"))),
    }
    drop(control);
    loop {
        let ready = wait([supervisor.as_fd(), signals.as_fd()]).map_err(refusal)?;
        if ready[1]
            && let Some(signal) = next_signal(signals)
        {
            // The server may run already: the first one is for it. Who sends
            // another does not want to wait.
            if early.replace(signal).is_some() {
                return Ok(Answer::Interrupted(u8::try_from(signal).unwrap_or(0)));
            }
        }
        if ready[0] {
            return match transport::receive(supervisor.as_fd()) {
                Ok(Some(packet)) => packet.parse().map(Answer::Reply).map_err(refusal),
                Ok(None) => Ok(Answer::Nothing),
                Err(TransportError::System { source, .. })
                    if source.kind() == std::io::ErrorKind::ConnectionReset =>
                {
                    Ok(Answer::Nothing)
                }
                Err(error) => Err(refusal(error)),
            };
        }
    }
}

/// Waits until one of two descriptors is readable or closed.
fn wait(fds: [std::os::fd::BorrowedFd<'_>; 2]) -> nix::Result<[bool; 2]> {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => {
                return Ok(polled.map(|p| p.revents().is_some_and(|r| !r.is_empty())));
            }
        }
    }
}

/// Whether nobody holds the other end of the control socket any more. What was
/// on its way in a closed connection is let go a moment later.
fn is_closed(control: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::from(200_u8)).is_ok()
        && polled[0]
            .revents()
            .is_some_and(|r| r.contains(PollFlags::POLLHUP))
}

/// Passes signals on until the relay says how the server ended.
fn attend(control: &OwnedFd, signals: &SignalFd) -> Status {
    release_stdio();
    loop {
        let Ok(ready) = wait([control.as_fd(), signals.as_fd()]) else {
            return REFUSED;
        };
        if ready[1]
            && let Some(signal) = next_signal(signals)
        {
            pass_on(control, signal);
        }
        if ready[0] {
            let reply = transport::receive(control.as_fd())
                .ok()
                .flatten()
                .and_then(|packet| packet.parse().ok());
            return match reply {
                Some(ControlReply::Exited(status)) => status,
                Some(ControlReply::Signalled(signal)) => {
                    let name = Signal::try_from(signal).map_or("?", Signal::as_str);
                    say(&format!("the server was ended by signal {signal} ({name})"));
                    u8::try_from(128 + signal).unwrap_or(REFUSED)
                }
                None => {
                    say("the session's relay ended without a word; its server was stopped");
                    REFUSED
                }
            };
        }
    }
}

/// A relay that is gone shows on the control socket.
fn pass_on(control: &OwnedFd, signal: i32) {
    let _ = transport::send(control.as_fd(), &ControlMessage::Signal(signal), &[]);
}

/// The relay has its own copies: ours would keep the pipes open when it is gone.
fn release_stdio() {
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else {
        return;
    };
    let null: File = null;
    let _ = nix::unistd::dup2_stdin(&null);
    let _ = nix::unistd::dup2_stdout(&null);
}

/// Says something on stderr, which is the server's too, in one write: else the
/// server's words could come in the middle.
fn say(what: &str) {
    let line = format!("guard: {what}\n");
    // Nobody reads it: nothing to be done.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
