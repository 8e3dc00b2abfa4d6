//! This checkout's own programs, built to run in any guest: statically linked.

use crate::{process, project};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Package and program, and where it is in the guest.
const PROGRAMS: &[(&str, &str)] = &[
    ("guard-daemon", "guard"),
    ("vm-tests", "vm-tests"),
    ("fake-mcp", "fake-mcp"),
    ("bypass", "bypass"),
    ("vm-init", "vm-init"),
];

/// The built programs.
pub(crate) struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Builds all of them, with a target of their own so that build scripts stay as they are.
    pub(crate) fn build() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| project().join("target"), PathBuf::from);
        let mut command = Command::new("cargo");
        command
            .current_dir(project())
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--target",
                TARGET,
                "--target-dir",
            ])
            .arg(&target)
            .env(
                "RUSTFLAGS",
                "-Ctarget-feature=+crt-static -Crelocation-model=static",
            );
        for (package, program) in PROGRAMS {
            command.args(["--package", package, "--bin", program]);
        }
        process::run(&mut command).context("could not build the guest's programs")?;
        let directory = target.join(TARGET).join("release");
        for (_, program) in PROGRAMS {
            if !directory.join(program).exists() {
                bail!("the build left no {}", directory.join(program).display());
            }
        }
        Ok(Self { directory })
    }

    /// The guest's first process.
    pub(crate) fn init(&self) -> PathBuf {
        self.directory.join("vm-init")
    }

    /// What goes into the guest's PATH: file here, path there.
    pub(crate) fn in_path(&self) -> Vec<(PathBuf, String)> {
        PROGRAMS
            .iter()
            .filter(|(_, program)| *program != "vm-init")
            .map(|(_, program)| {
                (
                    self.directory.join(program),
                    format!("/usr/local/bin/{program}"),
                )
            })
            .collect()
    }
}
