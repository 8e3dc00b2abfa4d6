//! What `guard run` promises, proven through it: as root, under the real kernel.
//!
//! The supervisors of these tests load the programs themselves. So they run
//! before this program has loaded them, and each test leaves nothing behind.

mod attribution;
mod denial;
pub mod guard;
mod launching;
mod lifetime;
mod network;

use crate::Whole;

/// The tests.
pub const TESTS: &[Whole] = &[
    ("sessions::doctor", denial::doctor),
    ("sessions::a_denied_path", denial::path),
    ("sessions::calls_of_accesses", attribution::labels),
    ("sessions::network", network::connections),
    (
        "sessions::programs_and_environment",
        launching::programs_and_environment,
    ),
    ("sessions::exit_status", launching::exit_status),
    ("sessions::refusals", launching::refusals),
    ("sessions::relay_killed", lifetime::relay),
    ("sessions::supervisor_killed", lifetime::supervisor_killed),
];
