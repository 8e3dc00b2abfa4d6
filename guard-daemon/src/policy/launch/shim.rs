//! Version managers put a stand-in into PATH that decides, when it is run,
//! which program to run. guard asks the same files beforehand and starts the
//! program itself, so that the policy need not allow the manager's shell code.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{LaunchError, is_executable, search};

/// The program that a shim stands for; `None` when `path` is no shim.
pub(super) fn real_program(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<OsString>,
    cwd: &Path,
) -> Result<Option<PathBuf>, LaunchError> {
    let Ok(real) = path.canonicalize() else {
        return Ok(None);
    };
    let refused = |manager: &'static str, advice: String| LaunchError::Shim {
        path: path.to_owned(),
        manager,
        advice,
    };
    let name = path.file_name().unwrap_or_default();
    let shown = name.to_string_lossy();
    match real.file_name().map(OsStrExt::as_bytes) {
        Some(b"volta-shim") => {
            return Err(refused(
                "volta",
                format!("start what `volta which {shown}` prints"),
            ));
        }
        Some(b"mise") if name != "mise" => {
            return Err(refused(
                "mise",
                format!("start what `mise which {shown}` prints"),
            ));
        }
        _ => {}
    }
    let Some(dir) = real
        .parent()
        .filter(|dir| dir.file_name() == Some(OsStr::new("shims")))
    else {
        return Ok(None);
    };
    let Some(root) = dir.parent() else {
        return Ok(None);
    };
    let Ok(text) = std::fs::read(&real) else {
        return Ok(None);
    };
    if contains(&text, b"asdf exec") {
        return Err(refused(
            "asdf",
            format!("start what `asdf which {shown}` prints"),
        ));
    }
    if !contains(&text, b"/pyenv") {
        return Ok(None);
    }
    pyenv(root, dir, name, environment, cwd)
        .map(Some)
        .ok_or_else(|| refused("pyenv", format!("start what `pyenv which {shown}` prints")))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.len() < 1 << 16 && memchr::memmem::find(text, part).is_some()
}

/// pyenv's choice: PYENV_VERSION, else the nearest `.python-version`, else
/// the file `version`; the first of the versions named that has the program.
fn pyenv(
    root: &Path,
    shims: &Path,
    name: &OsStr,
    environment: &dyn Fn(&str) -> Option<OsString>,
    cwd: &Path,
) -> Option<PathBuf> {
    let from_env = environment("PYENV_VERSION").filter(|value| !value.is_empty());
    let chosen = match from_env {
        Some(value) => value.to_string_lossy().replace(':', "\n"),
        None => cwd
            .ancestors()
            .map(|dir| dir.join(".python-version"))
            .chain([root.join("version")])
            .find_map(|file| std::fs::read_to_string(file).ok())
            .unwrap_or_else(|| "system".into()),
    };
    let words = chosen
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace);
    for version in words {
        let found = if version == "system" {
            let path = environment("PATH")?;
            let others = std::env::split_paths(&path)
                .filter(|dir| dir.canonicalize().ok().as_deref() != Some(shims));
            let others = std::env::join_paths(others).ok()?;
            search(name, Some(others), cwd)
        } else {
            version_dir(root, version).map(|dir| dir.join("bin").join(name))
        };
        if let Some(found) = found.filter(|path| is_executable(path)) {
            return Some(found);
        }
    }
    None
}

/// The directory of a version, or of the newest that starts with it.
fn version_dir(root: &Path, version: &str) -> Option<PathBuf> {
    if version.contains('/') || version.starts_with('.') {
        return None;
    }
    let versions = root.join("versions");
    let exact = versions.join(version);
    if exact.is_dir() {
        return Some(exact);
    }
    let wanted = format!("{version}.");
    let numbers = |name: &str| -> Vec<u64> {
        name.split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect()
    };
    std::fs::read_dir(&versions)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&wanted))
        .max_by_key(|name| numbers(name))
        .map(|name| versions.join(name))
}
