//! What outlives what: relay and supervisor are killed.

use serde_json::json;

use super::guard::{
    NOTES, NOTES_TEXT, POLICY, Run, SECRET, Session, cgroups, eventually, guard, kill,
    nothing_left, running, supervisor,
};

/// A process of the server goes on opening the secret, whatever becomes of the call.
const RESTLESS_POLICY: &str = r#"version = 1
include = ["base"]
[files]
read = ["/srv/project/**"]
exec = ["/usr/bin/{sh,dash,sleep}", "/usr/local/bin/fake-mcp"]
deny = ["*.env"]
"#;

/// The only process of fake-mcp.
fn server() -> i32 {
    let servers = running("/usr/local/bin/fake-mcp");
    assert_eq!(servers.len(), 1, "{servers:?}");
    servers[0]
}

/// The parent of a process.
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read stat");
    let after = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let parent = after.split(' ').nth(1).expect("a parent");
    parent.parse().expect("a number")
}

/// Whether a process is there.
fn lives(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// A killed relay ends its session, and its call is over when its lease is,
/// even while no supervisor is there to say so.
pub fn relay() {
    let script = format!(
        "(while :; do {{ true; }} < {SECRET}; sleep 0.1; done) 2>/dev/null & exec fake-mcp"
    );
    let mut session = Run {
        server: &["sh", "-c", &script],
        ..Run::fake("relay", RESTLESS_POLICY)
    }
    .start();
    session.initialize();
    session.begin("silence", json!({}));
    session.trail.wait("access in the call", |e| {
        e["path"] == SECRET && e["call"]["tool"] == "silence"
    });
    let (server, supervisor) = (server(), supervisor());
    // Held, so that only the lease can end the call.
    kill(supervisor, libc::SIGSTOP);
    kill(parent(server), libc::SIGKILL);
    std::thread::sleep(std::time::Duration::from_secs(6));
    kill(supervisor, libc::SIGCONT);

    assert_eq!(session.status(), Some(125), "stderr: {}", session.stderr());
    eventually("the server is dead", || !lives(server));
    eventually("its cgroup is gone", || cgroups().is_empty());
    session.trail.wait("end of the sandbox", |e| {
        e["kind"] == "sandbox" && e["op"] == "stop"
    });
    let events = session.trail.events();
    let mut labels: Vec<&str> = events
        .iter()
        .filter(|e| e["path"] == SECRET)
        .skip_while(|e| e["call"]["tool"] != "silence")
        .map(|e| e["call"]["attribution"].as_str().expect("a label"))
        .collect();
    let after = labels.iter().filter(|label| **label == "none").count();
    assert!(after >= 5, "too few to judge by: {labels:?}");
    labels.dedup();
    assert_eq!(labels, ["sole", "none"]);
    assert!(session.trail.verified());
    drop(session);
    nothing_left();
}

/// What is refused stays refused, and what is answered stays answered.
fn still_confined_and_connected(session: &mut Session, secret: &str) {
    let notes = session.call("read_file", json!({"path": NOTES}));
    assert_eq!(notes.as_deref(), Ok(NOTES_TEXT));
    let refused = session.call("read_file", json!({"path": secret}));
    let refused = refused.expect_err("the secret must not be read");
    assert!(refused.contains("os error 13"), "{refused}");
}

/// A killed supervisor frees nobody; the next one takes over and has missed nothing.
pub fn supervisor_killed() {
    let mut session = Run::fake("survivor", POLICY).start();
    session.initialize();
    still_confined_and_connected(&mut session, SECRET);
    let first = supervisor();
    kill(first, libc::SIGKILL);
    eventually("the supervisor is dead", || !lives(first));
    let (alone, after) = ("/srv/project/alone.env", "/srv/project/after.env");
    still_confined_and_connected(&mut session, alone);

    let mut second = Run::fake("second", POLICY).start();
    second.initialize();
    assert_ne!(supervisor(), first);
    let status = String::from_utf8(guard(&["status"]).stdout).expect("UTF-8");
    assert!(status.contains("2 sandboxes"), "{status}");
    assert!(status.contains("(adopted)"), "{status}");
    still_confined_and_connected(&mut session, after);
    still_confined_and_connected(&mut second, SECRET);
    second.end();
    let trail = session.end();

    let events = trail.events();
    assert!(
        events.iter().any(|e| e["reason"] == "adopted"),
        "{events:#?}"
    );
    for secret in [SECRET, alone, after] {
        let event = events.iter().find(|e| e["path"] == secret);
        let event = event.unwrap_or_else(|| panic!("no {secret} in {events:#?}"));
        assert_eq!(event["verdict"], "deny", "{event}");
        assert_eq!(event["call"]["attribution"], "sole", "{event}");
        assert_eq!(event["call"]["tool"], "read_file", "{event}");
    }
    assert!(events.iter().all(|e| e["kind"] != "loss"), "{events:#?}");
    assert!(trail.verified());
    nothing_left();
}

/// Without one of its pins nobody can vouch for a sandbox: the next supervisor
/// ends what runs, says why, and starts nothing until all is cleared.
pub fn pin_removed() {
    let mut session = Run::fake("unvouched", POLICY).start();
    session.initialize();
    let first = supervisor();
    kill(first, libc::SIGKILL);
    eventually("the supervisor is dead", || !lives(first));
    let versions = std::fs::read_dir("/sys/fs/bpf/guard").expect("guard's pins");
    let version = versions.flatten().next().expect("a version").path();
    let pin = version.join("links/sb_mount");
    std::fs::remove_file(&pin).expect("remove a pin");
    let pin = pin.to_str().expect("UTF-8").to_owned();
    still_confined_and_connected(&mut session, SECRET);

    let mut refused = Run::fake("refused", POLICY).start();
    let id = refused.request("initialize", &json!({}));
    let answer = refused.receive();
    assert_eq!(answer["id"], id, "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains(&pin), "{message}");
    assert!(message.contains("--teardown"), "{message}");
    assert_eq!(refused.status(), Some(125), "{}", refused.stderr());

    assert_ne!(session.status(), Some(0), "{}", session.stderr());
    assert!(!session.stderr().is_empty(), "it ends with a word");
    session.trail.wait("its end", |e| {
        e["kind"] == "sandbox" && e["op"] == "stop" && e["reason"] == "swept"
    });
    assert!(session.trail.verified());
    eventually("a teardown clears what is left", || {
        guard(&["daemon", "--teardown"]).status.success()
    });
    nothing_left();
}
