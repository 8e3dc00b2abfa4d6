//! Each hook: what it stops, what it lets pass, what it reports.

use std::os::fd::AsRawFd;

use guard_common::event::{
    EVENT_LEASE_EXPIRED, EVENT_NOT_APPLIED, EVENT_PROC_SELF, Event, Kind, Object, Op, Reason,
};
use guard_common::matcher::Verdict;
use guard_common::sandbox::{SANDBOX_AUDIT_ONLY, SANDBOX_LOG_ALLOWS, Slot};
use guard_daemon::kernel::{Kernel, Ring};

use crate::Test;
use crate::child::{errno, open};
use crate::compile;
use crate::sandbox::{Sandbox, parent};

pub const TESTS: &[Test] = &[
    ("canary", canary),
    (
        "open_is_judged_for_what_it_asks",
        open_is_judged_for_what_it_asks,
    ),
    ("an_event_says_what_happened", an_event_says_what_happened),
    ("outside_nothing_changes", outside_nothing_changes),
    (
        "an_unregistered_cgroup_is_denied",
        an_unregistered_cgroup_is_denied,
    ),
    ("audit_only_denies_nothing", audit_only_denies_nothing),
    (
        "links_and_proc_lead_to_the_real_path",
        links_and_proc_lead_to_the_real_path,
    ),
    ("own_proc_directory_is_self", own_proc_directory_is_self),
    (
        "long_and_deep_paths_are_denied_with_a_reason",
        long_and_deep_paths,
    ),
    ("files_without_a_path_are_denied", files_without_a_path),
    ("code_is_judged", code_is_judged),
    ("rule_sets_follow_the_slot", rule_sets_follow_the_slot),
    ("calls_are_named", calls_are_named),
    ("adoption_keeps_sandboxes", adoption_keeps_sandboxes),
];

pub fn sandbox(kernel: &mut Kernel, text: &str, flags: u32) -> Sandbox {
    let policy = compile::sets(&[text]);
    Sandbox::new(
        kernel,
        policy.table(),
        policy.background(),
        policy.valid_sets(),
        flags,
    )
}

fn tree() {
    std::fs::create_dir_all("/srv/project/sub").expect("a tree");
    for file in ["a.txt", ".env", "sub/b.txt"] {
        std::fs::write(format!("/srv/project/{file}"), b"content\n").expect("a file");
    }
    std::fs::write("/srv/outside", b"secret\n").expect("a file");
}

const PROJECT: &str = "version = 1\n[files]\nread = ['/srv/project/**']\nwrite = ['/srv/project/sub/**']\ndeny = ['*.env']\n";

fn canary(kernel: &mut Kernel) {
    parent(kernel);
    kernel.canary().expect("the self-test");
    kernel.canary().expect("the self-test, again");
}

fn open_is_judged_for_what_it_asks(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, 0);
    let got = sandbox.run(|| {
        vec![
            open("/srv/project/a.txt", libc::O_RDONLY),
            open("/srv/project/a.txt", libc::O_WRONLY),
            open("/srv/project/a.txt", libc::O_RDWR),
            open("/srv/project/a.txt", libc::O_RDONLY | libc::O_TRUNC),
            open("/srv/project/sub/b.txt", libc::O_WRONLY),
            open("/srv/project/sub/b.txt", libc::O_RDWR),
            open("/srv/project/.env", libc::O_RDONLY),
            open("/srv/outside", libc::O_RDONLY),
            open("/srv/project", libc::O_RDONLY | libc::O_DIRECTORY),
            open("/srv", libc::O_RDONLY | libc::O_DIRECTORY),
            open("/srv/project/missing", libc::O_RDONLY),
        ]
    });
    let no = libc::EACCES;
    assert_eq!(got, [0, no, no, no, 0, 0, no, no, 0, no, libc::ENOENT]);
    assert_eq!(
        std::fs::read("/srv/project/a.txt").expect("still there"),
        b"content\n"
    );
    sandbox.end(kernel);
}

