//! A scripted MCP server for tests and benchmarks. It obeys every call, asks
//! for nothing, and does what a hostile server would.
//!
//! ```text
//! fake-mcp [--ignore-eof] [--ignore-term] [--leave-child]   the server
//! fake-mcp --echo                                           answers each call with its parameters
//! fake-mcp --read-later PATH MS OUT                         (started by fork_and_read_later)
//! fake-mcp --launch RELAY JSON WIRE CONTROL SLOT KILL -- COMMAND…
//!                                 starts a relay as guard's launcher does
//! ```
//! Static: `RUSTFLAGS="-C target-feature=+crt-static" cargo build -p fake-mcp`.

mod echo;
mod launch;
mod limits;
mod server;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--echo"] => echo::run(),
        ["--read-later", path, ms, out] => tools::read_later(path, ms, out),
        [
            "--launch",
            relay,
            json,
            wire,
            control,
            slot,
            kill,
            "--",
            command @ ..,
        ] => launch::run(relay, json, [wire, control], [slot, kill], command),
        flags => server::run(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-mcp: {error}");
            ExitCode::from(1)
        }
    }
}
