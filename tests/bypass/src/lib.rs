//! Hostile programs, one function each, that try to get around guard. What
//! stops each of them is in `manifest.json`; `docs/bypass.md` shows it.
//!
//! Like the other test code it may panic where a test cannot go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a panic fails the test it is in"
)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

pub mod attack;
pub mod docs;
mod exec;
mod files_change;
mod files_names;
mod files_read;
pub mod fuzz;
mod guards;
mod kernel;
pub mod manifest;
mod namespaces;
mod network;
pub mod outside;
pub mod place;
pub mod probe;
mod processes;
pub mod race;
mod random;
pub mod serve;
mod sys;
mod unix;
mod uring;

use attack::Technique;

/// Every technique.
pub fn techniques() -> impl Iterator<Item = &'static Technique> {
    let families = [
        files_read::ALL,
        files_names::ALL,
        files_change::ALL,
        exec::ALL,
        processes::ALL,
        namespaces::ALL,
        kernel::ALL,
        unix::ALL,
        network::ALL,
        guards::ALL,
    ];
    families.into_iter().flatten()
}

/// A technique by its name.
#[must_use]
pub fn technique(name: &str) -> Option<&'static Technique> {
    techniques().find(|technique| technique.name == name)
}
