//! `bypass`: runs techniques. `bypass run NAME DIR` ends with 0 when the goal
//! was reached, 1 when the attack was stopped, 2 when it could not be tried.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bypass::attack::Failure;
use bypass::place::Place;
use bypass::{docs, fuzz, outside, probe, race, serve, technique, techniques};

const USAGE: &str = "usage: bypass list | docs [RESULTS] | run NAME DIR | serve DIR NAME… | outside DIR NAME… | race-read DIR SECONDS | race-write DIR SECONDS | fuzz DIR SEED COUNT SECONDS | probe STEP … | is-root | reached";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => {
            techniques().for_each(|technique| println!("{}", technique.name));
            ExitCode::SUCCESS
        }
        ["docs"] => page(docs::RESULTS),
        ["docs", file] => match std::fs::read_to_string(file) {
            Ok(text) => page(&text),
            Err(error) => {
                eprintln!("bypass: {file}: {error}");
                ExitCode::from(3)
            }
        },
        ["run", name, dir] => run(name, dir),
        ["serve", dir, ref names @ ..] => {
            serve::serve(Path::new(dir), names.iter().copied());
            ExitCode::SUCCESS
        }
        ["outside", dir, ref names @ ..] => {
            let places = names.iter().map(|name| Place::new(Path::new(dir), name));
            told(outside::run_all(places))
        }
        ["race-read", dir, seconds] => told(race::read(Path::new(dir), time(seconds))),
        ["race-write", dir, seconds] => {
            let moved = race::write(Path::new(dir), time(seconds));
            told(moved.map(|rounds| println!("{rounds}")))
        }
        ["fuzz", base, seed, count, seconds] => {
            let (Ok(seed), Ok(count)) = (seed.parse(), count.parse()) else {
                eprintln!("{USAGE}");
                return ExitCode::from(3);
            };
            told(fuzz::rounds(Path::new(base), seed, count, time(seconds)))
        }
        ["probe", ref words @ ..] => probe::run(words),
        // Executed by techniques that want to become root, or to run a copy of this.
        // SAFETY: takes nothing.
        ["is-root"] => ExitCode::from(u8::from(unsafe { libc::geteuid() } != 0)),
        ["reached"] => ExitCode::SUCCESS,
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(3)
        }
    }
}

fn told(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bypass: {failure:?}");
            ExitCode::from(3)
        }
    }
}

/// Prints `docs/bypass.md`.
fn page(text: &str) -> ExitCode {
    match (bypass::manifest::read(), docs::results(text)) {
        (Ok(manifest), Ok(results)) => {
            print!("{}", docs::render(&manifest, &results));
            ExitCode::SUCCESS
        }
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("bypass: {error}");
            ExitCode::from(3)
        }
    }
}

/// Seconds; a word that is no number is none at all, which the harness notices.
fn time(seconds: &str) -> Duration {
    Duration::from_secs(seconds.parse().unwrap_or(0))
}

fn run(name: &str, dir: &str) -> ExitCode {
    let Some(technique) = technique(name) else {
        eprintln!("bypass: no technique {name}");
        return ExitCode::from(3);
    };
    let report = serve::run(technique, &Place { dir: dir.into() });
    eprintln!("{}", report.detail);
    ExitCode::from(u8::try_from(report.status).unwrap_or(3))
}
