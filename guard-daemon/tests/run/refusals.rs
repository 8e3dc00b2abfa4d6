//! What is refused, and that the client learns why.

use crate::host::{Caller, Host, Session};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"first","method":"initialize","params":{}}"#;

/// Expects a refusal whose reason is on stderr and in the answer to the first request.
fn refused(mut session: Session, status: i32, reason: &str) {
    session.send(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#);
    session.send(INITIALIZE);
    let answer: serde_json::Value = serde_json::from_str(&session.line()).unwrap();
    assert_eq!(answer["id"], "first");
    assert_eq!(answer["error"]["code"], -32000);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(reason), "{message}");
    assert_eq!(session.end(), (Some(status), vec![]));
    let stderr = session.all_stderr().join("\n");
    assert!(stderr.contains(reason), "{stderr}");
}

#[test]
fn a_command_that_cannot_be_run_has_the_shells_status() {
    for caller in [Caller::Root, Caller::Nobody] {
        std::thread::spawn(move || {
            let host = Host::new(caller);
            let script = host.home().join("bad-interpreter");
            std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
            refused(
                host.run(&[], &["no-such-command-here"]),
                127,
                "no-such-command-here",
            );
            refused(host.run(&[], &["/etc/passwd"]), 126, "/etc/passwd");
            refused(host.run(&[], &["/"]), 126, "/");
        })
        .join()
        .unwrap();
    }
}

#[test]
fn work_that_would_run_elsewhere_is_refused() {
    let host = Host::new(Caller::Nobody);
    for server in [
        &["docker", "run", "-i", "image"][..],
        &["env", "A=b", "podman", "run"],
        &["sh", "-c", "exec systemd-run --user cat"],
    ] {
        refused(
            host.run(&[], server),
            125,
            "would run outside of guard's sandbox",
        );
    }
}

#[test]
fn root_is_refused_without_a_user() {
    let host = Host::new(Caller::Root);
    let plain = host.guard(&["run", "--enforcement", "gateway-only", "--", "cat"]);
    refused(Session::start(plain), 125, "--user NAME");
    let root = host.guard(&[
        "run",
        "--enforcement",
        "gateway-only",
        "--user",
        "root",
        "--",
        "cat",
    ]);
    refused(Session::start(root), 125, "user = \"root\"");
    let mut sudo = host.guard(&[
        "run",
        "--enforcement",
        "gateway-only",
        "--",
        "sh",
        "-c",
        "id -u >&2",
    ]);
    sudo.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
    let mut session = Session::start(sudo);
    assert_eq!(session.status(), Some(0));
    assert!(session.all_stderr().contains(&"65534".to_owned()));
}

#[test]
fn an_ordinary_user_is_told_how_to_get_the_kernel() {
    let host = Host::new(Caller::Nobody);
    refused(
        Session::start(host.guard(&["run", "--", "cat"])),
        125,
        "gateway-only",
    );
    let user = host.guard(&[
        "run",
        "--enforcement",
        "gateway-only",
        "--user",
        "daemon",
        "--",
        "cat",
    ]);
    refused(Session::start(user), 125, "--user needs root");
}

#[test]
fn a_bad_policy_starts_nothing() {
    let host = Host::new(Caller::Root);
    let policy = host.home().join("bad.toml");
    std::fs::write(
        &policy,
        "version = 1\nsurprise = 2\n[files]\nread = [\"relative\"]\n",
    )
    .unwrap();
    let policy = policy.to_str().unwrap();
    refused(host.run(&["--policy", policy], &["cat"]), 125, "surprise");
    refused(
        host.run(&["--policy", "no-such-policy"], &["cat"]),
        125,
        "no-such-policy",
    );
    assert!(!host.trail().exists() || !host.events().iter().any(|e| e["kind"] == "sandbox"));
    assert_eq!(host.cgroups(), Vec::<String>::new());
    let left = std::fs::read_dir("/run/guard/tmp").map_or(0, Iterator::count);
    assert_eq!(left, 0, "no temporary directory is left");
}

#[test]
fn wrong_options_are_told_too() {
    let host = Host::new(Caller::Nobody);
    refused(
        Session::start(host.guard(&["run", "--no-such-option", "--", "cat"])),
        125,
        "--no-such-option",
    );
}

#[test]
fn a_directory_that_the_user_may_not_enter_is_named() {
    let host = Host::new(Caller::Root);
    let closed = host.home().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut command = host.guard(&[
        "run",
        "--enforcement",
        "gateway-only",
        "--user",
        "nobody",
        "--",
        "cat",
    ]);
    command.current_dir(&closed);
    refused(Session::start(command), 125, "closed");
    crate::host::eventually("nothing is left", || host.cgroups().is_empty());
}
