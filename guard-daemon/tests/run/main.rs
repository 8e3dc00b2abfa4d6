//! `guard run` end to end, without the kernel side: as root through the
//! supervisor of the host, and as an ordinary user through a private one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod host;
mod lifetime;
mod refusals;
mod sessions;
