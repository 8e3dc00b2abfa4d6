//! The audit event: one line of the trail, without its place in the chain.
//! Member order is the order of the fields (docs/audit.md).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::words::{Digest, Reason, Word};
use crate::wire::{Enforcement, Outcome};

/// Version of the lines' form, the member `v`.
pub const VERSION: u32 = 1;

/// What happened, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When, UTC, nanoseconds.
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    /// Id of the boot.
    pub boot: String,
    /// Where; `None` for what concerns the supervisor or the trail itself.
    pub sandbox: Option<SandboxRef>,
    /// During which call; `None` where no access was attributed (a `call`
    /// event is about a call, it has not happened during one).
    pub call: Option<Attribution>,
    /// Who; `None` where no process acted.
    pub process: Option<Process>,
    /// What.
    #[serde(flatten)]
    pub body: Body,
    /// The policy's verdict; `None` where nothing was judged.
    pub verdict: Option<Verdict>,
    /// Whether the verdict was applied.
    pub mode: Option<Mode>,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
    /// Why, when no rule says so.
    pub reason: Option<Reason>,
}

impl AuditEvent {
    /// An event that nothing is known of but what it is about.
    #[must_use]
    pub fn new(time: Timestamp, boot: &str, sandbox: Option<SandboxRef>, body: Body) -> Self {
        Self {
            time,
            boot: boot.to_owned(),
            sandbox,
            call: None,
            process: None,
            body,
            verdict: None,
            mode: None,
            rule: None,
            reason: None,
        }
    }

    /// With this reason.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}

/// The sandbox of an event, and the policy it was under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRef {
    /// Unique on this host.
    pub id: String,
    /// `--name`.
    pub server: String,
    /// The policy's name.
    pub policy: String,
    /// Digest of the policy as it was resolved.
    pub policy_hash: Digest,
    /// Counts the policies that this sandbox was under, from 1.
    pub generation: u32,
}

/// The process that acted, as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Thread group, in the initial pid namespace.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Parent.
    pub ppid: u32,
    /// Effective user.
    pub uid: u32,
    /// The program it ran when the event was read; `None` when it was gone.
    pub exe: Option<String>,
    /// `exe` is not UTF-8: `\` and other bytes are written as `\xHH`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exe_escaped: bool,
}

/// How sure it is which call an access belongs to. Never a guess.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CallMember", try_from = "CallMember")]
pub enum Attribution {
    /// The process exists for this call only (`isolate`).
    Exact(CallInfo),
    /// This was the only call in flight: a statement of time, not of cause.
    Sole(CallInfo),
    /// One of these. Empty when the calls in flight changed while they were
    /// read and none could be made out.
    Ambiguous(Vec<CallInfo>),
    /// No call was in flight.
    None,
}

/// A call, as far as its record is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallInfo {
    /// Number in the session, from 1.
    pub number: u64,
    /// The JSON-RPC id as it was written; `None` without a record.
    pub id: Option<String>,
    /// The tool, of a `tools/call`.
    pub tool: Option<String>,
    /// The JSON-RPC method.
    pub method: Option<String>,
    /// Digest of the arguments.
    pub args_hash: Option<Digest>,
}

impl CallInfo {
    /// A call of which no record came.
    #[must_use]
    pub const fn unknown(number: u64) -> Self {
        Self {
            number,
            id: None,
            tool: None,
            method: None,
            args_hash: None,
        }
    }
}

/// The attribution's name in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Label {
    Exact,
    Sole,
    Ambiguous,
    None,
}

/// The member `call` as it is written.
#[derive(Serialize, Deserialize)]
struct CallMember {
    attribution: Label,
    id: Option<String>,
    tool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    args_hash: Option<Digest>,
    candidates: Vec<Candidate>,
}

#[derive(Serialize, Deserialize)]
struct Candidate {
    id: Option<String>,
    tool: Option<String>,
    method: Option<String>,
    number: u64,
    args_hash: Option<Digest>,
}

