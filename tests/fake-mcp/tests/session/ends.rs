//! How sessions end.

use std::time::{Duration, Instant};

use guard_daemon::wire::{ControlMessage, ControlReply, Outcome, RelayRecord};
use serde_json::json;

use crate::harness::{Options, Session};

#[test]
fn the_servers_status_reaches_both_sides() {
    let mut session = Session::new();
    session.call(1, "exit", json!({"status": 7}));
    let done = session.finish();
    assert!(matches!(done.reply, Some(ControlReply::Exited(7))));
    let [
        RelayRecord::CallStart(_),
        RelayRecord::CallEnd(end),
        RelayRecord::ServerExit {
            status: Some(7),
            signal: None,
        },
    ] = done.records.as_slice()
    else {
        panic!("{:?}", done.records)
    };
    assert_eq!(end.outcome, Outcome::Abandoned);
    assert!(done.killed, "descendants are not left behind");
}

#[test]
fn a_signal_that_ends_the_server_is_told() {
    let mut session = Session::new();
    session.call(1, "crash", json!({}));
    let done = session.finish();
    assert!(matches!(done.reply, Some(ControlReply::Signalled(6))));
}

#[test]
fn signals_are_passed_on() {
    let mut session = Session::new();
    session.call(1, "echo", json!({"text": ""}));
    session.answer();
    let control = session.control.as_ref().unwrap();
    control.send(&ControlMessage::Signal(15));
    let since = Instant::now();
    // The client's input stays open: it is the signal that ends the session.
    let reply = control.next::<ControlReply>();
    assert!(matches!(reply, Some(ControlReply::Signalled(15))));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[test]
fn all_output_comes_before_the_end() {
    let mut session = Session::with(Options {
        server: [
            "/bin/sh",
            "-c",
            "head -c 300000 /dev/zero | tr '\\0' '\\n'; exit 3",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Options::default()
    });
    session.write(b"\n");
    let done = session.finish();
    assert_eq!(done.rest.len(), 300_000);
    assert!(matches!(done.reply, Some(ControlReply::Exited(3))));
}

#[test]
fn a_child_that_keeps_the_pipes_open_holds_nothing_up() {
    let session = Session::with(Options::server(&["--leave-child"]));
    let since = Instant::now();
    let done = session.finish();
    assert!(matches!(done.reply, Some(ControlReply::Exited(0))));
    assert!(done.killed);
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn a_server_that_ignores_the_end_of_input_gets_sigterm_after_ten_seconds() {
    let session = Session::with(Options::server(&["--ignore-eof"]));
    let since = Instant::now();
    let done = session.finish();
    assert!(matches!(done.reply, Some(ControlReply::Signalled(15))));
    let passed = since.elapsed().as_secs_f64();
    assert!((9.5..13.0).contains(&passed), "{passed}");
}

#[test]
fn a_server_that_ignores_sigterm_too_is_killed_after_five_more() {
    let session = Session::with(Options::server(&["--ignore-eof", "--ignore-term"]));
    let since = Instant::now();
    let done = session.finish();
    assert!(matches!(done.reply, Some(ControlReply::Signalled(9))));
    let passed = since.elapsed().as_secs_f64();
    assert!((14.5..18.0).contains(&passed), "{passed}");
    assert!(done.killed);
}

#[test]
fn a_client_that_is_gone_ends_the_session_though_its_pipes_stay_open() {
    let mut session = Session::new();
    session.call(1, "echo", json!({"text": ""}));
    session.answer();
    session.control = None;
    let since = Instant::now();
    while session.relay.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_client_that_closed_its_output_ends_the_session() {
    let mut session = Session::new();
    let (closed, _) = std::io::pipe().unwrap();
    drop(closed);
    let mut output = std::process::Command::new("true")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let other = std::io::BufReader::new(output.stdout.take().unwrap());
    output.wait().unwrap();
    drop(std::mem::replace(&mut session.output, other));
    session.call(1, "echo", json!({"text": ""}));
    let since = Instant::now();
    while session.relay.try_wait().unwrap().is_none() {
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_relay_cannot_be_traced_or_dumped_and_runs_filtered() {
    let mut session = Session::new();
    session.call(1, "echo", json!({"text": ""}));
    session.answer();
    let proc = format!("/proc/{}", session.relay.id());
    for task in std::fs::read_dir(format!("{proc}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
}
