//! Benchmarks. Each prints every side that it compares, measured in one run.

use anyhow::Result;
use clap::Subcommand;

mod guest;
mod proxy;
mod resolver;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Verified instructions and load time of each kernel program, on every kernel.
    Load,
    /// Guest instructions per operation: nothing, outside, inside, Landlock.
    Kernel(guest::KernelArgs),
    /// What the relay adds to a message: direct, through two cats, through guard.
    Proxy(proxy::Args),
    /// Questions for names: how many a second, and how long one takes.
    Resolver,
}

/// Runs a benchmark; the exit status says whether its target was met.
pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Load => guest::load(),
        Command::Kernel(args) => guest::kernel(args),
        Command::Proxy(args) => proxy::run(args),
        Command::Resolver => resolver::run(),
    }
}
