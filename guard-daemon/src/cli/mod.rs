//! The command line: one file a subcommand. Exit codes: 0 and the command's
//! own; 125 when guard refuses, 126 and 127 as a shell does for the command.

pub mod audit;
mod bench_load;
mod bench_names;
pub mod check;
mod connect;
mod daemon;
pub mod doctor;
pub mod explain;
mod refuse;
mod run;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Status of a refusal.
pub const REFUSED: u8 = 125;

/// Confines MCP servers: every file and network access is judged in the
/// kernel, tool call by tool call.
#[derive(Debug, Parser)]
#[command(name = "guard", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start an MCP server under a policy; stdin and stdout are the server's
    Run(run::RunArgs),
    /// Run the supervisor
    Daemon(daemon::DaemonArgs),
    /// Parse and compile a policy and run its own examples
    Check(check::CheckArgs),
    /// Say what a policy makes of an access, and which rule decides
    Explain(explain::ExplainArgs),
    /// Show the audit trail, or check that it is intact
    Audit(audit::Args),
    /// Say whether this host can enforce, and what to change
    Doctor(doctor::Args),
    /// List the sandboxes
    Status,
    /// Load the policies of running servers anew
    Reload,
    #[command(name = "__launch", hide = true)]
    Launch,
    #[command(name = "__relay", hide = true)]
    Relay { config: String },
    #[command(name = "__net", hide = true)]
    Net,
    #[command(name = "__supervise", hide = true)]
    Supervise,
    #[command(name = "__bench-load", hide = true)]
    BenchLoad,
    #[command(name = "__bench-names", hide = true)]
    BenchNames,
}

/// Runs the command line and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    // It may have been started as /proc/self/exe; only `ps` cares.
    let _ = nix::sys::prctl::set_name(c"guard");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    ExitCode::from(match cli.command {
        Command::Check(args) => return check::run(&args),
        Command::Explain(args) => return explain::run(&args),
        Command::Audit(args) => return audit::run(&args),
        Command::Doctor(args) => return doctor::run(&args),
        Command::Relay { config } => return crate::relay::main(&config),
        Command::Net => return crate::net::process::main(),
        Command::Run(args) => run::run(&args),
        Command::Daemon(args) => daemon::daemon(&args),
        Command::Status => status::status(),
        Command::Reload => status::reload(),
        Command::Launch => crate::supervisor::launcher::main(),
        Command::Supervise => daemon::private(),
        Command::BenchLoad => bench_load::run(),
        Command::BenchNames => match bench_names::run() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("guard: {error:#}");
                REFUSED
            }
        },
    })
}

/// A mistake on the command line. `guard run` is called by MCP clients, which
/// must learn of it as of any other refusal.
fn usage(error: &clap::Error) -> u8 {
    if error.use_stderr() && std::env::args_os().nth(1).is_some_and(|a| a == "run") {
        return refuse::refuse(REFUSED, error.render().to_string().trim());
    }
    // A closed output cannot be told of anything.
    let _ = error.print();
    u8::try_from(error.exit_code()).unwrap_or(REFUSED)
}
