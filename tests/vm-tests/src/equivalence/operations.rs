//! Every operation on names, as the kernel does it and as the reference
//! judges it.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use guard_common::matcher::{SliceTable, Verdict, decide};
use guard_common::table::FileAccess;

use crate::child::errno;

/// What is tried with one path, or from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    Read,
    Write,
    ReadWrite,
    Execute,
    Create,
    Mkdir,
    Rmdir,
    Symlink,
    Fifo,
    Unlink,
    Truncate,
    Chmod,
    Chown,
    Times,
    SetXattr,
    RemoveXattr,
    Watch,
    Link,
    Rename,
    Replace,
    RenameDirectory,
    Exchange,
    ExchangeDirectories,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Read,
        Self::Write,
        Self::ReadWrite,
        Self::Execute,
        Self::Create,
        Self::Mkdir,
        Self::Rmdir,
        Self::Symlink,
        Self::Fifo,
        Self::Unlink,
        Self::Truncate,
        Self::Chmod,
        Self::Chown,
        Self::Times,
        Self::SetXattr,
        Self::RemoveXattr,
        Self::Watch,
        Self::Link,
        Self::Rename,
        Self::Replace,
        Self::RenameDirectory,
        Self::Exchange,
        Self::ExchangeDirectories,
    ];

    /// Whether it takes two paths.
    pub fn is_move(self) -> bool {
        self as u8 >= Self::Link as u8
    }

    /// What must lie at its paths before.
    fn before(self) -> (What, What) {
        match self {
            Self::Create | Self::Mkdir | Self::Symlink | Self::Fifo => (What::Nothing, What::Any),
            Self::Rmdir => (What::Directory, What::Any),
            Self::Link | Self::Rename => (What::File, What::Nothing),
            Self::Replace | Self::Exchange => (What::File, What::File),
            Self::RenameDirectory => (What::Directory, What::Nothing),
            Self::ExchangeDirectories => (What::Directory, What::Directory),
            _ => (What::File, What::Any),
        }
    }

    /// Does it, in the calling process. 0 or an error number.
    pub fn perform(self, path: &CString, to: &CString) -> i32 {
        let (path, to) = (path.as_ptr(), to.as_ptr());
        // SAFETY: NUL-terminated paths and live structs throughout; what is
        // opened is closed at once, and the execve never succeeds, since the
        // file is empty.
        unsafe {
            let open = |flags| {
                let fd = libc::open(path, flags | libc::O_CLOEXEC | libc::O_NONBLOCK, 0o644);
                let result = errno(fd.into());
                if fd >= 0 {
                    libc::close(fd);
                }
                result
            };
            let rename = |flags: libc::c_uint| {
                let (here, there) = (libc::AT_FDCWD, libc::AT_FDCWD);
                errno(libc::syscall(
                    libc::SYS_renameat2,
                    here,
                    path,
                    there,
                    to,
                    flags,
                ))
            };
            let name = c"trusted.guard".as_ptr();
            match self {
                Self::Read => open(libc::O_RDONLY),
                Self::Write => open(libc::O_WRONLY),
                Self::ReadWrite => open(libc::O_RDWR),
                Self::Create => open(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL),
                Self::Execute => {
                    let none: [*const libc::c_char; 1] = [std::ptr::null()];
                    match errno(libc::execve(path, none.as_ptr(), none.as_ptr()).into()) {
                        // An empty file that may be executed.
                        libc::ENOEXEC => 0,
                        error => error,
                    }
                }
                Self::Mkdir => errno(libc::mkdir(path, 0o755).into()),
                Self::Rmdir => errno(libc::rmdir(path).into()),
                Self::Symlink => errno(libc::symlink(c"anywhere".as_ptr(), path).into()),
                Self::Fifo => errno(libc::mkfifo(path, 0o644).into()),
                Self::Unlink => errno(libc::unlink(path).into()),
                Self::Truncate => errno(libc::truncate(path, 0).into()),
                Self::Chmod => errno(libc::chmod(path, 0o755).into()),
                Self::Chown => errno(libc::chown(path, 0, 0).into()),
                Self::Times => {
                    let times = [libc::timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    }; 2];
                    errno(libc::utimensat(libc::AT_FDCWD, path, times.as_ptr(), 0).into())
                }
                Self::SetXattr => errno(libc::setxattr(path, name, name.cast(), 1, 0).into()),
                Self::RemoveXattr => match errno(libc::removexattr(path, name).into()) {
                    // It may have been refused before.
                    libc::ENODATA => 0,
                    error => error,
                },
                Self::Watch => {
                    let fd = libc::inotify_init1(libc::IN_CLOEXEC);
                    let result = errno(libc::inotify_add_watch(fd, path, libc::IN_OPEN).into());
                    libc::close(fd);
                    result
                }
                Self::Link => errno(libc::link(path, to).into()),
                Self::Rename | Self::Replace | Self::RenameDirectory => rename(0),
                Self::Exchange | Self::ExchangeDirectories => rename(libc::RENAME_EXCHANGE),
            }
        }
    }

    /// What the reference says.
    pub fn judged(self, table: SliceTable<'_>, active: u64, path: &[u8], to: &[u8]) -> bool {
        let verdict = |path, access| decide(table.path_masks(path, access), active);
        let allowed = |path, access| verdict(path, access) == Verdict::Allow;
        // What lies at `from` gets no less strict a verdict at `to`.
        let gains = |from, to| {
            FileAccess::ALL
                .into_iter()
                .any(|access| verdict(to, access) < verdict(from, access))
        };
        match self {
            Self::Read | Self::Watch => allowed(path, FileAccess::Read),
            Self::ReadWrite => allowed(path, FileAccess::Read) && allowed(path, FileAccess::Write),
            Self::Execute => allowed(path, FileAccess::Exec),
            _ if !self.is_move() => allowed(path, FileAccess::Write),
            _ => {
                let both = allowed(path, FileAccess::Write) && allowed(to, FileAccess::Write);
                let exchange = matches!(self, Self::Exchange | Self::ExchangeDirectories);
                let directories = matches!(self, Self::RenameDirectory | Self::ExchangeDirectories);
                let forth = gains(path, to) || directories && table.move_gains(path, to, active);
                let back = gains(to, path) || directories && table.move_gains(to, path, active);
                both && !forth && !(exchange && back)
            }
        }
    }

    /// Puts there what it needs. False where that cannot be.
    pub fn set_up(self, path: &[u8], to: &[u8]) -> bool {
        let (one, two) = self.before();
        if self.is_move() && (is_at_or_below(path, to) || is_at_or_below(to, path)) {
            return false;
        }
        one.put(path) && (!self.is_move() || two.put(to) && one.is_at(path))
    }
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).starts_with(OsStr::from_bytes(above))
}

