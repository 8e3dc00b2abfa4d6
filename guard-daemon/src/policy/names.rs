//! Names in `[network]`: domain names, what they are compared with, and what a
//! policy says of them. Also what the resolver's process is told of a policy.

mod matcher;
mod name;
mod pattern;
mod ranges;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::Arc;

use guard_common::names::MAX_GRANTS;
use guard_common::table::AccessMasks;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::explain::RuleRef;
use super::glob::ListKind;
use super::lists::Kind;
use matcher::Matcher;

pub use matcher::MAX_LABEL_GLOBS;
pub use name::{MAX_LABEL, MAX_NAME, Name, NameError};
pub(crate) use pattern::parse as parse_pattern;

/// Rules that name names in a policy, in all its rule sets.
pub const MAX_NAME_RULES: usize = 4_096;

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
    /// Never in rules that do not allow.
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

/// All rules of a policy that name names, compiled. Cheap to clone. As a message
/// it is the list of its rules.
#[derive(Clone, Debug, Default)]
pub struct NameRules(Arc<Compiled>);

#[derive(Debug, Default)]
struct Compiled {
    rules: Vec<NameRule>,
    /// Knows the rules by their index.
    matcher: Matcher,
}

/// Why rules cannot be taken; the index of the rule that is one too many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameRulesError {
    /// Over [`MAX_NAME_RULES`].
    #[error("more than {MAX_NAME_RULES} rules for names")]
    TooMany(usize),
    /// Over [`MAX_LABEL_GLOBS`].
    #[error("more than {MAX_LABEL_GLOBS} different labels with a * beside other characters")]
    TooManyGlobs(usize),
    /// A name could be open in more than [`MAX_GRANTS`] ranges of ports.
    #[error("a name could be open in more than {MAX_GRANTS} separate ranges of ports")]
    TooManyRanges(usize),
    /// Not as a policy is resolved: what the resolver's process is sent only.
    #[error("rule {0} is not in canonical form")]
    NotCanonical(usize),
}

impl NameRulesError {
    /// The index of the rule.
    pub(crate) fn index(&self) -> usize {
        match *self {
            Self::TooMany(index)
            | Self::TooManyGlobs(index)
            | Self::TooManyRanges(index)
            | Self::NotCanonical(index) => index,
        }
    }
}

impl NameRule {
    fn is_canonical(&self) -> bool {
        let list = match self.kind {
            Kind::Allow => ListKind::Allow,
            Kind::Approve | Kind::Deny => ListKind::DenyOrApprove,
        };
        pattern::is_canonical(&self.pattern, list)
            && self.ports.0 <= self.ports.1
            && self.sets != 0
            && (self.kind == Kind::Allow || !self.sni)
    }

    fn covers(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    fn to_ref(&self) -> RuleRef {
        RuleRef {
            id: self.id.clone(),
            text: self.text.clone(),
        }
    }
}

impl NameRules {
    /// Compiles rules.
    ///
    /// # Errors
    /// [`NameRulesError`].
    pub(crate) fn new(rules: Vec<NameRule>) -> Result<Self, NameRulesError> {
        if rules.len() > MAX_NAME_RULES {
            return Err(NameRulesError::TooMany(MAX_NAME_RULES));
        }
        let mut matcher = Matcher::default();
        for (index, rule) in rules.iter().enumerate() {
            if !rule.is_canonical() {
                return Err(NameRulesError::NotCanonical(index));
            }
            matcher
                .add(&rule.pattern, index)
                .map_err(|_| NameRulesError::TooManyGlobs(index))?;
        }
        let rules = Self(Arc::new(Compiled { rules, matcher }));
        rules.check_ranges()?;
        Ok(rules)
    }

    /// Whether no name can be allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.0.rules.iter().any(|rule| rule.kind == Kind::Allow)
    }

    /// Whether some name is open only to TLS with a server name.
    #[must_use]
    pub fn wants_server_names(&self) -> bool {
        self.0.rules.iter().any(|rule| rule.sni)
    }

    /// How many rules there are, of all kinds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.rules.len()
    }

    /// The rules that match a name, in their order.
    fn matching(&self, name: &Name) -> Vec<&NameRule> {
        self.by_labels(name.labels().rev())
    }

    /// The rules that match labels, the last label first.
    fn by_labels<'a>(&self, labels: impl Iterator<Item = &'a str>) -> Vec<&NameRule> {
        let found = self.0.matcher.matching(labels);
        found
            .into_iter()
            .filter_map(|at| self.0.rules.get(at))
            .collect()
    }
}

impl PartialEq for NameRules {
    fn eq(&self, other: &Self) -> bool {
        self.0.rules == other.0.rules
    }
}

impl Eq for NameRules {}

impl Serialize for NameRules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.rules.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NameRules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rules = Vec::<NameRule>::deserialize(deserializer)?;
        Self::new(rules).map_err(serde::de::Error::custom)
    }
}
