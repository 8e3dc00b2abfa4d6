//! Makes an ordinary system: modules, the disk as root, the usual mounts, loopback.

use crate::orders::Orders;
use crate::sys;
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

/// The disk that becomes the root. The host discards what is written to it.
const DISK: &str = "/dev/vda";
/// How long the disk may take to appear.
const WAIT: Duration = Duration::from_secs(20);

/// The ordinary user's home, and that user's uid and gid.
const HOME: &str = "/home/user";
const USER: u32 = 1000;

/// What is mounted where before the command runs. The first that fails is an error.
const MOUNTS: &[(&str, &str, MsFlags, &str)] = &[
    ("tmpfs", "/run", NOSUID, "mode=755"),
    ("tmpfs", "/tmp", NOSUID, "mode=1777"),
    ("tmpfs", "/dev/shm", NOSUID, "mode=1777"),
    ("devpts", "/dev/pts", NOSUID, "mode=620,ptmxmode=666"),
    ("cgroup2", "/sys/fs/cgroup", NOSUID, ""),
    ("bpf", "/sys/fs/bpf", NOSUID, "mode=700"),
    ("securityfs", "/sys/kernel/security", NOSUID, ""),
    ("tracefs", "/sys/kernel/tracing", NOSUID, ""),
];

const NOSUID: MsFlags = MsFlags::MS_NOSUID;

/// What is needed to load modules and find devices.
pub(crate) fn early() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(target).with_context(|| format!("could not create {target}"))?;
        attach(kind, target, NOSUID, "")?;
    }
    Ok(())
}

fn attach(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    // devtmpfs may have been mounted by the kernel; a second mount of the same is harmless.
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .with_context(|| format!("could not mount {kind} on {target}"))
}

/// Loads the modules in `directory`, whose names carry their order.
pub(crate) fn modules(directory: &str) -> Result<()> {
    let mut files: Vec<_> = match fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    files.sort();
    for file in files {
        sys::load_module(&file).with_context(|| format!("could not load {}", file.display()))?;
    }
    Ok(())
}

/// Mounts the disk, copies the host's files to it, and makes it the root.
pub(crate) fn switch(orders: &Orders) -> Result<()> {
    let started = Instant::now();
    while !Path::new(DISK).exists() {
        if started.elapsed() > WAIT {
            bail!("{DISK} did not appear");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::create_dir_all("/disk")?;
    mount(
        Some(DISK),
        "/disk",
        Some("ext4"),
        MsFlags::MS_NOATIME,
        Some(""),
    )
    .context("could not mount the disk")?;
    if Path::new("/add").is_dir() {
        copy(Path::new("/add"), Path::new("/disk")).context("could not copy the added files")?;
    }
    for part in ["/dev", "/proc", "/sys"] {
        let target = format!("/disk{part}");
        fs::create_dir_all(&target)?;
        mount(
            Some(part),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .with_context(|| format!("could not move {part}"))?;
    }
    std::env::set_current_dir("/disk")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("could not move the root")?;
    nix::unistd::chroot(".").context("could not change the root")?;
    std::env::set_current_dir("/")?;
    if !Path::new(&orders.directory).is_dir() {
        bail!("no directory {} to start in", orders.directory);
    }
    Ok(())
}

/// Copies a tree into another. Directories that are there stay as they are; files are replaced.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = source.symlink_metadata()?;
        if meta.is_dir() {
            if !target.is_dir() {
                fs::create_dir(&target)
                    .with_context(|| format!("could not create {}", target.display()))?;
                fs::set_permissions(&target, meta.permissions())?;
            }
            copy(&source, &target)?;
            continue;
        }
        if target.symlink_metadata().is_ok() {
            fs::remove_file(&target)
                .with_context(|| format!("could not replace {}", target.display()))?;
        }
        if meta.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target)
                .with_context(|| format!("could not write {}", target.display()))?;
            fs::set_permissions(
                &target,
                fs::Permissions::from_mode(meta.permissions().mode()),
            )?;
        }
    }
    Ok(())
}

/// The mounts and settings that a booted system has.
pub(crate) fn settle() -> Result<()> {
    for (kind, target, flags, options) in MOUNTS {
        if target.starts_with("/sys/") && !Path::new(target).is_dir() {
            bail!("this kernel has no {target}");
        }
        fs::create_dir_all(target).with_context(|| format!("could not create {target}"))?;
        attach(kind, target, *flags, options)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let place = format!("/dev/{name}");
        if Path::new(&place).symlink_metadata().is_err() {
            symlink(target, &place).with_context(|| format!("could not link {place}"))?;
        }
    }
    fs::create_dir_all("/run/lock")?;
    give(Path::new(HOME)).with_context(|| format!("could not give {HOME} to its user"))?;
    nix::unistd::sethostname("guest").context("could not set the host name")?;
    sys::loopback_up().context("could not bring the loopback interface up")
}

/// Makes the ordinary user the owner of a tree.
fn give(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}
