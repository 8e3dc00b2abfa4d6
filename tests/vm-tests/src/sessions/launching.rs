//! Programs, environment, exit status, and refusals to start.

use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::guard::{NOTES, POLICY, Run, nothing_left};

/// No program but the named ones, and no variable but the named ones.
pub fn programs_and_environment() {
    let mut session = Run {
        env: &[("SECRET_OF_TEST", "its-value")],
        ..Run::fake("programs", POLICY)
    }
    .start();
    session.initialize();
    let refused = session.call("exec", json!({"command": ["/usr/bin/id"]}));
    let refused = refused.expect_err("nothing allows it");
    assert!(refused.contains("os error 13"), "{refused}");
    let environment = session.call("env", json!({})).expect("the environment");
    let environment: Value = serde_json::from_str(&environment).expect("JSON");
    assert!(environment.get("SECRET_OF_TEST").is_none(), "{environment}");
    assert!(environment["TMPDIR"].is_string(), "{environment}");
    assert!(environment["PATH"].is_string(), "{environment}");
    let stderr = session.stderr();
    assert!(stderr.contains("SECRET_OF_TEST"), "{stderr}");
    assert!(!stderr.contains("its-value"), "{stderr}");
    let trail = session.end();
    let events = trail.events();
    let exec = events.iter().find(|e| e["path"] == "/usr/bin/id");
    let exec = exec.unwrap_or_else(|| panic!("no /usr/bin/id in {events:#?}"));
    assert_eq!(
        (&exec["kind"], &exec["verdict"]),
        (&json!("exec"), &json!("deny"))
    );
    let start = events
        .iter()
        .find(|e| e["kind"] == "sandbox" && e["op"] == "start");
    let start = start.expect("the start");
    assert_eq!((&start["uid"], &start["gid"]), (&json!(1000), &json!(1000)));
    assert!(
        start["env_removed"].to_string().contains("SECRET_OF_TEST"),
        "{start}"
    );
    nothing_left();
}

/// The server's own status is that of `guard run`, and a crash that of a signal.
pub fn exit_status() {
    for (tool, arguments, status) in [
        ("exit", json!({"status": 7}), 7),
        ("crash", json!({}), 128 + libc::SIGABRT),
    ] {
        let mut session = Run::fake("status", POLICY).start();
        session.initialize();
        session.begin(tool, arguments);
        assert_eq!(
            session.status(),
            Some(status),
            "{tool}: {}",
            session.stderr()
        );
    }
    nothing_left();
}

/// What `guard run` says to a client's first request, and its status.
fn refusal(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut child = Command::new("guard")
        .arg("run")
        .args(arguments)
        .current_dir("/srv")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start guard run");
    let request = json!({"jsonrpc": "2.0", "id": "first", "method": "initialize", "params": {}});
    let mut stdin = child.stdin.take().expect("its input");
    stdin
        .write_all(format!("{request}\n").as_bytes())
        .expect("write");
    let output = child.wait_with_output().expect("wait for guard run");
    drop(stdin);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|e| panic!("{e}; stderr: {stderr}"));
    (output.status.code(), answer, stderr)
}

/// Nothing is started, and the client learns why.
pub fn refusals() {
    // A client that has written its request; nothing else is in its input.
    let bad = "/root/sessions/bad.toml";
    std::fs::create_dir_all("/root/sessions").expect("make a directory");
    std::fs::write(bad, "version = 1\n[files]\nraed = [\"/srv/**\"]\n").expect("write");
    for (arguments, status, reason) in [
        (&["--", "fake-mcp"][..], 125, "--user"),
        (
            &["--user", "user", "--policy", bad, "--", "fake-mcp"],
            125,
            "raed",
        ),
        (
            &["--user", "user", "--", "no-such-program"],
            127,
            "no-such-program",
        ),
        (&["--user", "user", "--", NOTES], 126, NOTES),
        (
            &["--user", "user", "--", "docker", "run", "x"],
            125,
            "docker",
        ),
    ] {
        let (code, answer, stderr) = refusal(arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {stderr}");
        assert_eq!(answer["id"], "first", "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(reason), "{arguments:?}: {message}");
        assert!(stderr.contains(reason), "{arguments:?}: {stderr}");
    }
    nothing_left();
}

/// What a supervisor could load in part is taken down at once, and the client
/// learns which program the kernel refused.
pub fn failed_load() {
    // Maps need CAP_BPF, the programs CAP_PERFMON, too.
    const DROPPED: [libc::c_ulong; 2] = [21 /* CAP_SYS_ADMIN */, 38 /* CAP_PERFMON */];
    let mut guard = Command::new("guard");
    guard
        .args([
            "run", "--user", "user", "--policy", "default", "--", "fake-mcp",
        ])
        .current_dir("/srv")
        .stdin(Stdio::null());
    // SAFETY: the closure only makes system calls.
    unsafe {
        guard.pre_exec(|| {
            let drop = |capability: libc::c_ulong| {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
            };
            match DROPPED.into_iter().all(drop) {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        })
    };
    let output = guard.output().expect("start guard run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("refuses the program"), "{stderr}");
    nothing_left();
}