fn an_event_says_what_happened(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, SANDBOX_LOG_ALLOWS);
    sandbox.run(|| {
        vec![
            open("/srv/project/a.txt", libc::O_RDONLY),
            open("/srv/project/.env", libc::O_RDONLY),
        ]
    });
    let events = sandbox.events(kernel);
    assert_eq!(events.len(), 2, "{events:?}");
    let find = |ring| {
        events
            .iter()
            .find(|(r, _)| *r == ring)
            .map(|(_, e)| e)
            .expect("an event")
    };
    let (denied, allowed) = (find(Ring::Denials), find(Ring::Allows));
    assert_eq!(denied.object, Object::Path(b"/srv/project/.env".to_vec()));
    assert_eq!(allowed.object, Object::Path(b"/srv/project/a.txt".to_vec()));
    assert_eq!(
        (denied.verdict, allowed.verdict),
        (Verdict::Deny, Verdict::Allow)
    );
    assert_eq!(
        (denied.kind, denied.op, denied.reason),
        (Kind::File, Op::Open, Reason::Rule)
    );
    assert_eq!((denied.header.kseq, allowed.header.kseq), (0, 0));
    assert_eq!(denied.header.cgroup, sandbox.cgroup);
    assert_eq!(denied.header.ppid, std::process::id());
    assert!(denied.calls.is_empty() && denied.header.active == 1);
    let counters = kernel.counters(sandbox.entry.slot).expect("counters");
    assert_eq!(counters.kseq, [1, 1]);
    sandbox.end(kernel);
}

fn outside_nothing_changes(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, SANDBOX_LOG_ALLOWS);
    assert_eq!(open("/srv/project/.env", libc::O_RDONLY), 0);
    assert!(sandbox.events(kernel).is_empty());
    sandbox.end(kernel);
}

fn an_unregistered_cgroup_is_denied(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, 0);
    kernel.unregister(sandbox.cgroup);
    assert_eq!(
        sandbox.run(|| vec![open("/srv/project/a.txt", libc::O_RDONLY)]),
        [libc::EACCES]
    );
    kernel
        .register(sandbox.cgroup, sandbox.entry)
        .expect("register");
    assert_eq!(
        sandbox.run(|| vec![open("/srv/project/a.txt", libc::O_RDONLY)]),
        [0]
    );
    sandbox.end(kernel);
}

fn audit_only_denies_nothing(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, SANDBOX_AUDIT_ONLY);
    assert_eq!(
        sandbox.run(|| vec![open("/srv/project/.env", libc::O_RDONLY)]),
        [0]
    );
    let events = sandbox.events(kernel);
    assert_eq!(events[0].1.verdict, Verdict::Deny);
    assert_ne!(events[0].1.header.flags & EVENT_NOT_APPLIED, 0);
    sandbox.end(kernel);
}

fn links_and_proc_lead_to_the_real_path(kernel: &mut Kernel) {
    tree();
    let _ = std::os::unix::fs::symlink("/srv/outside", "/srv/project/link");
    std::fs::create_dir_all("/srv/project/mnt").expect("a mount point");
    let sandbox = sandbox(kernel, PROJECT, 0);
    let got = sandbox.run(|| {
        let path = c"/srv/outside";
        // SAFETY: an O_PATH open, which reads nothing.
        let held = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        vec![
            open("/srv/project/link", libc::O_RDONLY),
            open("/srv/project/../outside", libc::O_RDONLY),
            open("/srv/project/sub/../a.txt", libc::O_RDONLY),
            open(&format!("/proc/self/fd/{held}"), libc::O_RDONLY),
            open("/proc/self/root/srv/outside", libc::O_RDONLY),
        ]
    });
    assert_eq!(
        got,
        [libc::EACCES, libc::EACCES, 0, libc::EACCES, libc::EACCES]
    );
    std::fs::remove_file("/srv/project/link").expect("remove the link");
    sandbox.end(kernel);
}

