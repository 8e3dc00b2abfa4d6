//! Policy: from text to the table that the kernel runs.
//!
//! ```text
//! text ─▶ Document ─▶ Resolved ─▶ CompiledPolicy
//!        keys, types   includes,    one DFA over all globs,
//!                      variables    address rules, a trie of names
//! ```
//! Any error refuses the whole policy, and all errors come at once. Reading
//! files is confined to [`lookup`] and [`launch`]; the rest is pure.
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod arbitrary;
mod automaton;
mod ceiling;
mod compile;
mod document;
mod error;
mod examples;
mod explain;
mod glob;
pub mod launch;
mod lists;
pub mod lookup;
pub mod names;
mod network;
pub mod own;
mod resolve;
mod syntax;
mod unix;
mod variables;

#[cfg(test)]
mod tests;

pub use compile::{CompiledPolicy, Flags, compile, compile_sets};
pub use document::{AuditLog, AuditSettings, Document, ProcessLimits, WhenFull};
pub use error::{PolicyError, PolicyErrors};
pub use examples::{Access, parse_access};
pub use explain::{Decision, RuleRef, verdict_name};
pub use lookup::{Lookup, Owner};
pub use own::Own;
pub use resolve::{DEFAULT_ENV, ResolveContext, Resolved, resolve};
