//! Guest instructions per open and close, for `cargo xtask bench kernel`:
//! under `-icount shift=0` a nanosecond of the guest's clock is an instruction.
//!
//! Path components are 8 bytes long. Each figure is the least of 40 batches
//! of 100, after one to warm up: instructions repeat to the digit, and what a
//! batch has above the least is other work of the kernel's, of which there is
//! much in the first seconds after boot.

use std::os::fd::{AsFd, OwnedFd};

use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_daemon::kernel::Kernel;
use guard_daemon::kernel::btf::Btf;
use guard_daemon::sys::bpf_probe::attach_empty;

use crate::child::spawn;
use crate::compile;
use crate::sandbox::Sandbox;

const DEPTHS: [usize; 3] = [2, 8, 16];
const BATCHES: usize = 40;
const OPENS: usize = 100;

/// The file that is opened: `depth` components of 8 bytes.
fn path(depth: usize) -> String {
    let directories: String = (1..depth).map(|n| format!("/dir{n:05}")).collect();
    format!("{directories}/file.txt")
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

/// Least cost at each depth, in the calling process.
fn measure() -> Vec<i32> {
    DEPTHS
        .iter()
        .map(|depth| {
            let path = std::ffi::CString::new(path(*depth)).expect("no NUL");
            let costs = (0..=BATCHES)
                .map(|_| {
                    let start = now();
                    for _ in 0..OPENS {
                        // SAFETY: a NUL-terminated path; closed at once.
                        unsafe {
                            let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
                            assert!(fd >= 0, "the measured open is allowed");
                            libc::close(fd);
                        }
                    }
                    (now() - start) / OPENS as i64
                })
                .skip(1)
                .min();
            costs.expect("some batches") as i32
        })
        .collect()
}

/// In a child of its own, outside every sandbox.
fn outside(prepare: impl Fn()) -> Vec<i32> {
    let root = std::fs::File::open("/sys/fs/cgroup").expect("the root cgroup");
    spawn(root.as_fd(), None, || {
        prepare();
        measure()
    })
    .results()
}

/// A policy of `rules` rules that allows the measured files.
fn policy(rules: usize) -> String {
    let mut list: Vec<String> = (1..rules)
        .map(|n| format!("'/opt/tool{n:04}/**'"))
        .collect();
    list.push("'/dir00001/**'".into());
    format!("version = 1\n[files]\nread = [{}]\n", list.join(", "))
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Puts the calling process under a Landlock ruleset of `rules` rules that
/// handles reading (uapi/linux/landlock.h).
fn landlock(rules: usize) {
    const READ_FILE: u64 = 1 << 2;
    const READ_DIR: u64 = 1 << 3;
    let attr = RulesetAttr {
        handled_access_fs: READ_FILE | READ_DIR,
    };
    // SAFETY: each call reads a live struct of the size that it is given.
    unsafe {
        let ruleset = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0,
        );
        assert!(
            ruleset >= 0,
            "landlock: {}",
            std::io::Error::last_os_error()
        );
        let add = |path: &str| {
            let path = std::ffi::CString::new(path).expect("no NUL");
            let parent_fd = libc::open(path.as_ptr(), libc::O_PATH);
            assert!(parent_fd >= 0, "open for a rule");
            let rule = PathBeneath {
                allowed_access: READ_FILE | READ_DIR,
                parent_fd,
            };
            assert_eq!(
                libc::syscall(libc::SYS_landlock_add_rule, ruleset, 1, &raw const rule, 0),
                0,
                "add a rule"
            );
            libc::close(parent_fd);
        };
        for n in 1..rules {
            add(&format!("/opt/tool{n:04}"));
        }
        add("/dir00001");
        assert_eq!(
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            0,
            "no_new_privs"
        );
        assert_eq!(
            libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0),
            0,
            "restrict"
        );
    }
}

/// An empty LSM program on file_open.
fn empty() -> OwnedFd {
    let function = Btf::vmlinux()
        .expect("BTF")
        .function("bpf_lsm_file_open")
        .expect("the hook");
    attach_empty(function).expect("an empty program")
}

fn inside(kernel: &mut Kernel, rules: usize, flags: u32) -> Vec<i32> {
    let policy = compile::sets(&[&policy(rules)]);
    let sandbox = Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        flags,
    );
    let costs = sandbox.run(measure);
    sandbox.events(kernel);
    sandbox.end(kernel);
    costs
}

/// Prints a table and, as the last line, the figures as JSON.
pub fn run() {
    for depth in DEPTHS {
        let file = path(depth);
        let (directory, _) = file.rsplit_once('/').expect("a slash");
        std::fs::create_dir_all(directory).expect("directories");
        std::fs::write(&file, b"x").expect("the measured file");
    }
    for n in 1..50 {
        std::fs::create_dir_all(format!("/opt/tool{n:04}")).expect("directories");
    }
    let nothing = || ();
    let baseline = outside(nothing);
    let with_empty = {
        let _attached = empty();
        outside(nothing)
    };
    let landlock5 = outside(|| landlock(5));
    let landlock50 = outside(|| landlock(50));
    let mut kernel = Kernel::load_or_adopt().expect("load");
    crate::sandbox::parent(&mut kernel);
    let attached = outside(nothing);
    let inside50 = inside(&mut kernel, 50, 0);
    let inside_all = inside(&mut kernel, 50, SANDBOX_LOG_ALLOWS);
    let inside1000 = inside(&mut kernel, 1000, 0);
    kernel.teardown().expect("unload");
    let again = outside(nothing);

    let rows = [
        ("baseline", &baseline),
        ("empty", &with_empty),
        ("outside", &attached),
        ("inside", &inside50),
        ("inside_all", &inside_all),
        ("landlock5", &landlock5),
        ("landlock50", &landlock50),
    ];
    println!(
        "{:12} {:>8} {:>8} {:>8}   (added to the baseline)",
        "open+close", "depth 2", "depth 8", "depth 16"
    );
    for (name, costs) in rows
        .iter()
        .copied()
        .chain([("inside, 1000", &inside1000), ("baseline, again", &again)])
    {
        let added: Vec<String> = costs
            .iter()
            .zip(&baseline)
            .map(|(c, b)| format!("{:+}", c - b))
            .collect();
        println!(
            "{name:15} {:>7} {:>8} {:>8}   {}",
            costs[0],
            costs[1],
            costs[2],
            added.join(" ")
        );
    }
    let by_depth = |select: &[(&str, &Vec<i32>)]| -> serde_json::Value {
        let mut out = serde_json::Map::new();
        for (n, depth) in DEPTHS.iter().enumerate() {
            let row: serde_json::Map<_, _> = select
                .iter()
                .map(|(name, costs)| ((*name).to_owned(), costs[n].into()))
                .collect();
            out.insert(depth.to_string(), row.into());
        }
        out.into()
    };
    let figures = serde_json::json!({
        "open": by_depth(&rows),
        "open_1000_rules": by_depth(&[("baseline", &baseline), ("inside", &inside1000)]),
    });
    println!("{figures}");
}
