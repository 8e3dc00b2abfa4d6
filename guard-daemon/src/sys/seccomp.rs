//! seccomp(2) with a listener: the calls that the C library does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

// include/uapi/linux/seccomp.h: SECCOMP_IOWR(0, struct seccomp_notif),
// SECCOMP_IOWR(1, struct seccomp_notif_resp), SECCOMP_IOW(2, __u64).
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;

const _: () = assert!(size_of::<libc::seccomp_notif>() == 0x50);
const _: () = assert!(size_of::<libc::seccomp_notif_resp>() == 0x18);

/// Installs a filter for this thread and what it executes and forks, and
/// returns the descriptor (close-on-exec) to which its notifications go.
/// Needs `no_new_privs`.
///
/// # Errors
/// As seccomp(2): `EBUSY` where a filter of this thread has a listener already.
pub fn install(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    // A signal does not interrupt a call that the supervisor has heard of, so
    // that it is reported once (5.19).
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions at `filter`, which live until it returns, and
    // writes none.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a listener has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A call waits for its answer.
    Call,
    /// None does now.
    Nothing,
    /// No process has the filter any more.
    Gone,
}

/// Whether a call waits.
///
/// # Errors
/// As poll(2).
pub fn waiting(listener: BorrowedFd<'_>) -> io::Result<Waiting> {
    let mut fds = [PollFd::new(listener, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO)?;
    let seen = fds[0].revents().unwrap_or(PollFlags::empty());
    Ok(if seen.contains(PollFlags::POLLIN) {
        Waiting::Call
    } else if seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        Waiting::Gone
    } else {
        Waiting::Nothing
    })
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// For the answer.
    pub id: u64,
    /// Its thread, in the pid namespace of this process; 0 when it is not seen
    /// from here.
    pub tid: u32,
    /// Number, architecture, arguments.
    pub data: libc::seccomp_data,
}

/// Takes the next call. Only where [`waiting`] says that there is one: it may
/// wait otherwise. `None` when its process was killed in between.
///
/// # Errors
/// As ioctl(2).
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Call>> {
    // SAFETY: integers only, for which all zero is valid; the kernel wants it zeroed.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, whose size the request number says.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut notification) };
    if result < 0 {
        return match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
            e => Err(e),
        };
    }
    Ok(Some(Call {
        id: notification.id,
        tid: notification.pid,
        data: notification.data,
    }))
}

/// Whether a call still waits: then its thread's number is still its own.
#[must_use]
pub fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one integer.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID as _, &raw const id) == 0 }
}

/// Lets a call fail with `EPERM`.
///
/// # Errors
/// As ioctl(2); a call whose process was killed in between is no error.
pub fn refuse(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let mut answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: -libc::EPERM,
        flags: 0,
    };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, whose size the request number says.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw mut answer) };
    if result < 0 {
        return match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            e => Err(e),
        };
    }
    Ok(())
}

/// Makes a system call with integers only and returns its error number, 0 when
/// it succeeded.
#[cfg(test)]
pub fn attempt(number: libc::c_long, arguments: [u64; 3]) -> i32 {
    let [a, b, c] = arguments;
    // SAFETY: for tests, which give numbers and arguments that touch no memory of this process:
    // null pointers, or flags that are refused first.
    let result = unsafe { libc::syscall(number, a, b, c, 0_u64, 0_u64, 0_u64) };
    if result < 0 {
        return io::Error::last_os_error().raw_os_error().unwrap_or(-1);
    }
    0
}
