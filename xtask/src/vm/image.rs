//! The guest's root file system: a small Debian, unpacked from its packages into an ext4 image.
//!
//! No package is installed and no maintainer script runs; what such scripts would have made and
//! the guest needs is made here. The image is read-only to the host: each boot discards its writes.

use crate::apt::{Apt, Installed};
use crate::{cache, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's release. It need not be the machine's own.
const SUITES: &[&str] = &["bookworm", "bookworm-security"];
/// A shell and the ordinary tools.
const BASE: &[&str] = &[
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "diffutils",
    "e2fsprogs",
    "findutils",
    "grep",
    "gzip",
    "iproute2",
    "libc-bin",
    "mount",
    "netbase",
    "passwd",
    "procps",
    "sed",
    "tar",
    "tzdata",
    "util-linux",
    "xz-utils",
];

/// What else a guest can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum With {
    /// Node.js and the MCP servers from npm.
    Node,
    /// Python, git and the MCP servers from PyPI.
    Python,
}

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["nodejs"],
            Self::Python => &["python3", "git"],
        }
    }
}

/// The image of a guest with all of `with`, built when it is not in the cache.
pub(crate) fn fetch(with: &[With]) -> Result<PathBuf> {
    let mut with = with.to_vec();
    with.sort();
    with.dedup();
    let mut packages = BASE.to_vec();
    packages.extend(with.iter().flat_map(|with| with.packages()));
    let names: Vec<&str> = with.iter().map(|with| with.name()).collect();
    let key = cache::key(&[&packages.join(" "), include_str!("image.rs")]);
    let name = if names.is_empty() {
        format!("guest-{key}")
    } else {
        format!("guest-{}-{key}", names.join("-"))
    };
    let entry = cache::entry(&name, |partial| {
        eprintln!("xtask: building the guest's file system ({})", name);
        build(&packages, partial)
    })?;
    Ok(entry.join("root.img"))
}

fn build(packages: &[&str], partial: &Path) -> Result<()> {
    let root = partial.join("root");
    for directory in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(format!("usr/{directory}"), root.join(directory))?;
    }
    Apt::open("guest", SUITES, Installed::Nothing)?
        .unpack_closure(packages, None, &root)
        .context("could not unpack the guest's packages")?;
    complete(&root).context("could not complete the guest's file system")?;
    pack(&root, &partial.join("root.img"))?;
    cache::remove(&root)
}

/// What the packages' scripts would have made.
fn complete(root: &Path) -> Result<()> {
    for directory in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "home/user",
        "srv",
        "etc",
        "var/tmp",
        "var/log",
        "usr/local/bin",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000:user:/home/user:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        (
            "etc/group",
            "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
        ),
        (
            "etc/shadow",
            "root:*:20000:0:99999:7:::\nuser:*:20000:0:99999:7:::\n",
        ),
        ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
        ("etc/hostname", "guest\n"),
        ("etc/resolv.conf", "nameserver 127.0.0.53\n"),
        (
            "etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n",
        ),
    ];
    for (name, content) in files {
        fs::write(root.join(name), content).with_context(|| format!("could not write {name}"))?;
    }
    link(root, "dash", "usr/bin/sh")?;
    link(root, "mawk", "usr/bin/awk")?;
    certificates(root)?;
    let ldconfig = process::find("ldconfig").context("no ldconfig: install libc-bin")?;
    process::quiet(Command::new(ldconfig).arg("-r").arg(root))
}

fn link(root: &Path, target: &str, place: &str) -> Result<()> {
    let place = root.join(place);
    if place.symlink_metadata().is_err() && place.with_file_name(target).exists() {
        symlink(target, &place).with_context(|| format!("could not link {}", place.display()))?;
    }
    Ok(())
}

/// One file with all trusted certificates, where TLS libraries look for it.
fn certificates(root: &Path) -> Result<()> {
    let source = root.join("usr/share/ca-certificates/mozilla");
    let mut names: Vec<PathBuf> = fs::read_dir(&source)
        .with_context(|| format!("could not read {}", source.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let mut bundle = Vec::new();
    for name in names {
        bundle
            .extend(fs::read(&name).with_context(|| format!("could not read {}", name.display()))?);
    }
    fs::create_dir_all(root.join("etc/ssl/certs"))?;
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), bundle)
        .context("could not write the certificates")
}

/// Packs the tree into an image with room to write.
fn pack(root: &Path, image: &Path) -> Result<()> {
    let used = process::output(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(root),
    )?;
    let kib: u64 = used
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("du says {used:?}"))?;
    let mut command = make_file_system(root)?;
    command
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-O",
            "^has_journal",
            "-E",
            "lazy_itable_init=1,root_owner=0:0",
        ])
        .arg("-d")
        .arg(root)
        .arg(image)
        .arg(format!("{}k", kib * 3 / 2 + (512 << 10)));
    process::quiet(&mut command).context("could not pack the guest's file system")
}

/// `mke2fs`, seen by itself as root so that the guest's files belong to root.
fn make_file_system(root: &Path) -> Result<Command> {
    let program = match process::find("mke2fs") {
        Some(program) => program,
        None => root.join("usr/sbin/mke2fs"),
    };
    if !program.exists() {
        bail!("no mke2fs: install e2fsprogs");
    }
    if process::output(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("unshare");
    command.arg("--map-root-user").arg(program);
    Ok(command)
}
