//! `guard doctor`: can this host enforce?

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::doctor::{Check, State, can_enforce, decide, requirements};

/// Arguments of `guard doctor`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    enforcement: bool,
    checks: &'a [Check],
    works_without: [&'static str; 4],
}

/// Runs `guard doctor`. The status is 0 when enforcement is possible, else 1.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let checks = requirements();
    let mut out = io::stdout().lock();
    let written = if args.json {
        write_json(&checks, &mut out)
    } else {
        write_text(&checks, &mut out)
    };
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("guard doctor: cannot write: {e}");
            ExitCode::FAILURE
        }
        _ if can_enforce(&checks) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn write_json(checks: &[Check], out: &mut impl Write) -> io::Result<()> {
    let report = Report {
        enforcement: can_enforce(checks),
        checks,
        works_without: decide::without_enforcement(),
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

fn write_text(checks: &[Check], out: &mut impl Write) -> io::Result<()> {
    for check in checks {
        let state = match (check.state, check.required) {
            (State::Ok, _) => "ok",
            (State::Missing, true) => "MISSING",
            (State::Unknown, true) => "UNKNOWN",
            (State::Missing | State::Unknown, false) => "note",
        };
        writeln!(out, "{state:<8} {}: {}", check.name, check.found)?;
        let lines = check.action.iter().flat_map(|a| a.lines());
        for (n, line) in lines.enumerate() {
            let mark = if n == 0 { "→" } else { " " };
            writeln!(out, "         {mark} {line}")?;
        }
    }
    writeln!(out)?;
    if can_enforce(checks) {
        return writeln!(out, "This host can enforce.");
    }
    let missing: Vec<&str> = checks
        .iter()
        .filter(|c| c.stops())
        .map(|c| c.name)
        .collect();
    writeln!(out, "This host cannot enforce: {}.", missing.join("; "))?;
    writeln!(out, "What works without:")?;
    for line in decide::without_enforcement() {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: State, required: bool) -> Check {
        Check {
            id: "x",
            name: "the thing",
            state,
            required,
            found: "found".into(),
            action: (state != State::Ok).then(|| "first\nsecond".into()),
        }
    }

    fn text(checks: &[Check]) -> String {
        let mut out = Vec::new();
        write_text(checks, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_state_reads_as_what_it_is() {
        assert!(
            text(&[check(State::Ok, true)])
                .starts_with("ok       the thing: found\n\nThis host can enforce.")
        );
        let note = text(&[check(State::Missing, false)]);
        assert!(note.starts_with("note ") && note.contains("This host can enforce."));
        for state in [State::Missing, State::Unknown] {
            let said = text(&[check(state, true)]);
            assert!(said.contains("→ first\n           second\n"), "{said}");
            assert!(
                said.contains("This host cannot enforce: the thing."),
                "{said}"
            );
            assert!(said.contains("gateway-only"), "{said}");
        }
    }

    #[test]
    fn json_says_the_same() {
        let mut out = Vec::new();
        write_json(&[check(State::Unknown, true)], &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["enforcement"], false);
        assert_eq!(value["checks"][0]["state"], "unknown");
        assert_eq!(value["checks"][0]["required"], true);
    }
}
