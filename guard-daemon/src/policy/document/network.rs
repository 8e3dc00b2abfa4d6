//! `[network]` as written.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use guard_common::names::{DNS_PORT, is_resolvers};
use toml_edit::TableLike;

use super::keys::{ALLOWED_NAME, NETWORK, NETWORK_INCLUDE};
use super::reader::Reader;
use crate::policy::error::{PolicyError, Spanned};
use crate::policy::network::number;

/// The lists that judge destinations, in the order of [`NetworkSection::lists`].
pub(crate) const NETWORK_LISTS: [&str; 3] = ["allow", "deny", "approve"];

/// Servers that `network.upstreams` may name.
pub(crate) const MAX_UPSTREAMS: usize = 8;

/// What the server name of a TLS connection is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sni {
    /// Nobody looks.
    #[default]
    Off,
    /// TLS only, and only with a name that passes.
    Require,
}

/// A rule that judges destinations, as written.
#[derive(Clone, Debug)]
pub(crate) struct DestinationText {
    pub(crate) text: Spanned<String>,
    /// Its own, where it has one.
    pub(crate) sni: Option<Sni>,
}

/// `[network]`.
#[derive(Debug, Default)]
pub(crate) struct NetworkSection {
    pub(crate) lists: [Vec<DestinationText>; 3],
    /// Addresses of this host at which the server may be reached.
    pub(crate) listen: Vec<Spanned<String>>,
    /// Unix sockets of others that it may connect to.
    pub(crate) unix: Vec<Spanned<String>>,
    /// For rules of this document that do not say it themselves.
    pub(crate) sni: Sni,
    /// Servers to ask for names; empty: the host's.
    pub(crate) upstreams: Vec<SocketAddr>,
}

impl Reader {
    /// `[network]`, its keys checked.
    pub(super) fn network(&mut self, top: &toml_edit::Table) -> NetworkSection {
        let keys = if self.is_include() {
            &NETWORK_INCLUDE
        } else {
            &NETWORK
        };
        let mut section = NetworkSection::default();
        let Some(network) = self.table(top, keys) else {
            return section;
        };
        for (list, key) in section.lists.iter_mut().zip(NETWORK_LISTS) {
            *list = self.destinations(network, key);
        }
        section.listen = self.rules(network, "network", "listen");
        section.unix = self.rules(network, "network", "unix");
        if !self.is_include() {
            section.sni = self.sni(network, "network").unwrap_or_default();
            section.upstreams = self.upstreams(network);
        }
        section
    }

    fn sni(&mut self, table: &dyn TableLike, section: &str) -> Option<Sni> {
        let words = [("off", Sni::Off), ("require", Sni::Require)];
        self.word(table, section, "sni", &words)
    }

    /// Rules for addresses and names; in `allow` some may be tables.
    fn destinations(&mut self, network: &dyn TableLike, key: &str) -> Vec<DestinationText> {
        let full = format!("network.{key}");
        let Some(item) = network.get(key) else {
            return Vec::new();
        };
        let Some(array) = item.as_array().filter(|_| key == "allow") else {
            let texts = self.rules(network, "network", key);
            let plain = |text| DestinationText { text, sni: None };
            return texts.into_iter().map(plain).collect();
        };
        let mut out = Vec::with_capacity(array.len());
        for value in array {
            let place = self.place(value.span());
            if let Some(text) = value.as_str() {
                let value = text.to_owned();
                let text = Spanned { value, place };
                out.push(DestinationText { text, sni: None });
            } else if let Some(table) = value.as_inline_table() {
                out.extend(self.allowed_name(table, &place));
            } else {
                let message = format!("{full:?} takes strings, this is {}", value.type_name());
                self.errors.push(PolicyError::at(&place, message).help(
                    "or a name with a setting: { name = \"api.example.com:443\", sni = \"require\" }",
                ));
            }
        }
        let texts: Vec<_> = out.iter().map(|rule| rule.text.clone()).collect();
        self.refuse_twice(&texts, &format!("rule of {full:?}"));
        out
    }

