//! `cargo xtask setup`: fetches or builds all that the other commands would on first use.

use crate::{ebpf, vm};
use anyhow::{Result, bail};

/// Prepares every part, and goes on after one that fails so that all that is missing is named.
pub(crate) fn run() -> Result<()> {
    let cache = crate::cache::root()?;
    eprintln!("xtask: setting up in {}", cache.display());
    let mut failed = 0;
    let mut part = |what: &str, needed_for: &str, done: Result<()>| match done {
        Ok(()) => eprintln!("xtask: {what}: ready"),
        Err(error) => {
            failed += 1;
            eprintln!("xtask: {what}: MISSING ({needed_for} will not work): {error:#}");
        }
    };
    part("the eBPF toolchain", "cargo xtask ebpf", ebpf::setup());
    part("QEMU 10 or newer", "every VM", vm::setup_qemu());
    for series in vm::kernels::ALL {
        let done = vm::kernels::fetch(series).map(|_| ());
        part(&format!("kernel {series}"), "its VM", done);
    }
    part(
        "the guest's file system",
        "every VM",
        vm::setup_image(false),
    );
    part(
        "the guest's MCP servers",
        "the demo and the tests with real servers",
        vm::setup_image(true),
    );
    if failed > 0 {
        bail!(
            "{failed} of the parts are missing; `cargo build`, `cargo test` and \
             `cargo xtask test --no-vm` work without them"
        );
    }
    Ok(())
}
