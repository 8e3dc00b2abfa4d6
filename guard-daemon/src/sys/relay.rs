//! System calls of the relay.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Status(u8),
    /// By this signal.
    Signal(i32),
}

/// Takes the descriptors `0..count`, which the process was started with, into
/// ownership. `None` the second time.
///
/// # Errors
/// When one of them is not open.
pub fn inherited(count: RawFd) -> io::Result<Option<Vec<OwnedFd>>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    let mut owned = Vec::new();
    for fd in 0..count {
        // SAFETY: F_GETFD reads a flag of a descriptor and touches no memory.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(io::Error::new(
                io::Error::last_os_error().kind(),
                format!("descriptor {fd} is not open"),
            ));
        }
        // SAFETY: it is open, was inherited, and is owned by nobody else: this
        // runs once, before anything else in the process opened a descriptor.
        owned.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(Some(owned))
}

/// Sends a signal to the process of a pidfd.
///
/// # Errors
/// What `pidfd_send_signal` says; `ESRCH` when it has ended.
pub fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no information structure (null) and no flags: it reads no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reaps the child of a pidfd. `None` while it runs.
///
/// # Errors
/// What `waitid` says; `ECHILD` when it is no child of this process.
pub fn reap_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    // SAFETY: siginfo_t is plain data for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is valid for writing; the descriptor is open.
    let result = unsafe {
        libc::waitid(
            libc::P_PIDFD,
            pidfd.as_raw_fd().unsigned_abs(),
            &mut info,
            libc::WEXITED | libc::WNOHANG,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the child's part, or left zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if pid == 0 => None,
        libc::CLD_EXITED => Some(Ended::Status((status & 0xff) as u8)),
        _ => Some(Ended::Signal(status)),
    })
}

/// Makes a pipe hold up to `bytes`. A hint: what is no pipe, or over the
/// user's limit, stays as it is.
pub fn grow_pipe(fd: BorrowedFd<'_>, bytes: i32) {
    // SAFETY: changes a property of an open descriptor and touches no memory.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Keeps the allocator from opening files: glibc looks up the number of
/// processors and the overcommit mode in /sys and /proc before it makes or
/// shrinks a thread's arena. With the one arena it needs neither. Call it
/// before any thread is started.
pub fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}
