//! Sockets: which may be made, what they reach, where they may be reached.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

use guard_common::event::{Event, Object, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::names::{Grant, Grants, NamedAddress, Resolver};
use guard_common::sandbox::{SANDBOX_DATAGRAM, SANDBOX_LOG_ALLOWS};
use guard_common::table::AccessMasks;
use guard_daemon::kernel::{Kernel, Ring};

use crate::Test;
use crate::child::errno;
use crate::compile;
use crate::hooks::sandbox;

pub const TESTS: &[Test] = &[
    ("socket_families", socket_families),
    ("addresses", addresses),
    ("listening", listening),
    ("unix_paths", unix_paths),
    ("abstract_names", abstract_names),
    ("questions_go_to_the_resolver", questions),
    ("names_open_addresses", names_open_addresses),
];

const PROJECT: &str = "version = 1\n[files]\nread = ['/srv/project/**']\n";

fn socket(family: i32, kind: i32, protocol: i32) -> i32 {
    // SAFETY: plain system calls.
    unsafe {
        let fd = libc::socket(family, kind, protocol);
        let result = errno(fd.into());
        if fd >= 0 {
            libc::close(fd);
        }
        result
    }
}

fn socket_families(kernel: &mut Kernel) {
    let ask = || {
        vec![
            socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
            socket(libc::AF_INET, libc::SOCK_STREAM, 0),
            socket(libc::AF_INET6, libc::SOCK_STREAM, 0),
            socket(libc::AF_NETLINK, libc::SOCK_RAW, 0),
            socket(libc::AF_INET, libc::SOCK_DGRAM, 0),
            socket(libc::AF_INET6, libc::SOCK_DGRAM, 0),
            socket(libc::AF_INET, libc::SOCK_RAW, 1),
            socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
            socket(libc::AF_INET, libc::SOCK_DGRAM, 1),
            socket(libc::AF_NETLINK, libc::SOCK_RAW, 9),
        ]
    };
    let no = libc::EACCES;
    let plain = sandbox(kernel, PROJECT, 0);
    assert_eq!(plain.run(ask), [0, 0, 0, 0, no, no, no, no, no, no]);
    assert!(
        plain
            .events(kernel)
            .iter()
            .all(|(_, e)| e.reason == Reason::SocketFamily && e.op == Op::Socket)
    );
    plain.end(kernel);
    let datagram = sandbox(kernel, PROJECT, SANDBOX_DATAGRAM);
    assert_eq!(datagram.run(ask), [0, 0, 0, 0, 0, 0, no, no, no, no]);
    datagram.end(kernel);
}

fn connect(address: &str) -> i32 {
    match TcpStream::connect(address) {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

fn send(address: &str) -> i32 {
    let bind = if address.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let socket = match UdpSocket::bind(bind) {
        Ok(socket) => socket,
        Err(e) => return e.raw_os_error().unwrap_or(-1),
    };
    match socket.send_to(b"x", address) {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

fn addresses(kernel: &mut Kernel) {
    let text = "version = 1\n[network]\nallow = ['127.0.0.1:8080', '127.0.0.1:9000-9010', '[::1]:8080']\ndeny = ['127.0.0.1:9005']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_DATAGRAM | SANDBOX_LOG_ALLOWS);
    let got = sandbox.run(|| {
        vec![
            connect("127.0.0.1:8080"),
            connect("127.0.0.1:8081"),
            connect("127.0.0.1:9005"),
            connect("127.0.0.1:9006"),
            connect("127.0.0.2:8080"),
            connect("[::1]:8080"),
            connect("[::1]:8081"),
            connect("[::ffff:127.0.0.1]:8081"),
            connect("[::ffff:127.0.0.1]:8080"),
            send("127.0.0.1:8080"),
            send("127.0.0.1:8081"),
            send("[::1]:8080"),
            send("[::1]:8081"),
        ]
    });
    let (no, refused) = (libc::EACCES, libc::ECONNREFUSED);
    assert_eq!(
        got,
        [
            refused,
            no,
            no,
            refused,
            no,
            refused,
            no,
            no,
            refused,
            0,
            libc::EPERM,
            0,
            libc::EPERM
        ]
    );
    let events = sandbox.events(kernel);
    let ports = |ring, op| -> Vec<u16> {
        events
            .iter()
            .filter(|(r, e)| *r == ring && e.op == op)
            .filter_map(|(_, e)| match &e.object {
                Object::Net(net) => Some(net.port),
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        ports(Ring::Denials, Op::Connect),
        [8081, 9005, 8080, 8081, 8081]
    );
    assert_eq!(ports(Ring::Denials, Op::Send), [8081, 8081]);
    sandbox.end(kernel);
}

/// 0, or the error.
fn code<T>(result: std::io::Result<T>) -> i32 {
    result.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
}

fn listen(address: &str) -> i32 {
    code(TcpListener::bind(address))
}

fn bind_datagram(address: &str) -> i32 {
    code(UdpSocket::bind(address))
}

/// `listen` without `bind`: a port of the kernel's choice.
fn listen_unbound() -> i32 {
    // SAFETY: integers only; closed at once.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let result = libc::listen(fd, 1);
        let error = std::io::Error::last_os_error();
        libc::close(fd);
        if result == 0 {
            0
        } else {
            error.raw_os_error().unwrap_or(-1)
        }
    }
}

fn of(events: &[(Ring, Event)], op: Op) -> Vec<(String, u16, Verdict)> {
    let net = events.iter().filter(|(_, e)| e.op == op);
    net.filter_map(|(_, e)| match &e.object {
        Object::Net(net) => {
            let address = std::net::Ipv6Addr::from(net.addr);
            Some((address.to_canonical().to_string(), net.port, e.verdict))
        }
        _ => None,
    })
    .collect()
}

/// A port can be reached only where a rule says so; port 0 is what every client binds to.
fn listening(kernel: &mut Kernel) {
    let text = "version = 1\n[network]\nlisten = ['127.0.0.1:7000-7010', '[::1]:7000']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_DATAGRAM | SANDBOX_LOG_ALLOWS);
    let got = sandbox.run(|| {
        vec![
            listen("127.0.0.1:7000"),
            listen("127.0.0.1:7011"),
            listen("127.0.0.2:7000"),
            listen("0.0.0.0:7000"),
            listen("[::1]:7000"),
            listen("[::]:7000"),
            listen("[::ffff:127.0.0.1]:7002"),
            listen("127.0.0.1:0"),
            listen_unbound(),
            bind_datagram("127.0.0.1:7001"),
            bind_datagram("127.0.0.1:7011"),
            bind_datagram("127.0.0.1:0"),
        ]
    });
    let no = libc::EACCES;
    assert_eq!(got, [0, no, no, no, 0, no, 0, no, no, 0, no, 0]);
    let events = sandbox.events(kernel);
    let refused = |op| -> Vec<(String, u16)> {
        let all = of(&events, op).into_iter();
        all.filter(|(.., verdict)| *verdict == Verdict::Deny)
            .map(|(address, port, _)| (address, port))
            .collect()
    };
    let at = |address: &str, port| (address.to_owned(), port);
    assert_eq!(
        refused(Op::Bind),
        [
            at("127.0.0.1", 7011),
            at("127.0.0.2", 7000),
            at("0.0.0.0", 7000),
            at("::", 7000),
            at("127.0.0.1", 7011)
        ]
    );
    let listens = refused(Op::Listen);
    assert_eq!(listens.len(), 2, "{listens:?}");
    // The port that binding to 0 has chosen; none yet.
    assert!(
        listens[0].0 == "127.0.0.1" && listens[0].1 >= 1024,
        "{listens:?}"
    );
    assert_eq!(listens[1], at("0.0.0.0", 0));
    assert!(of(&events, Op::Listen).contains(&("127.0.0.1".into(), 7000, Verdict::Allow)));
    sandbox.end(kernel);
}

fn connect_path(path: &str) -> i32 {
    code(UnixStream::connect(path))
}

fn send_path(path: &str) -> i32 {
    code(UnixDatagram::unbound().and_then(|socket| socket.send_to(b"x", path)))
}

/// Sockets of others are reached by the path that they were bound to, whatever
/// path leads there.
fn unix_paths(kernel: &mut Kernel) {
    let _ = std::fs::remove_dir_all("/srv/sockets");
    std::fs::create_dir_all("/srv/sockets/private").expect("make directories");
    let listeners = ["a", "b", "private/c"]
        .map(|name| UnixListener::bind(format!("/srv/sockets/{name}")).expect("listen"));
    let log = UnixDatagram::bind("/srv/sockets/log").expect("bind");
    std::os::unix::fs::symlink("b", "/srv/sockets/to-b").expect("a link");
    std::os::unix::fs::symlink("a", "/srv/sockets/to-a").expect("a link");
    let text = "version = 1\n[files]\nread = ['/srv/**']\nwrite = ['/srv/**']\ndeny = ['private']\n\
                [network]\nunix = ['/srv/sockets/{a,log}', '/srv/sockets/private/*']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_LOG_ALLOWS);
    let got = sandbox.run(|| {
        vec![
            connect_path("/srv/sockets/a"),
            connect_path("/srv/sockets/b"),
            connect_path("/srv/sockets/to-a"),
            connect_path("/srv/sockets/to-b"),
            connect_path("/srv/sockets/private/c"),
            send_path("/srv/sockets/log"),
        ]
    });
    let no = libc::EACCES;
    assert_eq!(got, [0, no, 0, no, no, 0]);
    let events = sandbox.events(kernel);
    let paths: Vec<(&[u8], Verdict, Reason)> = events
        .iter()
        .filter(|(_, e)| matches!(e.op, Op::UnixConnect | Op::UnixSend))
        .filter_map(|(_, e)| match &e.object {
            Object::Path(path) => Some((path.as_slice(), e.verdict, e.reason)),
            _ => None,
        })
        .collect();
    use Verdict::{Allow, Deny};
    let expected: Vec<(&[u8], Verdict, Reason)> = [
        (&b"/srv/sockets/b"[..], Deny),
        (b"/srv/sockets/b", Deny),
        (b"/srv/sockets/private/c", Deny),
        (b"/srv/sockets/a", Allow),
        (b"/srv/sockets/a", Allow),
        (b"/srv/sockets/log", Allow),
    ]
    .map(|(path, verdict)| (path, verdict, Reason::Rule))
    .to_vec();
    assert_eq!(paths, expected);
    sandbox.end(kernel);
    drop((listeners, log));
}

/// Abstract names are compared whole, to the last byte.
fn abstract_names(kernel: &mut Kernel) {
    let longest = "n".repeat(107);
    let names = ["guard-test", "guard-test2", "guard", &longest];
    let address = |name: &str| SocketAddr::from_abstract_name(name).expect("a name");
    let listeners = names.map(|name| UnixListener::bind_addr(&address(name)).expect("listen"));
    let policy = compile::sets(&[&format!(
        "version = 1\n[network]\nunix = ['@guard-test', '@{longest}']\n"
    )]);
    let sandbox = crate::sandbox::Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        SANDBOX_LOG_ALLOWS,
    );
    for (name, masks) in policy.abstract_names() {
        let named = kernel.name_socket(sandbox.entry.slot, name, masks);
        named.expect("room for a name");
    }
    let reach = || {
        names
            .map(|name| code(UnixStream::connect_addr(&address(name))))
            .to_vec()
    };
    let no = libc::EACCES;
    assert_eq!(sandbox.run(reach), [0, no, no, 0]);
    let events = sandbox.events(kernel);
    let seen: Vec<(&[u8], Verdict, Reason)> = events
        .iter()
        .filter_map(|(_, e)| match &e.object {
            Object::Abstract(name) => Some((name.as_slice(), e.verdict, e.reason)),
            _ => None,
        })
        .collect();
    assert_eq!(
        seen,
        [
            (names[1].as_bytes(), Verdict::Deny, Reason::UnixSocket),
            (names[2].as_bytes(), Verdict::Deny, Reason::UnixSocket),
            (names[0].as_bytes(), Verdict::Allow, Reason::Rule),
            (names[3].as_bytes(), Verdict::Allow, Reason::Rule),
        ]
    );
    // Another sandbox in the same slot has none of them.
    sandbox.end(kernel);
    let other = super::hooks::sandbox(kernel, PROJECT, 0);
    assert_eq!(other.run(reach), [no; 4]);
    other.end(kernel);
    drop(listeners);
}

/// Where the resolver of the test listens.
const RESOLVER: &str = "127.83.0.1:53";
const RESOLVER6: &str = "[::1]:64000";

/// 0 for true, -2 for false, or the error.
fn told(result: std::io::Result<bool>) -> i32 {
    match result {
        Ok(true) => 0,
        Ok(false) => -2,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

fn any_of_family(server: &str) -> &'static str {
    match server.starts_with('[') {
        true => "[::]:0",
        false => "0.0.0.0:0",
    }
}

/// Asks over UDP without connecting: 0 when the answer seems to come from the
/// server that was asked.
fn ask(server: &str) -> i32 {
    told(UdpSocket::bind(any_of_family(server)).and_then(|socket| {
        socket.send_to(b"question", server)?;
        let mut buffer = [0; 16];
        let (len, from) = socket.recv_from(&mut buffer)?;
        Ok(&buffer[..len] == b"question" && from.to_string() == server)
    }))
}

/// The same, connected.
fn ask_connected(server: &str) -> i32 {
    told(UdpSocket::bind(any_of_family(server)).and_then(|socket| {
        socket.connect(server)?;
        socket.send(b"question")?;
        let mut buffer = [0; 16];
        let len = socket.recv(&mut buffer)?;
        Ok(&buffer[..len] == b"question" && socket.peer_addr()?.to_string() == server)
    }))
}

/// The same, over TCP.
fn ask_stream(server: &str) -> i32 {
    told(TcpStream::connect(server).and_then(|mut stream| {
        stream.write_all(b"question")?;
        let mut buffer = [0; 8];
        stream.read_exact(&mut buffer)?;
        Ok(&buffer == b"question" && stream.peer_addr()?.to_string() == server)
    }))
}

/// Echoes what comes to the resolver, until nothing more has come for a while.
fn echo(datagrams: &[UdpSocket; 2], streams: &[TcpListener; 2]) -> usize {
    let fds = [
        datagrams[0].as_raw_fd(),
        datagrams[1].as_raw_fd(),
        streams[0].as_raw_fd(),
        streams[1].as_raw_fd(),
    ];
    let mut answered = 0;
    loop {
        let mut polled = fds.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        // SAFETY: so many live pollfds.
        if unsafe { libc::poll(polled.as_mut_ptr(), 4, 5000) } <= 0 {
            return answered;
        }
        for (n, _) in polled.iter().enumerate().filter(|(_, p)| p.revents != 0) {
            let mut buffer = [0; 16];
            if n < 2 {
                let (len, from) = datagrams[n].recv_from(&mut buffer).expect("a question");
                datagrams[n].send_to(&buffer[..len], from).expect("answer");
            } else {
                let (mut stream, _) = streams[n - 2].accept().expect("a connection");
                let len = stream.read(&mut buffer).expect("a question");
                stream.write_all(&buffer[..len]).expect("answer");
            }
            answered += 1;
        }
    }
}

/// Whatever server is asked, in any way, the sandbox's resolver is, and the
/// program does not notice. The resolver itself is out of reach.
fn questions(kernel: &mut Kernel) {
    let sandbox = sandbox(kernel, PROJECT, SANDBOX_DATAGRAM | SANDBOX_LOG_ALLOWS);
    let resolver = Resolver {
        addr: 0x7f53_0001,
        port: 53,
        port6: 64_000,
    };
    let set = kernel.set_resolver(sandbox.entry.slot, resolver);
    set.expect("a resolver");
    let datagrams = [RESOLVER, RESOLVER6].map(|at| UdpSocket::bind(at).expect("bind"));
    let streams = [RESOLVER, RESOLVER6].map(|at| TcpListener::bind(at).expect("listen"));
    let child = sandbox.start(|| {
        vec![
            ask("8.8.8.8:53"),
            ask("[2001:db8::8]:53"),
            ask("[::ffff:8.8.4.4]:53"),
            ask_connected("9.9.9.9:53"),
            ask_connected("[2001:db8::9]:53"),
            ask_connected("[::ffff:9.9.4.4]:53"),
            ask_stream("1.1.1.1:53"),
            ask_stream("[2001:db8::1]:53"),
            ask_stream("[::ffff:1.0.0.1]:53"),
            // Nothing else: not the resolver itself, not another's, not another port.
            ask(RESOLVER),
            ask("[::ffff:127.83.0.1]:53"),
            ask(RESOLVER6),
            ask_connected(RESOLVER),
            ask_stream("127.83.0.2:53"),
            ask_stream(RESOLVER6),
            ask_stream("[::]:64001"),
            ask("8.8.8.8:54"),
            ask_stream("1.1.1.1:853"),
        ]
    });
    let answered = echo(&datagrams, &streams);
    let (no, never) = (libc::EACCES, libc::EPERM);
    assert_eq!(
        child.results(),
        [
            0, 0, 0, 0, 0, 0, 0, 0, 0, never, never, never, no, no, no, no, never, no
        ]
    );
    assert_eq!(answered, 9);
    let events = sandbox.events(kernel);
    let reasons = |verdict| -> Vec<Reason> {
        let all = events.iter().filter(|(_, e)| e.verdict == verdict);
        all.map(|(_, e)| e.reason).collect()
    };
    assert_eq!(reasons(Verdict::Allow), [Reason::Resolver; 9]);
    let (range, rule) = (Reason::ResolverRange, Reason::Rule);
    assert_eq!(
        reasons(Verdict::Deny),
        [range, range, range, range, range, range, range, rule, rule]
    );
    // The server that was asked stands in the trail, not the resolver.
    let asked = of(&events, Op::Connect);
    let nine = ("9.9.9.9".to_owned(), 53, Verdict::Allow);
    assert!(asked.contains(&nine), "{asked:?}");
    sandbox.end(kernel);
    // Another sandbox in the slot has no resolver.
    let other = super::hooks::sandbox(kernel, PROJECT, SANDBOX_DATAGRAM);
    let got = other.run(|| vec![ask("8.8.8.8:53"), ask_stream("1.1.1.1:53")]);
    assert_eq!(got, [never, no]);
    other.end(kernel);
}

fn named(slot: u32, address: &str) -> NamedAddress {
    let bits = match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    NamedAddress {
        slot,
        reserved: 0,
        addr_hi: (bits >> 64) as u64,
        addr_lo: bits as u64,
    }
}

/// A name's number, first and last port, end; sets that allow, sets that deny.
type Row = (u32, u16, u16, u64, u64, u64);

fn grants(rows: &[Row]) -> Grants {
    let mut grants = Grants::default();
    for (grant, row) in grants.grants.iter_mut().zip(rows) {
        let (name, port_first, port_last, expires, allow, deny) = *row;
        *grant = Grant {
            masks: AccessMasks {
                allow,
                deny,
                approve: 0,
            },
            expires,
            name,
            port_first,
            port_last,
        };
    }
    grants
}

/// What a name led to is open for its ports until it expires, unless a rule
/// for addresses denies it; the event carries the name.
fn names_open_addresses(kernel: &mut Kernel) {
    let text = "version = 1\n[network]\ndeny = ['127.0.0.13']\nallow = ['127.0.0.14:1']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_DATAGRAM | SANDBOX_LOG_ALLOWS);
    let slot = sandbox.entry.slot;
    let (always, past) = (u64::MAX, 1);
    let several = [
        (8, 1, 1, past, 1, 0),
        (9, 80, 80, always, 0, 1),
        (10, 7070, 7070, always, 1, 0),
        (7, 7070, 7070, always, 1, 0),
    ];
    for (address, rows) in [
        ("127.0.0.11", &[(7, 7070, 7071, always, 1, 0)][..]),
        ("127.0.0.12", &[(7, 7070, 7070, past, 1, 0)]),
        ("127.0.0.13", &[(7, 7070, 7070, always, 1, 0)]),
        ("127.0.0.14", &several),
        ("::1", &[(7, 7070, 7070, always, 1, 0)]),
    ] {
        let set = kernel.grant(named(slot, address), grants(rows));
        set.expect("a grant");
    }
    let work = || {
        vec![
            connect("127.0.0.11:7070"),
            connect("127.0.0.11:7071"),
            connect("127.0.0.11:7072"),
            connect("[::ffff:127.0.0.11]:7070"),
            connect("127.0.0.12:7070"),
            connect("127.0.0.13:7070"),
            connect("127.0.0.14:7070"),
            connect("127.0.0.14:80"),
            connect("127.0.0.15:7070"),
            connect("[::1]:7070"),
            send("127.0.0.11:7070"),
            send("127.0.0.12:7070"),
            send("[::1]:7070"),
        ]
    };
    let (no, never, open) = (libc::EACCES, libc::EPERM, libc::ECONNREFUSED);
    assert_eq!(
        sandbox.run(work),
        [
            open, open, no, open, no, no, open, no, no, open, 0, never, 0
        ]
    );
    let events = sandbox.events(kernel);
    let by_name: Vec<(u32, u32)> = events
        .iter()
        .filter(|(_, e)| e.verdict == Verdict::Allow && e.op == Op::Connect)
        .filter_map(|(_, e)| match &e.object {
            Object::Net(net) => Some((net.name, net.shared)),
            _ => None,
        })
        .collect();
    assert_eq!(by_name, [(7, 0), (7, 0), (7, 0), (10, 1), (7, 0)]);
    // Another sandbox has none of them.
    let other = super::hooks::sandbox(kernel, PROJECT, SANDBOX_DATAGRAM);
    assert_eq!(other.run(|| vec![connect("127.0.0.11:7070")]), [no]);
    other.end(kernel);
    sandbox.end(kernel);
}
