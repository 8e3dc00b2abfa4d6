//! Hole 12: every kind of socket and every way to send, to an address that nobody
//! was told, and the same ways to a name that is allowed.

use super::NOT_PERMITTED;
use crate::network_suite::row::Row;

const UNTOLD4: &str = "198.51.100.7:7";
const UNTOLD6: &str = "[2001:db8:7::7]:7";
const MAPPED: &str = "m/198.51.100.7:7";
const ALLOWED4: &str = "4/allowed.test:7";
const ALLOWED6: &str = "6/allowed.test:7";
const ALLOWED_MAPPED: &str = "m/allowed.test:7";

const NO4: &[&str] = &["network/connect deny reason=no-rule address=198.51.100.7 port=7"];
const NO6: &[&str] = &["network/connect deny reason=no-rule address=2001:db8:7::7 port=7"];
const NO_SEND4: &[&str] = &["network/send deny reason=no-rule address=198.51.100.7 port=7"];
const NO_SEND6: &[&str] = &["network/send deny reason=no-rule address=2001:db8:7::7 port=7"];
const YES4: &[&str] = &["network/connect allow name=allowed.test address=192.0.2.10 port=7"];
const YES6: &[&str] = &["network/connect allow name=allowed.test address=2001:db8::10 port=7"];
const NO_FAMILY: &[&str] = &["network/socket deny reason=socket-family"];

/// One way to send, by IPv4, IPv6 and mapped: to the untold, then to the allowed.
macro_rules! ways {
    ($way:literal, $no4:expr, $no6:expr, $yes4:expr, $yes6:expr) => {
        [
            Row::refused(
                concat!($way, " v4 untold"),
                &["bypass", "probe", $way, UNTOLD4],
                "echo",
                NOT_PERMITTED,
                $no4,
            )
            .unseen(&["to:198.51.100.7"]),
            Row::refused(
                concat!($way, " v6 untold"),
                &["bypass", "probe", $way, UNTOLD6],
                "echo",
                NOT_PERMITTED,
                $no6,
            )
            .unseen(&["to:2001:db8:7::7"]),
            Row::refused(
                concat!($way, " mapped untold"),
                &["bypass", "probe", $way, MAPPED],
                "echo",
                NOT_PERMITTED,
                $no4,
            )
            .unseen(&["to:198.51.100.7"]),
            Row::works(
                concat!($way, " v4 allowed"),
                &["bypass", "probe", $way, ALLOWED4],
                "echo",
                $yes4,
            ),
            Row::works(
                concat!($way, " v6 allowed"),
                &["bypass", "probe", $way, ALLOWED6],
                "echo",
                $yes6,
            ),
            Row::works(
                concat!($way, " mapped allowed"),
                &["bypass", "probe", $way, ALLOWED_MAPPED],
                "echo",
                $yes4,
            ),
        ]
    };
}

const SEND4: &[&str] = &["network/send allow name=allowed.test address=192.0.2.10 port=7"];
const SEND6: &[&str] = &["network/send allow name=allowed.test address=2001:db8::10 port=7"];

const TCP: [Row; 6] = ways!("tcp", NO4, NO6, YES4, YES6);
const FAST_OPEN: [Row; 6] = ways!("fast-open", NO4, NO6, YES4, YES6);
const UDP: [Row; 6] = ways!("udp", NO_SEND4, NO_SEND6, SEND4, SEND6);
const UDP_CONNECT: [Row; 6] = ways!("udp-connect", NO4, NO6, YES4, YES6);
const SENDMMSG: [Row; 6] = ways!("sendmmsg", NO_SEND4, NO_SEND6, SEND4, SEND6);

