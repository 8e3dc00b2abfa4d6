//! `guard __net`: the process. Descriptor 0 is the socket to the supervisor. It
//! confines itself before it takes anything, and ends with that socket.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener as StdListener, UdpSocket as StdUdp};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::{JoinSet, LocalSet};

use super::confine;
use super::link::Link;
use super::resolver::sandbox::{Policy, Sandbox};
use super::resolver::serve;
use super::resolver::upstream::Files;
use super::splice;
use super::wire::{FromNet, ToNet};
use crate::supervisor::launch::set_nonblocking;
use crate::sys::fds::watch_both;

/// Runs the process until its supervisor is gone, and the last connection that it
/// passes on has ended.
#[must_use]
pub fn main() -> ExitCode {
    // Libraries would say what a sandbox or a server sent.
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter("guard_daemon=warn")
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guard: names cannot be resolved: {error}");
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    if nix::unistd::geteuid().is_root() {
        return Err("root parses nothing that is hostile".into());
    }
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::prctl::set_no_new_privs()?;
    // Two descriptors for each connection that is passed on: as many as may be.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let socket = nix::unistd::dup(io::stdin().as_fd())?;
    set_nonblocking(&socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let link = Rc::new(Link::new(watch_both(socket)?));
        confine::install()?;
        serve_all(&link, &Files::default()).await;
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    // Connections that are passed on go on without a supervisor.
    runtime.block_on(local);
    Ok(())
}

/// Serves what the supervisor opens, until it is gone.
async fn serve_all(link: &Rc<Link>, files: &Files) {
    let mut own = JoinSet::new();
    let sender = Rc::clone(link);
    own.spawn_local(async move { sender.send_queued().await });
    let counter = Rc::clone(link);
    own.spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            counter.say_unnamed();
        }
    });
    link.say(&FromNet::Ready);
    // The tasks of a sandbox end, with all that they have begun, when its set is
    // dropped: when it is closed, opened anew, or nobody is there to judge. The
    // next supervisor binds the same addresses.
    let mut sandboxes: HashMap<u64, JoinSet<()>> = HashMap::new();
    loop {
        let packet = match link.receive().await {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) => {
                tracing::error!("the supervisor says what it cannot: {error}");
                break;
            }
        };
        match packet.parse::<ToNet>() {
            Ok(ToNet::Close { sandbox }) => {
                sandboxes.remove(&sandbox);
                link.forget(sandbox);
            }
            Ok(open @ ToNet::Open { sandbox, .. }) => {
                sandboxes.remove(&sandbox);
                match start(link, open, packet.fds, files) {
                    Ok(tasks) => {
                        sandboxes.insert(sandbox, tasks);
                    }
                    Err(error) => tracing::error!("the sockets of a sandbox: {error}"),
                }
            }
            Ok(answer) => link.answered(answer),
            Err(error) => {
                tracing::error!("the supervisor says what it cannot: {error}");
                break;
            }
        }
    }
    link.give_up();
}

fn udp_of(fd: OwnedFd) -> io::Result<Rc<UdpSocket>> {
    let socket = StdUdp::from(fd);
    socket.set_nonblocking(true)?;
    Ok(Rc::new(UdpSocket::from_std(socket)?))
}

fn tcp_of(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = StdListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Starts the tasks of a sandbox; their sockets are those of [`ToNet::Open`].
fn start(
    link: &Rc<Link>,
    open: ToNet,
    fds: Vec<OwnedFd>,
    files: &Files,
) -> io::Result<JoinSet<()>> {
    let ToNet::Open {
        sandbox,
        rules,
        sets,
        networks,
        upstreams,
        v6,
        splice,
        audit_only,
    } = open
    else {
        return Ok(JoinSet::new());
    };
    let families = 1 + usize::from(v6);
    let expected = families * 2 + if splice { families } else { 0 };
    if fds.len() != expected {
        return Err(io::Error::other(format!(
            "{} sockets came along, not {expected}",
            fds.len()
        )));
    }
    let policy = Policy {
        sandbox,
        rules: rules.clone(),
        sets,
        networks,
        audit_only,
    };
    let state = Sandbox::new(policy, upstreams, files.clone(), Instant::now());
    let shared = Rc::new(std::cell::RefCell::new(state));
    let rules = Rc::new(rules);
    let mut tasks = JoinSet::new();
    let mut fds = fds.into_iter();
    for _ in 0..families {
        let (Some(udp), Some(tcp)) = (fds.next(), fds.next()) else {
            break;
        };
        let (udp, tcp) = (udp_of(udp)?, tcp_of(tcp)?);
        let (state, supervisor) = (Rc::clone(&shared), Rc::clone(link));
        tasks.spawn_local(serve::udp(udp, state, supervisor));
        let (state, supervisor) = (Rc::clone(&shared), Rc::clone(link));
        tasks.spawn_local(serve::tcp(tcp, state, supervisor));
    }
    for fd in fds {
        let (rules, supervisor) = (Rc::clone(&rules), Rc::clone(link));
        let listener = tcp_of(fd)?;
        tasks.spawn_local(splice::serve(sandbox, listener, rules, sets, supervisor));
    }
    Ok(tasks)
}