impl From<Attribution> for CallMember {
    fn from(attribution: Attribution) -> Self {
        let (label, call, candidates) = match attribution {
            Attribution::Exact(call) => (Label::Exact, Some(call), Vec::new()),
            Attribution::Sole(call) => (Label::Sole, Some(call), Vec::new()),
            Attribution::Ambiguous(calls) => (Label::Ambiguous, None, calls),
            Attribution::None => (Label::None, None, Vec::new()),
        };
        let number = call.as_ref().map(|c| c.number).filter(|n| *n != 0);
        let call = call.unwrap_or_else(|| CallInfo::unknown(0));
        Self {
            attribution: label,
            id: call.id,
            tool: call.tool,
            method: call.method,
            number,
            args_hash: call.args_hash,
            candidates: candidates
                .into_iter()
                .map(|c| Candidate {
                    id: c.id,
                    tool: c.tool,
                    method: c.method,
                    number: c.number,
                    args_hash: c.args_hash,
                })
                .collect(),
        }
    }
}

impl TryFrom<CallMember> for Attribution {
    type Error = &'static str;
    fn try_from(member: CallMember) -> Result<Self, Self::Error> {
        let call = CallInfo {
            number: member.number.unwrap_or(0),
            id: member.id,
            tool: member.tool,
            method: member.method,
            args_hash: member.args_hash,
        };
        let candidates: Vec<CallInfo> = member
            .candidates
            .into_iter()
            .map(|c| CallInfo {
                number: c.number,
                id: c.id,
                tool: c.tool,
                method: c.method,
                args_hash: c.args_hash,
            })
            .collect();
        match member.attribution {
            Label::Ambiguous if call != CallInfo::unknown(0) => {
                Err("an ambiguous attribution that names one call")
            }
            Label::Ambiguous => Ok(Self::Ambiguous(candidates)),
            _ if !candidates.is_empty() => Err("candidates of an attribution that has none"),
            Label::Exact => Ok(Self::Exact(call)),
            Label::Sole => Ok(Self::Sole(call)),
            Label::None if call == CallInfo::unknown(0) => Ok(Self::None),
            Label::None => Err("an attribution of none that names a call"),
        }
    }
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    /// A request and what became of it.
    Call(Call),
    /// A file was opened.
    File(FileAccess),
    /// A program was executed or mapped as code.
    Exec(FileAccess),
    /// A socket was made or used.
    Network(Network),
    /// A policy was put in force.
    Policy(Policy),
    /// A sandbox was started or has ended.
    Sandbox(Sandbox),
    /// The stream is not as the protocol says.
    Protocol(Protocol),
    /// Evidence is missing.
    Loss(Loss),
    /// Something that an operator should look at.
    Alert(Alert),
}

/// Body of `call`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Call {
    /// The request is about to be forwarded (verdict `allow`) or was refused.
    Start {
        /// The JSON-RPC id as it was written.
        id: String,
        /// Number in the session, from 1.
        number: u64,
        /// JSON-RPC method.
        method: String,
        /// The tool, of a `tools/call`.
        tool: Option<String>,
        /// The arguments as JSON text, or a prefix of it.
        arguments: Option<String>,
        /// Whether `arguments` was cut to its bound.
        arguments_cut: bool,
        /// Digest of the arguments, whole.
        args_hash: Option<Digest>,
    },
    /// Its response was read, or it was given up.
    End {
        /// The JSON-RPC id; `None` when no start was recorded.
        id: Option<String>,
        /// Number in the session.
        number: u64,
        /// JSON-RPC method; `None` when no start was recorded.
        method: Option<String>,
        /// The tool, of a `tools/call`.
        tool: Option<String>,
        /// What became of it.
        outcome: Outcome,
        /// Bytes of the response line, without its end.
        result_bytes: u64,
        /// Digest of the response line.
        result_hash: Option<Digest>,
        /// From the request's last byte read to the response's.
        duration_ns: u64,
    },
}

/// Body of `file` and `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccess {
    /// The operation, by the hook that saw it.
    pub op: Op,
    /// What was asked.
    pub access: Vec<Access>,
    /// The path as the kernel sees it.
    pub path: String,
    /// `path` is not UTF-8: `\` and other bytes are written as `\xHH`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_escaped: bool,
    /// `path` is not whole, see the reason.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_partial: bool,
    /// The process's own number below `/proc` was judged as `self`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proc_self: bool,
    /// Sequence number in this sandbox and ring.
    pub kseq: u64,
}

