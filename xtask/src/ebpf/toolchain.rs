//! What compiles eBPF: the pinned stable compiler, its library's source, and bpf-linker.
//!
//! The user's toolchain is not touched: where its library source is missing, cargo is given a
//! private sysroot of links, with the source from Debian's package of the same compiler version.

use crate::apt::{Apt, Installed};
use crate::{cache, process, project};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The last release that links with the compiler's own LLVM; later ones want a system LLVM.
const LINKER_VERSION: &str = "0.10.3";
/// Debian suites that may hold `rust-src` of the pinned compiler.
const SUITES: &[&str] = &["trixie-backports"];

/// The parts, all present.
pub(crate) struct Toolchain {
    pub(crate) cargo: PathBuf,
    /// A wrapper of the compiler: see [`wrapper`].
    pub(crate) rustc: PathBuf,
    pub(crate) linker: PathBuf,
    pub(crate) objcopy: PathBuf,
    /// The user's own, with the compiler's libraries.
    pub(crate) sysroot: PathBuf,
    /// Directories whose paths must not show in the object.
    pub(crate) remap: Vec<PathBuf>,
}

impl Toolchain {
    /// Finds or fetches every part.
    pub(crate) fn prepare() -> Result<Self> {
        let version = rustc_version()?;
        let sysroot = PathBuf::from(process::output(rustc().args(["--print", "sysroot"]))?.trim());
        let linker = linker(&sysroot)?;
        let library = library_source(&sysroot, &version)?;
        let overlay = overlay(&sysroot, &library, &version)?;
        let objcopy = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-objcopy");
        if !objcopy.exists() {
            bail!(
                "{} is missing: reinstall the toolchain with rustup",
                objcopy.display()
            );
        }
        let source = library
            .canonicalize()
            .context("could not resolve the library source")?;
        Ok(Self {
            cargo: std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from),
            rustc: overlay.join("rustc-for-bpf"),
            linker,
            objcopy,
            remap: vec![
                sysroot.clone(),
                overlay.clone(),
                overlay.join("lib/rustlib/src/rust"),
                source,
            ],
            sysroot,
        })
    }
}

/// Where cargo keeps fetched crates.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(project());
    command
}

/// The compiler's version, as `1.95.0`.
fn rustc_version() -> Result<String> {
    let text = process::output(rustc().arg("--version"))?;
    text.split_whitespace()
        .nth(1)
        .map(str::to_owned)
        .with_context(|| format!("`rustc --version` says {text:?}"))
}

fn linker(sysroot: &Path) -> Result<PathBuf> {
    let name = format!("bpf-linker-{LINKER_VERSION}");
    let entry = cache::entry(&name, |partial| {
        eprintln!("xtask: building bpf-linker {LINKER_VERSION} (about a minute)");
        process::quiet(
            Command::new("cargo")
                .current_dir(project())
                .args([
                    "install",
                    "bpf-linker",
                    "--version",
                    LINKER_VERSION,
                    "--locked",
                    "--root",
                ])
                .arg(partial)
                .env("CARGO_TARGET_DIR", partial.join("target")),
        )?;
        cache::remove(&partial.join("target"))
    })?;
    let linker = entry.join("bin/bpf-linker");
    process::quiet(
        Command::new(&linker)
            .arg("--version")
            .env("LD_LIBRARY_PATH", sysroot.join("lib")),
    )
    .with_context(|| {
        format!(
            "bpf-linker does not run: remove {} and try again",
            entry.display()
        )
    })?;
    Ok(linker)
}

/// The directory that holds `library/` of the compiler's own version.
fn library_source(sysroot: &Path, version: &str) -> Result<PathBuf> {
    let own = sysroot.join("lib/rustlib/src/rust");
    if own.join("library/core/Cargo.toml").exists() {
        return Ok(own);
    }
    let fetched = cache::entry(&format!("rust-src-{version}"), |partial| {
        eprintln!(
            "xtask: fetching the library source of Rust {version} (Debian's rust-src, 45 MB)"
        );
        let apt = Apt::open("rust-src", SUITES, Installed::Nothing)?;
        let versions = apt.versions("rust-src")?;
        let wanted = versions
            .iter()
            .find(|found| {
                found.split('+').next() == Some(version)
                    || found.starts_with(&format!("{version}-"))
            })
            .with_context(|| {
                format!(
                    "{} has rust-src {versions:?}, not {version}",
                    SUITES.join(", ")
                )
            })?;
        apt.unpack(&[&format!("rust-src={wanted}")], partial)
    })
    .with_context(|| {
        format!(
            "the eBPF build needs the library source of Rust {version}: run `rustup component add \
             rust-src --toolchain {version}`"
        )
    })?;
    Ok(fetched.join(format!("usr/src/rustc-{version}")))
}

/// A private sysroot: links to the user's, and the library source where cargo looks for it.
fn overlay(sysroot: &Path, library: &Path, version: &str) -> Result<PathBuf> {
    let script = wrapper(sysroot);
    let key = cache::key(&[
        &sysroot.display().to_string(),
        &library.display().to_string(),
        &script,
    ]);
    cache::entry(&format!("sysroot-{version}-{key}"), |partial| {
        link_all(sysroot, partial, &["lib"])?;
        link_all(&sysroot.join("lib"), &partial.join("lib"), &["rustlib"])?;
        let rustlib = partial.join("lib/rustlib");
        link_all(&sysroot.join("lib/rustlib"), &rustlib, &["src"])?;
        fs::create_dir_all(rustlib.join("src")).context("could not create the source directory")?;
        symlink(library, rustlib.join("src/rust")).context("could not link the library source")?;
        let place = partial.join("rustc-for-bpf");
        fs::write(&place, &script).context("could not write the compiler's wrapper")?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))
            .context("could not mark the wrapper executable")
    })
}

/// The compiler with the private sysroot, and without paths in its symbols.
///
/// cargo derives `-C metadata` from the absolute path of every package outside the workspace, and
/// it ends up in symbol names. Crate names are unique in the eBPF build, so one constant serves.
fn wrapper(sysroot: &Path) -> String {
    let rustc = sysroot.join("bin/rustc");
    format!(
        r#"#!/bin/sh
here=$(dirname "$0")
case " $* " in
*" bpfel-unknown-none "*)
    for argument do
        shift
        case $argument in
        metadata=*) argument=metadata=guard ;;
        esac
        set -- "$@" "$argument"
    done ;;
esac
exec '{}' --sysroot "$here" "$@"
"#,
        rustc.display()
    )
}

/// Links each entry of `from` into `to`, but those named in `but`.
fn link_all(from: &Path, to: &Path, but: &[&str]) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("could not create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))? {
        let entry = entry?;
        if but.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        symlink(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("could not link {}", entry.path().display()))?;
    }
    Ok(())
}
