//! What stands behind the kernel programs: the system call filter, Landlock,
//! limits; and `--audit-only`, which leaves them out.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::Whole;
use crate::sessions::guard::{
    NOTES, NOTES_TEXT, POLICY, Run, SECRET, Session, Trail, cgroups, kill, nothing_left, supervisor,
};

/// Under a supervisor that comes on demand. The first needs a host on which no
/// controller was used yet.
pub const ON_DEMAND: &[Whole] = &[
    ("walls::missing_controller", missing_controller),
    ("walls::supervisor_killed", supervisor_killed),
];

/// Under the service.
pub const TESTS: &[Whole] = &[
    ("walls::refused_calls", refused_calls),
    ("walls::flood_of_refused_calls", flood),
    ("walls::io_uring", io_uring),
    ("walls::landlock", landlock),
    ("walls::max_write_size", max_write_size),
    ("walls::max_processes", max_processes),
    ("walls::memory", memory),
    ("walls::audit_only", audit_only),
];

const EPERM: &str = "os error 1)";
const EFBIG: &str = "os error 27)";
const ENOSYS: &str = "os error 38)";

fn started(name: &str, policy: &str) -> Session {
    let mut session = Run::fake(name, policy).start();
    session.initialize();
    session
}

fn with(more: &str) -> String {
    format!("{POLICY}{more}")
}

fn attempt(session: &mut Session, number: i64, arguments: &[u64]) -> Result<String, String> {
    session.call(
        "system_call",
        json!({"number": number, "arguments": arguments}),
    )
}

fn refused_with(answer: Result<String, String>, error: &str) {
    let said = answer.expect_err(error);
    assert!(said.contains(error), "{said}, not {error}");
}

fn walls_of(trail: &Trail) -> (Value, Value) {
    let starts = trail.wait("start", |e| e["kind"] == "sandbox" && e["op"] == "start");
    (starts[0]["walls"].clone(), starts[0]["audit_only"].clone())
}

/// Refused, with an event that names call, process and attempt; what only seems
/// to be absent makes none.
fn refused_calls() {
    let mut session = started("refused", POLICY);
    refused_with(attempt(&mut session, libc::SYS_clone3, &[]), ENOSYS);
    refused_with(attempt(&mut session, 470, &[]), ENOSYS);
    for (number, arguments, detail) in [
        (libc::SYS_fsopen, &[][..], "fsopen"),
        (libc::SYS_unshare, &[0x1000_0000], "unshare 0x10000000"),
        (
            libc::SYS_personality,
            &[0x0040_0000],
            "personality 0x400000",
        ),
        (libc::SYS_socket, &[38, 5, 0], "socket 0x26"),
        (libc::SYS_ioctl, &[0, 0x5412, 0], "ioctl 0x5412"),
        (libc::SYS_read | 0x4000_0000, &[0], "x32-0"),
    ] {
        refused_with(attempt(&mut session, number, arguments), EPERM);
        let events = session.trail.wait(detail, |e| e["detail"] == detail);
        let event = &events[0];
        assert_eq!(events.len(), 1, "{events:#?}");
        assert_eq!(event["kind"], "escape", "{event}");
        assert_eq!(event["op"], "syscall", "{event}");
        assert_eq!(event["reason"], "second-wall", "{event}");
        assert_eq!(event["verdict"], "deny", "{event}");
        assert_eq!(event["mode"], "enforce", "{event}");
        // The end of the call before may reach the supervisor a little later.
        let call = &event["call"];
        let candidates = call["candidates"].as_array().expect("candidates");
        assert_eq!(call["attribution"], "ambiguous", "{event}");
        assert!(
            (1..=2).contains(&candidates.len())
                && candidates.iter().all(|c| c["tool"] == "system_call"),
            "{event}"
        );
        assert_eq!(event["process"]["uid"], 1000, "{event}");
        assert_eq!(
            event["process"]["exe"], "/usr/local/bin/fake-mcp",
            "{event}"
        );
    }
    let trail = session.end();
    let escapes = trail
        .events()
        .iter()
        .filter(|e| e["kind"] == "escape")
        .count();
    assert_eq!(escapes, 6, "{:#?}", trail.events());
    assert!(trail.verified());
    nothing_left();
}

/// A server that tries without end is refused each time and fills no trail.
fn flood() {
    const TIMES: u64 = 3000;
    let mut session = started("flood", POLICY);
    let tries = json!({"number": libc::SYS_fsopen, "times": TIMES});
    refused_with(session.call("system_call", tries), EPERM);
    let trail = session.end();
    let events = trail.events();
    let named = events.iter().filter(|e| e["detail"] == "fsopen").count() as u64;
    assert!((64..TIMES / 2).contains(&named), "{named} events");
    let counted: u64 = events
        .iter()
        .filter(|e| e["kind"] == "alert" && e["reason"] == "second-wall")
        .map(|e| {
            let text = e["detail"].as_str().expect("text");
            let (count, rest) = text.split_once(' ').expect("a count");
            assert!(rest.contains("fsopen"), "{text}");
            count.parse::<u64>().expect("a number")
        })
        .sum();
    assert_eq!(named + counted, TIMES, "{events:#?}");
    nothing_left();
}

