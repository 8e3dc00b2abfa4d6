//! The `guard` command.

fn main() -> std::process::ExitCode {
    guard_daemon::cli::main()
}
