//! Hole 13: addresses that no name led to, shared ones, private ones; and ways to
//! have a name found by somebody else.

use super::NOT_PERMITTED;
use crate::network_suite::row::{Policy, Row};

const REFUSED: &str = "code 3";

/// An allowed name that leads to a private address: told without guard, not under it.
macro_rules! private {
    ($title:literal, $name:literal, $record:literal, $address:literal) => {
        Row::refused(
            $title,
            &[
                "bypass",
                "probe",
                "dns",
                "udp",
                "192.0.2.53:53",
                $name,
                $record,
            ],
            $address,
            REFUSED,
            &[concat!(
                "dns/query deny outcome=private reason=private-address name=",
                $name,
                " record=",
                $record
            )],
        )
    };
}

/// The same, with an echo at the address.
macro_rules! reached {
    ($title:literal, $to:literal, $name:literal, $address:literal) => {
        Row::refused(
            $title,
            &["bypass", "probe", "tcp", $to],
            "echo",
            "no address",
            &[concat!("dns/query deny outcome=private name=", $name)],
        )
        .unseen(&[concat!("to:", $address)])
    };
}

/// A socket of the host's by its path.
macro_rules! service {
    ($title:literal, $at:literal) => {
        Row::refused(
            $title,
            &[
                "bypass",
                "probe",
                "unix",
                bypass::probe::lab::NAME_SERVICES[$at],
            ],
            bypass::probe::lab::NAME_SERVICE_SAYS,
            NOT_PERMITTED,
            &["network/unix-connect deny reason=unix-socket"],
        )
    };
}

pub const ROWS: &[&[Row]] = &[REBINDING, LITERALS, SERVICES];

const REBINDING: &[Row] = &[
    private!(
        "rebinding to loopback",
        "loop.allowed.test",
        "A",
        "127.0.0.1"
    ),
    private!(
        "rebinding to loopback v6",
        "loop.allowed.test",
        "AAAA",
        "::1"
    ),
    private!(
        "rebinding to link-local",
        "link.allowed.test",
        "AAAA",
        "fe80::1"
    ),
    private!(
        "rebinding to mapped",
        "mapped.allowed.test",
        "AAAA",
        "::ffff:10.0.0.1"
    ),
    private!(
        "rebinding to a group",
        "group.allowed.test",
        "A",
        "224.0.0.1"
    ),
    private!(
        "rebinding to the resolvers",
        "resolver.allowed.test",
        "A",
        "127.83.0.1"
    ),
    reached!(
        "rebinding to a private network",
        "4/ten.allowed.test:7",
        "ten.allowed.test",
        "10.0.0.1"
    ),
    reached!(
        "rebinding to a mapped one",
        "m/ten.allowed.test:7",
        "ten.allowed.test",
        "10.0.0.1"
    ),
    reached!(
        "rebinding to metadata",
        "4/meta.allowed.test:7",
        "meta.allowed.test",
        "169.254.169.254"
    ),
    reached!(
        "rebinding to unique local",
        "6/ula.allowed.test:7",
        "ula.allowed.test",
        "fd00::1"
    ),
    reached!(
        "private, not named",
        "4/named-ten.allowed.test:7",
        "named-ten.allowed.test",
        "10.99.0.1"
    ),
    // The public one of two is told, the private one is left out.
    Row::works(
        "rebinding by a second address",
        &["bypass", "probe", "tcp", "4/mixed.allowed.test:7"],
        "echo",
        &["dns/query allow name=mixed.allowed.test addresses=192.0.2.14"],
    )
    .but_says("echo of 192.0.2.14"),
    Row::works(
        "private, and named",
        &["bypass", "probe", "tcp", "4/named-ten.allowed.test:7"],
        "echo of 10.99.0.1",
        &["dns/query allow name=named-ten.allowed.test outcome=answered addresses=10.99.0.1"],
    )
    .under(Policy::Wild),
    Row::refused(
        "private, not the one that is named",
        &["bypass", "probe", "tcp", "4/ten.allowed.test:7"],
        "echo of 10.0.0.1",
        "no address",
        &["dns/query deny name=ten.allowed.test outcome=private"],
    )
    .under(Policy::Wild),
];

