//! A coarse Landlock ruleset: nothing is opened for writing, made, moved or
//! removed outside of the directories that the policy's write rules name.
//!
//! It handles no right to read or to execute: that would cost an open more than
//! the kernel programs do. Nor does it handle truncation: a kernel that is asked
//! to looks up that right at every open, for reading too (`hook_file_open`,
//! security/landlock/fs.c), which costs as much; `truncate` by path is for the
//! kernel programs alone. The directories are a ceiling, not the policy: what
//! lies below them is for the kernel programs to judge.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use landlock::{
    ABI, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, Scope,
};

/// Why there is no ruleset.
#[derive(Debug, thiserror::Error)]
pub enum RulesetFailure {
    /// It is in the list of LSMs, but makes no ruleset.
    #[error("no Landlock ruleset: the kernel lists landlock, but has not its system calls")]
    Absent,
    /// The kernel refuses it.
    #[error("no Landlock ruleset: {0}")]
    Kernel(#[from] RulesetError),
    /// A directory cannot be opened.
    #[error("no Landlock ruleset: cannot open {path}: {source}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Writing, making, removing (Linux 5.13), moving between directories (5.19).
fn writing() -> BitFlags<AccessFs> {
    AccessFs::from_write(ABI::V2)
}

/// Makes the ruleset. With `abstract_sockets`, those of others stay in reach:
/// a rule of Landlock cannot name single ones.
///
/// # Errors
/// When the kernel has no Landlock or refuses it, or a root that is there
/// cannot be opened.
pub fn ruleset(roots: &[CString], abstract_sockets: bool) -> Result<OwnedFd, RulesetFailure> {
    // Signals, and abstract unix sockets, stay inside of the sandbox (6.12).
    let scope = match abstract_sockets {
        true => Scope::Signal.into(),
        false => Scope::AbstractUnixSocket | Scope::Signal,
    };
    let mut ruleset = Ruleset::default()
        .handle_access(writing())?
        .scope(scope)?
        .create()?;
    for root in roots {
        let path = Path::new(OsStr::from_bytes(root.as_bytes()));
        let (file, metadata) = open(path).map_err(|source| RulesetFailure::Open {
            path: path.display().to_string(),
            source,
        })?;
        let rights = match metadata.is_dir() {
            true => writing(),
            false => AccessFs::from_file(ABI::V2) & writing(),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(file, rights))?;
    }
    Option::from(ruleset).ok_or(RulesetFailure::Absent)
}

/// The directory, or the device; the next directory above of what is not there
/// yet, or is a file that may be replaced by another of its name.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let mut path = path;
    loop {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(path)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        match (opened, path.parent()) {
            (Ok((_, metadata)), Some(parent)) if metadata.is_file() || metadata.is_symlink() => {
                path = parent;
            }
            (Err(e), Some(parent))
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) =>
            {
                path = parent;
            }
            (opened, _) => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn no_right_is_handled_that_an_open_for_reading_asks_for() {
        let slow = AccessFs::from_read(ABI::V2) | AccessFs::Truncate | AccessFs::IoctlDev;
        assert!(!writing().intersects(slow));
        assert!(writing().contains(AccessFs::WriteFile | AccessFs::Refer | AccessFs::RemoveFile));
    }

    #[test]
    fn a_root_is_a_directory_or_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        std::fs::write(at.join("file"), b"").unwrap();
        std::fs::create_dir(at.join("sub")).unwrap();
        let opened = |path: &Path| open(path).unwrap().1.ino();
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        for (path, expected) in [
            ("sub", "sub"),
            ("sub/none/deeper", "sub"),
            ("file", ""),
            ("file/below", ""),
            ("", ""),
        ] {
            assert_eq!(opened(&at.join(path)), inode(&at.join(expected)), "{path}");
        }
        let null = Path::new("/dev/null");
        assert_eq!(opened(null), inode(null));
        assert_eq!(
            opened(Path::new("/no-such-directory/x")),
            inode(Path::new("/"))
        );
    }
}
