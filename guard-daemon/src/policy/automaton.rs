//! From lists of globs to one byte DFA.
//!
//! ```text
//! lists ─▶ groups ─▶ Nfa ─▶ subset construction ─▶ minimal Dfa ─▶ table
//! ```
//! A *group* is what a path gains when a pattern matches: which rule sets
//! allow, approve or deny which accesses. Threads of the NFA are tagged by
//! group, not by rule: a few dozen groups stand for thousands of rules, and a
//! pattern that has matched for good makes every other thread that could say
//! no more than it superfluous. Without that, ten patterns `**/x/**` need a
//! thousand states; with it, eleven.

mod encode;
mod groups;
mod minimise;
mod nfa;
mod share;
mod subset;
mod utf8;

use guard_common::table::{NetRule, Output};

use super::lists::List;

/// A complete DFA over byte classes. State 0 is dead.
pub(crate) struct Dfa {
    /// Byte → class.
    pub(crate) class_of: [u8; 256],
    pub(crate) classes: usize,
    /// `states * classes` next states.
    pub(crate) transitions: Vec<u32>,
    /// State → index in `outputs`.
    pub(crate) state_output: Vec<u32>,
    /// Index 0 grants nothing.
    pub(crate) outputs: Vec<Output>,
    pub(crate) start: u32,
}

impl Dfa {
    pub(crate) fn states(&self) -> usize {
        self.state_output.len()
    }
}

/// Why rules cannot be compiled into one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// More states than the construction may make.
    Construction(usize),
    /// More rows than a table can number.
    Rows {
        /// States, each of which has a row.
        states: usize,
        /// `ROW_UNIT`s of a row.
        stride: usize,
    },
    /// More bytes than a table may have.
    Bytes(usize),
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Construction(most) => write!(f, "more than {most} states"),
            Self::Rows { states, stride } => {
                let most = guard_common::table::MAX_ROW_UNITS as usize / stride;
                write!(f, "{states} states, at most {most} fit")
            }
            Self::Bytes(n) => write!(
                f,
                "a table of {n} bytes, at most {} fit",
                guard_common::limits::MAX_TABLE
            ),
        }
    }
}

/// States that may be made before minimisation, which leaves most of them.
pub(crate) const MAX_RAW_STATES: usize = 1 << 16;

/// Address rules of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// For connecting and sending.
    pub(crate) network: Vec<NetRule>,
    /// For binding and listening.
    pub(crate) listen: Vec<NetRule>,
}

/// Compiles lists and address rules into the bytes of a table.
pub(crate) fn table(
    lists: &[List],
    addresses: &Addresses,
    rule_sets: u32,
    max_states: usize,
) -> Result<Vec<u8>, TooLarge> {
    let groups = groups::group(lists);
    let nfa = nfa::Nfa::build(&groups);
    let dfa = minimise::minimise(&subset::determinise(&nfa, &groups, max_states)?);
    encode::encode(&dfa, addresses, rule_sets)
}
