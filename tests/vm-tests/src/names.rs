//! Names: where questions for them go, and what they open.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use guard_common::event::{Object, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::names::{Grant, Grants, NamedAddress, Resolver};
use guard_common::sandbox::{SANDBOX_DATAGRAM, SANDBOX_LOG_ALLOWS};
use guard_common::table::AccessMasks;
use guard_daemon::kernel::Kernel;

use crate::Test;
use crate::hooks::sandbox;
use crate::network::{PROJECT, connect, of, send};

pub const TESTS: &[Test] = &[
    ("questions_go_to_the_resolver", questions),
    ("names_open_addresses", names_open_addresses),
];

/// Where the resolver of the test listens.
const RESOLVER: &str = "127.83.0.1:53";
const RESOLVER6: &str = "[::1]:64000";

/// 0 for true, -2 for false, or the error.
pub fn told(result: std::io::Result<bool>) -> i32 {
    match result {
        Ok(true) => 0,
        Ok(false) => -2,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

pub fn any_of_family(server: &str) -> &'static str {
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
        ..Resolver::default()
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

pub fn named(sandbox: u64, address: &str) -> NamedAddress {
    let bits = match address.parse().expect("an address") {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    NamedAddress {
        sandbox,
        addr_hi: (bits >> 64) as u64,
        addr_lo: bits as u64,
    }
}

/// A name's number, first and last port, end; sets that allow, sets that deny.
pub type Row = (u32, u16, u16, u64, u64, u64);

pub fn grants(rows: &[Row]) -> Grants {
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
    let number = sandbox.entry.sandbox;
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
        let set = kernel.grant(named(number, address), grants(rows));
        set.expect("a grant");
    }
    // What stands in the place of another address's is nobody's.
    let strange = Grants {
        of: named(sandbox.entry.sandbox, "127.0.0.11"),
        ..grants(&[(7, 7070, 7070, always, 1, 0)])
    };
    let key = named(sandbox.entry.sandbox, "127.0.0.15");
    kernel.put_grants(key, strange).expect("a grant");
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
    let key = named(other.entry.sandbox, "127.0.0.15");
    kernel.put_grants(key, strange).expect("a grant");
    let work = || vec![connect("127.0.0.11:7070"), connect("127.0.0.15:7070")];
    assert_eq!(other.run(work), [no, no]);
    other.end(kernel);
    sandbox.end(kernel);
}
