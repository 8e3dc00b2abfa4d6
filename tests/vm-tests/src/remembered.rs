//! What programs remember of directories ends with what it was true of.

use std::ffi::CString;
use std::io::{Read as _, Write as _};

use guard_daemon::kernel::Kernel;

use crate::Test;
use crate::child::open;
use crate::compile;
use crate::sandbox::Sandbox;

pub const TESTS: &[Test] = &[
    (
        "a_renamed_directory_is_judged_anew",
        a_renamed_directory_is_judged_anew,
    ),
    ("a_moved_mount_is_judged_anew", a_moved_mount_is_judged_anew),
    (
        "a_directory_made_anew_is_judged_anew",
        a_directory_made_anew_is_judged_anew,
    ),
];

const POLICY: &str = "version = 1\n[files]\nread = ['/srv/r/open/**']\n";
const NO: i32 = libc::EACCES;

/// Runs `work` in a sandbox that may read below `/srv/r/open` only. What it
/// asks for by number is done by `help`, outside.
fn with_help(
    kernel: &mut Kernel,
    work: impl FnOnce(&mut dyn FnMut(u8)) -> Vec<i32>,
    help: impl Fn(u8),
) -> Vec<i32> {
    std::fs::create_dir_all("/srv/r/open").expect("a tree");
    let policy = compile::sets(&[POLICY]);
    let sandbox = Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        0,
    );
    let (mut asked, mut ask) = std::io::pipe().expect("a pipe");
    let (mut answered, mut answer) = std::io::pipe().expect("a pipe");
    let child = sandbox.start(|| {
        let results = work(&mut |what| {
            ask.write_all(&[what]).expect("ask");
            answered.read_exact(&mut [0]).expect("an answer");
        });
        ask.write_all(&[0]).expect("say that all is done");
        results
    });
    let mut what = [0];
    loop {
        asked.read_exact(&mut what).expect("a question");
        if what == [0] {
            break;
        }
        help(what[0]);
        answer.write_all(&what).expect("answer");
    }
    let results = child.results();
    sandbox.end(kernel);
    results
}

fn mv(from: &str, to: &str) {
    std::fs::rename(from, to).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
}

/// Opens a file until what is known of its directory was used: the first open
/// remembers it, the second one uses it.
fn twice(path: &str) -> [i32; 2] {
    [open(path, libc::O_RDONLY), open(path, libc::O_RDONLY)]
}

fn a_renamed_directory_is_judged_anew(kernel: &mut Kernel) {
    std::fs::create_dir_all("/srv/r/open/above/dir").expect("a tree");
    std::fs::write("/srv/r/open/above/dir/f", b"x").expect("a file");
    let got = with_help(
        kernel,
        |outside| {
            let mut got = Vec::new();
            got.extend(twice("/srv/r/open/above/dir/f"));
            outside(1);
            got.extend(twice("/srv/r/shut/dir/f"));
            outside(2);
            got.extend(twice("/srv/r/open/above/dir/f"));
            outside(3);
            got.extend(twice("/srv/r/dir/f"));
            outside(4);
            got.extend(twice("/srv/r/open/above/dir/f"));
            got
        },
        |what| match what {
            1 => mv("/srv/r/open/above", "/srv/r/shut"),
            2 => mv("/srv/r/shut", "/srv/r/open/above"),
            3 => mv("/srv/r/open/above/dir", "/srv/r/dir"),
            _ => mv("/srv/r/dir", "/srv/r/open/above/dir"),
        },
    );
    assert_eq!(got, [0, 0, NO, NO, 0, 0, NO, NO, 0, 0]);
}

fn a_moved_mount_is_judged_anew(kernel: &mut Kernel) {
    for dir in ["/srv/r/open/mnt", "/srv/r/mnt"] {
        std::fs::create_dir_all(dir).expect("a tree");
    }
    mount("tmpfs", "/srv/r/open/mnt", 0);
    // What is shared cannot be moved.
    mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
    std::fs::create_dir_all("/srv/r/open/mnt/dir").expect("a tree");
    std::fs::write("/srv/r/open/mnt/dir/f", b"x").expect("a file");
    let got = with_help(
        kernel,
        |outside| {
            let mut got = Vec::new();
            got.extend(twice("/srv/r/open/mnt/dir/f"));
            outside(1);
            got.extend(twice("/srv/r/mnt/dir/f"));
            outside(2);
            got.extend(twice("/srv/r/open/mnt/dir/f"));
            got
        },
        |what| match what {
            1 => mount("/srv/r/open/mnt", "/srv/r/mnt", libc::MS_MOVE),
            _ => mount("/srv/r/mnt", "/srv/r/open/mnt", libc::MS_MOVE),
        },
    );
    let at = CString::new("/srv/r/open/mnt").expect("a path");
    // SAFETY: a NUL-terminated path.
    let gone = unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(gone, 0, "umount");
    assert_eq!(got, [0, 0, NO, NO, 0, 0]);
}

fn mount(what: &str, at: &str, flags: libc::c_ulong) {
    let (what, at) = (
        CString::new(what).expect("a source"),
        CString::new(at).expect("a path"),
    );
    let kind = c"tmpfs";
    // SAFETY: NUL-terminated strings, no data.
    let done = unsafe {
        libc::mount(
            what.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    assert_eq!(done, 0, "mount: {}", std::io::Error::last_os_error());
}

/// A file system hands out inodes and the kernel dentries again and again: a
/// new directory elsewhere may look much like one that is gone.
fn a_directory_made_anew_is_judged_anew(kernel: &mut Kernel) {
    let got = with_help(
        kernel,
        |outside| {
            let mut got = Vec::new();
            for _ in 0..100 {
                outside(1);
                got.extend(twice("/srv/r/open/new/f"));
                outside(2);
                got.extend(twice("/srv/r/new/f"));
                outside(3);
            }
            got
        },
        |what| match what {
            1 => make("/srv/r/open/new"),
            2 => {
                std::fs::remove_dir_all("/srv/r/open/new").expect("remove");
                make("/srv/r/new");
            }
            _ => std::fs::remove_dir_all("/srv/r/new").expect("remove"),
        },
    );
    for (round, results) in got.chunks(4).enumerate() {
        assert_eq!(results, [0, 0, NO, NO], "round {round}");
    }
}

fn make(dir: &str) {
    std::fs::create_dir_all(dir).expect("a directory");
    std::fs::write(format!("{dir}/f"), b"x").expect("a file");
}
