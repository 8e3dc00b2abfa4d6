//! Sockets: which may be made, what they reach, where they may be reached.

use std::net::{TcpListener, TcpStream, UdpSocket};

use guard_common::event::{Event, Object, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::sandbox::{SANDBOX_DATAGRAM, SANDBOX_LOG_ALLOWS};
use guard_daemon::kernel::{Kernel, Ring};

use crate::Test;
use crate::child::errno;
use crate::hooks::sandbox;

pub const TESTS: &[Test] = &[
    ("socket_families", socket_families),
    ("addresses", addresses),
    ("listening", listening),
];

pub const PROJECT: &str = "version = 1\n[files]\nread = ['/srv/project/**']\n";

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

pub fn connect(address: &str) -> i32 {
    match TcpStream::connect(address) {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

pub fn send(address: &str) -> i32 {
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
pub fn code<T>(result: std::io::Result<T>) -> i32 {
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

pub fn of(events: &[(Ring, Event)], op: Op) -> Vec<(String, u16, Verdict)> {
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
