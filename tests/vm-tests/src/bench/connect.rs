//! What a connect costs: of a datagram socket, which sends nothing, and of a
//! stream socket to a listener of this host, handshake and all.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use guard_common::names::{Grant, Grants, NamedAddress};
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_common::table::AccessMasks;
use guard_daemon::kernel::Kernel;

use super::operations::{SAME, least};
use super::{Row, outside_with, sandbox_under, walls};

/// Where all of them go to.
const PORT: u16 = 90;
/// Stream sockets in a batch.
const STREAMS: usize = 50;

/// A name in place of an address rule.
const BY_NAME: &str = "version = 1\n";
const BY_RULE: &str = "version = 1\n[network]\nallow = ['127.0.0.1:90']\n";

/// Instructions of a datagram socket's connect, and of a stream socket's.
type Costs = [i32; 2];

/// What was measured, in the order in which that can be done.
pub struct Connects {
    listener: TcpListener,
    baseline: Costs,
    walls: Costs,
    outside: Costs,
    /// For each of these policies, without and with the allowed ones in the trail.
    by_name: [Costs; 2],
    by_rule: [Costs; 2],
}

impl Connects {
    /// Measures without kernel programs.
    pub fn before() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).expect("listen");
        listener.set_nonblocking(true).expect("a listener");
        let alone = |prepare: fn()| costs(outside_with(prepare, || measure(&listener)));
        // The first run meets what preparing has left to do: it does not count.
        alone(|| ());
        let (baseline, walls) = (alone(|| ()), alone(walls));
        Self {
            listener,
            baseline,
            walls,
            outside: baseline,
            by_name: [baseline; 2],
            by_rule: [baseline; 2],
        }
    }

    /// Measures with kernel programs attached.
    pub fn under(&mut self, kernel: &mut Kernel) {
        let listener = &self.listener;
        self.outside = costs(outside_with(|| (), || measure(listener)));
        let mut inside = |text: &str| {
            [0, SANDBOX_LOG_ALLOWS].map(|flags| {
                let sandbox = sandbox_under(kernel, text, flags);
                if text == BY_NAME {
                    let address = NamedAddress {
                        sandbox: sandbox.entry.sandbox,
                        addr_hi: 0,
                        addr_lo: 0xffff_7f00_0001,
                    };
                    kernel.grant(address, one_name()).expect("a grant");
                }
                costs(super::measure_in(kernel, sandbox, || measure(listener)))
            })
        };
        self.by_name = inside(BY_NAME);
        self.by_rule = inside(BY_RULE);
    }

    /// Calls `each` with a name and rows.
    pub fn tell(&self, mut each: impl FnMut(&str, &[Row<'_>])) {
        let wide = |costs: &Costs, n: usize| vec![costs[n]; super::DEPTHS.len()];
        let mut table = |title: &str, n: usize, inside: &[(&str, &Costs)]| {
            let common = [
                ("baseline", &self.baseline),
                ("outside", &self.outside),
                ("walls alone", &self.walls),
            ];
            let rows = common.iter().chain(inside);
            let rows: Vec<_> = rows.map(|(name, costs)| (*name, wide(costs, n))).collect();
            let rows: Vec<Row<'_>> = rows.iter().map(|(name, c)| (*name, c.as_slice())).collect();
            each(title, &rows);
        };
        let [name, name_all] = &self.by_name;
        let [rule, rule_all] = &self.by_rule;
        table("connect", 0, &[("inside", rule), ("inside_all", rule_all)]);
        table(
            "connect_name",
            0,
            &[("inside", name), ("inside_all", name_all)],
        );
        table(
            "connect_tcp",
            1,
            &[
                ("inside", rule),
                ("inside_all", rule_all),
                ("inside_name", name),
                ("inside_name_all", name_all),
            ],
        );
    }
}

fn costs(all: Vec<i32>) -> Costs {
    all.try_into().expect("both were measured")
}

/// One name that led there, and will for long.
fn one_name() -> Grants {
    let mut grants = Grants::default();
    grants.grants[0] = Grant {
        masks: AccessMasks {
            allow: 1,
            deny: 0,
            approve: 0,
        },
        expires: u64::MAX,
        name: 1,
        port_first: PORT,
        port_last: PORT,
    };
    grants
}

fn measure(listener: &TcpListener) -> Vec<i32> {
    vec![datagram(), stream(listener)]
}

fn socket(kind: i32) -> OwnedFd {
    // SAFETY: integers only; a descriptor that nobody else has.
    unsafe {
        let fd = libc::socket(libc::AF_INET, kind, 0);
        assert!(fd >= 0, "the measured socket is allowed");
        OwnedFd::from_raw_fd(fd)
    }
}

fn connect(socket: &OwnedFd) {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: PORT.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as u32;
    // SAFETY: a live address of the length that is given.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!(connected, 0, "the measured connect is allowed");
}

fn datagram() -> i32 {
    let socket = socket(libc::SOCK_DGRAM);
    least(100, SAME, || (), |_| connect(&socket))
}

/// Ends a connection at once: nothing of it waits in the kernel.
fn reset(fd: OwnedFd) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let size = size_of::<libc::linger>() as u32;
    // SAFETY: a live struct of the length that is given; the descriptor is ours.
    unsafe {
        let fd = fd.into_raw_fd();
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const now).cast(),
            size,
        );
        libc::close(fd);
    }
}

fn stream(listener: &TcpListener) -> i32 {
    let sockets = std::cell::RefCell::new(Vec::new());
    let renew = || {
        let mut sockets = sockets.borrow_mut();
        sockets.drain(..).for_each(reset);
        while let Ok((accepted, _)) = listener.accept() {
            reset(accepted.into());
        }
        sockets.extend((0..STREAMS).map(|_| socket(libc::SOCK_STREAM)));
    };
    let cost = least(STREAMS, SAME, renew, |n| connect(&sockets.borrow()[n]));
    renew();
    cost
}
