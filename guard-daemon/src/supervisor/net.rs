//! The supervisor's side of names: it starts the process that resolves them,
//! gives it each sandbox's sockets, and opens addresses in the kernel when that
//! process says where an allowed name leads. What the process says is judged
//! again: it parses hostile bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use guard_common::limits::MAX_SANDBOXES;
use guard_common::names::{DNS_PORT, NamedAddress, RESOLVER_NET, RESOLVER_PORTS6, Resolver};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use nix::time::{ClockId, clock_gettime};

use super::force::RELAY_UIDS;
use super::launch::set_nonblocking;
use super::named::MAX_ADDRESSES;
use super::prepare::Refused;
use super::{Shared, Supervisor, names_file, observe};
use crate::audit::enrich::alert;
use crate::audit::event::{Mode, Verdict};
use crate::audit::names::{from_question, from_splice};
use crate::audit::words::Reason;
use crate::net::addresses::{MAX_TTL, is_private};
use crate::net::wire::{Asked, FromNet, MAX_ADDRESSES as MAX_ANSWER, MAX_CHAIN, Spliced, ToNet};
use crate::policy::names::{Name, NameVerdict};
use crate::sys::fds::watch_shared;
use crate::sys::sock_diag;
use crate::wire::transport;

/// The process's user and group: behind those of relays.
const NET_UID: u32 = RELAY_UIDS + 2 * MAX_SANDBOXES;
/// How long an address stays open after the sandbox was told that its name
/// leads elsewhere by then: programs resolve, then connect.
const GRACE: Duration = Duration::from_secs(30);
/// Packets that are taken before others get their turn.
const MAX_PACKETS: usize = 256;
/// How long after its end the process is started again.
const PAUSE: Duration = Duration::from_millis(300);
/// A socket of the process that ends holds its address a moment longer.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Part of the addresses that are given up at once when there is no room.
const EVICTED: usize = MAX_ADDRESSES / 8;
/// First port on ::1 of splices, behind those of resolvers.
const SPLICE_PORTS6: u16 = RESOLVER_PORTS6.0 + MAX_SANDBOXES as u16;

/// The running process.
#[derive(Debug)]
pub(super) struct Net {
    child: Child,
    wire: Rc<OwnedFd>,
    watched: bool,
}

/// Sockets of one sandbox, and where they are.
struct Sockets {
    all: Vec<OwnedFd>,
    at: Resolver,
    v6: bool,
}

/// `CLOCK_BOOTTIME`, nanoseconds, as the kernel programs read it.
fn boottime() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |t| {
        t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs()
    })
}

/// An address as the maps have it, IPv4 as IPv4-mapped.
fn as_number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(number);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

fn key(sandbox: u64, addr: u128) -> NamedAddress {
    NamedAddress {
        sandbox,
        addr_hi: (addr >> 64) as u64,
        addr_lo: addr as u64,
    }
}

/// Starts the process. It is confined by itself before it reads anything.
fn start(relays: Option<OwnedFd>) -> Result<Net, String> {
    let (ours, theirs) = transport::pair().map_err(|e| e.to_string())?;
    set_nonblocking(&ours).map_err(|e| e.to_string())?;
    let child = Command::new("/proc/self/exe")
        .arg0("guard")
        .arg("__net")
        .env_clear()
        .current_dir("/")
        .uid(NET_UID)
        .gid(NET_UID)
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start the process that resolves names: {e}"))?;
    // Stopping the supervisor's service must not cut connections that it passes on.
    if let Some(relays) = relays
        && let Err(error) = File::from(relays).write_all(child.id().to_string().as_bytes())
    {
        tracing::warn!("the process that resolves names stays in the supervisor's cgroup: {error}");
    }
    Ok(Net {
        child,
        wire: Rc::new(ours),
        watched: false,
    })
}

