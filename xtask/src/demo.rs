//! `cargo xtask demo`: a real MCP server under guard, driven by its official client.
//!
//! What happens is in `tests/demo/run.sh`. It finds its own files in `$DEMO`, the packages from
//! npm in `$MCP_HOME/node_modules`, `guard` in PATH, and leaves its trail in `$DEMO_OUT`.

use crate::vm::{Binaries, Boot, With, kernels};
use crate::{process, project};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run on this machine, as root, where its kernel can enforce.
    #[arg(long)]
    native: bool,
    /// Kernel series of the virtual machine.
    #[arg(long, default_value = "6.12", conflicts_with = "native")]
    kernel: String,
}

/// Runs the demo; the status is the script's.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let out = project().join("target/demo");
    crate::cache::remove(&out)?;
    fs::create_dir_all(&out).with_context(|| format!("could not create {}", out.display()))?;
    let status = if args.native {
        native(&out)?
    } else {
        in_vm(&args.kernel, &out)?
    };
    let trail = out.join("audit.jsonl");
    if !trail.exists() {
        bail!("the demo left no trail at {}", trail.display());
    }
    println!("The trail: {}", trail.display());
    Ok(status)
}

fn in_vm(series: &str, out: &Path) -> Result<u8> {
    let mut boot = Boot::new(
        kernels::fetch(series)?,
        &[With::Node, With::Python],
        &Binaries::build()?,
    )?;
    boot.add
        .push((project().join("tests/demo"), "/opt/demo".into()));
    boot.add
        .push((project().join("policies"), "/opt/demo/policies".into()));
    boot.out
        .push(("/opt/demo-out".into(), out.display().to_string()));
    let script = "export DEMO=/opt/demo MCP_HOME=/opt/mcp DEMO_OUT=/opt/demo-out; \
                  mkdir -p $DEMO_OUT; exec bash /opt/demo/run.sh";
    boot.command = ["bash", "-c", script].map(str::to_owned).to_vec();
    boot.timeout = Duration::from_secs(180);
    let finished = boot.run()?;
    u8::try_from(finished.status)
        .with_context(|| format!("the demo ended with {}", finished.status))
}

fn native(out: &Path) -> Result<u8> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), Into::into);
    process::run(
        Command::new("cargo")
            .current_dir(project())
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                "guard-daemon",
                "--target-dir",
            ])
            .arg(&target),
    )?;
    let programs = target.join("release");
    process::run(Command::new(programs.join("guard")).arg("doctor")).context(
        "this machine cannot enforce (see above); `cargo xtask demo` without --native runs in a virtual machine",
    )?;
    let (demo, home) = (out.join("files"), out.join("mcp"));
    fs::create_dir_all(&home).with_context(|| format!("could not create {}", home.display()))?;
    for (from, to) in [
        ("tests/demo/.", &demo),
        ("policies", &demo),
        ("xtask/guest/.", &home),
    ] {
        fs::create_dir_all(to).with_context(|| format!("could not create {}", to.display()))?;
        process::run(
            Command::new("cp")
                .arg("--recursive")
                .arg(project().join(from))
                .arg(to),
        )?;
    }
    process::quiet(Command::new("npm").current_dir(&home).args([
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ]))
    .context("the native demo needs Node.js with npm")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new("bash")
        .arg(demo.join("run.sh"))
        .env("DEMO", &demo)
        .env("MCP_HOME", &home)
        .env("DEMO_OUT", out)
        .env("PATH", format!("{}:{path}", programs.display()))
        .status()
        .context("could not start bash")?;
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .with_context(|| format!("the demo ended with {status}"))
}
