//! What `guard run` promises, proven through it: as root, under the real kernel.
//!
//! Each leaves nothing behind.

mod attribution;
mod denial;
pub mod guard;
mod launching;
mod lifetime;
mod network;

use crate::Whole;

/// Under a supervisor that comes on demand, loads the programs and goes with them.
pub const ON_DEMAND: &[Whole] = &[
    ("sessions::doctor", denial::doctor),
    ("sessions::a_denied_path", denial::path),
    ("sessions::refusals", launching::refusals),
    ("sessions::failed_load", launching::failed_load),
    ("sessions::relay_killed", lifetime::relay),
    ("sessions::supervisor_killed", lifetime::supervisor_killed),
    ("sessions::pin_removed", lifetime::pin_removed),
];

/// Under the service.
pub const TESTS: &[Whole] = &[
    ("sessions::calls_of_accesses", attribution::labels),
    ("sessions::network", network::connections),
    (
        "sessions::programs_and_environment",
        launching::programs_and_environment,
    ),
    ("sessions::exit_status", launching::exit_status),
];
