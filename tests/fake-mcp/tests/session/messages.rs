//! What goes through, what does not, and what the slot and the wire say of it.

use guard_daemon::wire::{Outcome, RelayRecord};
use serde_json::{Value, json};

use crate::harness::{Options, Session};

/// What `read_file` read, from its hexadecimal text.
fn bytes(answer: &Value) -> Vec<u8> {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    let hex = text.strip_prefix("hex:").unwrap().as_bytes();
    let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
    hex.chunks(2)
        .map(|c| digit(c[0]) << 4 | digit(c[1]))
        .collect()
}

#[test]
fn a_call_is_told_and_marked_before_it_is_forwarded_and_cleared_after_its_response() {
    let mut session = Session::new();
    let slot = session.dir.path().join("slot");
    assert_eq!(session.in_flight(), (0, vec![]));
    // The server reads the slot itself while the call is in flight.
    session.call("a", "read_file", json!({"path": slot}));
    let seen = session.answer();
    assert_eq!(seen["id"], "a");
    let page = bytes(&seen);
    assert_eq!(page[8], 6, "rule sets of a call");
    assert_eq!(page[24], 1, "one in flight");
    assert_eq!(page[32], 1, "number of the call");
    assert_eq!(session.in_flight(), (0, vec![]));
    let RelayRecord::CallStart(start) = session.wire.record() else {
        panic!("no start")
    };
    assert_eq!((start.call, start.id.as_str()), (1, "\"a\""));
    assert_eq!(start.tool.as_deref(), Some("read_file"));
    assert_eq!(start.arguments.unwrap(), json!({"path": slot}).to_string());
    assert!(!start.arguments_cut);
    let RelayRecord::CallEnd(end) = session.wire.record() else {
        panic!("no end")
    };
    assert_eq!((end.call, end.outcome), (1, Outcome::Result));
    assert!(end.duration > 0 && end.result_bytes > 4096);
    let done = session.finish();
    assert_eq!(done.status, Some(0));
}

#[test]
fn four_in_flight_are_all_in_the_slot() {
    let mut session = Session::new();
    let slot = session.dir.path().join("slot");
    for id in 1..=4 {
        session.call(id, "read_when_n", json!({"path": slot, "n": 4}));
    }
    for _ in 0..4 {
        let page = bytes(&session.answer());
        assert_eq!(page[24], 4);
        let calls: Vec<u8> = page[32..64].iter().step_by(8).copied().collect();
        assert_eq!(calls, [1, 2, 3, 4]);
    }
    assert_eq!(session.in_flight(), (0, vec![]));
}

#[test]
fn bytes_go_through_unchanged_with_crlf_and_without_a_last_newline() {
    let mut session = Session::with(Options {
        server: vec!["/bin/cat".into()],
        ..Options::default()
    });
    let lines: [&[u8]; 4] = [
        b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\r\n",
        b"  {\"jsonrpc\" : \"2.0\", \"method\":\"\\u0061\", \"id\":1, \"x\": 1.50e+1 }  \n",
        b"\n",
        b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/\xc3\xa9\"}",
    ];
    session.write(lines.concat());
    let done = session.finish();
    assert_eq!(done.rest, lines.concat());
    assert_eq!(done.status, Some(0));
}

#[test]
fn a_line_over_the_limit_is_refused_and_the_session_goes_on() {
    let mut session = Session::new();
    for id in ["\"id\":7,", ""] {
        session.write(format!(
            "{{\"jsonrpc\":\"2.0\",{id}\"method\":\"tools/call\",\"params\":{{\"x\":\""
        ));
        for _ in 0..48 {
            session.write(vec![b'x'; 1 << 20]);
        }
        session.write(b"\"}}\n");
    }
    let first = session.answer();
    assert_eq!(
        (&first["id"], &first["error"]["code"]),
        (&json!(7), &json!(-32600))
    );
    assert_eq!(session.answer()["id"], json!(null));
    session.call(8, "echo", json!({"text": "still here"}));
    assert_eq!(
        session.answer()["result"]["content"][0]["text"],
        "still here"
    );
    let status = format!("/proc/{}/status", session.relay.id());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 24 << 10, "{peak}: 48 MiB went by, the limit is 1 MiB");
    let notes: Vec<_> = session
        .finish()
        .records
        .into_iter()
        .filter_map(|r| match r {
            RelayRecord::Protocol(note) => Some((note.from, note.reason, note.refused)),
            _ => None,
        })
        .collect();
    let note = ("client".to_owned(), "too-long".to_owned(), true);
    assert_eq!(notes, [note.clone(), note]);
}

