//! QEMU 10 or newer: the machine's own, or Debian's package unpacked in the cache.
//!
//! Older ones corrupt flags near `cmpxchg16b`, so that kernels die in about one boot of five.

use crate::apt::{self, Apt, Installed};
use crate::{cache, process};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "qemu-system-x86_64";
const OLDEST: u32 = 10;

/// A QEMU that runs.
pub(crate) struct Qemu {
    program: PathBuf,
    /// Where it was unpacked; none for an installed one.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    /// The installed QEMU when it is new enough, else one fetched into the cache.
    pub(crate) fn find() -> Result<Self> {
        if let Some(program) = process::find(PROGRAM) {
            let installed = Self {
                program,
                unpacked: None,
            };
            if installed.version().is_ok_and(|major| major >= OLDEST) {
                return Ok(installed);
            }
        }
        let unpacked = cache::entry("qemu", fetch).with_context(|| {
            format!("QEMU {OLDEST} or newer is needed: install {PROGRAM} of that version, then run this again")
        })?;
        let fetched = Self {
            program: unpacked.join("usr/bin").join(PROGRAM),
            unpacked: Some(unpacked),
        };
        let major = fetched.version()?;
        if major < OLDEST {
            bail!("the fetched QEMU is version {major}; {OLDEST} or newer is needed");
        }
        Ok(fetched)
    }

    /// A command that starts it, and kills it when this process dies.
    pub(crate) fn command(&self) -> Command {
        let mut command = if process::find("setpriv").is_some() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        if let Some(root) = &self.unpacked {
            let libraries = [
                "usr/lib/x86_64-linux-gnu",
                "lib/x86_64-linux-gnu",
                "usr/lib/x86_64-linux-gnu/pulseaudio",
            ];
            let path = libraries
                .map(|part| root.join(part).display().to_string())
                .join(":");
            command.env("LD_LIBRARY_PATH", path).env(
                "QEMU_MODULE_DIR",
                root.join("usr/lib/x86_64-linux-gnu/qemu"),
            );
            for part in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(part));
            }
        }
        command
    }

    fn version(&self) -> Result<u32> {
        let text = process::output(self.command().arg("--version"))?;
        major(&text).with_context(|| format!("{PROGRAM} says {text:?}"))
    }
}

/// Of `QEMU emulator version 10.0.2 …` the 10.
fn major(text: &str) -> Option<u32> {
    let (_, after) = text.split_once("version ")?;
    after.split('.').next()?.parse().ok()
}

fn fetch(partial: &Path) -> Result<()> {
    let codename = apt::codename()?;
    let security = format!("{codename}-security");
    let backports = format!("{codename}-backports");
    let old = codename == "bookworm";
    let mut suites = vec![codename.as_str(), security.as_str()];
    if old {
        suites.push(&backports);
    }
    eprintln!("xtask: fetching QEMU with the libraries that this machine lacks");
    let apt = Apt::open("host", &suites, Installed::Host)?;
    apt.unpack_closure(
        &["qemu-system-x86"],
        old.then_some(backports.as_str()),
        partial,
    )
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"),
            Some(10)
        );
        assert_eq!(major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major("something else"), None);
    }
}
