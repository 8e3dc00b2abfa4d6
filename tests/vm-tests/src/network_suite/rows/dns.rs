//! Questions for names: every way to ask, every server, every form of a name.

use crate::network_suite::row::{Policy, Row};

const SERVER: &str = "192.0.2.53:53";

/// The same question by one way, of an allowed name and of another.
macro_rules! way {
    ($title:literal, $way:literal, $server:literal) => {
        [
            Row::works(
                concat!($title, ", allowed"),
                &["bypass", "probe", "dns", $way, $server, "allowed.test", "A"],
                "192.0.2.10",
                &["dns/query allow name=allowed.test record=A outcome=answered rule=network.allow"],
            ),
            Row::refused(
                concat!($title, ", denied"),
                &["bypass", "probe", "dns", $way, $server, "denied.test", "A"],
                "192.0.2.30",
                "code 3 records 0; guard: network.deny",
                &["dns/query deny name=denied.test record=A outcome=refused rule=network.deny"],
            )
            .unseen(&["name:denied.test"]),
            Row::refused(
                concat!($title, ", not named"),
                &[
                    "bypass",
                    "probe",
                    "dns",
                    $way,
                    $server,
                    "other.test",
                    "AAAA",
                ],
                "2001:db8::20",
                "code 3 records 0; guard: no rule allows this name",
                &["dns/query deny name=other.test record=AAAA outcome=refused reason=no-rule"],
            )
            .unseen(&["name:other.test"]),
        ]
    };
}

const WAYS: [[Row; 3]; 14] = [
    way!("udp to the host's server", "udp", "192.0.2.53:53"),
    way!("udp to another server", "udp", "8.8.8.8:53"),
    way!("udp v6 to the host's server", "udp", "[2001:db8::53]:53"),
    way!(
        "udp v6 to another server",
        "udp",
        "[2001:4860:4860::8888]:53"
    ),
    way!("udp mapped", "udp", "m/8.8.8.8:53"),
    way!("udp connected", "udp-connect", "8.8.8.8:53"),
    way!(
        "udp connected v6",
        "udp-connect",
        "[2001:4860:4860::8888]:53"
    ),
    way!("udp reconnected", "udp-reconnect", "8.8.8.8:53"),
    way!("udp by sendmmsg", "sendmmsg", "8.8.8.8:53"),
    way!("tcp", "tcp", "8.8.8.8:53"),
    way!("tcp v6", "tcp", "[2001:4860:4860::8888]:53"),
    way!("tcp mapped", "tcp", "m/8.8.8.8:53"),
    way!("tcp with fast open", "fast-open", "8.8.8.8:53"),
    way!(
        "tcp v6 with fast open",
        "fast-open",
        "[2001:4860:4860::8888]:53"
    ),
];

/// A name in some form, that is allowed.
macro_rules! answered {
    ($title:literal, $name:literal, $record:literal, $says:literal, $as:literal) => {
        Row::works(
            $title,
            &["bypass", "probe", "dns", "udp", SERVER, $name, $record],
            $says,
            &[concat!(
                "dns/query allow outcome=answered record=",
                $record,
                " name=",
                $as
            )],
        )
    };
}

/// A name in some form, that is refused.
macro_rules! refused {
    ($title:literal, $name:literal, $record:literal, $says:literal, $event:literal) => {
        Row::refused(
            $title,
            &["bypass", "probe", "dns", "udp", SERVER, $name, $record],
            $says,
            "code 3",
            &[concat!(
                "dns/query deny outcome=refused record=",
                $record,
                " ",
                $event
            )],
        )
        .unseen(&[concat!("name:", $name)])
    };
}

const FORMS: &[Row] = &[
    answered!(
        "case and a trailing dot",
        "ALLOWED.Test.",
        "A",
        "192.0.2.10",
        "ALLOWED.Test"
    ),
    answered!(
        "punycode",
        "xn--bcher-kva.test",
        "A",
        "192.0.2.17",
        "xn--bcher-kva.test"
    ),
    answered!(
        "underscore",
        "under_score.allowed.test",
        "A",
        "192.0.2.11",
        "under_score.allowed.test"
    ),
    answered!(
        "subdomain",
        "sub.allowed.test",
        "AAAA",
        "2001:db8::11",
        "sub.allowed.test"
    ),
    answered!(
        "deep subdomain",
        "a.b.c.allowed.test",
        "A",
        "192.0.2.11",
        "a.b.c.allowed.test"
    ),
    answered!(
        "label of 63 bytes",
        "lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.allowed.test",
        "A",
        "192.0.2.11",
        "lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.allowed.test"
    ),
    answered!(
        "name of 253 bytes",
        "lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm.allowed.test",
        "A",
        "192.0.2.11",
        "lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm.allowed.test"
    ),
    answered!("text", "allowed.test", "TXT", "records 1", "allowed.test"),
    answered!(
        "service",
        "_echo._tcp.allowed.test",
        "SRV",
        "records 1",
        "_echo._tcp.allowed.test"
    ),
    answered!(
        "chain of five",
        "chain.allowed.test",
        "A",
        "192.0.2.13",
        "chain.allowed.test chain=five.cdn.test"
    ),
    refused!(
        "case and a trailing dot, denied",
        "DENIED.Test.",
        "A",
        "192.0.2.30",
        "rule=network.deny"
    ),
    refused!(
        "below a denied name",
        "sub.denied.test",
        "A",
        "192.0.2.30",
        "name=sub.denied.test rule=network.deny"
    ),
    refused!(
        "deny over allow",
        "db.internal.allowed.test",
        "A",
        "192.0.2.31",
        "name=db.internal.allowed.test rule=network.deny"
    ),
    refused!(
        "name with an allowed end",
        "notallowed.test",
        "A",
        "192.0.2.20",
        "name=notallowed.test reason=no-rule"
    ),
    refused!(
        "name with an allowed front",
        "allowed.test.evil.test",
        "A",
        "192.0.2.20",
        "name=allowed.test.evil.test reason=no-rule"
    ),
    refused!(
        "text, refused",
        "other.test",
        "TXT",
        "records 1",
        "name=other.test reason=no-rule"
    ),
    refused!(
        "chain to a denied name",
        "to-denied.allowed.test",
        "A",
        "192.0.2.30",
        "name=to-denied.allowed.test rule=network.deny chain=denied.test"
    )
    .unseen(&[]),
    refused!(
        "address to name, not told",
        "20.2.0.192.in-addr.arpa",
        "PTR",
        "records 1",
        "name=20.2.0.192.in-addr.arpa"
    ),
    // The apex is not below itself.
    refused!(
        "wildcard and its apex",
        "allowed.test",
        "A",
        "192.0.2.10",
        "name=allowed.test reason=no-rule"
    )
    .under(Policy::Wild)
    .unseen(&[]),
    answered!(
        "wildcard",
        "a.b.c.allowed.test",
        "A",
        "192.0.2.11",
        "a.b.c.allowed.test"
    )
    .under(Policy::Wild),
    // The one address that the sandbox was told a name of.
    Row::works(
        "address to name, told",
        &[
            "bypass",
            "probe",
            "dns",
            "udp",
            SERVER,
            "10.2.0.192.in-addr.arpa",
            "PTR",
        ],
        "records 1",
        &["dns/query allow record=PTR outcome=answered chain=allowed.test"],
    ),
];

