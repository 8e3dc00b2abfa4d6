//! What is measured: one operation, many times, at some depth.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

/// Times that an operation is measured, at least and at most.
const BATCHES: std::ops::RangeInclusive<usize> = 40..=4000;
/// Batches that must agree on the least cost: what only disturbed ones came to
/// does not repeat.
const AGREEING: usize = 5;
/// To one part in how many.
pub const SAME: i32 = 500;
/// The same for a new process, whose memory is laid out anew each time.
const ALIKE: i32 = 50;

/// Whether the process stops itself before each batch.
static PAUSES: AtomicBool = AtomicBool::new(false);

/// Lets the parent process do something before each batch.
pub fn pause_between_batches() {
    PAUSES.store(true, Ordering::Relaxed);
}

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// open for reading, and close.
    Open,
    /// stat.
    Stat,
    /// rename within a directory.
    Rename,
    /// unlink.
    Unlink,
    /// vfork, execve of a program that ends at once, and wait.
    Execve,
}

/// The directory at a depth: components of 8 bytes.
pub fn directory(depth: usize) -> String {
    (1..depth).map(|n| format!("/dir{n:05}")).collect()
}

fn c(text: String) -> CString {
    CString::new(text).expect("no NUL")
}

/// An x86-64 program of one system call: `exit(0)`.
const PROGRAM: &[u8] = &[
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // e_ident
    2, 0, 0x3e, 0, 1, 0, 0, 0, // executable, x86-64
    0x78, 0, 0x40, 0, 0, 0, 0, 0, // entry
    0x40, 0, 0, 0, 0, 0, 0, 0, // program headers
    0, 0, 0, 0, 0, 0, 0, 0, // no sections
    0, 0, 0, 0, 0x40, 0, 0x38, 0, 1, 0, 0, 0, 0, 0, 0, 0, // sizes and counts
    1, 0, 0, 0, 5, 0, 0, 0, // PT_LOAD, readable and executable
    0, 0, 0, 0, 0, 0, 0, 0, // from the start
    0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, // to 0x400000
    0x84, 0, 0, 0, 0, 0, 0, 0, 0x84, 0, 0, 0, 0, 0, 0, 0, // this long
    0, 0x10, 0, 0, 0, 0, 0, 0, // aligned to pages
    0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x90, 0x90, 0x90, // exit(0)
];

/// Makes the files that are measured.
pub fn prepare(depths: &[usize]) {
    use std::os::unix::fs::PermissionsExt as _;
    for depth in depths {
        let directory = directory(*depth);
        std::fs::create_dir_all(&directory).expect("directories");
        std::fs::write(format!("{directory}/file.txt"), b"x").expect("the file");
        std::fs::write(format!("{directory}/name.one"), b"x").expect("the file to rename");
        let program = format!("{directory}/exit.elf");
        std::fs::write(&program, PROGRAM).expect("the program");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}

fn now() -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a live struct.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The least cost of one time on which batches of `times` agree, to one part in
/// `spread`, after one to warm up.
pub fn least(
    times: usize,
    spread: i32,
    mut before: impl FnMut(),
    mut each: impl FnMut(usize),
) -> i32 {
    let mut batch = || {
        if PAUSES.load(Ordering::Relaxed) {
            // SAFETY: stops this process until its parent lets it go on.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        before();
        let start = now();
        (0..times).for_each(&mut each);
        ((now() - start) / times as i64) as i32
    };
    batch();
    let mut costs = Vec::new();
    while costs.len() < *BATCHES.end() {
        costs.push(batch());
        let least = *costs.iter().min().expect("one at least");
        let near = least + 1 + least / spread;
        let agreeing = costs.iter().filter(|cost| **cost <= near).count();
        if costs.len() >= *BATCHES.start() && agreeing >= AGREEING {
            return least;
        }
    }
    panic!("no {AGREEING} of {} batches agree", costs.len())
}

impl Operation {
    /// Instructions of one time, in the calling process.
    pub fn measure(self, depth: usize) -> i32 {
        let directory = directory(depth);
        match self {
            Self::Open => {
                let path = c(format!("{directory}/file.txt"));
                least(
                    100,
                    SAME,
                    || (),
                    |_| {
                        // SAFETY: a NUL-terminated path; closed at once.
                        unsafe {
                            let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
                            assert!(fd >= 0, "the measured open is allowed");
                            libc::close(fd);
                        }
                    },
                )
            }
            Self::Stat => {
                let path = c(format!("{directory}/file.txt"));
                least(
                    100,
                    SAME,
                    || (),
                    |_| {
                        // SAFETY: a NUL-terminated path and a live struct.
                        unsafe {
                            let mut stat: libc::stat = std::mem::zeroed();
                            assert_eq!(libc::stat(path.as_ptr(), &raw mut stat), 0);
                        }
                    },
                )
            }
            Self::Rename => {
                let names = [
                    c(format!("{directory}/name.one")),
                    c(format!("{directory}/name.two")),
                ];
                least(
                    100,
                    SAME,
                    || (),
                    |n| {
                        let (from, to) = (&names[n % 2], &names[(n + 1) % 2]);
                        // SAFETY: NUL-terminated paths.
                        let renamed = unsafe { libc::rename(from.as_ptr(), to.as_ptr()) };
                        assert_eq!(renamed, 0, "the measured rename is allowed");
                    },
                )
            }
            Self::Unlink => {
                let names: Vec<_> = (0..50)
                    .map(|n| c(format!("{directory}/temp.{n:03}")))
                    .collect();
                let make = || {
                    for name in &names {
                        // SAFETY: a NUL-terminated path; closed at once.
                        unsafe {
                            let fd = libc::open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600);
                            assert!(fd >= 0, "the file to unlink can be made");
                            libc::close(fd);
                        }
                    }
                };
                least(names.len(), SAME, make, |n| {
                    // SAFETY: a NUL-terminated path.
                    let removed = unsafe { libc::unlink(names[n].as_ptr()) };
                    assert_eq!(removed, 0, "the measured unlink is allowed");
                })
            }
            Self::Execve => {
                let program = c(format!("{directory}/exit.elf"));
                let argv = [program.as_ptr(), std::ptr::null()];
                least(10, ALIKE, || (), |_| execute(&program, &argv))
            }
        }
    }
}

fn execute(program: &CString, argv: &[*const libc::c_char; 2]) {
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    let mut status = 0;
    // A fork would copy all page tables, which is not what is to be measured.
    #[allow(deprecated)]
    // SAFETY: the child does nothing but execute or end, and this process has
    // one thread.
    unsafe {
        let pid = libc::vfork();
        if pid == 0 {
            libc::execve(program.as_ptr(), argv.as_ptr(), none.as_ptr());
            libc::_exit(1);
        }
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
    }
    assert_eq!(status, 0, "the measured execve is allowed");
}
