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
mod child;
#[allow(unreachable_pub)]
mod compile;
#[allow(unreachable_pub)]
mod equivalence;
#[allow(unreachable_pub)]
mod hooks;
#[allow(unreachable_pub)]
mod sandbox;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use guard_daemon::kernel::Kernel;

/// A test: its name and what it does. The kernel side is loaded once and
/// shared, as `guard daemon` shares it between sessions.
type Test = (&'static str, fn(&mut Kernel));

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
    let mut kernel = match Kernel::load_or_adopt() {
        Ok(kernel) => kernel,
        Err(error) => {
            println!("test load ... FAILED\n{error}\n0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    for cost in kernel.costs() {
        println!(
            "{:24} {:>8} instructions verified, {:?}",
            cost.name, cost.verified, cost.time
        );
    }
    let (mut passed, mut failed) = (1, 0);
    for (name, test) in tests() {
        if !name.contains(&filter) {
            continue;
        }
        let ok = catch_unwind(AssertUnwindSafe(|| test(&mut kernel))).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
