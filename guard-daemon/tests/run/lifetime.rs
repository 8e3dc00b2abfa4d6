//! What outlives what, and that nothing is left behind.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::host::{Caller, Host, Session, eventually, kill, lives};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// Tells its own, its relay's and a runaway descendant's process, then echoes.
const TELLING: &str = "setsid sleep 1000 & echo stray $! >&2; echo server $$ >&2; \
                       echo relay $PPID >&2; exec cat";

/// Sends a call with this id and waits until it comes back.
fn call(session: &mut Session, id: u32) {
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"t\"}}}}"
    );
    session.send(&line);
    assert_eq!(session.line(), line);
}

fn told(session: &mut Session) -> [i32; 3] {
    ["stray ", "server ", "relay "].map(|name| session.stderr_after(name).parse().unwrap())
}

#[test]
fn when_the_relay_is_killed_all_ends() {
    for caller in [Caller::Root, Caller::Nobody] {
        std::thread::spawn(move || {
            let host = Host::new(caller);
            let mut session = host.run(&[], &["sh", "-c", TELLING]);
            let [stray, server, relay] = told(&mut session);
            session.send(PING);
            session.line();
            kill(relay, Signal::SIGKILL);
            assert_eq!(session.end(), (Some(125), vec![]), "{caller:?}");
            for (name, pid) in [("server", server), ("stray", stray)] {
                eventually(&format!("{caller:?}: the {name} is gone"), || !lives(pid));
            }
            eventually("its cgroup is gone", || host.cgroups().is_empty());
        })
        .join()
        .unwrap();
    }
}

#[test]
fn when_the_server_ends_its_descendants_end() {
    for caller in [Caller::Root, Caller::Nobody] {
        std::thread::spawn(move || {
            let host = Host::new(caller);
            let mut session = host.run(&[], &["sh", "-c", TELLING]);
            let [stray, ..] = told(&mut session);
            session.close_stdin();
            assert_eq!(session.status(), Some(0), "{caller:?}");
            eventually(&format!("{caller:?}: the stray is gone"), || !lives(stray));
        })
        .join()
        .unwrap();
    }
}

#[test]
fn nothing_is_left_after_the_last_sandbox() {
    let host = Host::new(Caller::Root);
    let mut session = host.run(&[], &["cat"]);
    session.send(PING);
    session.line();
    let supervisor = host.supervisor();
    session.close_stdin();
    assert_eq!(session.status(), Some(0));
    eventually("the supervisor ends", || !lives(supervisor));
    let mut left: Vec<String> = std::fs::read_dir("/run/guard")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["lock", "supervisor.lock"]);
    assert_eq!(host.cgroups(), Vec::<String>::new());
    assert_eq!(host.guard(&["status"]).status().unwrap().code(), Some(3));
}

#[test]
fn a_client_never_meets_a_supervisor_that_is_ending() {
    let host = Host::new(Caller::Root);
    for pause in [1900, 2000, 2050, 2100, 2150, 2200, 2300] {
        let mut session = host.run(&[], &["cat"]);
        session.send(PING);
        assert_eq!(session.line(), PING, "{:?}", session.all_stderr());
        session.close_stdin();
        assert_eq!(session.status(), Some(0));
        std::thread::sleep(Duration::from_millis(pause));
    }
}

#[test]
fn a_session_outlives_its_supervisor_and_the_next_one_takes_it_over() {
    let host = Host::new(Caller::Root);
    let mut session = host.run(&["--name", "survivor"], &["sh", "-c", TELLING]);
    let [stray, server, _] = told(&mut session);
    let calls = || {
        let mine = |e: &&serde_json::Value| {
            e["kind"] == "call" && e["op"] == "start" && e["sandbox"]["server"] == "survivor"
        };
        host.events().iter().filter(mine).count()
    };
    call(&mut session, 1);
    eventually("the first call is recorded", || calls() == 1);
    let supervisor = host.supervisor();
    kill(supervisor, Signal::SIGKILL);
    eventually("the supervisor is dead", || !lives(supervisor));
    // Alone:
    call(&mut session, 2);
    // A second session brings a supervisor, which takes the first one over:
    let mut second = host.run(&[], &["cat"]);
    second.send(PING);
    assert_eq!(second.line(), PING);
    let status = host.status();
    assert!(
        status.contains("2 sandboxes") && status.contains("(adopted)"),
        "{status}"
    );
    call(&mut session, 3);
    let adopted =
        |e: &serde_json::Value| e["reason"] == "adopted" && e["sandbox"]["server"] == "survivor";
    assert!(host.events().iter().any(adopted));
    // The relay found its way back: its calls are in the trail, and its end is noticed.
    eventually("all calls are recorded", || calls() == 3);
    session.close_stdin();
    assert_eq!(session.status(), Some(0));
    for pid in [server, stray] {
        eventually("its processes are gone", || !lives(pid));
    }
    eventually("one is left", || host.cgroups().len() == 1);
    let stopped = |e: &serde_json::Value| {
        e["kind"] == "sandbox" && e["op"] == "stop" && e["sandbox"]["server"] == "survivor"
    };
    eventually("its end is recorded", || host.events().iter().any(stopped));
    second.close_stdin();
    assert_eq!(second.status(), Some(0));
}

#[test]
fn what_nobody_can_vouch_for_is_swept() {
    let host = Host::new(Caller::Root);
    let mut session = host.run(&[], &["sh", "-c", TELLING]);
    let [stray, server, relay] = told(&mut session);
    kill(host.supervisor(), Signal::SIGKILL);
    kill(relay, Signal::SIGKILL);
    assert_eq!(session.status(), Some(125));
    for entry in std::fs::read_dir("/run/guard/sandboxes").unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(lives(stray), "only the next supervisor can end it");
    let mut second = host.run(&[], &["cat"]);
    second.send(PING);
    assert_eq!(second.line(), PING);
    for pid in [server, stray] {
        eventually("it was swept", || !lives(pid));
    }
    assert_eq!(host.cgroups().len(), 1);
    let swept = |e: &serde_json::Value| e["op"] == "stop" && e["reason"] == "swept";
    assert!(host.events().iter().any(swept), "the trail says so");
    second.close_stdin();
    assert_eq!(second.status(), Some(0));
}
