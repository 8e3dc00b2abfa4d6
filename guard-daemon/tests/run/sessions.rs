//! What a server and its client see.

use nix::sys::signal::Signal;

use crate::host::{Caller, Host, NOBODY, kill};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

fn both(test: fn(Caller)) {
    for caller in [Caller::Root, Caller::Nobody] {
        std::thread::spawn(move || test(caller)).join().unwrap();
    }
}

#[test]
fn a_line_goes_there_and_back_and_the_end_of_input_ends_the_server() {
    both(|caller| {
        let host = Host::new(caller);
        let mut session = host.run(&[], &["cat"]);
        session.send(PING);
        assert_eq!(session.line(), PING);
        session.close_stdin();
        assert_eq!(session.end(), (Some(0), vec![]), "{caller:?}");
    });
}

#[test]
fn the_servers_status_and_signal_are_passed_on() {
    both(|caller| {
        let host = Host::new(caller);
        for (script, status) in [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
            let mut session = host.run(&[], &["sh", "-c", script]);
            assert_eq!(session.status(), Some(status), "{caller:?} {script}");
        }
    });
}

#[test]
fn signals_reach_the_server() {
    both(|caller| {
        let host = Host::new(caller);
        for (signal, name) in [
            (Signal::SIGTERM, "TERM"),
            (Signal::SIGINT, "INT"),
            (Signal::SIGUSR1, "USR1"),
        ] {
            let script = format!("trap 'exit 9' {name}; echo up >&2; while :; do sleep 0.05; done");
            let mut session = host.run(&[], &["sh", "-c", &script]);
            session.stderr_after("up");
            kill(session.child.id() as i32, signal);
            assert_eq!(session.status(), Some(9), "{caller:?} {name}");
        }
    });
}

#[test]
fn the_environment_is_filtered_and_the_names_are_told() {
    both(|caller| {
        let host = Host::new(caller);
        let mut session = host.run(
            &[],
            &[
                "sh",
                "-c",
                "env | sed 's/^/env: /' >&2; test -d \"$TMPDIR\"",
            ],
        );
        let told = session.stderr_after("guard: removed from the environment: ");
        assert!(told.contains("SECRET_OF_TEST"), "{told}");
        assert_eq!(
            session.status(),
            Some(0),
            "{caller:?}: TMPDIR is a directory"
        );
        let stderr = session.all_stderr().join("\n");
        assert!(!stderr.contains("the-value"), "{stderr}");
        assert!(stderr.contains("env: LANG=C"), "{stderr}");
        let tmp = stderr.split("env: TMPDIR=").nth(1).unwrap();
        let tmp = tmp.lines().next().unwrap();
        crate::host::eventually("its directory is removed", || {
            !std::path::Path::new(tmp).exists()
        });

        let start = host
            .events()
            .into_iter()
            .find(|e| e["kind"] == "sandbox" && e["op"] == "start")
            .unwrap();
        let removed = start["env_removed"].to_string();
        assert!(removed.contains("SECRET_OF_TEST"), "{start}");
        assert!(!start.to_string().contains("the-value"), "{start}");
    });
}

#[test]
fn a_large_environment_is_not_cut() {
    both(|caller| {
        let host = Host::new(caller);
        let policy = host.home().join("large.toml");
        std::fs::write(
            &policy,
            "version = 1\ninclude = [\"base\"]\n[process]\nenv = [\"PATH\", \"A\", \"B\", \"C\", \"D\"]\n",
        )
        .unwrap();
        let options = [
            "run",
            "--enforcement",
            "gateway-only",
            "--policy",
            policy.to_str().unwrap(),
        ];
        let mut command = host.guard(&options);
        if caller == Caller::Root {
            command.args(["--user", "nobody"]);
        }
        command.args([
            "--",
            "sh",
            "-c",
            "echo total $((${#A} + ${#B} + ${#C} + ${#D})) >&2",
        ]);
        for name in ["A", "B", "C", "D"] {
            command.env(name, "x".repeat(100_000));
        }
        let mut session = crate::host::Session::start(command);
        assert_eq!(session.stderr_after("total "), "400000", "{caller:?}");
    });
}

/// What `/proc/self/status` says, by name.
fn field<'a>(lines: &'a [String], prefix: &str, name: &str) -> &'a str {
    let start = format!("{prefix}{name}:");
    lines
        .iter()
        .find_map(|l| l.strip_prefix(&start))
        .unwrap_or_else(|| panic!("no {name} in {lines:?}"))
        .trim()
}