const LITERALS: &[Row] = &[
    Row::works(
        "literal by an address rule",
        &["bypass", "probe", "tcp", "203.0.113.9:7"],
        "echo",
        &["network/connect allow rule=network.allow address=203.0.113.9 port=7"],
    ),
    Row::works(
        "literal by an address rule v6",
        &["bypass", "probe", "tcp", "[2001:db8:7::9]:7"],
        "echo",
        &["network/connect allow rule=network.allow address=2001:db8:7::9 port=7"],
    ),
    Row::refused(
        "literal by an address rule, other port",
        &["bypass", "probe", "tcp", "203.0.113.9:9"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny reason=no-rule address=203.0.113.9 port=9"],
    ),
    // Told for an allowed name, for its ports.
    Row::refused(
        "told address, other port",
        &["bypass", "probe", "tcp", "4/allowed.test:9"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny address=192.0.2.10 port=9"],
    ),
    Row::refused(
        "told address, other port v6",
        &["bypass", "probe", "tcp", "6/allowed.test:9"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny address=2001:db8::10 port=9"],
    ),
    Row::refused(
        "told address, other port udp",
        &["bypass", "probe", "udp", "4/allowed.test:9"],
        "echo",
        NOT_PERMITTED,
        &["network/send deny address=192.0.2.10 port=9"],
    ),
    Row::refused(
        "literal of a name that was refused",
        &["bypass", "probe", "tcp", "192.0.2.20:7"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny reason=no-rule address=192.0.2.20 port=7"],
    )
    .unseen(&["to:192.0.2.20"]),
    Row::refused(
        "literal in a URL",
        &["curl", "-sS", "--max-time", "20", "https://8.8.8.8/"],
        "page of 8.8.8.8",
        "Failed to connect",
        &["network/connect deny reason=no-rule address=8.8.8.8 port=443"],
    )
    .unseen(&["to:8.8.8.8"]),
    // Two names lead to it: which one a connection is for cannot be told.
    Row::works(
        "shared address, first name",
        &["bypass", "probe", "tcp", "4/first.allowed.test:7"],
        "echo of 192.0.2.40",
        &["network/connect allow address=192.0.2.40 name=first.allowed.test"],
    ),
    Row::works(
        "shared address, second name",
        &["bypass", "probe", "tcp", "4/second.allowed.test:7"],
        "echo of 192.0.2.40",
        &["network/connect allow address=192.0.2.40 shared=true"],
    ),
    Row::works(
        "shared address v6, first name",
        &["bypass", "probe", "tcp", "6/first.allowed.test:7"],
        "echo of [2001:db8::40]",
        &["network/connect allow address=2001:db8::40 name=first.allowed.test"],
    ),
    Row::works(
        "shared address v6, second name",
        &["bypass", "probe", "tcp", "6/second.allowed.test:7"],
        "echo of [2001:db8::40]",
        &["network/connect allow address=2001:db8::40 shared=true"],
    ),
    // Without sni = "require" it passes, as the documentation says: not so its name.
    Row::refused(
        "shared address, a tenant's name",
        &[
            "bypass",
            "probe",
            "dns",
            "udp",
            "192.0.2.53:53",
            "tenant.test",
            "A",
        ],
        "192.0.2.40",
        REFUSED,
        &["dns/query deny name=tenant.test outcome=refused"],
    )
    .unseen(&["name:tenant.test"]),
];

/// Those who find names for others, and ways around port 53.
const SERVICES: &[Row] = &[
    service!("resolved's varlink", 0),
    service!("name service cache", 1),
    service!("D-Bus", 2),
    Row::refused(
        "multicast DNS v4",
        &["bypass", "probe", "multicast", "224.0.0.251:5353"],
        "echo",
        NOT_PERMITTED,
        &["network/send deny reason=no-rule address=224.0.0.251 port=5353"],
    )
    .unseen(&["to:224.0.0.251"]),
    Row::refused(
        "multicast DNS v6",
        &["bypass", "probe", "multicast", "[ff02::fb]:5353"],
        "echo",
        NOT_PERMITTED,
        &["network/send deny reason=no-rule address=ff02::fb port=5353"],
    )
    .unseen(&["to:ff02::fb"]),
    Row::refused(
        "DNS over TLS v4",
        &["bypass", "probe", "tcp", "192.0.2.80:853"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny reason=no-rule address=192.0.2.80 port=853"],
    )
    .unseen(&["to:192.0.2.80"]),
    Row::refused(
        "DNS over TLS v6",
        &["bypass", "probe", "tcp", "[2001:db8::80]:853"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny reason=no-rule address=2001:db8::80 port=853"],
    )
    .unseen(&["to:2001:db8::80"]),
    Row::refused(
        "DNS over TLS at an allowed name",
        &["bypass", "probe", "tcp", "4/allowed.test:853"],
        "echo",
        NOT_PERMITTED,
        &["network/connect deny address=192.0.2.10 port=853"],
    ),
    Row::refused(
        "DNS over HTTPS by name",
        &[
            "curl",
            "-sS",
            "--max-time",
            "20",
            "https://doh.test/dns-query?dns=AAAB",
        ],
        "an answer by https",
        "Could not resolve host",
        &["dns/query deny name=doh.test outcome=refused"],
    )
    .unseen(&["name:doh.test"]),
    Row::refused(
        "DNS over HTTPS by address",
        &[
            "curl",
            "-sS",
            "--max-time",
            "20",
            "https://192.0.2.80/dns-query?dns=AAAB",
        ],
        "an answer by https",
        "Failed to connect",
        &["network/connect deny reason=no-rule address=192.0.2.80 port=443"],
    )
    .unseen(&["to:192.0.2.80"]),
    Row::refused(
        "QUIC v4",
        &["bypass", "probe", "udp", "192.0.2.80:443"],
        "echo",
        NOT_PERMITTED,
        &["network/send deny reason=no-rule address=192.0.2.80 port=443"],
    ),
    Row::refused(
        "QUIC v6",
        &["bypass", "probe", "udp", "[2001:db8::80]:443"],
        "echo",
        NOT_PERMITTED,
        &["network/send deny reason=no-rule address=2001:db8::80 port=443"],
    ),
    Row::works(
        "QUIC to an allowed name",
        &["bypass", "probe", "udp", "4/allowed.test:443"],
        "echo",
        &["network/send allow name=allowed.test address=192.0.2.10 port=443"],
    ),
];
