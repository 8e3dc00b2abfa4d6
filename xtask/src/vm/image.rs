//! The guest's root file system: a small Debian, unpacked from its packages into an ext4 image.
//!
//! No package is installed and no maintainer script runs; what such scripts would have made and
//! the guest needs is made here. The image is read-only to the host: each boot discards its writes.

mod complete;
mod network;
mod servers;

use crate::apt::{Apt, Installed};
use crate::{cache, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest's release. It need not be the machine's own.
const SUITES: &[&str] = &["trixie", "trixie-security"];
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
    /// Name and web servers, and clients of them. Needs the others.
    Network,
}

impl With {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
            Self::Network => "network",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["nodejs", "npm"],
            Self::Python => &["python3", "python3-pip", "git"],
            Self::Network => network::PACKAGES,
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
    let packages_named = packages.join(" ");
    let mut of = vec![
        packages_named.as_str(),
        include_str!("image.rs"),
        include_str!("image/complete.rs"),
        include_str!("image/servers.rs"),
        servers::PACKAGES,
        servers::LOCK,
        servers::REQUIREMENTS,
    ];
    if with.contains(&With::Network) {
        of.extend([
            include_str!("image/network.rs"),
            network::REQUIREMENTS,
            network::CONNECT,
        ]);
    }
    let key = cache::key(&of);
    let name = if names.is_empty() {
        format!("guest-{key}")
    } else {
        format!("guest-{}-{key}", names.join("-"))
    };
    let entry = cache::entry(&name, |partial| {
        eprintln!("xtask: building the guest's file system ({})", name);
        build(&packages, &with, partial)
    })?;
    Ok(entry.join("root.img"))
}

fn build(packages: &[&str], with: &[With], partial: &Path) -> Result<()> {
    let root = partial.join("root");
    for directory in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(format!("usr/{directory}"), root.join(directory))?;
    }
    Apt::open("guest", SUITES, Installed::Nothing)?
        .unpack_closure(packages, None, &root)
        .context("could not unpack the guest's packages")?;
    complete::complete(&root).context("could not complete the guest's file system")?;
    for with in with {
        match with {
            With::Node => servers::from_npm(&root)?,
            With::Python => servers::from_pypi(&root)?,
            With::Network => network::add(&root, partial)?,
        }
    }
    pack(&root, &partial.join("root.img"))?;
    cache::remove(&root)
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
