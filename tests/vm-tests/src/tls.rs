//! Names that ask for TLS with a server name, and what lsm/socket_connect tells
//! connect4.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use guard_common::event::{Event, Object, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::names::{GRANT_SNI, Resolver, Splice};
use guard_common::sandbox::{SANDBOX_DATAGRAM, SANDBOX_LOG_ALLOWS};
use guard_daemon::kernel::{Kernel, Ring};

use crate::Test;
use crate::child::errno;
use crate::hooks::sandbox;
use crate::names::{Row, any_of_family, grants, named, told};
use crate::network::{PROJECT, code, connect, of, send};

pub const TESTS: &[Test] = &[
    ("names_that_ask_for_tls", names_that_ask_for_tls),
    ("names_without_a_splice", names_without_a_splice),
    ("an_allowed_connect_allows_no_other", no_other),
];

/// Where the splice of the test listens.
const SPLICE: &str = "127.83.0.1:443";
const SPLICE6: &str = "[::1]:64512";

/// A grant that asks for TLS.
const TLS: Row = (GRANT_SNI | 5, 7070, 7070, u64::MAX, 1, 0);
/// One that does not.
const PLAIN: Row = (6, 7070, 7070, u64::MAX, 1, 0);

/// Connects, and says whether it seems to have reached what it wanted: 0, and
/// the socket's cookie in two halves.
fn reach(address: &str) -> [i32; 3] {
    let stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) => return [error.raw_os_error().unwrap_or(-1), 0, 0],
    };
    let seen = told(stream.peer_addr().map(|peer| peer.to_string() == address));
    let (mut cookie, mut len) = (0_u64, size_of::<u64>() as u32);
    // SAFETY: live values of the length that is given.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    assert_eq!(got, 0, "a cookie");
    [seen, cookie as i32, (cookie >> 32) as i32]
}

/// Connects a datagram socket.
fn connect_datagram(address: &str) -> i32 {
    code(UdpSocket::bind(any_of_family(address)).and_then(|socket| socket.connect(address)))
}

fn v4(to: [u8; 4], port: u16, family: i32) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: family as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to),
        },
        sin_zero: [0; 8],
    }
}

/// Sends with the handshake, which lsm/socket_connect does not see.
fn fast_open_on(socket: &OwnedFd, to: [u8; 4], port: u16) -> i32 {
    let address = v4(to, port, libc::AF_INET);
    // SAFETY: a live address of the length that is given.
    errno(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            c"x".as_ptr().cast(),
            1,
            libc::MSG_FASTOPEN,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        )
    } as i64)
}

fn stream() -> OwnedFd {
    // SAFETY: integers only; a descriptor that nobody else has.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        assert!(fd >= 0, "a socket");
        OwnedFd::from_raw_fd(fd)
    }
}

fn fast_open(to: [u8; 4], port: u16) -> i32 {
    fast_open_on(&stream(), to, port)
}

/// A socket that lsm/socket_connect has allowed to connect without that
/// connect4 was asked: it was connected already, and then no more.
fn allowed(to: [u8; 4], port: u16) -> OwnedFd {
    let socket = stream();
    let connect = |family| {
        let address = v4(to, port, family);
        let size = size_of::<libc::sockaddr_in>() as u32;
        // SAFETY: a live address of the length that is given.
        errno(
            unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) }.into(),
        )
    };
    assert_eq!(connect(libc::AF_INET), 0);
    assert_eq!(connect(libc::AF_INET), libc::EISCONN);
    assert_eq!(connect(libc::AF_UNSPEC), 0);
    socket
}

fn sni_required(events: &[(Ring, Event)]) -> Vec<(Op, u32)> {
    let refused = events
        .iter()
        .filter(|(_, e)| e.reason == Reason::SniRequired);
    refused
        .filter_map(|(_, e)| match &e.object {
            Object::Net(net) => Some((e.op, net.name)),
            _ => None,
        })
        .collect()
}

