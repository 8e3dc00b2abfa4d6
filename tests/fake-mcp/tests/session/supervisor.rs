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
    // Read, but only the first is acknowledged: the other one comes again.
    session.wire.record();
    session.wire.next::<serde_json::Value>().unwrap();
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
    let RelayRecord::Hello {
        sandbox,
        token,
        written,
    } = session.wire.record()
    else {
        panic!("no hello")
    };
    assert_eq!((sandbox, token.as_str(), written), (5, "secret", 1));
    let again = session.wire.record();
    assert!(
        matches!(&again, RelayRecord::CallEnd(end) if end.call == 1),
        "{again:?}"
    );
    starts_and_ends(&session, 2..=4);
}

/// The next records are the starts of these calls, and their ends, each in
/// order. An end is told when its response is with the client already, and so
/// can come after the next call's start.
fn starts_and_ends(session: &Session, calls: std::ops::RangeInclusive<u64>) {
    let (mut started, mut ended) = (calls.clone(), calls.clone());
    for _ in 0..2 * calls.count() {
        match session.wire.record() {
            RelayRecord::CallStart(start) => assert_eq!(Some(start.call), started.next()),
            RelayRecord::CallEnd(end) => {
                assert_eq!(Some(end.call), ended.next());
                assert!(started.clone().next().is_none_or(|next| next > end.call));
            }
            other => panic!("{other:?}"),
        }
    }
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
    starts_and_ends(&session, 1..=60);
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