fn own_proc_directory_is_self(kernel: &mut Kernel) {
    let sandbox = sandbox(
        kernel,
        "version = 1\n[files]\nread = ['/proc/self/**']\n",
        SANDBOX_LOG_ALLOWS,
    );
    let parent = std::process::id();
    let got = sandbox.run(|| {
        vec![
            open("/proc/self/status", libc::O_RDONLY),
            open("/proc/1/status", libc::O_RDONLY),
            open(&format!("/proc/{parent}/status"), libc::O_RDONLY),
            open("/proc/uptime", libc::O_RDONLY),
        ]
    });
    assert_eq!(got, [0, libc::EACCES, libc::EACCES, libc::EACCES]);
    let events = sandbox.events(kernel);
    let own = events
        .iter()
        .find(|(r, _)| *r == Ring::Allows)
        .map(|(_, e)| e)
        .expect("an event");
    assert_ne!(own.header.flags & EVENT_PROC_SELF, 0);
    assert_eq!(
        own.object,
        Object::Path(format!("/proc/{}/status", own.header.pid).into_bytes())
    );
    sandbox.end(kernel);
}

fn reasons(events: &[(Ring, Event)]) -> Vec<Reason> {
    events.iter().map(|(_, e)| e.reason).collect()
}

fn long_and_deep_paths(kernel: &mut Kernel) {
    let sandbox = sandbox(
        kernel,
        "version = 1\n[files]\nread = ['/srv/**']\ndeny = ['*.env']\n",
        0,
    );
    let deep = |n: usize, name: &str| format!("/srv/deep{}", format!("/{name}").repeat(n));
    // Made one directory at a time: no single call takes such a path.
    let make = |n: usize, name: &str| {
        std::fs::create_dir_all("/srv/deep").expect("a directory");
        let here = std::env::current_dir().expect("cwd");
        std::env::set_current_dir("/srv/deep").expect("chdir");
        for _ in 0..n {
            let _ = std::fs::create_dir(name);
            std::env::set_current_dir(name).expect("chdir");
        }
        std::fs::write("leaf.txt", b"x").expect("a leaf");
        std::fs::write(".env", b"x").expect("a leaf");
        std::env::set_current_dir(here).expect("chdir");
    };
    let wide = "n".repeat(255);
    make(15, &wide);
    make(100, "d");
    make(1100, "e");
    make(17, &"m".repeat(255));
    let shallow = [
        deep(15, &wide) + "/leaf.txt",
        deep(15, &wide) + "/.env",
        deep(100, "d") + "/leaf.txt",
        deep(100, "d") + "/.env",
    ];
    let got = sandbox.run(|| {
        let mut got: Vec<i32> = shallow.iter().map(|p| open(p, libc::O_RDONLY)).collect();
        for (n, name) in [(1100, "e".to_owned()), (17, "m".repeat(255))] {
            std::env::set_current_dir("/srv/deep").expect("chdir");
            for _ in 0..n {
                std::env::set_current_dir(&name).expect("chdir");
            }
            got.push(open("leaf.txt", libc::O_RDONLY));
        }
        got
    });
    let no = libc::EACCES;
    assert_eq!(got, [0, no, 0, no, no, no]);
    let events = sandbox.events(kernel);
    assert_eq!(
        reasons(&events),
        [Reason::Rule, Reason::Rule, Reason::TooDeep, Reason::TooLong]
    );
    assert_eq!(
        events[0].1.object,
        Object::Path(shallow[1].clone().into_bytes()),
        "a whole path of 3,8xx bytes"
    );
    sandbox.end(kernel);
}

