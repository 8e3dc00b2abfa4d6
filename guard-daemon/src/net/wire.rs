//! What the supervisor and the process `guard __net` say to each other: JSON in
//! packets ([`crate::wire::transport`]), which never carry what a sandbox wrote
//! but in checked fields.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::policy::names::{Name, NameRules};

/// Names in the chain of an answer that are told.
pub const MAX_CHAIN: usize = 16;
/// Addresses of one answer that are granted and given to the sandbox.
pub const MAX_ADDRESSES: usize = 64;

/// Supervisor to resolver.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToNet {
    /// Answers for a sandbox. Its sockets come along, already bound: UDP and TCP
    /// over IPv4 (listening), then, where `v6`, UDP and TCP over IPv6; then,
    /// where `splice`, the TCP sockets of the splice, IPv4 and, where `v6`, IPv6.
    Open {
        /// The sandbox's number.
        sandbox: u64,
        /// What may be asked for.
        rules: NameRules,
        /// Rule sets that the policy has.
        sets: u64,
        /// Networks that the policy's address rules allow: the only private ones
        /// that a name may lead to. Address as in [`crate::policy`] (IPv4 as
        /// IPv4-mapped) and length of the prefix.
        networks: Vec<(u128, u8)>,
        /// Servers to ask; empty: the host's.
        upstreams: Vec<SocketAddr>,
        /// Sockets over IPv6 come along.
        v6: bool,
        /// Sockets of the splice come along.
        splice: bool,
        /// Nothing is refused: answers are as upstream gives them, evidence says
        /// what would have been done.
        audit_only: bool,
    },
    /// Forgets a sandbox: closes its sockets.
    Close {
        /// The sandbox's number.
        sandbox: u64,
    },
    /// Answer to [`FromNet::Grant`].
    Granted {
        /// The ticket of the grant.
        ticket: u64,
        /// The addresses are open now; otherwise the question fails.
        open: bool,
    },
    /// Answer to [`FromNet::Origin`]: where a connection was to go, and the name
    /// that opens it; `None`: nowhere, close it.
    Origin {
        /// The ticket of the question.
        ticket: u64,
        /// Destination, and the name that it was opened for.
        origin: Option<(SocketAddr, Name)>,
    },
}

/// Resolver to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromNet {
    /// It is confined and takes requests.
    Ready,
    /// Asks to open addresses. The answer to the sandbox waits for
    /// [`ToNet::Granted`].
    Grant {
        /// Number of the request.
        ticket: u64,
        /// The sandbox's number.
        sandbox: u64,
        /// The name that was asked for.
        name: Name,
        /// Where it leads, and for how many seconds the sandbox is told so.
        addresses: Vec<(IpAddr, u32)>,
    },
    /// Asks where a spliced connection was to go, by the cookie of the sandbox's
    /// socket.
    Origin {
        /// Number of the request.
        ticket: u64,
        /// The sandbox's number.
        sandbox: u64,
        /// `SO_COOKIE` of the socket that was connected.
        cookie: u64,
    },
    /// Evidence of a question.
    Asked(Asked),
    /// Evidence of a spliced connection.
    Spliced(Spliced),
    /// So many questions got no event of their own: they came too fast.
    Unnamed {
        /// The sandbox's number.
        sandbox: u64,
        /// How many.
        count: u64,
    },
}

/// What became of a question for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Answered with records.
    Answered,
    /// The name exists and has no such record, or does not exist.
    Nothing,
    /// The policy refuses the name.
    Refused,
    /// It leads to private addresses that the policy does not name.
    Private,
    /// Too many questions, or too much information in them.
    Limited,
    /// No upstream answered.
    NoUpstream,
    /// The addresses could not be opened.
    NotOpened,
    /// The question is not a question, or of a form that is not answered.
    Malformed,
}

/// A question and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The sandbox's number.
    pub sandbox: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// The name as it was asked for, escaped ([`crate::wire::escape`]).
    pub name: String,
    /// Record type: `A`, `AAAA`, `TXT`, or `TYPE65280` (RFC 3597, 5).
    pub record: String,
    /// Over TCP.
    pub tcp: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// Id and text of the rule that decided.
    pub rule: Option<(String, String)>,
    /// The names that it led over, without the first; at most [`MAX_CHAIN`].
    pub chain: Vec<Name>,
    /// Addresses that were answered; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// Seconds for which the answer holds.
    pub ttl: Option<u32>,
    /// It was known already, nobody was asked.
    pub cached: bool,
}

/// A connection that went through the splice, or was refused there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spliced {
    /// The sandbox's number.
    pub sandbox: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Where it was to go.
    pub to: SocketAddr,
    /// The server name of the ClientHello, escaped; `None` for none.
    pub sni: Option<String>,
    /// Why it was refused; `None`: it was let through.
    pub refused: Option<SpliceRefusal>,
}

/// Why a connection was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpliceRefusal {
    /// It does not begin with a ClientHello that can be read.
    NoHello,
    /// No server name.
    NoName,
    /// The hello hides its name (Encrypted Client Hello).
    Encrypted,
    /// The name is not one that the policy allows there.
    Name,
    /// The hello did not come in time.
    Late,
    /// The sandbox has too many such connections.
    Busy,
}
