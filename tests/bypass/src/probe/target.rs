//! Where a step goes: `192.0.2.1:7`, `[2001:db8::1]:7`, or a name, which is asked
//! for first: `4/allowed.test:7` by its A record, `6/…` by AAAA, `m/…` as an
//! IPv4-mapped address.

use std::net::{IpAddr, SocketAddr};

use super::dns;
use crate::attack::{Failure, nothing};

/// The address that a word stands for.
pub(crate) fn find(word: &str) -> Result<SocketAddr, Failure> {
    let Some((how, rest)) = word.split_once('/') else {
        return word
            .parse()
            .map_err(|_| Failure::Untried(format!("{word} is no address")));
    };
    let (name, port) = rest
        .rsplit_once(':')
        .ok_or_else(|| nothing("a name with a port"))?;
    let port: u16 = port.parse().map_err(|_| nothing("a port"))?;
    // A literal address, to be mapped.
    if let (Ok(IpAddr::V4(v4)), "m") = (name.parse(), how) {
        return Ok(SocketAddr::from((v4.to_ipv6_mapped(), port)));
    }
    let record = if how == "6" { "AAAA" } else { "A" };
    let address = match dns::ask_server(name, record)?.addresses.first() {
        Some(address) => *address,
        None => return Err(nothing(&format!("no address of {name}"))),
    };
    Ok(match (how, address) {
        ("m", IpAddr::V4(v4)) => SocketAddr::from((v4.to_ipv6_mapped(), port)),
        _ => SocketAddr::from((address, port)),
    })
}

/// An address as the kernel takes it (`struct sockaddr_in`, `sockaddr_in6`).
pub(crate) fn raw(address: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![];
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}