fn files_without_a_path(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(
        kernel,
        "version = 1\n[files]\nread = ['/**']\nwrite = ['/**']\nexec = ['/**']\n",
        0,
    );
    std::fs::write("/srv/gone", b"x").expect("a file");
    let held = std::fs::File::open("/srv/gone").expect("open");
    std::fs::remove_file("/srv/gone").expect("remove");
    let got = sandbox.run(|| {
        // SAFETY: a memfd with a NUL-terminated name.
        let memory = unsafe { libc::memfd_create(c"m".as_ptr(), 0) };
        vec![
            open(
                &format!("/proc/self/fd/{}", held.as_raw_fd()),
                libc::O_RDONLY,
            ),
            open(&format!("/proc/self/fd/{memory}"), libc::O_RDONLY),
        ]
    });
    assert_eq!(got, [libc::EACCES, libc::EACCES]);
    let got = reasons(&sandbox.events(kernel));
    assert_eq!(got[0], Reason::Deleted);
    assert!(
        matches!(got[1], Reason::Detached | Reason::Deleted),
        "{got:?}"
    );
    sandbox.end(kernel);
}

fn map_code(path: &str) -> i32 {
    let path = std::ffi::CString::new(path).expect("no NUL");
    // SAFETY: maps one page of a file; unmapped by the child's end.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return errno(-1);
        }
        let at = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE,
            fd,
            0,
        );
        if at == libc::MAP_FAILED { errno(-1) } else { 0 }
    }
}

fn exec(path: &str) -> i32 {
    let path = std::ffi::CString::new(path).expect("no NUL");
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the file is no program, so that the call never succeeds.
    errno(unsafe { libc::execve(path.as_ptr(), none.as_ptr(), none.as_ptr()) }.into())
}

fn code_is_judged(kernel: &mut Kernel) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all("/srv/bin").expect("a directory");
    for name in ["yes", "no"] {
        let path = format!("/srv/bin/{name}");
        std::fs::write(&path, vec![0u8; 4096]).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let sandbox = sandbox(
        kernel,
        "version = 1\n[files]\nread = ['/srv/bin/**']\nexec = ['/srv/bin/yes']\n",
        SANDBOX_LOG_ALLOWS,
    );
    let got = sandbox.run(|| {
        // SAFETY: anonymous memory, and code in a memfd that is mapped.
        let (anonymous, memory) = unsafe {
            let a = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            let fd = libc::memfd_create(c"code".as_ptr(), 0);
            libc::ftruncate(fd, 4096);
            let m = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE,
                fd,
                0,
            );
            (
                if a == libc::MAP_FAILED { errno(-1) } else { 0 },
                if m == libc::MAP_FAILED { errno(-1) } else { 0 },
            )
        };
        vec![
            exec("/srv/bin/yes"),
            exec("/srv/bin/no"),
            map_code("/srv/bin/yes"),
            map_code("/srv/bin/no"),
            anonymous,
            memory,
        ]
    });
    let no = libc::EACCES;
    assert_eq!(got, [libc::ENOEXEC, no, 0, no, 0, no]);
    let events = sandbox.events(kernel);
    let has = |ring, op, name: &[u8]| {
        events.iter().any(|(r, e)| {
            *r == ring
                && e.op == op
                && e.kind == Kind::Exec
                && e.object == Object::Path(name.to_vec())
        })
    };
    assert!(has(Ring::Allows, Op::Exec, b"/srv/bin/yes"), "{events:?}");
    assert!(has(Ring::Denials, Op::Open, b"/srv/bin/no"));
    assert!(has(Ring::Denials, Op::MapExec, b"/srv/bin/no"));
    assert!(has(Ring::Allows, Op::MapExec, b"/srv/bin/yes"));
    sandbox.end(kernel);
}

/// Clock of the lease: `CLOCK_BOOTTIME`, nanoseconds.
fn boottime() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: fills a live struct.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