/// Body of `network`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The operation, by the hook that saw it.
    pub op: Op,
    /// `inet`, `inet6`, `unix`, …, or `af-N`.
    pub family: Word,
    /// Destination; `None` where a socket was made.
    pub address: Option<std::net::IpAddr>,
    /// Destination port.
    pub port: Option<u16>,
    /// `stream`, `dgram`, `raw`, …, or `type-N`; `None` when not known.
    pub socket_type: Option<Word>,
    /// `IPPROTO_*` or the family's own.
    pub protocol: u16,
    /// Sequence number in this sandbox and ring.
    pub kseq: u64,
}

/// Operations that the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// A file was opened.
    Open,
    /// A program was executed.
    Exec,
    /// A file was mapped as code.
    MapExec,
    /// A socket was made.
    Socket,
    /// A socket was connected.
    Connect,
    /// A datagram was sent.
    Send,
}

/// What was asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Execute it.
    Exec,
}

/// Body of `policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Policy {
    /// Compiled and in force.
    Loaded {
        /// Its name.
        name: String,
        /// Digest of the policy as it was resolved.
        policy_hash: Digest,
        /// Counts the policies that the sandbox was under, from 1.
        generation: u32,
    },
}

/// Body of `sandbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Sandbox {
    /// The server is about to be executed.
    Start {
        /// The command and its arguments, escaped ([`crate::wire::escape`]).
        command: Vec<String>,
        /// User id that it runs as.
        uid: u32,
        /// Group id that it runs as.
        gid: u32,
        /// Names of environment variables that were removed, escaped.
        env_removed: Vec<String>,
        /// Who holds the policy.
        enforcement: Enforcement,
    },
    /// The server has ended and its cgroup is empty.
    Stop {
        /// Exit status; `None` when a signal ended it or it is not known.
        status: Option<u8>,
        /// The signal.
        signal: Option<i32>,
    },
}

/// Body of `protocol`; the common `reason` says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Protocol {
    /// A breach.
    Breach {
        /// Who wrote it.
        from: Side,
        /// More, bounded.
        detail: String,
        /// Whether the bytes were withheld from the other side.
        refused: bool,
    },
}

/// A side of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The MCP client.
    Client,
    /// The MCP server.
    Server,
    /// The relay itself.
    Relay,
}

/// Body of `loss`; the common `reason` says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Loss {
    /// Kernel events that never came.
    Kernel {
        /// Of which ring.
        ring: Ring,
        /// The first missing `kseq`.
        first: u64,
        /// How many in a row.
        count: u64,
    },
    /// Relay records that never came.
    Relay {
        /// How many.
        count: u64,
    },
    /// Events that could not be written.
    Unwritten {
        /// How many.
        count: u64,
    },
    /// A line that was not whole when the trail was opened. It was kept,
    /// before this line.
    Torn {
        /// Its bytes, without the end of line.
        bytes: u64,
        /// Their digest.
        fragment_hash: Digest,
    },
}

/// The two rings of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// Denials.
    Denials,
    /// Allowed accesses.
    Allows,
}

/// Body of `alert`; the common `reason` says what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Alert {
    /// It was noticed.
    Raised {
        /// More, bounded.
        detail: String,
    },
}

/// The policy's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}

/// Whether a verdict was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Applied.
    Enforce,
    /// Reported only (`--audit-only`).
    Audit,
}

/// A rule of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// Where it stands: `files.deny[0]`.
    pub id: String,
    /// As it was written.
    pub text: String,
}

/// Bytes as text, and whether they had to be escaped: UTF-8 stays as it is,
/// anything else goes through [`crate::wire::escape`].
#[must_use]
pub fn readable(bytes: &[u8]) -> (String, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (crate::wire::escape(bytes), true),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the form that serde asks for
fn is_false(value: &bool) -> bool {
    !value
}

/// Times as the trail has them: UTC, always nine decimals.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{time:.9}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