const OTHERS: &[Row] = &[
    Row::refused(
        "tcp-reconnect v4 untold",
        &["bypass", "probe", "tcp-reconnect", ALLOWED4, UNTOLD4],
        "echo",
        NOT_PERMITTED,
        NO4,
    ),
    Row::refused(
        "tcp-reconnect v6 untold",
        &["bypass", "probe", "tcp-reconnect", ALLOWED6, UNTOLD6],
        "echo",
        NOT_PERMITTED,
        NO6,
    ),
    Row::refused(
        "udp-reconnect v4 untold",
        &["bypass", "probe", "udp-reconnect", ALLOWED4, UNTOLD4],
        "echo",
        NOT_PERMITTED,
        NO4,
    ),
    Row::refused(
        "udp-reconnect v6 untold",
        &["bypass", "probe", "udp-reconnect", ALLOWED6, UNTOLD6],
        "echo",
        NOT_PERMITTED,
        NO6,
    ),
    Row::refused(
        "unspecified-family untold",
        &["bypass", "probe", "unspecified-family", UNTOLD4],
        "echo",
        NOT_PERMITTED,
        NO_SEND4,
    ),
    Row::refused(
        "flow-label untold",
        &["bypass", "probe", "flow-label", UNTOLD6],
        "echo",
        NOT_PERMITTED,
        NO_SEND6,
    ),
    // The destination is an allowed one; the packets leave for another.
    Row::refused(
        "source-route over untold",
        &[
            "bypass",
            "probe",
            "source-route",
            "198.51.100.99:7",
            ALLOWED4,
        ],
        "sent",
        NOT_PERMITTED,
        &["network/"],
    )
    .unseen(&["to:198.51.100.99"]),
    Row::refused(
        "source-route-cmsg over untold",
        &[
            "bypass",
            "probe",
            "source-route-cmsg",
            "198.51.100.99:7",
            ALLOWED4,
        ],
        "sent",
        NOT_PERMITTED,
        &["network/"],
    )
    .unseen(&["to:198.51.100.99"]),
    Row::refused(
        "routing-header over untold",
        &[
            "bypass",
            "probe",
            "routing-header",
            "[2001:db8:7::99]:7",
            ALLOWED6,
        ],
        "sent",
        NOT_PERMITTED,
        &["network/"],
    )
    .unseen(&["to:2001:db8:7::99"]),
    Row::refused(
        "routing-header-cmsg over untold",
        &[
            "bypass",
            "probe",
            "routing-header-cmsg",
            "[2001:db8:7::99]:7",
            ALLOWED6,
        ],
        "sent",
        NOT_PERMITTED,
        &["network/"],
    )
    .unseen(&["to:2001:db8:7::99"]),
    Row::refused(
        "received socket",
        &[
            "bypass",
            "probe",
            "received",
            crate::network_suite::lab::MEET,
        ],
        "echo of 198.51.100.7",
        "refused",
        &["network/"],
    ),
    Row::refused(
        "ping v4",
        &["bypass", "probe", "ping", "192.0.2.10:0"],
        "echo",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::refused(
        "ping v6",
        &["bypass", "probe", "ping", "[2001:db8::10]:0"],
        "echo",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::refused(
        "vsock",
        &["bypass", "probe", "socket", "40", "1", "0"],
        "a socket",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::refused(
        "alg",
        &["bypass", "probe", "socket", "38", "5", "0"],
        "a socket",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::refused(
        "netlink generic",
        &["bypass", "probe", "socket", "16", "3", "16"],
        "a socket",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::refused(
        "netlink sock-diag",
        &["bypass", "probe", "socket", "16", "3", "4"],
        "a socket",
        NOT_PERMITTED,
        NO_FAMILY,
    ),
    Row::works(
        "netlink route",
        &["bypass", "probe", "socket", "16", "3", "0"],
        "a socket",
        &[],
    ),
    // Only root makes these: without guard the capability is missing, and with it.
    raw("raw v4", &["bypass", "probe", "socket", "2", "3", "1"]),
    raw("raw v6", &["bypass", "probe", "socket", "10", "3", "58"]),
    raw("packet", &["bypass", "probe", "socket", "17", "3", "0"]),
    Row::refused(
        "listen v4",
        &["bypass", "probe", "listen", "0.0.0.0:8080"],
        "listens",
        NOT_PERMITTED,
        &["network/bind deny reason=no-rule port=8080"],
    ),
    Row::refused(
        "listen v6",
        &["bypass", "probe", "listen", "[::]:8080"],
        "listens",
        NOT_PERMITTED,
        &["network/bind deny reason=no-rule port=8080"],
    ),
    Row::refused(
        "listen at a port of the kernel's",
        &["bypass", "probe", "listen", "0.0.0.0:0"],
        "listens",
        NOT_PERMITTED,
        &["network/listen deny reason=no-rule"],
    ),
];

/// What needs root: the control fails for want of it, and guard's own refusal
/// comes first.
const fn raw(name: &'static str, words: &'static [&'static str]) -> Row {
    let mut row = Row::refused(name, words, "", NOT_PERMITTED, NO_FAMILY);
    row.control = crate::network_suite::row::Ends::Fails("Operation not permitted");
    row
}

pub const ROWS: &[&[Row]] = &[&TCP, &FAST_OPEN, &UDP, &UDP_CONNECT, &SENDMMSG, OTHERS];
