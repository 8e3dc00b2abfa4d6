//! During which call something happened, as far as that is known.

use serde::{Deserialize, Serialize};

use super::super::words::Digest;

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
