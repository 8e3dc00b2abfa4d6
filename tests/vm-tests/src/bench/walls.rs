//! Guest instructions that the walls behind the kernel programs add to calls
//! which they allow: `vm-tests bench-walls` in `cargo xtask vm run --icount`.

use std::os::fd::AsFd;

use guard_daemon::supervisor::{landlock, seccomp};
use guard_daemon::sys;

use crate::child::spawn;

const BATCHES: usize = 40;
const CALLS: usize = 100;

fn now() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a live struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn least(call: impl Fn()) -> i32 {
    let costs = (0..=BATCHES).map(|_| {
        let start = now();
        (0..CALLS).for_each(|_| call());
        (now() - start) / CALLS as i64
    });
    costs.skip(1).min().expect("some batches") as i32
}

/// getppid; open and close at depth 8; the same for writing.
fn measure() -> Vec<i32> {
    let open = |path: &std::ffi::CStr, flags| {
        least(|| {
            // SAFETY: a NUL-terminated path; closed at once.
            unsafe {
                let fd = libc::open(path.as_ptr(), flags);
                assert!(fd >= 0, "the measured open is allowed");
                libc::close(fd);
            }
        })
    };
    let path = c"/a/b/c/d/e/f/g/file";
    vec![
        // SAFETY: takes nothing.
        least(|| assert!(unsafe { libc::getppid() } >= 0)),
        open(path, libc::O_RDONLY),
        open(path, libc::O_WRONLY),
    ]
}

fn under(name: &str, prepare: impl Fn()) {
    let root = std::fs::File::open("/sys/fs/cgroup").expect("the root cgroup");
    let measured = spawn(root.as_fd(), None, || {
        // SAFETY: integers only.
        let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        assert_eq!(set, 0, "no_new_privs");
        prepare();
        measure()
    })
    .results();
    println!("{name:10} {measured:?}");
}

/// Prints instructions for getppid, open for reading, open for writing.
pub fn run() {
    std::fs::create_dir_all("/a/b/c/d/e/f/g").expect("make directories");
    std::fs::write("/a/b/c/d/e/f/g/file", b"").expect("write a file");
    let filter = seccomp::filter(false).expect("a filter");
    let ruleset = || {
        let root = std::ffi::CString::from(c"/a");
        let ruleset = landlock::ruleset(&[root], false).expect("a ruleset");
        sys::landlock::restrict_self(ruleset.as_fd()).expect("restrict");
    };
    let install = || std::mem::forget(sys::seccomp::install(&filter).expect("install"));
    under("none", || {});
    under("seccomp", install);
    under("landlock", ruleset);
    under("both", || {
        ruleset();
        install();
    });
    under("none", || {});
}