/// A pair of UDP and TCP sockets on one port: the first of `ports` that is free.
fn pair_at(addr: IpAddr, ports: &[u16]) -> io::Result<(UdpSocket, TcpListener, u16)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        let bound = UdpSocket::bind((addr, *port)).and_then(|udp| {
            let port = udp.local_addr()?.port();
            Ok((udp, TcpListener::bind((addr, port))?, port))
        });
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Binds what one sandbox asks at. Where IPv6 is off there is nothing on ::1.
fn bind(slot: u32, splice: bool) -> io::Result<Sockets> {
    let v4 = Ipv4Addr::from_bits(RESOLVER_NET | (slot + 1));
    // A server of the host's own may have port 53 of all addresses.
    let (udp, tcp, port) = pair_at(v4.into(), &[DNS_PORT, 0, 0, 0])?;
    let mut at = Resolver {
        addr: v4.to_bits(),
        port,
        ..Resolver::default()
    };
    let mut all: Vec<OwnedFd> = vec![udp.into(), tcp.into()];
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let port6 = RESOLVER_PORTS6.0 + slot as u16;
    let v6 = match pair_at(loopback, &[port6]) {
        Ok((udp, tcp, port)) => {
            at.port6 = port;
            all.extend([udp.into(), tcp.into()]);
            true
        }
        Err(error) => {
            tracing::warn!("no resolver on [::1]:{port6}: {error}; names are asked for over IPv4");
            false
        }
    };
    if splice {
        let listener = TcpListener::bind((v4, 0))?;
        at.splice = listener.local_addr()?.port();
        all.push(listener.into());
        if v6 {
            let port = SPLICE_PORTS6 + slot as u16;
            let listener = TcpListener::bind((loopback, port))?;
            at.splice6 = port;
            all.push(listener.into());
        }
    }
    Ok(Sockets { all, at, v6 })
}