/// `dig` for a denied name, whose status says nothing.
macro_rules! dig {
    ($title:literal, $words:expr, $record:literal) => {
        Row::refused(
            $title,
            $words,
            "192.0.2.30",
            "guard: network.deny",
            &[concat!(
                "dns/query deny name=denied.test rule=network.deny outcome=refused record=",
                $record
            )],
        )
        .says("192.0.2.30", "guard: network.deny")
        .unseen(&["name:denied.test"])
    };
}

const DIG: &[Row] = &[
    Row::works(
        "dig, allowed",
        &["dig", "+short", "allowed.test"],
        "192.0.2.10",
        &["dns/query allow name=allowed.test outcome=answered"],
    ),
    dig!("dig", &["dig", "denied.test"], "A"),
    dig!("dig +tcp", &["dig", "+tcp", "denied.test"], "A"),
    dig!("dig @8.8.8.8", &["dig", "@8.8.8.8", "denied.test"], "A"),
    dig!(
        "dig @8.8.8.8 +tcp",
        &["dig", "@8.8.8.8", "+tcp", "denied.test"],
        "A"
    ),
    dig!(
        "dig @v6",
        &["dig", "@2001:4860:4860::8888", "denied.test"],
        "A"
    ),
    dig!(
        "dig @v6 +tcp",
        &["dig", "@2001:4860:4860::8888", "+tcp", "denied.test"],
        "A"
    ),
    dig!(
        "dig @mapped",
        &["dig", "@::ffff:8.8.8.8", "denied.test"],
        "A"
    ),
    dig!(
        "dig @mapped +tcp",
        &["dig", "@::ffff:8.8.8.8", "+tcp", "denied.test"],
        "A"
    ),
    // More than a datagram holds: over TCP then.
    Row::works(
        "dig, a long answer",
        &["dig", "+bufsize=1232", "big.allowed.test", "TXT"],
        "status: NOERROR",
        &["dns/query allow name=big.allowed.test record=TXT tcp=true outcome=answered"],
    ),
    Row::works(
        "dig, how services are reached",
        &["dig", "+short", "allowed.test", "HTTPS"],
        "ech=",
        &["dns/query allow name=allowed.test record=HTTPS outcome=answered"],
    )
    .but_lacks("ech="),
    // What reaches the resolver and is no question, or none that is answered.
    Row::refused(
        "a question for everything",
        &[
            "bypass",
            "probe",
            "dns",
            "tcp",
            SERVER,
            "allowed.test",
            "ANY",
        ],
        "code 0",
        "code",
        &["dns/query deny name=allowed.test record=ANY"],
    ),
    Row::refused(
        "a zone",
        &["dig", "+tries=1", "allowed.test", "AXFR"],
        "Transfer failed",
        "Transfer failed",
        &["dns/query deny name=allowed.test record=AXFR"],
    )
    .says("Transfer failed", "Transfer failed"),
    Row::refused(
        "bytes that are no question",
        &[
            "bypass",
            "probe",
            "dns-raw",
            SERVER,
            "000001000001000000000000c00c00010001",
        ],
        "code 1",
        "",
        &["dns/query deny outcome=malformed"],
    )
    .says("", ""),
    // Much information in names under an allowed zone.
    Row::refused(
        "tunnel through an allowed zone",
        &["bypass", "probe", "tunnel", "tunnel.allowed.test", "60"],
        "60 answered, 0 refused",
        "refused",
        &[
            "dns/query deny outcome=limited reason=query-limit",
            "dns/query allow outcome=answered",
        ],
    )
    .under(Policy::Alone)
    .within(60),
];

pub const ROWS: &[&[Row]] = &[
    &WAYS[0], &WAYS[1], &WAYS[2], &WAYS[3], &WAYS[4], &WAYS[5], &WAYS[6], &WAYS[7], &WAYS[8],
    &WAYS[9], &WAYS[10], &WAYS[11], &WAYS[12], &WAYS[13], FORMS, DIG,
];
