//! What is proven in virtual machines: run as root in a guest, on each
//! kernel. Prints `test NAME ... ok` or `FAILED` a line, and closes with
//! `N passed, N failed`.
//!
//! Like the other test code it may panic: a panic fails its test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a panic fails the test it is in"
)]

#[allow(unreachable_pub)]
mod bench;
#[allow(unreachable_pub)]
mod bypass_suite;
#[allow(unreachable_pub)]
mod child;
#[allow(unreachable_pub)]
mod compile;
#[allow(unreachable_pub)]
mod equivalence;
#[allow(unreachable_pub)]
mod hooks;
#[allow(unreachable_pub)]
mod names;
#[allow(unreachable_pub)]
mod network;
#[allow(unreachable_pub)]
mod network_suite;
#[allow(unreachable_pub)]
mod remembered;
#[allow(unreachable_pub)]
mod sandbox;
#[allow(unreachable_pub)]
mod servers;
#[allow(unreachable_pub)]
mod service;
#[allow(unreachable_pub)]
mod sessions;
#[allow(unreachable_pub)]
mod tls;
#[allow(unreachable_pub)]
mod unix;
#[allow(unreachable_pub)]
mod walls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use guard_daemon::kernel::Kernel;

/// A test: its name and what it does. The kernel side is loaded once and
/// shared, as `guard daemon` shares it between sessions.
type Test = (&'static str, fn(&mut Kernel));

/// A test of `guard run` as a whole.
type Whole = (&'static str, fn());

/// What takes longer says so.
const LONG: Duration = Duration::from_secs(15);

fn tests() -> Vec<Test> {
    let mut all = Vec::new();
    all.extend_from_slice(hooks::TESTS);
    all.extend_from_slice(network::TESTS);
    all.extend_from_slice(unix::TESTS);
    all.extend_from_slice(names::TESTS);
    all.extend_from_slice(tls::TESTS);
    all.extend_from_slice(remembered::TESTS);
    all.extend_from_slice(equivalence::TESTS);
    all
}

/// What is to run: `vm-tests [WHAT] [ARGUMENTS]`.
struct Wanted {
    what: String,
    arguments: Vec<String>,
}

impl Wanted {
    /// A suite by its name; all of them when nothing is named. The two halves
    /// are for two machines.
    fn suite(&self, name: &str) -> bool {
        let half = if matches!(name, "bypass") {
            "second-half"
        } else {
            "first-half"
        };
        self.what.is_empty() || self.what == name || self.what == half
    }

    /// Tests by a part of their name. `kernel` stands for all that need no
    /// `guard` in the guest.
    fn of<T: Copy>(&self, kernel: bool, all: &[(&'static str, T)]) -> Vec<(&'static str, T)> {
        let whole = match self.what.as_str() {
            "kernel" | "first-half" => Some(kernel),
            "second-half" => Some(!kernel),
            "bypass" | "left-out" | "network" | "race" | "syscalls" => Some(false),
            _ => None,
        };
        let wanted = |name: &str| whole.unwrap_or_else(|| name.contains(&self.what));
        let all = all.iter().copied();
        all.filter(|(name, _)| wanted(name)).collect()
    }

    fn argument(&self, n: usize) -> &str {
        self.arguments.get(n).map_or("", String::as_str)
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let wanted = Wanted {
        what: arguments.next().unwrap_or_default(),
        arguments: arguments.collect(),
    };
    if wanted.what == "bench-kernel" {
        bench::run(wanted.argument(0));
        return ExitCode::SUCCESS;
    }
    if wanted.what == "bench-walls" {
        bench::walls::run();
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    let mut last = Instant::now();
    let mut tell = |name: &str, ok: bool| {
        let took = last.elapsed();
        last = Instant::now();
        if took > LONG {
            println!("    the next took {:.0} s", took.as_secs_f64());
        }
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed += 1 }
    };
    // First, and taken down at the end: a supervisor would take over what is
    // loaded, and the last supervisor of what follows takes down its own.
    let of_kernel = wanted.of(true, &tests());
    if !of_kernel.is_empty() {
        on_the_kernel(&of_kernel, &mut tell);
    }
    for on_demand in [walls::ON_DEMAND, sessions::ON_DEMAND] {
        for (name, test) in wanted.of(false, on_demand) {
            tell(name, apart(test));
        }
    }
    let served = [walls::TESTS, sessions::TESTS, servers::TESTS].concat();
    let served = wanted.of(false, &served);
    if !served.is_empty() {
        let service = service::Service::start();
        for (name, test) in served {
            tell(name, apart(test));
        }
        tell("service_ends", service.end());
    }
    stress(&wanted, &mut tell);
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `bypass [TECHNIQUE]`, `network [ROW]`, `left-out [HOOK]`, and `race SECONDS [SEED]`,
/// `syscalls SECONDS [SEED]`, whose arguments the first half takes too.
fn stress(wanted: &Wanted, tell: &mut impl FnMut(&str, bool)) {
    if wanted.suite("bypass") {
        let technique = match wanted.what.as_str() {
            "bypass" => wanted.argument(0),
            _ => "",
        };
        bypass_suite::run(technique, tell);
    }
    // It has a guest of its own: by name only.
    if wanted.what == "network" {
        network_suite::run(&wanted.arguments, tell);
    }
    // It starts guard for each hook: by name only.
    if wanted.what == "left-out" {
        bypass_suite::left_out::run(wanted.argument(0), tell);
    }
    let race = wanted.suite("race");
    let syscalls = wanted.suite("syscalls");
    if race || syscalls {
        let _service = service::Service::start();
        let seconds = wanted.argument(0).parse().unwrap_or(30);
        if race {
            bypass_suite::race::run(seconds, tell);
        }
        if syscalls {
            let seed = wanted.argument(1).parse().unwrap_or(1);
            bypass_suite::fuzz::run(seconds, seed, tell);
        }
    }
}

/// Loads the kernel side, runs tests of it, and takes it down again.
fn on_the_kernel(tests: &[Test], tell: &mut impl FnMut(&str, bool)) {
    let mut kernel = match Kernel::load_or_adopt() {
        Ok(kernel) => kernel,
        Err(error) => {
            println!("{error}\n{error:?}");
            return tell("load", false);
        }
    };
    tell("load", true);
    print_costs(&kernel);
    for (name, test) in tests {
        let ok = catch_unwind(AssertUnwindSafe(|| test(&mut kernel))).is_ok();
        tell(name, ok);
    }
    let costs = kernel.costs().iter();
    let names: Vec<String> = costs.map(|cost| cost.name.clone()).collect();
    let down = kernel.teardown();
    if let Err(error) = &down {
        println!("{error}");
    }
    tell("teardown", down.is_ok() && nothing_loaded(&names));
}

/// Whether all of these programs are gone in the end. What is unpinned is freed
/// after some grace periods of RCU.
fn nothing_loaded(names: &[String]) -> bool {
    for _ in 0..100 {
        let left: Vec<String> = loaded_programs()
            .flatten()
            .filter_map(|program| Some(program.name_as_str()?.to_owned()))
            .filter(|name| names.iter().any(|ours| ours.starts_with(name.as_str())))
            .collect();
        if left.is_empty() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("programs that nobody has pinned are still there");
    false
}

/// Runs a test in a process of its own, which a panic may end.
fn apart(test: fn()) -> bool {
    // SAFETY: this program has one thread, so that the child may run anything.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let ok = catch_unwind(test).is_ok();
        std::process::exit(if ok { 0 } else { 1 });
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && status == 0
}

fn print_costs(kernel: &Kernel) {
    for cost in kernel.costs() {
        println!(
            "{:24} {:>8} instructions verified, {:?}",
            cost.name, cost.verified, cost.time
        );
    }
}
