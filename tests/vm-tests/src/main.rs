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
mod sandbox;
#[allow(unreachable_pub)]
mod servers;
#[allow(unreachable_pub)]
mod sessions;
#[allow(unreachable_pub)]
mod walls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use guard_daemon::kernel::Kernel;

/// A test: its name and what it does. The kernel side is loaded once and
/// shared, as `guard daemon` shares it between sessions.
type Test = (&'static str, fn(&mut Kernel));

/// A test of `guard run` as a whole, whose supervisor loads the kernel side.
/// These run first: as long as this program has the kernel side, or its pins
/// are there, a supervisor would take it over instead.
type Whole = (&'static str, fn());

fn whole_tests() -> Vec<Whole> {
    let mut all = Vec::new();
    all.extend_from_slice(walls::TESTS);
    all.extend_from_slice(sessions::TESTS);
    all.extend_from_slice(servers::TESTS);
    all
}

fn tests() -> Vec<Test> {
    let mut all = Vec::new();
    all.extend_from_slice(hooks::TESTS);
    all.extend_from_slice(equivalence::TESTS);
    all
}

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    if filter == "bench-kernel" {
        bench::run();
        return ExitCode::SUCCESS;
    }
    if filter == "bench-walls" {
        bench::walls::run();
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, 0);
    let mut tell = |name: &str, ok: bool| {
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed += 1 }
    };
    let word = |n: usize| std::env::args().nth(n).unwrap_or_default();
    let stress = ["bypass", "race", "syscalls"].contains(&filter.as_str());
    // `kernel` stands for all that need no `guard` in the guest.
    let kernel_only = filter == "kernel";
    let wholes: Vec<Whole> = whole_tests()
        .into_iter()
        .filter(|(name, _)| !kernel_only && name.contains(&filter))
        .collect();
    for (name, test) in &wholes {
        tell(name, apart(*test));
    }
    // `vm-tests bypass [TECHNIQUE]`, `race SECONDS`, `syscalls SECONDS SEED`.
    // By name only: their last supervisor stays for a moment, and would take
    // down what the tests of the kernel side load next.
    let wanted = |suite: &str| filter == suite;
    let seconds = word(2).parse().unwrap_or(30);
    if wanted("bypass") {
        let technique = if stress { word(2) } else { String::new() };
        bypass_suite::run(&technique, &mut tell);
    }
    if wanted("race") {
        bypass_suite::race::run(seconds, &mut tell);
    }
    if wanted("syscalls") {
        bypass_suite::fuzz::run(seconds, word(3).parse().unwrap_or(1), &mut tell);
    }
    let tests: Vec<Test> = tests()
        .into_iter()
        .filter(|(name, _)| kernel_only || name.contains(&filter))
        .collect();
    if !stress && (!tests.is_empty() || wholes.is_empty()) {
        match Kernel::load_or_adopt() {
            Ok(mut kernel) => {
                tell("load", true);
                print_costs(&kernel);
                for (name, test) in tests {
                    let ok = catch_unwind(AssertUnwindSafe(|| test(&mut kernel))).is_ok();
                    tell(name, ok);
                }
            }
            Err(error) => {
                println!("{error}\n{error:?}");
                tell("load", false);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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
