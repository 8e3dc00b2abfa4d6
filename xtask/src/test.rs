//! `cargo xtask test`: the workspace's own tests, then the VM tests on every kernel.
//!
//! Closes with `N passed, N failed`. What was promised and could not run counts as failed.

mod count;

use crate::vm::{Binaries, Boot, Sink, With, kernels};
use crate::{process, project};
use anyhow::{Context, Result};
use count::Count;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// How long all VM tests may take on one kernel.
const DEADLINE: Duration = Duration::from_secs(2400);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel series to test on; all of them by default.
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only what needs no virtual machine.
    #[arg(long, conflicts_with_all = ["kernel", "suite"])]
    no_vm: bool,
    /// Only this suite of the VM tests, and no native tests.
    #[arg(long)]
    suite: Option<String>,
    /// Of the suites `bypass` and `network` only what has this in its name.
    #[arg(long, requires = "suite")]
    only: Option<String>,
    /// Of the suite `network` only what runs without guard.
    #[arg(long, requires = "suite")]
    controls: bool,
    /// Make docs/bypass.md from what the suite `bypass` finds.
    #[arg(long)]
    write_docs: bool,
    /// How long the suites `race` and `syscalls` run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Where the suite `syscalls` begins; without it at another place each time, which it prints.
    #[arg(long)]
    seed: Option<u64>,
    /// Virtual machines at once; by default one for each processor. Each kernel has three.
    #[arg(long)]
    jobs: Option<usize>,
}

/// Runs `cargo xtask test`; the status is 0 when nothing failed.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let mut total = Count::default();
    let mut times = Vec::new();
    if args.suite.is_none() {
        let started = Instant::now();
        let count = native().unwrap_or_else(|error| could_not_run("the native tests", &error));
        times.push(("native".to_owned(), started.elapsed(), count));
    }
    if !args.no_vm {
        let all: Vec<String> = kernels::ALL
            .iter()
            .map(|series| (*series).to_owned())
            .collect();
        let series = if args.kernel.is_empty() {
            &all
        } else {
            &args.kernel
        };
        times.extend(on_kernels(series, args));
    }
    if args.write_docs {
        bypass_docs().context("could not write docs/bypass.md")?;
    }
    println!();
    for (phase, time, count) in times {
        println!("{phase}: {count} in {:.0} s", time.as_secs_f64());
        total.add(count);
    }
    println!("{total}");
    Ok(u8::from(total.failed > 0))
}

fn could_not_run(what: &str, error: &anyhow::Error) -> Count {
    eprintln!("xtask: {what} could not run: {error:#}");
    Count {
        passed: 0,
        failed: 1,
    }
}

/// `cargo test` of the whole workspace, shown as it comes and counted.
fn native() -> Result<Count> {
    let mut command = Command::new("cargo");
    command
        .current_dir(project())
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("could not start `{}`", process::line(&command)))?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        let line = line.context("could not read what cargo wrote")?;
        println!("{line}");
        count.add(count::of_cargo(&line));
    }
    let status = child.wait().context("could not wait for cargo")?;
    if !status.success() && count.failed == 0 {
        eprintln!("xtask: `cargo test` ended with {status}, but counted no failed test");
        count.failed = 1;
    }
    Ok(count)
}

/// What one virtual machine is for.
#[derive(Clone, Copy)]
struct Machine<'a> {
    series: &'a str,
    /// What `vm-tests` is to run.
    suite: &'a str,
}

impl Machine<'_> {
    fn name(self) -> String {
        format!("kernel {} {}", self.series, self.suite)
    }
}

/// All tests of a kernel in machines of about the same length: two processors then have
/// something to do until the end. The halves are known to `vm-tests`; `network` runs by its name, with a guest of
/// its own.
const PARTS: [&str; 2] = ["second-half", "first-half"];

