//! The files of one boot, and of boots that were interrupted.

use crate::project;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Starts the name of each boot's directory; this process's id and a number follow.
const PREFIX: &str = "guard-vm-";

/// Files of one boot. The directory goes away; the console log stays until the verdict is good.
pub(super) struct Work {
    pub(super) directory: PathBuf,
    pub(super) console: PathBuf,
}

impl Work {
    /// Makes the directory, and takes away those of boots that were interrupted.
    pub(super) fn new(release: &str) -> Result<Self> {
        static BOOTS: AtomicU32 = AtomicU32::new(0);
        let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{boot}", std::process::id());
        // Socket paths are limited to 108 bytes, so not below the checkout.
        let directory = std::env::temp_dir().join(format!("{PREFIX}{name}"));
        sweep()?;
        fs::create_dir(&directory)
            .with_context(|| format!("could not create {}", directory.display()))?;
        let logs = project().join("target/vm");
        fs::create_dir_all(&logs)
            .with_context(|| format!("could not create {}", logs.display()))?;
        Ok(Self {
            directory,
            console: logs.join(format!("console-{release}-{name}.log")),
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Removes the directories of processes that are no more.
fn sweep() -> Result<()> {
    let place = std::env::temp_dir();
    for entry in fs::read_dir(&place)
        .with_context(|| format!("could not read {}", place.display()))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another user's, if it cannot be removed.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    Ok(())
}
