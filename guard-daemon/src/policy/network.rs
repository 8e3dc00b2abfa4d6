//! Rules of `[network]`: names, IP literals and networks, with ports.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use super::document::DestinationText;
use super::error::{PolicyError, Spanned};
use super::glob::ListKind;
use super::lists::Kind;
use super::names::parse_pattern;

/// Longest prefix of ::ffff:0:0/96, in which IPv4 lies.
const MAPPED: u8 = 96;

/// A network and a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// IPv4 as IPv4-mapped; bits outside the prefix are zero.
    pub(crate) addr: u128,
    pub(crate) prefix: u8,
    pub(crate) ports: (u16, u16),
}

/// What a rule of `[network]` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Addresses.
    Network(Network),
    /// Names: labels in canonical form, first label first, and ports.
    Names(Vec<String>, (u16, u16)),
}

/// One rule of `[network]` for addresses.
#[derive(Clone, Debug)]
pub(crate) struct NetworkRule {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) kind: Kind,
    pub(crate) sets: u64,
    pub(crate) network: Network,
}

/// One abstract name of `network.unix`.
#[derive(Clone, Debug)]
pub(crate) struct AbstractRule {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) sets: u64,
    /// Without the zero in front.
    pub(crate) name: Vec<u8>,
}

/// An address as one number, IPv4 as IPv4-mapped.
pub(crate) fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    pub(crate) fn mask(&self) -> u128 {
        match self.prefix {
            0 => 0,
            n => u128::MAX << (128 - u32::from(n)),
        }
    }

    pub(crate) fn contains(&self, addr: u128, port: u16) -> bool {
        addr & self.mask() == self.addr && (self.ports.0..=self.ports.1).contains(&port)
    }
}

/// What is wrong with a rule, and where in its text; without: all of it.
#[derive(Debug)]
struct Bad {
    at: Option<Range<usize>>,
    message: String,
    help: String,
}

fn bad<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Bad> {
    Err(Bad {
        at: None,
        message: message.into(),
        help: help.into(),
    })
}

fn placed(text: &Spanned<String>, bad: Bad) -> PolicyError {
    let place = match bad.at {
        Some(at) => text.within(at, 0),
        None => text.place.clone(),
    };
    PolicyError::at(&place, bad.message).help(bad.help)
}

/// Reads a rule for destinations.
pub(crate) fn destination(
    rule: &DestinationText,
    list: ListKind,
) -> Result<Destination, PolicyError> {
    let read = read(&rule.text.value, list).map_err(|bad| placed(&rule.text, bad))?;
    match read {
        Destination::Network(_) if rule.sni.is_some() => {
            let message = "sni is for names, this is an address";
            let help = "write the address as a string, or the server's name";
            Err(PolicyError::at(&rule.text.place, message).help(help))
        }
        read => Ok(read),
    }
}

/// Reads a rule for addresses of this host.
pub(crate) fn listen(text: &Spanned<String>) -> Result<Network, PolicyError> {
    match read(&text.value, ListKind::DenyOrApprove) {
        Ok(Destination::Network(network)) => Ok(network),
        Ok(Destination::Names(..)) => {
            let message = format!(
                "{:?} is a name, listen takes addresses of this host",
                text.value
            );
            Err(PolicyError::at(&text.place, message).help("such as 127.0.0.1:8080 or [::1]:8080"))
        }
        Err(bad) => Err(placed(text, bad)),
    }
}

/// Splits `HOST`, `HOST:PORTS`, `[HOST]`, `[HOST]:PORTS`, `HOST/N:PORTS`.
fn split(text: &str) -> Result<(&str, Option<&str>), Bad> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return bad("a [ that is never closed", "write [ADDRESS]:PORT");
        };
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => bad(
                "something other than a port behind ]",
                "write [ADDRESS]:PORT; names have no [ ]",
            ),
        };
    }
    match text.split_once(':') {
        // Two colons or more: a bare IPv6 address, which has no port.
        Some((_, ports)) if ports.contains(':') => Ok((text, None)),
        Some((host, ports)) => Ok((host, Some(ports))),
        None => Ok((text, None)),
    }
}

fn port(text: &str) -> Result<u16, Bad> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => bad(
            format!("{text:?} is not a port"),
            "a port is a number from 1 to 65535, a range FIRST-LAST",
        ),
    }
}

fn ports(text: Option<&str>) -> Result<(u16, u16), Bad> {
    let Some(text) = text else {
        return Ok((0, u16::MAX));
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return bad(
            format!("the range of ports {first}-{last} is empty"),
            format!("write {last}-{first}"),
        );
    }
    Ok((first, last))
}

/// Whether this was meant as a domain name: it has something that no address has.
fn looks_like_name(host: &str) -> bool {
    let of_names = |c: char| c.is_alphabetic() || !c.is_ascii() || "*_-?{}[]$ ".contains(c);
    !host.contains(':') && host.contains(of_names)
}

fn read(text: &str, list: ListKind) -> Result<Destination, Bad> {
    if text.starts_with('!') {
        return bad(
            "network lists have no ! rules",
            "deny what is not wanted: deny wins over allow",
        );
    }
    if text.contains("://") {
        return bad(
            format!("{text:?} is a URL"),
            "write NAME:PORT, such as api.example.com:443",
        );
    }
    let (host, port_text) = split(text)?;
    if !text.starts_with('[') && looks_like_name(host) {
        let pattern = parse_pattern(host, list).map_err(|error| Bad {
            at: Some(error.at),
            message: error.message,
            help: error.help,
        })?;
        return Ok(Destination::Names(pattern, ports(port_text)?));
    }
    network(host, port_text).map(Destination::Network)
}

