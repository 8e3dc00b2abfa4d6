//! `guard __bench-load`: what the kernel programs cost to load, for
//! `cargo xtask bench load`.

use crate::kernel::Kernel;
use crate::kernel::load::kernel_release;

/// The most instructions that all programs together may take to verify, so
/// that a start by itself stays below half a second on ordinary hardware.
const BUDGET: u32 = 500_000;

/// Loads, prints a table, unloads. 1 when the budget is exceeded.
pub(super) fn run() -> u8 {
    let start = std::time::Instant::now();
    let kernel = match Kernel::load_or_adopt() {
        Ok(kernel) => kernel,
        Err(error) => {
            eprintln!("guard: {error}");
            return super::REFUSED;
        }
    };
    let whole = start.elapsed();
    if kernel.adopted() {
        eprintln!("guard: programs are loaded already; end the sandboxes and run again");
        return super::REFUSED;
    }
    let mut total = 0;
    println!("kernel {}", kernel_release());
    for cost in kernel.costs() {
        println!(
            "{:24} {:>9} verified  {:>9.1} ms",
            cost.name,
            cost.verified,
            cost.time.as_secs_f64() * 1e3
        );
        total += cost.verified;
    }
    println!(
        "{:24} {total:>9} verified  {:>9.1} ms, maps and types included",
        "all",
        whole.as_secs_f64() * 1e3
    );
    if let Err(error) = kernel.teardown() {
        eprintln!("guard: {error}");
        return super::REFUSED;
    }
    if total > BUDGET {
        eprintln!(
            "guard: {total} verified instructions are more than the {BUDGET} that a start may cost"
        );
        return 1;
    }
    0
}