#[test]
fn a_response_over_the_limit_becomes_an_error() {
    let mut session = Session::new();
    session.call(1, "big", json!({"bytes": 3_000_000}));
    let answer = session.answer();
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!(1), &json!(-32603))
    );
    assert_eq!(session.in_flight(), (0, vec![]));
    session.call(2, "big", json!({"bytes": 900_000}));
    assert_eq!(session.answer()["id"], 2);
}

#[test]
fn what_parsers_read_differently_never_reaches_the_server() {
    let mut session = Session::new();
    let out = session.dir.path().join("written");
    let call = |extra: &str| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\
             \"arguments\":{{\"path\":\"{}\",\"text\":\"x\"}}{extra}}}}}\n",
            out.display()
        )
    };
    for (extra, code) in [
        (",\"name\":\"write_file\"", -32600),
        (",\"\\u006eame\":\"write_file\"", -32600),
        (",\"Name\":\"write_file\"", -32600),
        (",\"x\":NaN", -32700),
        (",\"x\":\"\\ud800\"", -32600),
        (",\"x\":\r1", -32600),
    ] {
        session.write(call(extra));
        assert_eq!(session.answer()["error"]["code"], code, "{extra}");
    }
    session.write(b"not json\n");
    assert_eq!(session.answer()["error"]["code"], -32700);
    session.write(b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}]\n");
    assert_eq!(session.answer()["error"]["code"], -32600);
    assert!(!out.exists());
    session.write(call(""));
    assert_eq!(session.answer()["result"]["content"][0]["text"], "x");
    let refused = session
        .finish()
        .records
        .iter()
        .filter(|r| matches!(r, RelayRecord::Protocol(note) if note.refused))
        .count();
    assert_eq!(refused, 8);
}

#[test]
fn what_the_server_writes_beside_the_protocol() {
    let mut session = Session::new();
    // Free text goes through; a response with two ids does not.
    let raw = "starting up\n{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"result\":{}}\n";
    session.call(1, "garbage", json!({"raw": raw}));
    assert_eq!(session.line(), b"starting up\n");
    let answer = session.answer();
    assert_eq!(
        (&answer["id"], answer.get("result").is_some()),
        (&json!(1), true)
    );
}

#[test]
fn stderr_is_the_servers() {
    let mut session = Session::new();
    session.call(1, "stderr", json!({"text": "a\u{1b}[0m\nb"}));
    session.answer();
    assert_eq!(session.finish().stderr, b"a\x1b[0m\nb");
}

#[test]
fn a_client_that_reads_nothing_holds_up_the_server_and_nothing_else() {
    let mut session = Session::new();
    for id in 0..40 {
        session.call(id, "big", json!({"bytes": 900_000}));
    }
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let status = format!("/proc/{}/status", session.relay.id());
    let status = std::fs::read_to_string(status).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 24 << 10, "{peak}: 36 MB wait for the client");
    let mut ids: Vec<u64> = (0..40)
        .map(|_| session.answer()["id"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
}

#[test]
fn gateway_only_needs_no_slot() {
    let mut session = Session::with(Options {
        gateway_only: true,
        ..Options::default()
    });
    session.call(1, "echo", json!({"text": "x"}));
    assert_eq!(session.answer()["id"], 1);
    assert!(matches!(session.wire.record(), RelayRecord::CallStart(_)));
    assert_eq!(session.finish().status, Some(0));
}

#[test]
fn a_flood_of_garbage_is_counted_not_told_one_by_one() {
    let mut session = Session::new();
    session.call(
        1,
        "garbage",
        json!({"raw": "garbage\n".repeat(20_000), "silent": true}),
    );
    for _ in 0..20_000 {
        assert_eq!(session.line(), b"garbage\n");
    }
    let (mut told, mut counted) = (0, 0);
    for record in session.finish().records {
        match record {
            RelayRecord::Protocol(note) if note.reason == "more" => {
                let number = note.detail.split(' ').next().unwrap();
                counted += number.parse::<u64>().unwrap();
            }
            RelayRecord::Protocol(note) => {
                assert_eq!(note.reason, "not-json");
                told += 1;
            }
            _ => {}
        }
    }
    assert_eq!(told + counted, 20_000);
    assert!(told < 2_000, "{told}");
}
