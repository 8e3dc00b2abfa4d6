//! `sni = "require"`: TLS alone, and only with a server name that passes.

use crate::network_suite::row::{Policy, Row};

pub const ROWS: &[&[Row]] = &[&[
    Row::works(
        "sni, the name",
        &["curl", "-4", "-sS", "https://first.allowed.test/"],
        "page of first.allowed.test",
        &["network/tls allow name=first.allowed.test address=192.0.2.40 port=443"],
    )
    .under(Policy::Sni),
    Row::works(
        "sni v6, the name",
        &["curl", "-6", "-sS", "https://first.allowed.test/"],
        "page of first.allowed.test",
        &["network/tls allow name=first.allowed.test address=2001:db8::40 port=443"],
    )
    .under(Policy::Sni),
    Row::refused(
        "sni, another name at the address",
        &[
            "curl",
            "-k",
            "-sS",
            "--max-time",
            "20",
            "--connect-to",
            "tenant.test:443:first.allowed.test:443",
            "https://tenant.test/",
        ],
        "page of the tenant",
        "SSL",
        &["network/tls deny sni=tenant.test reason=server-name address=192.0.2.40"],
    )
    .under(Policy::Sni),
    Row::refused(
        "sni, no name",
        &[
            "curl",
            "-4",
            "-k",
            "-sS",
            "--max-time",
            "20",
            "--resolve",
            "first.allowed.test:443:192.0.2.40",
            "--connect-to",
            "192.0.2.40:443:first.allowed.test:443",
            "https://192.0.2.40/",
        ],
        "page of",
        "SSL",
        &["network/tls deny reason=no-server-name address=192.0.2.40"],
    )
    .under(Policy::Sni),
    Row::refused(
        "sni, no TLS",
        &[
            "curl",
            "-4",
            "-sS",
            "--max-time",
            "20",
            "http://first.allowed.test:443/",
        ],
        "400",
        "",
        &["network/tls deny reason=no-server-name address=192.0.2.40"],
    )
    .under(Policy::Sni),
    Row::refused(
        "sni, QUIC v4",
        &["bypass", "probe", "udp", "4/first.allowed.test:443"],
        "echo",
        super::NOT_PERMITTED,
        &["network/send deny address=192.0.2.40 port=443"],
    )
    .under(Policy::Sni),
    Row::refused(
        "sni, QUIC v6",
        &["bypass", "probe", "udp", "6/first.allowed.test:443"],
        "echo",
        super::NOT_PERMITTED,
        &["network/send deny address=2001:db8::40 port=443"],
    )
    .under(Policy::Sni),
]];
