//! Names in `[network]`: domain names, what they are compared with, and what a
//! policy says of them. Also what the resolver's process is told of a policy.

use std::fmt;

use guard_common::table::AccessMasks;
use serde::{Deserialize, Serialize};

use super::explain::RuleRef;
use super::lists::Kind;

/// Bytes of the longest name, without a trailing dot (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 253;
/// Bytes of the longest label (RFC 1035, 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A domain name in the one form in which names are compared: A-labels in lower
/// case, without a trailing dot. Labels hold letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or a dot alone.
    #[error("an empty name")]
    Empty,
    /// Two dots in a row, or one in front.
    #[error("a name with an empty label")]
    EmptyLabel,
    /// A label over [`MAX_LABEL`].
    #[error("a label of {0} bytes; at most {MAX_LABEL} are possible")]
    LongLabel(usize),
    /// A name over [`MAX_NAME`].
    #[error("a name of {0} bytes; at most {MAX_NAME} are possible")]
    LongName(usize),
    /// A byte that no host name has.
    #[error("{0:?} cannot be in a name")]
    Character(char),
    /// Not a valid internationalized name (UTS 46).
    #[error("not a valid internationalized name")]
    Idna,
}

impl Name {
    /// A name as a person writes it: any case, perhaps internationalized,
    /// perhaps with a trailing dot.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.is_ascii() {
            return Self::of_labels(text.split('.').map(str::as_bytes));
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| NameError::Idna)?;
        Self::of_labels(ascii.split('.').map(str::as_bytes))
    }

    /// A name by the labels of a DNS message, the root's not among them. Case is
    /// folded; nothing else is.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn of_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Result<Self, NameError> {
        let mut name = String::new();
        for label in labels {
            match label.len() {
                0 => return Err(NameError::EmptyLabel),
                len if len > MAX_LABEL => return Err(NameError::LongLabel(len)),
                _ => {}
            }
            if !name.is_empty() {
                name.push('.');
            }
            for byte in label {
                if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return Err(NameError::Character(char::from(*byte)));
                }
                name.push(char::from(byte.to_ascii_lowercase()));
            }
            if name.len() > MAX_NAME {
                return Err(NameError::LongName(name.len()));
            }
        }
        match name.is_empty() {
            true => Err(NameError::Empty),
            false => Ok(Self(name)),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::of_labels(text.split('.').map(str::as_bytes))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// One rule of `[network]` that names names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRule {
    /// `network.allow[0]`.
    pub(crate) id: String,
    /// As the user wrote it.
    pub(crate) text: String,
    pub(crate) kind: Kind,
    /// Rule sets that it belongs to.
    pub(crate) sets: u64,
    /// Labels in canonical form, first label first. The label `*` stands for one
    /// or more labels; a `*` beside other characters for any within its label.
    pub(crate) pattern: Vec<String>,
    /// First and last port.
    pub(crate) ports: (u16, u16),
    /// TLS only, and only with a server name that passes (`sni = "require"`).
    pub(crate) sni: bool,
}

/// Ports for which a name is open in some rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameGrant {
    /// First and last port.
    pub ports: (u16, u16),
    /// What the rules say of these ports, by rule sets.
    pub masks: AccessMasks,
    /// TLS only, with a server name that passes.
    pub sni: bool,
}

/// Whether a name may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameVerdict {
    /// For one port at least, in one of the rule sets; the rule that says so.
    Allow(RuleRef),
    /// Only after approval, which nobody can give to a question.
    Approve(RuleRef),
    /// By this rule; `None`: no rule allows it.
    Deny(Option<RuleRef>),
}

/// All rules of a policy that name names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRules(pub(crate) Vec<NameRule>);

impl NameRules {
    /// Whether no name can be allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.0.iter().any(|rule| rule.kind == Kind::Allow)
    }

    /// Whether a name may be asked for under the rule sets `active`.
    #[must_use]
    pub fn judge(&self, name: &Name, active: u64) -> NameVerdict {
        let _ = (name, active);
        NameVerdict::Deny(None)
    }

    /// The ports for which a name is open, at most
    /// [`guard_common::names::MAX_GRANTS`] ranges that do not overlap, in order.
    #[must_use]
    pub fn grants(&self, name: &Name) -> Vec<NameGrant> {
        let _ = name;
        Vec::new()
    }
}
