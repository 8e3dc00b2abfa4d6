//! System calls as an attacker makes them: by number, with any argument.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::attack::{At, Failure};

/// An argument of a system call.
pub(crate) trait Argument {
    /// As the kernel takes it.
    fn raw(&self) -> usize;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Argument for $type {
            fn raw(&self) -> usize {
                *self as usize
            }
        }
    )*};
}
number!(i32, u32, i64, u64, usize);

impl Argument for CString {
    fn raw(&self) -> usize {
        self.as_ptr() as usize
    }
}

impl Argument for CStr {
    fn raw(&self) -> usize {
        self.as_ptr() as usize
    }
}

impl<T: Argument + ?Sized> Argument for &T {
    fn raw(&self) -> usize {
        (**self).raw()
    }
}

impl Argument for OwnedFd {
    fn raw(&self) -> usize {
        self.as_raw_fd().raw()
    }
}

impl Argument for File {
    fn raw(&self) -> usize {
        self.as_raw_fd().raw()
    }
}

impl Argument for std::os::unix::net::UnixListener {
    fn raw(&self) -> usize {
        self.as_raw_fd().raw()
    }
}

/// A structure or buffer that the kernel reads, or, when mutable, writes.
pub(crate) struct Memory(usize);

impl Memory {
    /// The kernel reads it.
    pub(crate) fn of<T: ?Sized>(value: &T) -> Self {
        Self(std::ptr::from_ref(value).cast::<u8>() as usize)
    }

    /// The kernel may write it.
    pub(crate) fn to<T: ?Sized>(value: &mut T) -> Self {
        Self(std::ptr::from_mut(value).cast::<u8>() as usize)
    }
}

impl Argument for Memory {
    fn raw(&self) -> usize {
        self.0
    }
}

/// A system call by its number. See [`call!`].
pub(crate) fn raw(step: &str, number: libc::c_long, arguments: &[usize]) -> Result<usize, Failure> {
    let a = |i: usize| arguments.get(i).copied().unwrap_or(0);
    // SAFETY: memory is given as references that outlive the call, writable where the kernel
    // writes; the calls that change this process's own memory (mmap and its like) are made with
    // addresses of fresh mappings only.
    let result = unsafe { libc::syscall(number, a(0), a(1), a(2), a(3), a(4), a(5)) };
    if result < 0 {
        return Err(io::Error::last_os_error()).at(step);
    }
    Ok(result as usize)
}

/// `call!(step, number, argument…)`: a system call whose failure names the step.
macro_rules! call {
    ($step:expr, $number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::raw($step, $number, &[$($crate::sys::Argument::raw(&$argument)),*])
    };
}
pub(crate) use call;

/// Takes a descriptor that a system call has just made.
pub(crate) fn fd(number: usize) -> OwnedFd {
    // SAFETY: the caller has it from a call that made it, and keeps no other.
    unsafe { OwnedFd::from_raw_fd(number as RawFd) }
}

/// A path for the kernel.
pub(crate) fn path(path: impl AsRef<Path>) -> CString {
    let bytes: Vec<u8> = path.as_ref().as_os_str().as_bytes().to_vec();
    CString::new(bytes).unwrap_or_default()
}

/// `open(2)`, with any flags.
pub(crate) fn open(file: impl AsRef<Path>, flags: i32) -> Result<OwnedFd, Failure> {
    open_at(libc::AT_FDCWD, file, flags)
}

/// `openat(2)`, with any flags.
pub(crate) fn open_at(dir: RawFd, file: impl AsRef<Path>, flags: i32) -> Result<OwnedFd, Failure> {
    let file = path(file);
    let flags = flags | libc::O_CLOEXEC;
    call!("open", libc::SYS_openat, dir, file, flags, 0o644).map(fd)
}

/// All bytes of a descriptor.
pub(crate) fn read_all(fd: OwnedFd) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut File::from(fd), &mut bytes).at("read")?;
    Ok(bytes)
}

/// The descriptor as a path.
pub(crate) fn proc_fd(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// An address of this process, as a slice.
///
/// # Safety
/// `length` bytes are mapped there and stay so.
pub(crate) unsafe fn bytes_at(address: usize, length: usize) -> Vec<u8> {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }.to_vec()
}

/// Runs `work` in a forked child; its answer is the child's.
pub(crate) fn in_child(work: impl FnOnce() -> i32) -> Result<i32, Failure> {
    // SAFETY: techniques run in processes of one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error()).at("fork");
    }
    if pid == 0 {
        let code = work();
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) }
    }
    wait(pid)
}

/// Waits for a child: its exit status, 128 + N for signal N.
pub(crate) fn wait(pid: i32) -> Result<i32, Failure> {
    let mut status = 0;
    // SAFETY: an integer to write to.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if waited != pid {
        return Err(io::Error::last_os_error()).at("waitpid");
    }
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Ok(128 + libc::WTERMSIG(status))
    }
}
