//! Completes an unpacked root: what the packages' own scripts would have made.

use crate::process;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the packages' scripts would have made.
pub(super) fn complete(root: &Path) -> Result<()> {
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
    for directory in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o1777))?;
    }
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
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
        // `su` and `runuser` need these; nobody logs in here.
        ("etc/pam.d/common-auth", "auth required pam_permit.so\n"),
        (
            "etc/pam.d/common-account",
            "account required pam_permit.so\n",
        ),
        (
            "etc/pam.d/common-password",
            "password required pam_deny.so\n",
        ),
        (
            "etc/pam.d/common-session",
            "session required pam_permit.so\n",
        ),
        (
            "etc/pam.d/common-session-noninteractive",
            "session required pam_permit.so\n",
        ),
    ];
    for (name, content) in files {
        fs::write(root.join(name), content).with_context(|| format!("could not write {name}"))?;
    }
    fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o640))?;
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