fn network(host: &str, port_text: Option<&str>) -> Result<Network, Bad> {
    let (addr_text, prefix_text) = match host.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (host, None),
    };
    let Ok(addr) = addr_text.parse::<IpAddr>() else {
        return bad(
            format!("{addr_text:?} is not an IP address"),
            "for example 10.1.2.3:5432, 10.1.0.0/16, [2001:db8::1]:443 or 2001:db8::/32",
        );
    };
    let widest = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix_text {
        None => widest,
        Some(text) => match text.parse::<u8>() {
            Ok(n) if n <= widest && text.bytes().all(|b| b.is_ascii_digit()) => n,
            _ => {
                return bad(
                    format!("/{text} is not a prefix length"),
                    format!("it goes from /0 to /{widest}"),
                );
            }
        },
    };
    let network = Network {
        addr: number(addr),
        prefix: if addr.is_ipv4() {
            prefix + MAPPED
        } else {
            prefix
        },
        ports: ports(port_text)?,
    };
    let first = network.addr & network.mask();
    if first != network.addr {
        let base = Ipv6Addr::from_bits(first);
        let base = if addr.is_ipv4() {
            base.to_ipv4_mapped().map_or(IpAddr::V6(base), IpAddr::V4)
        } else {
            IpAddr::V6(base)
        };
        return bad(
            format!("{addr} is not the first address of a /{prefix} network"),
            format!("write {base}/{prefix}, or {addr} alone"),
        );
    }
    let mapped = 0xffff_u128 << 32;
    if addr.is_ipv6() && prefix < MAPPED && mapped & network.mask() == first {
        return bad(
            format!("{host} would cover every IPv4 address too"),
            "name the IPv6 networks, such as 2000::/3, and IPv4 as 0.0.0.0/0",
        );
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(rule: &str, addr: &str, port: u16) -> bool {
        match read(rule, ListKind::Allow).unwrap() {
            Destination::Network(network) => network.contains(number(addr.parse().unwrap()), port),
            Destination::Names(..) => panic!("{rule} is a name"),
        }
    }

    #[test]
    fn rules_cover_what_they_name() {
        assert!(inside("10.1.0.0/16:5432", "10.1.2.3", 5432));
        assert!(inside("10.1.0.0/16:5432", "::ffff:10.1.2.3", 5432));
        assert!(!inside("10.1.0.0/16:5432", "10.1.2.3", 5433));
        assert!(!inside("10.1.0.0/16:5432", "10.2.0.0", 5432));
        assert!(inside("10.1.2.3", "10.1.2.3", 0));
        assert!(inside("[2001:db8::1]:443", "2001:db8::1", 443));
        assert!(inside("2001:db8::/32", "2001:db8:1::1", 65535));
        assert!(inside("[2001:db8::/32]:80-90", "2001:db8::", 90));
        assert!(!inside("[2001:db8::/32]:80-90", "2001:db8::", 91));
        assert!(inside("0.0.0.0/0", "255.255.255.255", 1));
        assert!(!inside("0.0.0.0/0", "::1", 1));
        assert!(inside("::1", "::1", 1));
    }

    #[test]
    fn what_is_refused() {
        for (rule, part) in [
            ("api.github.com:0", "not a port"),
            ("api.github.com:443:80", "not an IP address"),
            ("https://api.github.com", "is a URL"),
            ("api.github.com/x", "'/'"),
            ("api.github.com ", "' '"),
            ("[ab].example.com", "other than a port"),
            ("a[b].example.com", "'['"),
            ("*", "every name"),
            ("10.1.0.1/16", "not the first address"),
            ("10.1.0.0/33", "prefix length"),
            ("10.1.0.0/+8", "prefix length"),
            ("10.1.0.0:0", "not a port"),
            ("10.1.0.0:99999", "not a port"),
            ("10.1.0.0:90-80", "is empty"),
            ("10.1.0.0:", "not a port"),
            ("[::1", "never closed"),
            ("[::1]443", "other than a port"),
            ("10.1.2", "not an IP address"),
            ("", "not an IP address"),
            ("!10.0.0.1", "no ! rules"),
            ("::/0", "every IPv4 address"),
        ] {
            let message = read(rule, ListKind::Allow).expect_err(rule).message;
            assert!(message.contains(part), "{rule}: {message}");
        }
    }

    #[test]
    fn what_is_a_name() {
        for (rule, name, ports) in [
            ("api.github.com:443", "api.github.com", (443, 443)),
            ("*.npmjs.org", "*.npmjs.org", (0, 65535)),
            ("localhost:8000-8100", "localhost", (8000, 8100)),
            ("face.be:1", "face.be", (1, 1)),
            ("x-1", "x-1", (0, 65535)),
        ] {
            let read = read(rule, ListKind::Allow).unwrap();
            let labels = name.split('.').map(str::to_owned).collect();
            assert_eq!(read, Destination::Names(labels, ports), "{rule}");
        }
    }
}
