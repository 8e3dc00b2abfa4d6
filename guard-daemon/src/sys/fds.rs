//! Descriptors that arrive as bare numbers, and putting them in places.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use tokio::io::Interest;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// What one `recvmsg` gave.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the packet; 0 when the peer has closed.
    pub len: usize,
    /// Descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The packet or the descriptors did not fit.
    pub truncated: bool,
}

/// Most descriptors of one packet.
pub const MAX_FDS: usize = 16;

/// Receives one packet and the descriptors that came with it.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut iov = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let truncated = message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    let len = message.bytes;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok(Received {
        len,
        fds,
        truncated,
    })
}

/// Makes `fds[n]` descriptor *n* without close-on-exec, for every *n*, puts
/// `kept` behind them with close-on-exec, and closes all others. Nothing else
/// of this process's own descriptors survives, so the next step can only be
/// exec or exit.
///
/// # Errors
/// When a descriptor cannot be duplicated. The process must end then.
pub fn arrange_for_exec(fds: Vec<OwnedFd>, kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let count = RawFd::try_from(fds.len()).map_err(io::Error::other)?;
    let all = RawFd::try_from(fds.len() + kept.len()).map_err(io::Error::other)?;
    // First all out of the way of the places, then each into its own.
    let mut high = Vec::with_capacity(fds.len() + kept.len());
    for fd in fds.into_iter().chain(kept) {
        // SAFETY: fcntl with integers; `fd` is open. Nobody owns the copy until exec or exit.
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, all.max(64)) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        high.push(copy);
        // Closing it now could close a place that was filled already: close_from does it.
        std::mem::forget(fd);
    }
    for (place, copy) in (0..).zip(high) {
        let flags = if place < count { 0 } else { libc::O_CLOEXEC };
        // SAFETY: dup3 on integers; whatever was at `place` is given up on purpose.
        if unsafe { libc::dup3(copy, place, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    close_from(all)?;
    // SAFETY: just made by dup3, and owned by nobody else.
    let own = |place| unsafe { OwnedFd::from_raw_fd(place) };
    Ok((count..all).map(own).collect())
}

/// Closes every descriptor from `first` on.
///
/// For processes that are about to exec, or that have just started and hold
/// nothing of their own yet.
///
/// # Errors
/// When the kernel has no close_range(2) (before 5.9).
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: integers only. Callers hold no owned descriptor above `first` that they use again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes a connection that waits on a listening socket, close-on-exec and
/// non-blocking. `None` when none waits.
///
/// # Errors
/// As accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::sys::socket::{SockFlag, accept4};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match accept4(listener.as_raw_fd(), flags) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A second descriptor, close-on-exec, of what an open one refers to.
///
/// # Errors
/// When the number is not open.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with integers.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Lets a task wait until a descriptor can be read. Only within a runtime.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    register(fd)
}

/// As [`watch`], for a descriptor that others use too.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch_shared(fd: Rc<OwnedFd>) -> io::Result<tokio::io::unix::AsyncFd<Rc<OwnedFd>>> {
    register(fd)
}

/// As [`watch`], for a descriptor that may also have no room to write.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch_both(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    register_for(fd, Interest::READABLE | Interest::WRITABLE)
}

fn register<T: AsRawFd>(fd: T) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    register_for(fd, Interest::READABLE)
}

fn register_for<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: an OwnedFd, shared or not, always gives the same number and stays open until it is dropped.
    let watched = unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(io::Error::from)
}