/// Each machine for itself, some of them at once.
fn on_kernels(series: &[String], args: &Args) -> Vec<(String, Duration, Count)> {
    let binaries = match Binaries::build() {
        Ok(binaries) => binaries,
        Err(error) => {
            let count = could_not_run("the VM tests", &error);
            return vec![("VM".into(), Duration::ZERO, count)];
        }
    };
    let suites = match &args.suite {
        Some(suite) => vec![suite.as_str()],
        None => PARTS.to_vec(),
    };
    let machines: Vec<Machine<'_>> = series
        .iter()
        .flat_map(|series| suites.iter().map(move |suite| Machine { series, suite }))
        .collect();
    let jobs = args
        .jobs
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let waiting = Mutex::new(machines.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, machines.len().max(1)) {
            scope.spawn(|| {
                loop {
                    // A lock is poisoned only by a panic, and none of these threads may panic.
                    let next = waiting.lock().map(|mut waiting| waiting.next());
                    let Ok(Some((at, machine))) = next else {
                        return;
                    };
                    let started = Instant::now();
                    let count = in_machine(*machine, args, &binaries)
                        .unwrap_or_else(|error| could_not_run(&machine.name(), &error));
                    if let Ok(mut done) = done.lock() {
                        done.push((at, (machine.name(), started.elapsed(), count)));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Puts the last results of every kernel together, and makes the page of them.
fn bypass_docs() -> Result<()> {
    let mut all = serde_json::Map::new();
    for series in kernels::ALL {
        let file = project()
            .join("target/bypass")
            .join(format!("{series}.json"));
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!("no results: {}; run the suite on {series}", file.display())
        })?;
        all.insert((*series).to_owned(), serde_json::from_str(&text)?);
    }
    let results = project().join("tests/bypass/results.json");
    std::fs::write(&results, format!("{:#}\n", serde_json::Value::Object(all)))?;
    let mut command = Command::new("cargo");
    command.current_dir(project());
    command.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "bypass",
        "--",
        "docs",
    ]);
    let page = process::output(command.arg(&results))?;
    std::fs::write(project().join("docs/bypass.md"), page)?;
    Ok(())
}

/// A seed that is not the last one.
fn fresh_seed() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_secs()
}

fn in_machine(machine: Machine<'_>, args: &Args, binaries: &Binaries) -> Result<Count> {
    let Machine { series, suite } = machine;
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let network = suite == "network";
    let mut with = vec![With::Node, With::Python];
    with.extend(network.then_some(With::Network));
    let kernel = kernels::fetch(series)?;
    let modules = kernel.network.clone();
    let mut boot = Boot::new(kernel, &with, binaries)?;
    boot.command = vec!["vm-tests".to_owned(), suite.to_owned()];
    boot.command.extend(args.only.clone());
    if network {
        for file in modules {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("/lib/modules/network/{name}");
            boot.add.push((file, place));
        }
        boot.command
            .extend(args.controls.then(|| "controls".to_owned()));
    }
    if matches!(suite, "first-half" | "race" | "syscalls") {
        boot.command
            .extend([args.seconds.to_string(), seed.to_string()]);
    }
    boot.add
        .push((project().join("policies"), "/opt/guard/policies".into()));
    if matches!(suite, "bypass" | "network") {
        let results = project()
            .join("target")
            .join(suite)
            .join(format!("{series}.json"));
        boot.out.push((
            format!("/root/{suite}/results.json"),
            results.display().to_string(),
        ));
    }
    boot.timeout = DEADLINE + Duration::from_secs(args.seconds);
    boot.sink = Sink::Capture;
    let finished = boot.run()?;
    let text = String::from_utf8_lossy(&finished.stdout);
    let count = count::of_vm_tests(&text, finished.status);
    let mut shown = std::io::stdout().lock();
    writeln!(shown, "\n== kernel {} {suite} ==\n{text}", boot.release())?;
    shown.write_all(&finished.stderr)?;
    count
}