    /// `{ name = "…", sni = "…" }`.
    fn allowed_name(
        &mut self,
        table: &toml_edit::InlineTable,
        place: &crate::policy::error::Place,
    ) -> Option<DestinationText> {
        self.check_keys(table, &ALLOWED_NAME);
        let sni = self.sni(table, ALLOWED_NAME.table);
        let name = table.get("name");
        let Some(value) = name.and_then(toml_edit::Value::as_str) else {
            let place = name.map_or(place.clone(), |name| self.place(name.span()));
            self.errors.push(
                PolicyError::at(&place, "a rule that is a table needs a name, a string")
                    .help("for example: { name = \"api.example.com:443\", sni = \"require\" }"),
            );
            return None;
        };
        let text = Spanned {
            value: value.to_owned(),
            place: self.place(name.and_then(toml_edit::Value::span)),
        };
        Some(DestinationText { text, sni })
    }

    fn upstreams(&mut self, network: &dyn TableLike) -> Vec<SocketAddr> {
        let texts = self.strings(network, "upstreams", "network.upstreams");
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for text in texts.unwrap_or_default() {
            let error = |message: String, help: &str| {
                Some(PolicyError::at(&text.place, message).help(help))
            };
            let error = match upstream(&text.value) {
                _ if out.len() == MAX_UPSTREAMS => error(
                    format!("more than {MAX_UPSTREAMS} servers"),
                    "name fewer: they are asked in turn",
                ),
                None => error(
                    format!("{:?} is not the address of a server", text.value),
                    "an IP address with or without a port: \"9.9.9.9\", \"[2620:fe::fe]:53\"",
                ),
                Some(server) if !usable(server) => error(
                    format!("no server can be asked at {server}"),
                    "name the address of a resolver outside of guard",
                ),
                Some(server) if !seen.insert(server) => {
                    error(format!("{server} is already a server"), "take one out")
                }
                Some(server) => {
                    out.push(server);
                    None
                }
            };
            if let Some(error) = error {
                self.errors.push(error);
                if out.len() == MAX_UPSTREAMS {
                    break;
                }
            }
        }
        out
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn upstream(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|inner| inner.contains(':'))
        .unwrap_or(text);
    let server = match bare.parse::<IpAddr>() {
        Ok(addr) => SocketAddr::new(addr, DNS_PORT),
        Err(_) => text.parse().ok()?,
    };
    match server.ip().to_canonical() {
        IpAddr::V4(v4) => Some(SocketAddr::new(v4.into(), server.port())),
        IpAddr::V6(_) => Some(server),
    }
}

/// Whether something can answer there that is not guard itself.
fn usable(server: SocketAddr) -> bool {
    let addr = server.ip();
    let bits = number(addr);
    let guards = is_resolvers(((bits >> 64) as u64, bits as u64), server.port());
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    server.port() != 0 && !addr.is_unspecified() && !addr.is_multicast() && !broadcast && !guards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (text, server) in [
            ("9.9.9.9", "9.9.9.9:53"),
            ("9.9.9.9:5353", "9.9.9.9:5353"),
            ("2620:fe::fe", "[2620:fe::fe]:53"),
            ("[2620:fe::fe]", "[2620:fe::fe]:53"),
            ("[2620:fe::fe]:853", "[2620:fe::fe]:853"),
            ("[::ffff:9.9.9.9]:53", "9.9.9.9:53"),
            ("127.0.0.53", "127.0.0.53:53"),
        ] {
            let read = upstream(text).unwrap();
            assert_eq!(read, server.parse().unwrap(), "{text}");
            assert!(usable(read), "{text}");
        }
        for bad in [
            "",
            "dns.quad9.net",
            "9.9.9.9:",
            "9.9.9.9:x",
            "[9.9.9.9]",
            "[]",
            "1.2.3",
        ] {
            assert_eq!(upstream(bad), None, "{bad}");
        }
        for bad in [
            "9.9.9.9:0",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "127.83.0.1",
        ] {
            assert!(!usable(upstream(bad).unwrap()), "{bad}");
        }
    }
}