const EPOCH: usize = std::mem::offset_of!(Slot, epoch);
const ACTIVE: usize = std::mem::offset_of!(Slot, active);
const LEASE: usize = std::mem::offset_of!(Slot, lease);
const IN_FLIGHT: usize = std::mem::offset_of!(Slot, in_flight);
const CALLS: usize = std::mem::offset_of!(Slot, calls);

fn rule_sets_follow_the_slot(kernel: &mut Kernel) {
    tree();
    let wide =
        "version = 1\n[files]\nread = ['/srv/project/**', '/srv/outside']\ndeny = ['*.env']\n";
    let narrow = "version = 1\n[files]\nread = ['/srv/project/**']\ndeny = ['*.env']\n";
    // Set 0 is the background, set 1 a tool that may also read outside.
    let policy = compile::sets(&[narrow, wide]);
    let sandbox = Sandbox::new(kernel, policy.table(), 1, 3, 0);
    let ask = |sandbox: &Sandbox| sandbox.run(|| vec![open("/srv/outside", libc::O_RDONLY)])[0];
    assert_eq!(ask(&sandbox), libc::EACCES, "background");
    sandbox.store(ACTIVE, 2);
    assert_eq!(
        ask(&sandbox),
        libc::EACCES,
        "no call in flight: the slot's sets don't count"
    );
    sandbox.store(IN_FLIGHT, 1);
    assert_eq!(ask(&sandbox), libc::EACCES, "no lease");
    sandbox.store(LEASE, boottime() + 60_000_000_000);
    assert_eq!(ask(&sandbox), 0, "the tool's own set");
    sandbox.store(ACTIVE, 3);
    assert_eq!(
        ask(&sandbox),
        libc::EACCES,
        "two calls: both sets must allow"
    );
    sandbox.store(ACTIVE, 0b1100);
    assert_eq!(
        ask(&sandbox),
        libc::EACCES,
        "sets that the policy does not have"
    );
    sandbox.store(ACTIVE, 2);
    sandbox.store(LEASE, boottime() - 1);
    sandbox.events(kernel);
    assert_eq!(ask(&sandbox), libc::EACCES, "the lease ran out");
    let events = sandbox.events(kernel);
    assert_ne!(events[0].1.header.flags & EVENT_LEASE_EXPIRED, 0);
    assert!(events[0].1.calls.is_empty());
    sandbox.end(kernel);
}

fn calls_are_named(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, 0);
    let ask = |kernel: &mut Kernel, calls: &[u64]| {
        for (n, call) in calls.iter().enumerate() {
            sandbox.store(CALLS + 8 * n, *call);
        }
        sandbox.store(ACTIVE, 1);
        sandbox.store(IN_FLIGHT, calls.len() as u64);
        sandbox.store(LEASE, boottime() + 60_000_000_000);
        sandbox.store(EPOCH, 2);
        sandbox.run(|| vec![open("/srv/project/.env", libc::O_RDONLY)]);
        let events = sandbox.events(kernel);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].1.header.flags, 0);
        events[0].1.calls.clone()
    };
    for count in [1usize, 4, 8, 9, 64] {
        let calls: Vec<u64> = (1..=count as u64).map(|n| 1000 + n).collect();
        assert_eq!(ask(kernel, &calls), calls);
    }
    sandbox.end(kernel);
}

fn adoption_keeps_sandboxes(kernel: &mut Kernel) {
    tree();
    let sandbox = sandbox(kernel, PROJECT, 0);
    let mut second = Kernel::load_or_adopt().expect("adopt what is pinned");
    assert!(second.adopted());
    assert!(
        second
            .sandboxes()
            .iter()
            .any(|(id, entry)| *id == sandbox.cgroup && *entry == sandbox.entry)
    );
    assert_eq!(
        sandbox.run(|| vec![open("/srv/project/.env", libc::O_RDONLY)]),
        [libc::EACCES]
    );
    assert_eq!(sandbox.events(&mut second).len(), 1);
    drop(second);
    sandbox.end(kernel);
}
