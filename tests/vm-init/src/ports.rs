//! The ways to the host: virtio serial ports, found by the names that QEMU gave them.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the ports may take to appear after their driver was loaded.
const WAIT: Duration = Duration::from_secs(20);

/// The open ports. A write returns when the host has the bytes.
pub(crate) struct Ports {
    pub(crate) out: File,
    pub(crate) err: File,
    control: File,
}

impl Ports {
    /// Waits for the ports and opens them.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self {
            out: port("guard.out")?,
            err: port("guard.err")?,
            control: port("guard.control")?,
        })
    }

    /// Sends one line of control.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.control, "{line}")
            .with_context(|| format!("could not tell the host {line:?}"))
    }

    /// Sends a file, or a directory with all below it, as `file MODE SIZE PATH` and its bytes.
    /// One that is not there is told as `missing PATH`.
    pub(crate) fn send(&mut self, path: &str) -> Result<()> {
        if path.contains('\n') {
            bail!("a path with a line break cannot be sent: {path:?}");
        }
        let place = Path::new(path);
        if !place.exists() {
            return self.say(&format!("missing {path}"));
        }
        if place.is_dir() {
            self.say(&format!("directory {path}"))?;
            for entry in fs::read_dir(place).with_context(|| format!("could not read {path}"))? {
                self.send(&entry?.path().to_string_lossy())?;
            }
            return Ok(());
        }
        let mut content = Vec::new();
        let mut file = File::open(place).with_context(|| format!("could not open {path}"))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        file.read_to_end(&mut content)
            .with_context(|| format!("could not read {path}"))?;
        self.say(&format!("file {mode:o} {} {path}", content.len()))?;
        self.control
            .write_all(&content)
            .with_context(|| format!("could not send {path}"))
    }
}

fn port(name: &str) -> Result<File> {
    let started = Instant::now();
    loop {
        if let Some(device) = device(name) {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&device)
                .with_context(|| format!("could not open {device}"));
        }
        if started.elapsed() > WAIT {
            bail!("no port named {name} appeared");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn device(name: &str) -> Option<String> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let device = format!("/dev/{}", entry.file_name().to_string_lossy());
        if found.trim() == name && Path::new(&device).exists() {
            return Some(device);
        }
    }
    None
}
