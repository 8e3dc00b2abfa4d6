//! Evidence: what happened, as data. Kernel events and relay records become
//! [`event::AuditEvent`]s, the chain numbers and links them, a sink keeps them.
//!
//! Knows nothing of BPF. `docs/audit.schema.json` is the contract of the lines;
//! `docs/audit.md` says it in words.
#![forbid(unsafe_code)]

pub mod chain;
pub mod clock;
pub mod enrich;
pub mod event;
pub mod loss;
pub mod names;
mod operations;
pub mod read;
pub mod sink;
pub mod verify;
pub mod words;

pub use enrich::{
    Ruling, from_call_end, from_call_start, from_gap, from_kernel, from_protocol_note,
    from_refused_syscall,
};
pub use event::AuditEvent;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod schema_tests;
