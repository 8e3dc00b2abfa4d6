//! A child that opens one file from inside a cgroup: the self-test's probe.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `CLONE_INTO_CGROUP` (include/uapi/linux/sched.h), 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Opens `path` for reading in a child that is born in the cgroup, and
/// returns the error number it met, 0 when the open succeeded.
///
/// # Errors
/// When the child cannot be made or does not end as it should.
pub fn open_in_cgroup(cgroup: BorrowedFd<'_>, path: &CStr) -> std::io::Result<i32> {
    // SAFETY: all zero is a valid clone_args: no flags, no stack, no signal.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of
    // everything, and below calls only open and _exit, which are
    // async-signal-safe.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            // SAFETY: in the child: open with a NUL-terminated path, then _exit.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
                libc::_exit(if fd >= 0 {
                    0
                } else {
                    *libc::__errno_location()
                })
            }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for the child made above.
            if unsafe { libc::waitpid(pid as i32, &raw mut status, 0) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            if libc::WIFEXITED(status) {
                Ok(libc::WEXITSTATUS(status))
            } else {
                Err(std::io::Error::other("the probe was killed"))
            }
        }
    }
}
