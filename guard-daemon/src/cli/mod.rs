//! One file a subcommand.

pub mod audit;
