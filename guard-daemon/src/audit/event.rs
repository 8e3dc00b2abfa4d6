//! The audit event: one line of the trail, without its place in the chain.
//! Member order is the order of the fields (docs/audit.md).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::words::{Digest, Reason};

mod attribution;
mod body;

pub use attribution::{Attribution, CallInfo};
pub use body::{
    Access, Alert, Body, Call, Dns, Escape, EscapeOp, FileAccess, Loss, Network, Op, Policy,
    Protocol, Ring, Sandbox, Side, Wall,
};

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
