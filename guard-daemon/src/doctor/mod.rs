//! Can this host enforce, and if not, what must change?
//!
//! [`facts`] asks the host, [`decide`] judges: pure, so that every answer has a
//! test that needs no such host.

pub mod decide;
pub mod facts;
mod lsm;
mod version;

pub use lsm::{LandlockPlace, landlock_place};
use serde::Serialize;

/// What the kernel must have for one thing that guard does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A fixed word for programs.
    pub id: &'static str,
    /// What is wanted, for people.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// Whether guard refuses to enforce without it.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What to do when it is missing.
    pub action: Option<String>,
}

/// The answer of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Ok,
    /// It is not.
    Missing,
    /// It could not be found out; counts as missing.
    Unknown,
}

impl Check {
    /// Whether this alone keeps guard from enforcing.
    #[must_use]
    pub const fn stops(&self) -> bool {
        self.required && !matches!(self.state, State::Ok)
    }
}

/// Asks the host and judges. The checks that [stop](Check::stops) enforcement
/// are the reasons to refuse a server.
#[must_use]
pub fn requirements() -> Vec<Check> {
    decide::checks(&facts::Facts::collect())
}

/// Whether every requirement is met.
#[must_use]
pub fn can_enforce(checks: &[Check]) -> bool {
    !checks.iter().any(Check::stops)
}
