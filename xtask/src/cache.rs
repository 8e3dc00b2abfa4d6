//! The cache of what was fetched or built once: kernels, QEMU, the guest's root, the eBPF linker.
//!
//! It lives in `$GUARD_XTASK_CACHE`, else `$XDG_CACHE_HOME/guard-xtask`, else
//! `~/.cache/guard-xtask`, outside the checkout, so that a second checkout need not fetch again.
//! An entry appears whole or not at all: it is made under a temporary name and renamed.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache directory, made when it is not there.
pub(crate) fn root() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let root = if let Some(own) = variable("GUARD_XTASK_CACHE") {
        PathBuf::from(own)
    } else if let Some(base) = variable("XDG_CACHE_HOME") {
        Path::new(&base).join("guard-xtask")
    } else {
        let home = variable("HOME").context(
            "neither GUARD_XTASK_CACHE, XDG_CACHE_HOME nor HOME is set: set one of them, to say \
             where fetched files may be kept",
        )?;
        Path::new(&home).join(".cache/guard-xtask")
    };
    fs::create_dir_all(&root).with_context(|| format!("could not create {}", root.display()))?;
    root.canonicalize()
        .with_context(|| format!("could not resolve {}", root.display()))
}

/// The entry `name`; when it is missing, `make` fills a fresh directory that then becomes it.
///
/// Two processes that want the same entry wait for each other; one makes it.
///
/// # Errors
/// Those of `make`, in which case nothing is left behind.
pub(crate) fn entry(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let root = root()?;
    let place = root.join(name);
    if place.exists() {
        return Ok(place);
    }
    let lock = root.join(format!(".{name}.lock"));
    let held =
        File::create(&lock).with_context(|| format!("could not create {}", lock.display()))?;
    held.lock()
        .with_context(|| format!("could not lock {}", lock.display()))?;
    if place.exists() {
        return Ok(place);
    }
    let partial = root.join(format!(".{name}.partial"));
    remove(&partial)?;
    fs::create_dir_all(&partial)
        .with_context(|| format!("could not create {}", partial.display()))?;
    if let Err(error) = make(&partial) {
        remove(&partial)?;
        return Err(error);
    }
    fs::rename(&partial, &place).with_context(|| {
        format!(
            "could not rename {} to {}",
            partial.display(),
            place.display()
        )
    })?;
    Ok(place)
}

/// Removes a directory tree that may not be there.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("could not remove {}", directory.display()))
        }
    }
}

/// A short key for an entry that is made from `inputs` (FNV-1a).
pub(crate) fn key(inputs: &[&str]) -> String {
    let hash = inputs
        .iter()
        .flat_map(|input| input.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}