/// Without a supervisor the kernel itself refuses; the next one ends in order.
fn supervisor_killed() {
    let mut session = started("orphan", POLICY);
    refused_with(attempt(&mut session, libc::SYS_fsopen, &[]), EPERM);
    kill(supervisor(), libc::SIGKILL);
    refused_with(attempt(&mut session, libc::SYS_fsopen, &[]), ENOSYS);
    assert_eq!(
        attempt(&mut session, libc::SYS_getppid, &[]).map(|_| ()),
        Ok(())
    );
    // A new supervisor takes the sandbox over, and its end is in the trail.
    started("next", POLICY).end();
    session.end();
    nothing_left();
}

/// The policy can give it back.
fn io_uring() {
    let policy = with("[process]\nio_uring = true\n");
    for (policy, error) in [(POLICY, EPERM), (policy.as_str(), "os error 14)")] {
        let mut session = started("uring", policy);
        refused_with(attempt(&mut session, libc::SYS_io_uring_setup, &[1]), error);
        session.end();
    }
    nothing_left();
}

/// Fresh directories that the server's user owns.
fn own_directories(paths: &[&str]) {
    let _ = std::fs::remove_dir_all("/srv/walls");
    for path in paths {
        std::fs::create_dir_all(path).expect("make a directory");
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).expect("give it away");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
}

const OWN: &[&str] = &[
    "/srv/walls",
    "/srv/walls/out",
    "/srv/walls/out/a",
    "/srv/walls/out/b",
];
const OWN_RULES: &str = "version = 1\ninclude = [\"base\"]\n[files]\nread = [\"/srv/walls/**\"]\n\
    write = [\"/srv/walls/out/**\"]\n";

/// A write root itself is out of reach, since what is above it is, though the
/// policy lets the server write it. What lies below may be written and moved.
fn landlock() {
    own_directories(OWN);
    let mut session = started("landlock", OWN_RULES);
    let text = json!({"path": "/srv/walls/out/a/x", "text": "x"});
    assert_eq!(session.call("write_file", text).as_deref(), Ok("written"));
    let moved = json!({"path": "/srv/walls/out/a/x", "to": "/srv/walls/out/b/y"});
    assert_eq!(session.call("rename", moved).as_deref(), Ok("renamed"));
    let moved = json!({"path": "/srv/walls/out/b", "to": "/srv/walls/out/a/b"});
    assert_eq!(session.call("rename", moved).as_deref(), Ok("renamed"));
    let removed = json!({"path": "/srv/walls/out/a/b/y"});
    assert!(session.call("remove_directory", removed).is_err());
    std::fs::remove_dir_all("/srv/walls/out/a").expect("empty it");
    let removed = session.call("remove_directory", json!({"path": "/srv/walls/out"}));
    refused_with(removed, "os error 13)");
    let (walls, _) = walls_of(&session.trail);
    assert_eq!(walls, json!(["kernel-programs", "seccomp", "landlock"]));
    session.end();

    // The control: without the second walls it can be removed.
    let mut session = Run {
        options: &["--audit-only"],
        ..Run::fake("landlock-control", OWN_RULES)
    }
    .start();
    session.initialize();
    let removed = session.call("remove_directory", json!({"path": "/srv/walls/out"}));
    assert_eq!(removed.as_deref(), Ok("removed"));
    session.end();
    nothing_left();
}

/// No file grows past it, on disk and in memory, in whatever way.
fn max_write_size() {
    own_directories(OWN);
    let limited = OWN_RULES.replace("[files]\n", "[files]\nmax_write_size = \"64KiB\"\n");
    let mut session = started("size", &limited);
    let tmp = session.call("env", json!({})).expect("the environment");
    let tmp: Value = serde_json::from_str(&tmp).expect("JSON");
    let tmp = format!("{}/file", tmp["TMPDIR"].as_str().expect("TMPDIR"));
    for path in ["/srv/walls/out/file", &tmp, "memfd"] {
        for how in ["write", "truncate", "allocate"] {
            let mut grow = |bytes: u64| {
                session.call("grow", json!({"path": path, "bytes": bytes, "how": how}))
            };
            assert_eq!(grow(64 << 10).as_deref(), Ok("65536"), "{path} {how}");
            let over = grow((64 << 10) + 1).expect_err("it must not grow");
            assert!(over.contains(EFBIG), "{path} {how}: {over}");
            let kept = if how == "write" {
                "65536 bytes"
            } else {
                " 0 bytes"
            };
            assert!(over.ends_with(kept), "{path} {how}: {over}");
        }
    }
    let trail = session.end();
    assert!(walls_of(&trail).0.to_string().contains("limits"));
    nothing_left();
}

