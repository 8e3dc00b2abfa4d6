//! Sessions of a relay with the scripted server, over real pipes and sockets:
//! the relay is started as guard's launcher starts it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its harness too"
)]

mod ends;
mod harness;
mod messages;
mod supervisor;
