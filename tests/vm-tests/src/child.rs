//! Code that runs in a process of its own inside a cgroup, without exec.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

/// `CLONE_INTO_CGROUP` (include/uapi/linux/sched.h).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A running child and the pipe that its results come through.
pub struct Child {
    pid: i32,
    results: std::fs::File,
}

/// Starts `work` in a child that is born in `cgroup`. What it returns can be
/// taken with [`Child::results`].
pub fn spawn(cgroup: BorrowedFd<'_>, uid: Option<u32>, work: impl FnOnce() -> Vec<i32>) -> Child {
    let mut ends = [0; 2];
    // SAFETY: an array of two descriptors, as pipe(2) wants.
    let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "pipe");
    // SAFETY: both were just made and belong to nobody else.
    let (read, mut write) = unsafe {
        (
            std::fs::File::from_raw_fd(ends[0]),
            std::fs::File::from_raw_fd(ends[1]),
        )
    };
    // SAFETY: all zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM this is fork; this program has one thread, so
    // that the child may run anything.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    assert!(pid >= 0, "clone3: {}", std::io::Error::last_os_error());
    if pid == 0 {
        drop(read);
        if let Some(uid) = uid {
            // SAFETY: plain system calls in a single-threaded child.
            let ok = unsafe {
                libc::setgroups(0, std::ptr::null()) == 0
                    && libc::setgid(uid) == 0
                    && libc::setuid(uid) == 0
            };
            assert!(ok, "setuid");
        }
        let results = work();
        let bytes: Vec<u8> = results.iter().flat_map(|r| r.to_ne_bytes()).collect();
        let sent = write.write_all(&bytes).is_ok();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(if sent { 0 } else { 1 }) }
    }
    Child {
        pid: pid as i32,
        results: read,
    }
}

impl Child {
    /// Follows it to its end, and calls `pause` each time that it stops itself.
    pub fn follow(&self, mut pause: impl FnMut()) {
        loop {
            // SAFETY: all zero is a valid siginfo_t.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let wait = |flags, info: &mut libc::siginfo_t| {
                // SAFETY: fills a live struct.
                let done = unsafe { libc::waitid(libc::P_PID, self.pid as u32, info, flags) };
                assert_eq!(done, 0, "waitid");
            };
            // Its end is left to `results`.
            wait(libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT, &mut info);
            if info.si_code != libc::CLD_STOPPED {
                return;
            }
            wait(libc::WSTOPPED, &mut info);
            pause();
            // SAFETY: the child that was just seen to be stopped.
            unsafe { libc::kill(self.pid, libc::SIGCONT) };
        }
    }

    /// Waits for the end and returns what the work returned.
    pub fn results(mut self) -> Vec<i32> {
        let mut bytes = Vec::new();
        self.results
            .read_to_end(&mut bytes)
            .expect("read from the child");
        let mut status = 0;
        // SAFETY: waits for the child that `spawn` made.
        unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(status, 0, "the child failed: wait status {status:#x}");
        bytes
            .chunks_exact(4)
            .map(|c| i32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
            .collect()
    }
}

/// The error number of a call that returns -1 on failure, else 0.
pub fn errno(result: i64) -> i32 {
    if result >= 0 {
        0
    } else {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
    }
}

/// Opens a file and says which error it met.
pub fn open(path: &str, flags: i32) -> i32 {
    let path = std::ffi::CString::new(path).expect("no NUL in a test path");
    // SAFETY: a NUL-terminated path; the descriptor is closed at once.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600);
        let result = errno(fd.into());
        if fd >= 0 {
            libc::close(fd);
        }
        result
    }
}