/// A fork bomb stops, and a neighbour does not feel it.
fn max_processes() {
    let mut neighbour = started("neighbour", POLICY);
    let mut session = started("bomb", &with("[process]\nmax_processes = 24\ncpu = 0.5\n"));
    let said = session.call("fork_many", json!({"most": 500}));
    let said = said.expect_err("it must stop");
    assert!(said.contains("os error 11)"), "{said}");
    let made: u64 = said
        .rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a count");
    assert!((1..24).contains(&made), "{said}");
    let quotas = cgroups()
        .iter()
        .filter_map(|dir| std::fs::read_to_string(dir.join("cpu.max")).ok())
        .filter(|text| text == "50000 100000\n")
        .count();
    assert_eq!(quotas, 1);
    let free = neighbour.call("fork_many", json!({"most": 100}));
    assert_eq!(free.as_deref(), Ok("100"));
    let trail = session.end();
    let alerts = trail.wait("alert", |e| e["kind"] == "alert" && e["reason"] == "limit");
    let detail = alerts[0]["detail"].as_str().expect("text");
    assert!(detail.contains("process.max_processes"), "{detail}");
    let neighbours = neighbour.end();
    assert!(!neighbours.events().iter().any(|e| e["kind"] == "alert"));
    nothing_left();
}

/// A memory hog dies, with all of its processes, and alone.
fn memory() {
    let mut neighbour = started("neighbour", POLICY);
    let mut session = started("hog", &with("[process]\nmemory = \"64MiB\"\n"));
    let little = session.call("allocate", json!({"bytes": 16 << 20}));
    assert_eq!(little.as_deref(), Ok("4096"));
    session.begin("allocate", json!({"bytes": 256 << 20}));
    assert_eq!(
        session.status(),
        Some(128 + libc::SIGKILL),
        "{}",
        session.stderr()
    );
    let stopped = session.trail.wait("stop", |e| e["op"] == "stop");
    assert_eq!(stopped[0]["signal"], libc::SIGKILL, "{stopped:#?}");
    let alerts = session.trail.wait("alert", |e| e["reason"] == "limit");
    let detail = alerts[0]["detail"].as_str().expect("text");
    assert!(detail.contains("process.memory"), "{detail}");
    let notes = neighbour.call("read_file", json!({"path": NOTES}));
    assert_eq!(notes.as_deref(), Ok(NOTES_TEXT));
    neighbour.end();
    nothing_left();
}

/// Where another hierarchy has the controller, nothing is started, and it is
/// said why.
fn missing_controller() {
    let place = Path::new("/root/pids-v1");
    std::fs::create_dir_all(place).expect("make a directory");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "cgroup", "-o", "pids", "none"])
        .arg(place)
        .status();
    assert!(mounted.expect("start mount").success(), "mount cgroup v1");
    let mut session = Run::fake("v1", &with("[process]\nmax_processes = 9\n")).start();
    session.close();
    assert_eq!(session.status(), Some(125));
    let stderr = session.stderr();
    for said in ["process.max_processes", "\"pids\"", "/root/pids-v1"] {
        assert!(stderr.contains(said), "{said} in {stderr}");
    }
    // Without the limit it does not matter.
    let mut session = started("v1-unlimited", POLICY);
    session
        .call("echo", json!({"text": "x"}))
        .expect("an answer");
    session.end();
    nothing_left();
    let unmounted = std::process::Command::new("umount").arg(place).status();
    assert!(
        unmounted.expect("start umount").success(),
        "umount cgroup v1"
    );
}

/// Everything is judged and recorded, nothing is denied, and it is said loudly.
fn audit_only() {
    let policy = with("[process]\nmax_processes = 24\n");
    let policy = policy.replace("deny = [", "max_write_size = \"4KiB\"\ndeny = [");
    let mut session = Run {
        options: &["--audit-only"],
        ..Run::fake("audit-only", &policy)
    }
    .start();
    session.initialize();
    let read = session.call("read_file", json!({"path": SECRET}));
    assert_eq!(read.as_deref(), Ok("TOKEN=secret"));
    // Each of these a wall would refuse.
    let attempted = attempt(&mut session, libc::SYS_personality, &[0x0040_0000]);
    assert_eq!(attempted.as_deref(), Ok("0"));
    let grown = json!({"path": "/srv/project/out/large", "bytes": 1 << 20, "how": "write"});
    assert_eq!(session.call("grow", grown).as_deref(), Ok("1048576"));
    let forked = session.call("fork_many", json!({"most": 60}));
    assert_eq!(forked.as_deref(), Ok("60"));
    let stderr = session.stderr();
    assert!(stderr.contains("WARNING: --audit-only"), "{stderr}");
    let (walls, audit_only) = walls_of(&session.trail);
    assert_eq!(
        (walls, audit_only),
        (json!(["kernel-programs"]), json!(true))
    );
    let trail = session.end();
    let events = trail.events();
    let of_secret: Vec<_> = events.iter().filter(|e| e["path"] == SECRET).collect();
    assert!(!of_secret.is_empty(), "{events:#?}");
    for event in of_secret {
        assert_eq!(event["verdict"], "deny", "{event}");
        assert_eq!(event["mode"], "audit", "{event}");
        assert_eq!(event["rule"]["id"], "files.deny[0]", "{event}");
    }
    for denial in events.iter().filter(|e| e["verdict"] == "deny") {
        assert_eq!(denial["mode"], "audit", "{denial}");
    }
    assert!(trail.verified());
    nothing_left();
}