#[test]
fn a_server_has_no_rights_and_no_descriptors_but_its_own() {
    both(|caller| {
        let host = Host::new(caller);
        // What it reads came through the relay, which is one by then.
        let script = "read line; sed 's/^/server /' /proc/self/status >&2; \
                      sed 's/^/relay /' /proc/$PPID/status >&2; \
                      ls /proc/$$/fd | sed 's/^/fd /' >&2; \
                      sed 's/^/cgroup /' /proc/self/cgroup >&2; ulimit -c | sed 's/^/core /' >&2";
        let mut session = host.run(&[], &["sh", "-c", script]);
        session.send(PING);
        assert_eq!(session.status(), Some(0));
        let lines = session.all_stderr();
        let id = NOBODY.to_string();
        let ids = [&id, &id, &id, &id].map(String::as_str).join("\t");
        assert_eq!(field(&lines, "server ", "Uid"), ids);
        assert_eq!(field(&lines, "server ", "Gid"), ids);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&lines, "server ", set), "0000000000000000", "{set}");
        }
        assert_eq!(field(&lines, "server ", "NoNewPrivs"), "1");
        assert_eq!(field(&lines, "server ", "Seccomp"), "2");
        assert_eq!(field(&lines, "relay ", "NoNewPrivs"), "1");
        assert!(lines.contains(&"core 0".to_owned()));
        let mut fds: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("fd ")).collect();
        fds.sort_unstable();
        assert_eq!(fds, ["0", "1", "2"], "{lines:?}");
        if caller == Caller::Root {
            assert_eq!(field(&lines, "server ", "CapBnd"), "0000000000000000");
            assert_eq!(field(&lines, "server ", "Groups"), id);
            // The relay is nobody else's user and may do nothing but kill.
            let relay: u32 = field(&lines, "relay ", "Uid")
                .split('\t')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert!((61184..65520).contains(&relay), "{relay}");
            for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(&lines, "relay ", set), "0000000000000020", "{set}");
            }
            assert_eq!(field(&lines, "relay ", "Groups"), "");
            let own = lines.iter().find(|l| l.starts_with("cgroup 0::")).unwrap();
            assert!(own.contains("/guard/"), "{own}");
        }
    });
}

#[test]
fn the_callers_umask_is_the_servers_and_nobody_elses() {
    let host = Host::new(Caller::Root);
    let script = "umask | sed 's/^/mask /' >&2; echo x > \"$TMPDIR/file\"";
    let arguments = [
        "run",
        "--enforcement",
        "gateway-only",
        "--user",
        "nobody",
        "--",
        "sh",
        "-c",
        script,
    ];
    let guard = host.guard(&arguments);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(guard.get_program())
        .args(guard.get_args())
        .current_dir(host.home());
    let mut session = crate::host::Session::start(command);
    assert_eq!(session.stderr_after("mask "), "0077");
    assert_eq!(
        session.status(),
        Some(0),
        "its TMPDIR is within reach: {:?}",
        session.all_stderr()
    );
}

#[test]
fn several_at_once_share_a_supervisor() {
    let host = Host::new(Caller::Root);
    let mut sessions: Vec<_> = (0..4).map(|_| host.run(&[], &["cat"])).collect();
    for session in &mut sessions {
        session.send(PING);
    }
    for session in &mut sessions {
        assert_eq!(session.line(), PING);
    }
    assert!(host.status().contains("4 sandboxes"), "{}", host.status());
    assert_eq!(host.cgroups().len(), 4);
    for session in &mut sessions {
        session.close_stdin();
        assert_eq!(session.status(), Some(0));
    }
}

#[test]
fn the_trail_is_whole() {
    both(|caller| {
        let host = Host::new(caller);
        let mut session = host.run(&["--name", "echo"], &["cat"]);
        let call = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"look","arguments":{}}}"#;
        session.send(call);
        session.line();
        session.close_stdin();
        assert_eq!(session.status(), Some(0));
        let stopped = |e: &serde_json::Value| e["kind"] == "sandbox" && e["op"] == "stop";
        crate::host::eventually("the stop is in the trail", || {
            host.events().iter().any(stopped)
        });
        let events = host.events();
        let stop = events.iter().find(|e| stopped(e)).unwrap();
        assert_eq!(
            (&stop["status"], &stop["sandbox"]["server"]),
            (&0.into(), &"echo".into())
        );
        assert!(
            events
                .iter()
                .any(|e| e["kind"] == "call" && e["tool"] == "look")
        );
        let trail = host.trail();
        let verify = host
            .guard(&["audit", "verify", trail.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(verify.status.success(), "{verify:?}");
    });
}
