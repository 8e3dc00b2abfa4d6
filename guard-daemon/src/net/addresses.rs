//! Which addresses a name may lead to. A name of somebody else's that leads to a
//! private address makes the sandbox reach what only this host can
//! (DNS rebinding), so such addresses count only where the policy names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds of the longest TTL that a sandbox is told, and that is granted.
pub const MAX_TTL: u32 = 3600;
/// Seconds of the shortest: programs resolve, then connect.
pub const MIN_TTL: u32 = 5;

/// Networks that are nobody's on the Internet: address and length of the prefix.
/// IANA's special-purpose registries (RFC 6890), but for documentation networks,
/// which lead nowhere.
const PRIVATE4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),      // this network, RFC 791
    (Ipv4Addr::new(10, 0, 0, 0), 8),     // RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10),  // carriers' own, RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8),    // loopback, RFC 1122
    (Ipv4Addr::new(169, 254, 0, 0), 16), // link-local, cloud metadata, RFC 3927
    (Ipv4Addr::new(172, 16, 0, 0), 12),  // RFC 1918
    (Ipv4Addr::new(192, 0, 0, 0), 24),   // IETF protocols, RFC 6890
    (Ipv4Addr::new(192, 88, 99, 0), 24), // 6to4 relays, RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16), // RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15),  // benchmarks, RFC 2544
    (Ipv4Addr::new(224, 0, 0, 0), 3),    // multicast, reserved, broadcast
];

/// The same for IPv6. What holds an IPv4 address is judged by that.
const PRIVATE6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64), // discarded, RFC 6666
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16), // segment routing, RFC 9602
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7), // unique local, RFC 4193
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), // link-local, RFC 4291
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10), // site-local, RFC 3879
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), // multicast, RFC 4291
];

/// Whether a name may not lead to an address: it is private, and none of
/// `networks` (IPv4 as IPv4-mapped, and the length of the prefix) holds it.
#[must_use]
pub fn is_private(addr: IpAddr, networks: &[(u128, u8)]) -> bool {
    let bits = match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let special = match addr {
        IpAddr::V4(v4) => is_private4(v4),
        IpAddr::V6(v6) => is_private6(v6),
    };
    special
        && !networks
            .iter()
            .any(|(net, prefix)| same_prefix128(bits, *net, u32::from(*prefix)))
}

fn is_private4(addr: Ipv4Addr) -> bool {
    PRIVATE4.iter().any(|(net, prefix)| {
        let shift = 32 - prefix;
        addr.to_bits() >> shift == net.to_bits() >> shift
    })
}

fn is_private6(addr: Ipv6Addr) -> bool {
    let listed =
        |(net, prefix): &(Ipv6Addr, u32)| same_prefix128(addr.to_bits(), net.to_bits(), *prefix);
    PRIVATE6.iter().any(listed) || embedded(addr).is_some_and(is_private4)
}

/// The IPv4 address that an IPv6 address stands for, or leads to.
fn embedded(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = addr.segments();
    let of = |hi: u16, lo: u16| Ipv4Addr::from_bits(u32::from(hi) << 16 | u32::from(lo));
    match s {
        // ::a.b.c.d, which is deprecated, and ::ffff:a.b.c.d (RFC 4291, 2.5.5).
        [0, 0, 0, 0, 0, 0 | 0xffff, hi, lo] => Some(of(hi, lo)),
        // Translated, RFC 2765.
        [0, 0, 0, 0, 0xffff, 0, hi, lo] => Some(of(hi, lo)),
        // NAT64, RFC 6052 and RFC 8215.
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] | [0x64, 0xff9b, 1, _, _, _, hi, lo] => Some(of(hi, lo)),
        // 6to4, RFC 3056.
        [0x2002, hi, lo, ..] => Some(of(hi, lo)),
        // Teredo holds the client's address inverted, RFC 4380.
        [0x2001, 0, .., hi, lo] => Some(of(!hi, !lo)),
        _ => None,
    }
}

const fn same_prefix128(a: u128, b: u128, prefix: u32) -> bool {
    match prefix {
        0 => true,
        1..=128 => a >> (128 - prefix) == b >> (128 - prefix),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(addr: &str) -> bool {
        is_private(addr.parse().unwrap(), &[])
    }

    #[test]
    fn what_is_private() {
        for addr in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.251",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd00::1",
            "fc00::1",
            "ff02::fb",
            "100::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::7f00:1",
            "2002:a00:1::",
            "2002:7f00:1::1",
            "::ffff:0:127.0.0.1",
            "2001:0:1:2:3:4:f5ff:fffe",
        ] {
            assert!(private(addr), "{addr}");
        }
    }

    #[test]
    fn what_is_not() {
        for addr in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:db8::1",
            "64:ff9b::8.8.8.8",
            "::ffff:8.8.8.8",
            "2002:808:808::",
            "fbff::1",
            "2001:4860::8888",
        ] {
            assert!(!private(addr), "{addr}");
        }
    }

    #[test]
    fn a_network_that_the_policy_names_is_not() {
        let mapped = |a, b, c, d| Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().to_bits();
        let networks = [
            (mapped(10, 1, 0, 0), 96 + 16),
            (Ipv6Addr::LOCALHOST.to_bits(), 128),
        ];
        let private = |addr: &str| is_private(addr.parse().unwrap(), &networks);
        assert!(!private("10.1.2.3") && !private("::ffff:10.1.2.3") && !private("::1"));
        assert!(private("10.2.0.1") && private("127.0.0.1") && private("fd00::1"));
    }
}
