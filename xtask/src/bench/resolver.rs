//! `cargo xtask bench resolver`: questions for names a second and their latency,
//! native, with an upstream on loopback.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, project};

/// Builds guard and lets it measure itself.
pub(crate) fn run() -> Result<u8> {
    let mut build = Command::new("cargo");
    build.current_dir(project());
    process::quiet(build.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "guard-daemon",
    ]))?;
    let status = Command::new(project().join("target/release/guard"))
        .arg("__bench-names")
        .status()
        .context("could not start guard")?;
    Ok(u8::from(!status.success()))
}
