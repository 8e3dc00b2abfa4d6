//! Lists of rules over paths: what is compiled, and what `explain` searches.

use guard_common::table::FileAccess;
use serde::{Deserialize, Serialize};

use super::error::Place;
use super::glob::{Pattern, matches};

/// What a list does with the paths it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    Allow,
    Approve,
    Deny,
}

/// One rule as written, and the patterns it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// `files.deny[0]`, `base:files.read[3]`, `launch[0]`.
    pub(crate) id: String,
    /// As the user wrote it.
    pub(crate) text: String,
    /// Starts with `!`.
    pub(crate) negated: bool,
    pub(crate) patterns: Vec<Pattern>,
    /// Where it was written; launch rules were not.
    pub(crate) place: Option<Place>,
}

impl Rule {
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| matches(pattern, path))
    }
}

/// A list holds a path iff one of its positive rules matches and none of its
/// negated ones does.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) kind: Kind,
    /// Bits of [`FileAccess::bit`].
    pub(crate) access: u8,
    /// The rule sets that it belongs to.
    pub(crate) sets: u64,
    pub(crate) rules: Vec<Rule>,
}

/// All accesses.
pub(crate) const ALL_ACCESS: u8 = FileAccess::Read.bit()
    | FileAccess::Write.bit()
    | FileAccess::Exec.bit()
    | FileAccess::Connect.bit();

impl List {
    /// The rule through which the list holds a path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&Rule> {
        let (negated, positive): (Vec<&Rule>, Vec<&Rule>) =
            self.rules.iter().partition(|rule| rule.negated);
        let found = positive.into_iter().find(|rule| rule.matches(path))?;
        (!negated.into_iter().any(|rule| rule.matches(path))).then_some(found)
    }
}
