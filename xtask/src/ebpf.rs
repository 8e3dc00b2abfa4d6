//! Compiles the kernel programs to `guard-ebpf/guard.bpf.o`, the same bytes in every directory.
//!
//! The object is committed and embedded in `guard`, so that users need no eBPF toolchain.
//! `--check` compiles again and requires the committed bytes. What makes that possible: one
//! pinned compiler and linker, every path mapped to a fixed name, no path in any symbol, no DWARF.

mod object;
mod toolchain;

use crate::{process, project};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use toolchain::Toolchain;

/// The target that aya's programs are compiled for.
const TARGET: &str = "bpfel-unknown-none";
/// The names that take the place of this machine's directories in the object.
const MAPPED: &[&str] = &["/guard", "/cargo", "/registry", "/rust", "/target"];
/// Joins flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\u{1f}";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compile into a temporary directory and require the bytes of the committed object.
    #[arg(long)]
    check: bool,
    /// Write the object here instead of guard-ebpf/guard.bpf.o.
    #[arg(long, conflicts_with = "check")]
    out: Option<PathBuf>,
    /// The crate to compile.
    #[arg(long, hide = true)]
    source: Option<PathBuf>,
}

/// Fetches or builds the toolchain.
pub(crate) fn setup() -> Result<()> {
    Toolchain::prepare().map(|_| ())
}

/// Runs `cargo xtask ebpf`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let source = match &args.source {
        Some(source) => source
            .canonicalize()
            .with_context(|| format!("no crate at {}", source.display()))?,
        None => project().join("guard-ebpf"),
    };
    let toolchain = Toolchain::prepare()?;
    let committed = source.join("guard.bpf.o");
    if args.check {
        return check(&toolchain, &source, &committed);
    }
    let built = build(&toolchain, &source, &source.join("target"))?;
    object::refuse_traces(&built)?;
    let place = args.out.as_ref().unwrap_or(&committed);
    fs::write(place, &built).with_context(|| format!("could not write {}", place.display()))?;
    eprintln!("xtask: wrote {} ({} bytes)", place.display(), built.len());
    Ok(())
}

fn check(toolchain: &Toolchain, source: &Path, committed: &Path) -> Result<()> {
    let expected = fs::read(committed).with_context(|| {
        format!(
            "could not read {}: run `cargo xtask ebpf` and commit what it writes",
            committed.display()
        )
    })?;
    let target = project().join("target/ebpf-check");
    crate::cache::remove(&target)?;
    let built = build(toolchain, source, &target)?;
    crate::cache::remove(&target)?;
    object::refuse_traces(&built)?;
    if built != expected {
        bail!(
            "{} is not what its source compiles to: {}\nRun `cargo xtask ebpf` and commit the object with its source.",
            committed.display(),
            object::difference(&expected, &built)
        );
    }
    eprintln!(
        "xtask: {} is what its source compiles to",
        committed.display()
    );
    Ok(())
}

/// Compiles, strips, and returns the object's bytes.
fn build(toolchain: &Toolchain, source: &Path, target: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(source)
        .args([
            "build",
            "--release",
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
            "--target-dir",
        ])
        .arg(target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &toolchain.rustc)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags(toolchain, source, target)?.join(SEPARATOR),
        )
        .env("CARGO_INCREMENTAL", "0")
        // The source of the standard library is the linked one; no other place may say otherwise.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_TARGET_DIR");
    if source.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    process::run(&mut command)?;
    let linked = target.join(TARGET).join("release/guard-ebpf");
    let stripped = target.join("guard.bpf.o");
    process::run(
        Command::new(&toolchain.objcopy)
            .env("LD_LIBRARY_PATH", toolchain.sysroot.join("lib"))
            .arg("--strip-debug")
            .arg(&linked)
            .arg(&stripped),
    )?;
    fs::read(&stripped).with_context(|| format!("could not read {}", stripped.display()))
}

/// Compiler flags. Later mappings win, so the narrower ones come last.
fn flags(toolchain: &Toolchain, source: &Path, target: &Path) -> Result<Vec<String>> {
    let mut flags: Vec<String> = vec![
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".into(),
        // rustc passes it on to the linker. Atomic operations need v3.
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=2".into(),
        "--cfg=bpf_target_arch=\"x86_64\"".into(),
    ];
    let mut remap =
        |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    let cargo_home = toolchain::cargo_home()?;
    remap(&cargo_home, "/cargo");
    let registry = cargo_home.join("registry/src");
    if let Ok(entries) = fs::read_dir(&registry) {
        // Each is named after its registry's host; in the object all have one name.
        for entry in entries {
            remap(&entry?.path(), "/registry");
        }
    }
    if let Some(checkout) = source.parent() {
        remap(checkout, "/guard");
    }
    remap(target, "/target");
    for directory in &toolchain.remap {
        remap(directory, "/rust");
    }
    Ok(flags)
}