/// [`bind`], while an earlier process may still hold the sockets.
fn bind_soon(slot: u32, splice: bool) -> io::Result<Sockets> {
    let begun = std::time::Instant::now();
    loop {
        match bind(slot, splice) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < BIND_PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

impl Supervisor {
    /// Lets a sandbox ask for the names that its policy allows, if any.
    pub(super) fn open_names(&mut self, number: u64) -> Result<(), Refused> {
        let session = self.session(number)?;
        let (Some(policy), Some(slot)) = (session.policy.clone(), session.state.slot) else {
            return Ok(());
        };
        if policy.names().is_empty() {
            return Ok(());
        }
        let audit_only = session.audit_only;
        // Nothing is denied then, so nobody has to look at server names.
        let splice = policy.names().wants_server_names() && !audit_only;
        let refused = |e: &dyn std::fmt::Display| {
            Refused::new(format!(
                "the policy names names, and nothing resolves them: {e}"
            ))
        };
        if splice {
            sock_diag::try_out().map_err(|e| {
                Refused::new(format!(
                    "the policy wants server names (sni = \"require\"), and the kernel does not \
                     say which connection is whose ({e}): load its module tcp_diag"
                ))
            })?;
        }
        let sockets = bind_soon(slot, splice).map_err(|e| refused(&e))?;
        let open = ToNet::Open {
            sandbox: number,
            rules: policy.names().clone(),
            sets: policy.valid_sets(),
            networks: policy.networks(),
            upstreams: policy.upstreams().to_vec(),
            v6: sockets.v6,
            splice,
            audit_only,
        };
        let relays = self.cgroups.as_ref().and_then(|c| c.relays().ok());
        let net = match &mut self.net {
            Some(net) => net,
            None => self.net.insert(start(relays).map_err(|e| refused(&e))?),
        };
        let fds: Vec<BorrowedFd<'_>> = sockets.all.iter().map(AsFd::as_fd).collect();
        transport::send(net.wire.as_fd(), &open, &fds).map_err(|e| refused(&e))?;
        self.kernel()?
            .set_resolver(slot, sockets.at)
            .map_err(|e| refused(&e))?;
        self.session(number)?.asks = true;
        Ok(())
    }

    /// For a sandbox that was taken over.
    pub(super) fn open_names_again(&mut self, number: u64) {
        if let Err(refused) = self.open_names(number) {
            tracing::error!("sandbox {number}: {}", refused.reason);
            if let Some(session) = self.sessions.get(&number) {
                let detail = format!("no new names are resolved: {}", refused.reason);
                self.evidence.alert(session, Reason::ResolverGone, detail);
            }
        }
    }

    /// Takes the sandbox's sockets back.
    pub(super) fn close_names(&mut self, number: u64) {
        let asks = self.sessions.get(&number).is_some_and(|s| s.asks);
        if asks {
            self.tell_net(&ToNet::Close { sandbox: number });
        }
    }

    /// A process that does not take what it is told is ended, and started anew.
    fn tell_net(&mut self, message: &ToNet) {
        let Some(net) = &mut self.net else { return };
        if let Err(error) = transport::send(net.wire.as_fd(), message, &[]) {
            tracing::error!("the process that resolves names takes nothing: {error}");
            let _ = net.child.kill();
        }
    }

    /// Takes packets of the process. False when it is gone.
    fn hear_net(&mut self) -> bool {
        let Some(wire) = self.net.as_ref().map(|net| Rc::clone(&net.wire)) else {
            return false;
        };
        for _ in 0..MAX_PACKETS {
            let len = match recv(wire.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return false,
                Ok(len) => len,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            match serde_json::from_slice(&self.buffer[..len]) {
                Ok(message) => self.heard_net(message),
                Err(error) => {
                    // It is in somebody else's hands.
                    tracing::error!("the process that resolves names says what it cannot: {error}");
                    if let Some(net) = &mut self.net {
                        let _ = net.child.kill();
                    }
                    return false;
                }
            }
        }
        self.flush();
        true
    }

    fn heard_net(&mut self, message: FromNet) {
        match message {
            FromNet::Ready => tracing::debug!("names are resolved"),
            FromNet::Grant {
                ticket,
                sandbox,
                name,
                addresses,
            } => {
                let open = match self.grant(sandbox, &name, &addresses) {
                    Ok(()) => true,
                    Err(why) => {
                        tracing::error!("sandbox {sandbox}: {name} is not opened: {why}");
                        false
                    }
                };
                self.tell_net(&ToNet::Granted { ticket, open });
            }
            FromNet::Origin {
                ticket,
                sandbox,
                cookie,
            } => {
                let origin = self.origin(sandbox, cookie);
                self.tell_net(&ToNet::Origin { ticket, origin });
            }
            FromNet::Asked(asked) => self.asked(&asked),
            FromNet::Spliced(spliced) => self.spliced(&spliced),
            FromNet::Unnamed { sandbox, count } => {
                let detail =
                    format!("{count} more questions for names without an event of their own");
                if let Some(session) = self.sessions.get(&sandbox) {
                    self.evidence.alert(session, Reason::QueryLimit, detail);
                }
            }
        }
    }

    /// Opens the addresses of a name, once more judged.
    fn grant(
        &mut self,
        sandbox: u64,
        name: &Name,
        addresses: &[(IpAddr, u32)],
    ) -> Result<(), String> {
        let session = self.sessions.get(&sandbox).filter(|s| s.asks && !s.ending);
        let policy = session
            .and_then(|session| session.policy.clone())
            .ok_or("no such sandbox asks for names")?;
        if !matches!(
            policy.names().judge(name, policy.valid_sets()),
            NameVerdict::Allow(_)
        ) {
            return Err("the policy does not allow the name".into());
        }
        if addresses.len() > MAX_ANSWER {
            return Err(format!("{} addresses at once", addresses.len()));
        }
        let networks = policy.networks();
        if let Some((addr, _)) = addresses
            .iter()
            .find(|(addr, _)| is_private(*addr, &networks))
        {
            return Err(format!(
                "{addr} is private, and the policy does not name it"
            ));
        }
        let ranges = policy.names().grants(name);
        let now = boottime();
        self.make_room(sandbox, addresses.len(), now);
        let Some(session) = self.sessions.get_mut(&sandbox) else {
            return Err("it is gone".into());
        };
        let (numbered, is_new) = session
            .named
            .number(name)
            .ok_or("it was given too many names")?;
        if is_new {
            // Before an event can carry the number.
            names_file::append(&session.state.id, name).map_err(|e| e.to_string())?;
        }
        for (addr, ttl) in addresses {
            let ttl = Duration::from_secs(u64::from((*ttl).min(MAX_TTL)));
            let expires = now.saturating_add((ttl + GRACE).as_nanos() as u64);
            let addr = as_number(*addr);
            let Some(session) = self.sessions.get_mut(&sandbox) else {
                return Err("it is gone".into());
            };
            let mut grants = session.named.open(addr, numbered, &ranges, now, expires);
            let kernel = self.kernel.as_mut().ok_or("the kernel side is gone")?;
            let key = key(sandbox, addr);
            grants.used = grants.used.max(kernel.used(&key).unwrap_or(0));
            if let Err(error) = kernel.grant(key, grants) {
                session.named.close(addr);
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Gives up addresses where a sandbox, or all together, would have too many.
    /// Whoever has the most gives, so that no sandbox can take another's room.
    fn make_room(&mut self, sandbox: u64, more: usize, now: u64) {
        let of = |s: &Supervisor, number| s.sessions.get(&number).map_or(0, |s| s.named.count());
        if of(self, sandbox) + more > MAX_ADDRESSES {
            self.forget_ended(sandbox, now);
        }
        if of(self, sandbox) + more > MAX_ADDRESSES {
            self.evict(sandbox);
        }
        let all: usize = self.sessions.values().map(|s| s.named.count()).sum();
        if all + more > guard_common::names::MAX_NAMED_ADDRESSES as usize {
            let most = self.sessions.iter().max_by_key(|(_, s)| s.named.count());
            if let Some((number, _)) = most {
                self.evict(*number);
            }
        }
    }

    /// Gives up the addresses of one sandbox that were used the longest time ago.
    fn evict(&mut self, number: u64) {
        let Self {
            sessions,
            kernel: Some(kernel),
            evidence,
            ..
        } = self
        else {
            return;
        };
        let Some(session) = sessions.get_mut(&number) else {
            return;
        };
        let used = |addr| kernel.used(&key(number, addr));
        let oldest = session.named.oldest(EVICTED, used);
        let detail = format!(
            "{} addresses of names are closed again: more than {MAX_ADDRESSES} are not kept",
            oldest.len()
        );
        for addr in oldest {
            kernel.ungrant(&key(number, addr));
            session.named.close(addr);
        }
        evidence.alert(session, Reason::Limit, detail);
    }

    /// Gives back the room of what has ended anyway.
    fn forget_ended(&mut self, number: u64, now: u64) {
        let (Some(kernel), Some(session)) = (&mut self.kernel, self.sessions.get_mut(&number))
        else {
            return;
        };
        for addr in session.named.ended(now) {
            kernel.ungrant(&key(number, addr));
            session.named.close(addr);
        }
    }

    /// [`Self::forget_ended`] of all, now and then.
    pub(super) fn forget_all_ended(&mut self) {
        let now = boottime();
        let asking = self.sessions.iter().filter(|(_, s)| s.named.count() > 0);
        let numbers: Vec<u64> = asking.map(|(number, _)| *number).collect();
        for number in numbers {
            self.forget_ended(number, now);
        }
    }

    /// Where a connection was to go that the kernel has sent to the splice.
    fn origin(&self, sandbox: u64, cookie: u64) -> Option<(SocketAddr, Name)> {
        let session = self
            .sessions
            .get(&sandbox)
            .filter(|s| s.asks && !s.ending)?;
        let splice = self
            .kernel
            .as_ref()?
            .splice_origin(session.state.slot?, cookie)?;
        if splice.sandbox != sandbox {
            return None;
        }
        let addr = u128::from(splice.addr_hi) << 64 | u128::from(splice.addr_lo);
        let port = u16::try_from(splice.port).ok()?;
        // The cell can be half another connection's of the same sandbox.
        let name = session.named.behind_server_name(addr, port, boottime())?;
        Some((SocketAddr::new(address(addr), port), name.clone()))
    }

    fn asked(&mut self, asked: &Asked) {
        let fits = asked.addresses.len() <= MAX_ANSWER && asked.chain.len() <= MAX_CHAIN;
        self.hear(asked.sandbox);
        let Some(session) = self.sessions.get(&asked.sandbox).filter(|s| s.asks && fits) else {
            return;
        };
        let audit_all = session
            .policy
            .as_ref()
            .is_none_or(|policy| policy.flags().log_allows);
        let call = observe::afterwards(session);
        let mut event = from_question(asked, call, self.evidence.boot(), &session.name);
        if session.audit_only {
            event.mode = Some(Mode::Audit);
        }
        if audit_all || event.verdict == Some(Verdict::Deny) {
            self.evidence.push(&session.state.audit_file, event);
        }
    }

    fn spliced(&mut self, spliced: &Spliced) {
        self.hear(spliced.sandbox);
        let Some(session) = self.sessions.get(&spliced.sandbox).filter(|s| s.asks) else {
            return;
        };
        let name = session.named.leading_to(as_number(spliced.to.ip()));
        let call = observe::afterwards(session);
        let boot = self.evidence.boot();
        let event = from_splice(spliced, name, call, boot, &session.name);
        self.evidence.push(&session.state.audit_file, event);
    }

    /// The process has ended: which sandboxes asked there.
    fn net_is_gone(&mut self) -> BTreeSet<u64> {
        if let Some(mut net) = self.net.take() {
            let _ = net.child.kill();
            match net.child.wait() {
                Ok(status) => tracing::error!("the process that resolves names ended: {status}"),
                Err(error) => tracing::error!("the process that resolves names: {error}"),
            }
        }
        let asking = self.sessions.iter().filter(|(_, s)| s.asks && !s.ending);
        asking.map(|(number, _)| *number).collect()
    }

    fn reopen(&mut self, number: u64) {
        let reopened = self.open_names(number);
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let detail = match &reopened {
            Ok(()) => "the process that resolves names ended and was started again".to_owned(),
            Err(refused) => format!("no new names are resolved: {}", refused.reason),
        };
        let now = jiff::Timestamp::now();
        let name = Some(session.name.clone());
        let event = alert(
            now,
            self.evidence.boot(),
            name,
            Reason::ResolverGone,
            detail,
        );
        self.evidence.push(&session.state.audit_file, event);
    }

    /// The wire of a process that nobody watches yet.
    fn unwatched(&mut self) -> Option<Rc<OwnedFd>> {
        let net = self.net.as_mut().filter(|net| !net.watched)?;
        net.watched = true;
        Some(Rc::clone(&net.wire))
    }
}

/// Serves the process that resolves names, if there is one. Idempotent.
pub(super) fn attend(shared: &Shared) {
    let Some(wire) = shared.borrow_mut().unwatched() else {
        return;
    };
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        let watched = match watch_shared(wire) {
            Ok(watched) => watched,
            Err(error) => return tracing::error!("cannot watch a process: {error}"),
        };
        while let Ok(mut ready) = watched.readable().await {
            // First, so that what comes meanwhile is not missed.
            ready.clear_ready();
            if !shared.borrow_mut().hear_net() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(watched);
        let asking = shared.borrow_mut().net_is_gone();
        if asking.is_empty() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
        {
            let mut supervisor = shared.borrow_mut();
            for number in asking {
                if supervisor.sessions.get(&number).is_some_and(|s| !s.ending) {
                    supervisor.reopen(number);
                }
            }
            supervisor.flush();
        }
        attend(&shared);
    });
}
