//! guard's build and test commands: `cargo xtask COMMAND`.
//!
//! Everything these commands need beyond stable Rust is fetched on first use into one cache
//! directory (see [`cache`]) and checked by the fetching client's own signatures or hashes.

mod apt;
mod bench;
mod cache;
mod demo;
mod ebpf;
mod process;
mod setup;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "guard's build and test commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile the kernel programs into guard-ebpf/guard.bpf.o.
    Ebpf(ebpf::Args),
    /// Fetch or build all that the other commands would on first use.
    Setup,
    /// Run the workspace's tests, then the VM tests on every kernel.
    Test(test::Args),
    /// See a real MCP server under guard.
    Demo(demo::Args),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Boot a test machine.
    #[command(subcommand)]
    Vm(vm::Command),
}

/// The root of the checkout that this xtask was built from.
fn project() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}

fn run() -> anyhow::Result<u8> {
    match Args::parse().command {
        Command::Ebpf(args) => ebpf::run(&args).map(|()| 0),
        Command::Setup => setup::run().map(|()| 0),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Vm(command) => vm::run(command),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
