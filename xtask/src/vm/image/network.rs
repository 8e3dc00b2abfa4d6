//! What the suite `network` has in its guest besides runtimes: servers and clients from Debian,
//! an MCP server from PyPI that fetches pages, and a program that is linked with musl.

use super::{SUITES, servers};
use crate::apt::{Apt, Installed};
use crate::{cache, process};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

pub(super) const PACKAGES: &[&str] = &["bind9-dnsutils", "curl", "nginx", "nsd", "openssl"];
pub(super) const REQUIREMENTS: &str = include_str!("../../../guest/requirements-network.txt");
pub(super) const CONNECT: &str = include_str!("../../../../tests/network/connect.c");

/// Adds it to an unpacked root that has Python and its servers already.
pub(super) fn add(root: &Path, partial: &Path) -> Result<()> {
    servers::from_index(root, REQUIREMENTS, "mcp-server-fetch", "mcp_server_fetch")?;
    // Compiled in, and only made by nginx's own scripts.
    for directory in ["var/lib/nginx", "var/log/nginx", "var/lib/nsd", "run/nsd"] {
        fs::create_dir_all(root.join(directory))
            .with_context(|| format!("could not create /{directory}"))?;
    }
    musl(root, partial).context("could not build the program that is linked with musl")
}

/// Compiles it with this machine's compiler and Debian's musl. A C library of its own is what is
/// wanted of it: its resolver is not glibc's.
fn musl(root: &Path, partial: &Path) -> Result<()> {
    let gcc = process::find("gcc").context("no gcc in PATH: install gcc")?;
    let unpacked = partial.join("musl");
    Apt::open("guest", SUITES, Installed::Nothing)?.unpack(&["musl-dev"], &unpacked)?;
    let source = partial.join("connect.c");
    fs::write(&source, CONNECT).with_context(|| format!("could not write {}", source.display()))?;
    let headers = unpacked.join("usr/include/x86_64-linux-musl");
    let library = unpacked.join("usr/lib/x86_64-linux-musl");
    let object = |name: &str| library.join(name);
    let mut command = Command::new(gcc);
    command
        .args(["-O1", "-Wall", "-Werror", "-static", "-no-pie"])
        .args(["-fno-stack-protector", "-nostdinc", "-nostdlib", "-isystem"])
        .arg(&headers)
        .args([object("crt1.o"), object("crti.o"), source.clone()])
        .arg("-L")
        .arg(&library)
        .args(["-lc", "-lgcc"])
        .arg(object("crtn.o"))
        .arg("-o")
        .arg(root.join("usr/local/bin/musl-connect"));
    process::quiet(&mut command)?;
    fs::remove_file(&source).context("could not remove the source")?;
    cache::remove(&unpacked)
}