/// A stream to an address that only names which ask for TLS led to goes to the
/// splice, and the program does not notice; the supervisor learns where it was
/// to go. Datagrams are refused. What another name or a rule allows goes there.
fn names_that_ask_for_tls(kernel: &mut Kernel) {
    let text = "version = 1\n[network]\nallow = ['127.0.0.24']\n";
    let sandbox = sandbox(kernel, text, SANDBOX_DATAGRAM | SANDBOX_LOG_ALLOWS);
    let (number, slot) = (sandbox.entry.sandbox, sandbox.entry.slot);
    let resolver = Resolver {
        addr: 0x7f53_0001,
        splice: 443,
        splice6: 64_512,
        ..Resolver::default()
    };
    kernel.set_resolver(slot, resolver).expect("a splice");
    for (address, rows) in [
        ("203.0.113.1", &[TLS][..]),
        ("203.0.113.2", &[TLS]),
        ("2001:db8::1", &[TLS]),
        ("127.0.0.23", &[TLS, PLAIN]),
        ("127.0.0.24", &[TLS]),
        ("127.0.0.25", &[TLS, (6, 7070, 7070, 1, 1, 0)]),
    ] {
        let set = kernel.grant(named(number, address), grants(rows));
        set.expect("a grant");
    }
    let splices = [SPLICE, SPLICE6].map(|at| TcpListener::bind(at).expect("listen"));
    for splice in &splices {
        splice.set_nonblocking(true).expect("a listener");
    }
    let work = || {
        let mut all = Vec::new();
        all.extend(reach("203.0.113.1:7070"));
        all.extend(reach("[2001:db8::1]:7070"));
        all.extend(reach("[::ffff:203.0.113.2]:7070"));
        all.extend([
            // Another name, or a rule, allows it: there is nobody there.
            connect("127.0.0.23:7070"),
            connect("127.0.0.24:7070"),
            // Not what has expired.
            reach("127.0.0.25:7070")[0],
            fast_open([203, 0, 113, 1], 7070),
            // Another port, datagrams, the splice itself.
            connect("203.0.113.1:443"),
            connect_datagram("203.0.113.1:7070"),
            connect_datagram("[2001:db8::1]:7070"),
            send("203.0.113.1:7070"),
            send("[2001:db8::1]:7070"),
            send("127.0.0.23:7070"),
            connect(SPLICE),
            connect("[::ffff:127.83.0.1]:443"),
            connect(SPLICE6),
            connect("[::]:64512"),
            fast_open([127, 83, 0, 1], 443),
        ]);
        all
    };
    let got = sandbox.run(work);
    let (no, never, closed) = (libc::EACCES, libc::EPERM, libc::ECONNREFUSED);
    assert_eq!([got[0], got[3], got[6]], [0; 3]);
    assert_eq!(
        got[9..],
        [
            closed, closed, 0, 0, no, no, no, never, never, 0, no, no, no, no, never
        ]
    );
    let came = splices.map(|at| at.incoming().take_while(Result::is_ok).count());
    assert_eq!(came, [4, 1]);
    let origin = |at: usize| {
        let cookie = u64::from(got[at] as u32) | u64::from(got[at + 1] as u32) << 32;
        kernel.splice_origin(slot, cookie)
    };
    for (at, address) in [
        (1, "203.0.113.1"),
        (4, "2001:db8::1"),
        (7, "::ffff:203.0.113.2"),
    ] {
        let to = named(number, address);
        let cookie = u64::from(got[at] as u32) | u64::from(got[at + 1] as u32) << 32;
        let wanted = Splice {
            cookie,
            sandbox: number,
            addr_hi: to.addr_hi,
            addr_lo: to.addr_lo,
            port: 7070,
            name: 5,
        };
        assert_eq!(origin(at), Some(wanted), "{address}");
        // Of another socket, or another slot, nothing is known.
        assert_eq!(kernel.splice_origin(slot, cookie + 4096), None);
        assert_eq!(kernel.splice_origin(slot + 1, cookie), None);
    }
    let events = sandbox.events(kernel);
    let sni = [
        (Op::Connect, 5),
        (Op::Connect, 5),
        (Op::Send, 5),
        (Op::Send, 5),
    ];
    assert_eq!(sni_required(&events), sni);
    // The trail has the destination and the name's number, not the splice.
    let asked = of(&events, Op::Connect);
    let first = ("203.0.113.1".to_owned(), 7070, Verdict::Allow);
    assert!(asked.contains(&first), "{asked:?}");
    let by_name: Vec<(u32, u32)> = events
        .iter()
        .filter(|(_, e)| e.verdict == Verdict::Allow && e.op == Op::Connect)
        .filter_map(|(_, e)| match &e.object {
            Object::Net(net) => Some((net.name, net.shared)),
            _ => None,
        })
        .collect();
    assert_eq!(by_name, [(5, 0), (5, 0), (5, 0), (6, 1), (0, 0), (5, 0)]);
    sandbox.end(kernel);
}

/// Without a splice there is no way there, nor with one of the other family only.
fn names_without_a_splice(kernel: &mut Kernel) {
    let sandbox = sandbox(kernel, PROJECT, SANDBOX_DATAGRAM);
    let number = sandbox.entry.sandbox;
    for address in ["127.0.0.21", "::1"] {
        let set = kernel.grant(named(number, address), grants(&[TLS]));
        set.expect("a grant");
    }
    let work = || {
        vec![
            connect("127.0.0.21:7070"),
            connect("[::ffff:127.0.0.21]:7070"),
            connect("[::1]:7070"),
            fast_open([127, 0, 0, 21], 7070),
        ]
    };
    let (no, never) = (libc::EACCES, libc::EPERM);
    assert_eq!(sandbox.run(work), [no, no, no, never]);
    let events = sandbox.events(kernel);
    assert_eq!(sni_required(&events), [(Op::Connect, 5); 4]);
    let only = |splice, splice6| Resolver {
        addr: 0x7f53_0001,
        splice,
        splice6,
        ..Resolver::default()
    };
    let slot = sandbox.entry.slot;
    kernel
        .set_resolver(slot, only(0, 64_512))
        .expect("a splice");
    assert_eq!(sandbox.run(work)[..2], [no, no]);
    kernel.set_resolver(slot, only(443, 0)).expect("a splice");
    assert_eq!(sandbox.run(work)[2], no);
    sandbox.end(kernel);
}

/// What lsm/socket_connect has allowed is not taken for what it has not seen:
/// another destination, or the same one later.
fn no_other(kernel: &mut Kernel) {
    let sandbox = sandbox(kernel, PROJECT, 0);
    let number = sandbox.entry.sandbox;
    let listener = TcpListener::bind("127.0.0.31:7070").expect("listen");
    let soon = boot_time() + 3_000_000_000;
    let until = |end| grants(&[(6, 7070, 7070, end, 1, 0)]);
    let (first, other) = ([127, 0, 0, 31], [127, 0, 0, 32]);
    let to = named(number, "127.0.0.31");
    kernel.grant(to, until(soon)).expect("a grant");
    let work = || {
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(fast_open_on(&allowed(first, 7070), other, 7070));
            all.push(fast_open_on(&allowed(first, 7070), first, 7071));
        }
        let late = allowed(first, 7070);
        while boot_time() < soon {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        all.push(fast_open_on(&late, first, 7070));
        all
    };
    assert_eq!(sandbox.run(work), [libc::EPERM; 21]);
    drop(listener);
    sandbox.end(kernel);
}

/// `CLOCK_BOOTTIME`, nanoseconds.
fn boot_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a live struct.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