/// What lies at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Any,
    Nothing,
    File,
    Directory,
}

impl What {
    fn is_at(self, path: &[u8]) -> bool {
        let meta = std::fs::symlink_metadata(OsStr::from_bytes(path));
        match self {
            Self::Any => true,
            Self::Nothing => meta.is_err(),
            Self::File => meta.is_ok_and(|m| m.is_file() && m.len() == 0),
            Self::Directory => meta.is_ok_and(|m| m.is_dir()),
        }
    }

    /// Puts it there: what was there goes, with all below. Never the root, and
    /// never what the guest itself needs.
    fn put(self, path: &[u8]) -> bool {
        let path_of = Path::new(OsStr::from_bytes(path));
        let Some(parent) = path_of.parent() else {
            return false;
        };
        // The directories of the system stay; the random ones have other names.
        let Some(first) = path_of.components().nth(1) else {
            return false;
        };
        const SYSTEM: [&str; 8] = ["proc", "sys", "dev", "run", "tmp", "usr", "bin", "etc"];
        if SYSTEM.iter().any(|name| first.as_os_str() == *name) {
            return false;
        }
        if std::fs::create_dir_all(parent).is_err() {
            return false;
        }
        if self == Self::File && self.is_at(path) {
            return open_to_all(path_of);
        }
        match std::fs::symlink_metadata(path_of) {
            Ok(meta) if meta.is_dir() => {
                if std::fs::remove_dir_all(path_of).is_err() {
                    return false;
                }
            }
            Ok(_) => {
                if std::fs::remove_file(path_of).is_err() {
                    return false;
                }
            }
            Err(_) => {}
        }
        match self {
            Self::Any | Self::Nothing => true,
            Self::File => std::fs::write(path_of, b"").is_ok() && open_to_all(path_of),
            Self::Directory => std::fs::create_dir(path_of).is_ok(),
        }
    }
}

fn open_to_all(path: &Path) -> bool {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).is_ok()
}
