//! Making the server's process: clone3 with its place and its pidfd.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of [`clone_into`] one is.
#[derive(Debug)]
pub enum Cloned {
    /// The child: go on to exec or exit.
    Child,
    /// The parent.
    Parent {
        /// The child.
        pid: i32,
        /// Refers to the child whatever becomes of its number.
        pidfd: OwnedFd,
    },
}

/// `struct clone_args` of include/uapi/linux/sched.h, version 2 (5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks. With `cgroup` (a directory of cgroup v2) the child is in it from
/// its first instruction on.
///
/// The calling process must have one thread, else the child could wait for
/// ever for locks of threads that it does not have; that is checked.
///
/// # Errors
/// When there are several threads, or as clone3(2).
pub fn clone_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    one_thread()?;
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(dir.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of everything, as after fork(2); this
    // process has one thread, so no lock is held by another. `args` lives until clone3 returns, and
    // `pidfd` is where the kernel may write the number.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Cloned::Child),
        n if n < 0 => Err(io::Error::last_os_error()),
        n => {
            let pid = i32::try_from(n).map_err(io::Error::other)?;
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid, pidfd })
        }
    }
}

/// Goes on as a daemon: forks, ends the parent with status 0, and leads a new
/// session. Call before any thread is made.
///
/// # Errors
/// As fork(2) and setsid(2).
pub fn detach() -> io::Result<()> {
    one_thread()?;
    // SAFETY: there is one thread (just checked), so the child inherits no lock that another holds.
    match unsafe { libc::fork() } {
        n if n < 0 => Err(io::Error::last_os_error()),
        0 => {
            nix::unistd::setsid()?;
            Ok(())
        }
        // SAFETY: _exit takes an integer and runs nothing of ours.
        _ => unsafe { libc::_exit(0) },
    }
}

fn one_thread() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "cannot fork with {threads} threads"
    )))
}

/// Ends the process at once, without running anything of ours.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(status) }
}
