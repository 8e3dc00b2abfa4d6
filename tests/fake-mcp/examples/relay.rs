//! `guard __relay` without the rest of guard: `relay __relay JSON`.

fn main() -> std::process::ExitCode {
    match std::env::args().nth(2) {
        Some(json) => guard_daemon::relay::main(&json),
        None => std::process::ExitCode::from(2),
    }
}
