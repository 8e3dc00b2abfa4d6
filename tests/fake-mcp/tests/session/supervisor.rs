//! The wire: what happens while the supervisor is away, slow, or back.

use std::time::Duration;

use guard_daemon::wire::RelayRecord;
use serde_json::json;

use crate::harness::{Listener, Options, Session};

#[test]
fn records_wait_for_a_supervisor_that_restarts() {
    let mut session = Session::new();
    session.call(1, "echo", json!({"text": "a"}));
    session.answer();
    for _ in 0..2 {
        session.wire.record();
    }
    // It goes, and so does its socket.
    session.listener = None;
    std::fs::remove_file(session.dir.path().join("wire")).unwrap();
    let gone = std::mem::replace(&mut session.wire, null_socket());
    drop(gone);
    for id in 2..=4 {
        session.call(id, "echo", json!({"text": "b"}));
        assert_eq!(session.answer()["id"], id, "the session goes on");
    }
    // It is back.
    let listener = Listener::new(&session.dir.path().join("wire"));
    session.wire = listener.accept();
    let RelayRecord::Hello { sandbox, token } = session.wire.record() else {
        panic!("no hello")
    };
    assert_eq!((sandbox, token.as_str()), (5, "secret"));
    let mut calls = Vec::new();
    for _ in 0..6 {
        match session.wire.record() {
            RelayRecord::CallStart(start) => calls.push(start.call),
            RelayRecord::CallEnd(end) => calls.push(end.call),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(calls, [2, 2, 3, 3, 4, 4]);
}

fn null_socket() -> crate::harness::Socket {
    let (one, _) = std::os::unix::net::UnixStream::pair().unwrap();
    crate::harness::Socket(one.into())
}

#[test]
fn a_supervisor_that_does_not_read_holds_nothing_up_and_loses_nothing() {
    let mut session = Session::with(Options {
        args_max: 60_000,
        ..Options::default()
    });
    let text = "x".repeat(50_000);
    let since = std::time::Instant::now();
    for id in 0..60 {
        session.call(id, "echo", json!({"text": text}));
        assert_eq!(session.answer()["id"], id);
    }
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
    for call in 1..=60 {
        assert!(matches!(session.wire.record(), RelayRecord::CallStart(s) if s.call == call));
        assert!(matches!(session.wire.record(), RelayRecord::CallEnd(e) if e.call == call));
    }
}

#[test]
fn the_lease_moves_while_a_call_is_in_flight_and_stands_when_the_relay_is_stopped() {
    let mut session = Session::with(Options {
        lease_ms: 1000,
        ..Options::default()
    });
    session.call(1, "sleep", json!({"ms": 4000}));
    assert!(matches!(session.wire.record(), RelayRecord::CallStart(_)));
    std::thread::sleep(Duration::from_millis(1500));
    let first = session.slot()[2];
    assert!(first > boot(), "renewed after more than its length");
    std::thread::sleep(Duration::from_millis(700));
    assert!(session.slot()[2] > first);
    let pid = nix::unistd::Pid::from_raw(session.relay.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    assert!(
        session.slot()[2] < boot(),
        "a stopped relay's lease runs out"
    );
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(session.answer()["id"], 1);
}

fn boot() -> u64 {
    guard_daemon::relay::clock::boot()
}

#[test]
fn arguments_are_cut_and_say_so_and_the_digest_covers_all() {
    let mut session = Session::with(Options {
        args_max: 10,
        ..Options::default()
    });
    // 9 bytes of ASCII, then a character of two: not cut in its middle.
    session.call(1, "echo", json!({"text": "é".repeat(20)}));
    let RelayRecord::CallStart(start) = session.wire.record() else {
        panic!("no start")
    };
    assert_eq!(start.arguments.unwrap(), "{\"text\":\"");
    assert!(start.arguments_cut);
    let whole = json!({"text": "é".repeat(20)}).to_string();
    let digest = guard_daemon::mcp::digest::Digest::of(whole.as_bytes());
    assert_eq!(
        serde_json::to_value(digest).unwrap(),
        json!(start.args_hash.unwrap())
    );
}
