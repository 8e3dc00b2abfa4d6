//! Virtual machines: boots a kernel under QEMU with `guard` in PATH and runs a command as root.

mod boot;
mod channels;
mod cpio;
mod guest;
mod image;
pub(crate) mod kernels;
mod qemu;
mod verdict;
mod work;

use anyhow::{Context, Result, bail};
pub(crate) use boot::{Boot, Sink};
pub(crate) use guest::Binaries;
pub(crate) use image::With;
use std::path::PathBuf;
use std::time::Duration;

/// Fetches QEMU, where the machine has none that is new enough.
pub(crate) fn setup_qemu() -> Result<()> {
    qemu::Qemu::find().map(|_| ())
}

/// Builds the guest's file system, plain or with all runtimes and MCP servers.
pub(crate) fn setup_image(full: bool) -> Result<()> {
    let with: &[With] = if full {
        &[With::Node, With::Python]
    } else {
        &[]
    };
    image::fetch(with).map(|_| ())
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Boot, run a command as root, end with its status.
    Run(Run),
    /// Boot into a shell on this terminal (leave with `exit`, or Ctrl-A X).
    Shell(Machine),
}

#[derive(clap::Args)]
pub(crate) struct Machine {
    /// Kernel series: 6.1, 6.12, 7.x.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// A kernel image of your own instead.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    kernel_image: Option<PathBuf>,
    /// Copy a file or directory into the guest.
    #[arg(long, value_name = "HOSTPATH:GUESTPATH", value_parser = pair)]
    add: Vec<(String, String)>,
    /// Runtimes and real MCP servers in the guest.
    #[arg(long, value_delimiter = ',')]
    with: Vec<With>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    machine: Machine,
    /// Copy a file or directory out of the guest when the command has ended.
    #[arg(long, value_name = "GUESTPATH:HOSTPATH", value_parser = pair)]
    out: Vec<(String, String)>,
    /// Seconds until the machine is killed, and the run has failed.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// One guest instruction is one nanosecond of guest clock; one processor.
    #[arg(long)]
    icount: bool,
    /// Directory in the guest in which the command starts.
    #[arg(long, default_value = "/root")]
    directory: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs `cargo xtask vm …` and returns the exit status to end with.
pub(crate) fn run(command: Command) -> Result<u8> {
    match command {
        Command::Run(run) => {
            let mut boot = prepare(run.machine)?;
            boot.out = run.out;
            boot.timeout = Duration::from_secs(run.timeout);
            boot.icount = run.icount;
            boot.directory = run.directory;
            boot.command = run.command;
            let finished = boot.run()?;
            u8::try_from(finished.status)
                .with_context(|| format!("the command's status is {}", finished.status))
        }
        Command::Shell(machine) => {
            let mut boot = prepare(machine)?;
            boot.sink = Sink::Terminal;
            boot.timeout = Duration::from_secs(24 * 3600);
            boot.run().map(|_| 0)
        }
    }
}

fn prepare(machine: Machine) -> Result<Boot> {
    let kernel = match &machine.kernel_image {
        Some(file) => kernels::given(file)?,
        None => kernels::fetch(&machine.kernel)?,
    };
    let mut boot = Boot::new(kernel, &machine.with, &Binaries::build()?)?;
    boot.memory = machine.memory;
    for (host, guest) in machine.add {
        boot.add.push((host.into(), guest));
    }
    Ok(boot)
}

/// `A:B`, split at the last colon.
fn pair(text: &str) -> Result<(String, String)> {
    match text.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => bail!("two paths with a colon between them are needed"),
    }
}
