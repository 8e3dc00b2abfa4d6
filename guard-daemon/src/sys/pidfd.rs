//! Processes by descriptor: a number can be another process's by the time it
//! is used, a pidfd cannot.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Refers to the process that has this number now (pidfd_open(2)).
///
/// # Errors
/// When there is none.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
