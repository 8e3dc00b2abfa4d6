//! `bypass`: runs techniques. `bypass run NAME DIR` ends with 0 when the goal
//! was reached, 1 when the attack was stopped, 2 when it could not be tried.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::path::Path;
use std::process::ExitCode;

use bypass::place::Place;
use bypass::{outside, serve, technique, techniques};

const USAGE: &str =
    "usage: bypass list | run NAME DIR | serve DIR NAME… | outside DIR NAME… | is-root | reached";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => {
            techniques().for_each(|technique| println!("{}", technique.name));
            ExitCode::SUCCESS
        }
        ["run", name, dir] => run(name, dir),
        ["serve", dir, ref names @ ..] => {
            serve::serve(Path::new(dir), names.iter().copied());
            ExitCode::SUCCESS
        }
        ["outside", dir, ref names @ ..] => {
            let places = names.iter().map(|name| Place::new(Path::new(dir), name));
            match outside::run_all(places) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    eprintln!("bypass outside: {failure:?}");
                    ExitCode::from(3)
                }
            }
        }
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

fn run(name: &str, dir: &str) -> ExitCode {
    let Some(technique) = technique(name) else {
        eprintln!("bypass: no technique {name}");
        return ExitCode::from(3);
    };
    let report = serve::run(technique, &Place { dir: dir.into() });
    eprintln!("{}", report.detail);
    ExitCode::from(u8::try_from(report.status).unwrap_or(3))
}
