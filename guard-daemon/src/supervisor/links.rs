//! Files that deny rules name, by what they are: another link or a bind mount
//! of such a file is denied too. What lies at a path is looked at again each
//! second, since it may be replaced.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guard_common::sandbox::HardLink;

use crate::kernel::{Kernel, KernelError};
use crate::policy::CompiledPolicy;

/// How long what was seen at a path is believed.
const EVERY: Duration = Duration::from_secs(1);

/// The files of one sandbox.
#[derive(Debug, Default)]
pub struct Links {
    /// Paths, and the access bits that are denied there.
    paths: Vec<(PathBuf, u8)>,
    /// What the kernel was told.
    told: BTreeMap<HardLink, u8>,
    looked: Option<Instant>,
    /// That the kernel could not be told was said.
    complained: bool,
}

impl Links {
    /// Those that a policy names.
    #[must_use]
    pub fn of(policy: &CompiledPolicy) -> Self {
        let paths = policy
            .denied_files()
            .into_iter()
            .map(|(path, bits)| (PathBuf::from(OsString::from_vec(path)), bits))
            .collect();
        Self {
            paths,
            ..Self::default()
        }
    }

    /// The same for a sandbox that an earlier supervisor has told the kernel of.
    #[must_use]
    pub fn adopt(policy: &CompiledPolicy, kernel: &Kernel, slot: u32) -> Self {
        // What is not there any more goes at the first look.
        let told = kernel.named_files(slot).into_iter().map(|file| (file, 0));
        Self {
            told: told.collect(),
            ..Self::of(policy)
        }
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether the kernel's not being told is news.
    pub fn complains(&mut self) -> bool {
        !std::mem::replace(&mut self.complained, true)
    }

    /// Looks at the paths when it is time, and tells the kernel what is gone
    /// from there, then what is new.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub fn look(
        &mut self,
        kernel: &mut Kernel,
        slot: u32,
        now: Instant,
    ) -> Result<(), KernelError> {
        if self.looked.is_some_and(|at| now < at + EVERY) {
            return Ok(());
        }
        self.looked = Some(now);
        let mut seen: BTreeMap<HardLink, u8> = BTreeMap::new();
        for (path, bits) in &self.paths {
            if let Some((device, inode)) = identity(path) {
                let file = HardLink {
                    slot,
                    device,
                    inode,
                };
                *seen.entry(file).or_default() |= bits;
            }
        }
        // Room first: what is gone goes before what is new comes.
        self.told.retain(|file, _| {
            let stays = seen.contains_key(file);
            if !stays {
                kernel.unname_file(file);
            }
            stays
        });
        for (file, bits) in &seen {
            if self.told.get(file) != Some(bits) {
                kernel.name_file(*file, *bits)?;
                self.told.insert(*file, *bits);
            }
        }
        Ok(())
    }
}

/// Device of the filesystem, as the kernel writes it in `s_dev`, and inode of
/// the file at a path. `None` for what is no file with names of its own.
fn identity(path: &Path) -> Option<(u32, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    if meta.is_dir() || meta.is_symlink() {
        return None;
    }
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let device = match major {
        // Some filesystems tell other numbers than that of the filesystem.
        0 => device_of_mount(path).unwrap_or(minor),
        _ => kernel_form(major, minor),
    };
    Some((device, meta.ino()))
}

/// `MKDEV` (include/linux/kdev_t.h).
const fn kernel_form(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

/// The device of the filesystem that is mounted there, by the mount's number.
fn device_of_mount(path: &Path) -> Option<u32> {
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
        .ok()?;
    use std::os::fd::AsRawFd as _;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let id = info
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))?
        .trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    device_in(&mounts, id)
}

/// Third field of the mount's line (proc_pid_mountinfo(5)).
fn device_in(mounts: &str, id: &str) -> Option<u32> {
    let mut fields = mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| (fields.next()? == id).then_some(fields))?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    Some(kernel_form(major.parse().ok()?, minor.parse().ok()?))
}

use std::os::unix::fs::OpenOptionsExt as _;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_all_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "x").unwrap();
        std::fs::hard_link(&one, &two).unwrap();
        assert!(identity(&one).is_some());
        assert_eq!(identity(&one), identity(&two));
        std::fs::remove_file(&one).unwrap();
        assert_eq!(identity(&one), None);
        assert_eq!(identity(dir.path()), None);
    }

    #[test]
    fn a_mounts_device_is_its_filesystems() {
        let mounts = "22 28 0:20 / /sys rw shared:7 - sysfs sysfs rw\n\
                      28 1 8:17 / / rw shared:1 - ext4 /dev/sdb1 rw\n";
        assert_eq!(device_in(mounts, "22"), Some(20));
        assert_eq!(device_in(mounts, "28"), Some(8 << 20 | 17));
        assert_eq!(device_in(mounts, "2"), None);
    }
}
