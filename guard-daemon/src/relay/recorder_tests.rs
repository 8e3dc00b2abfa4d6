use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use super::*;
use crate::mcp::session::{Action, Session};
use crate::wire::MAX_PACKET;

/// Records of what a session makes of `lines`, as the supervisor reads them.
fn records(client: &[&str], server: &[&str], args_max: usize) -> Vec<RelayRecord> {
    let kind = SockType::SeqPacket;
    let flags = SockFlag::empty();
    let (ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
    let outbox = Outbox::new(ours, None);
    let gates = Gates::default();
    let digests = Digests::default();
    let mut session = Session::default();
    let mut ends = Vec::new();
    fn recorder<'a>(
        outbox: &'a Outbox,
        gates: &'a Gates,
        digests: &'a Digests,
        args_max: usize,
        ends: &'a mut Vec<End>,
    ) -> Recorder<'a> {
        Recorder {
            outbox,
            gates,
            digests,
            slot: None,
            call_sets: 1,
            lease: 1,
            args_max,
            ends,
        }
    }
    for line in client {
        let action = session.client_line(
            line.as_bytes(),
            1,
            &mut recorder(&outbox, &gates, &digests, args_max, &mut ends),
        );
        assert_eq!(action, Action::Forward);
    }
    for line in server {
        let _ = session.server_line(
            line.as_bytes(),
            5,
            &mut recorder(&outbox, &gates, &digests, args_max, &mut ends),
        );
        digests.tell(&outbox, &mut ends, 1, line.as_bytes());
    }
    digests.all(&outbox);
    let mut packet = vec![0; MAX_PACKET];
    std::iter::from_fn(|| {
        let count = recv(theirs.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).ok()?;
        let numbered: crate::wire::Numbered = serde_json::from_slice(&packet[..count]).unwrap();
        Some(numbered.record)
    })
    .collect()
}

#[test]
fn what_is_written_reads_as_the_wires_records() {
    let call = r#"{"jsonrpc":"2.0","id":"i","method":"tools/call","params":{"name":"t\u0061","arguments":{"a":"é"}}}"#;
    let answer = r#"{"jsonrpc":"2.0","id":"i","result":{"isError":true}}"#;
    let noise = "hello";
    let all = records(&[call], &[noise, answer], 100);
    let [
        RelayRecord::CallStart(start),
        RelayRecord::Protocol(note),
        RelayRecord::CallEnd(end),
    ] = all.as_slice()
    else {
        panic!("{all:?}")
    };
    assert_eq!((start.call, start.id.as_str()), (1, "\"i\""));
    assert_eq!(start.method, "tools/call");
    assert_eq!(start.tool.as_deref(), Some("ta"));
    assert_eq!(start.arguments.as_deref(), Some("{\"a\":\"é\"}"));
    let args = Digest::of("{\"a\":\"é\"}".as_bytes()).to_string();
    assert_eq!(start.args_hash.as_deref(), Some(args.as_str()));
    assert!(!start.arguments_cut && start.time > 0);
    assert_eq!(
        (note.from.as_str(), note.reason.as_str()),
        ("server", "not-json")
    );
    assert_eq!(
        (end.call, end.outcome, end.duration),
        (1, Outcome::ToolError, 4)
    );
    assert_eq!(end.result_bytes, answer.len() as u64);
    let hash = Digest::of(answer.as_bytes()).to_string();
    assert_eq!(end.result_hash.as_deref(), Some(hash.as_str()));
}

#[test]
fn arguments_that_swell_when_written_are_cut_to_the_packet() {
    // Each quote takes two bytes in a JSON string, the backslashes before them too.
    let text = "\\\"".repeat(100_000);
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"a":"{text}"}}}}}}"#
    );
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let all = records(&[&call], &[answer], usize::MAX);
    let [RelayRecord::CallStart(start), RelayRecord::CallEnd(end)] = all.as_slice() else {
        panic!("{all:?}")
    };
    let whole = format!(r#"{{"a":"{text}"}}"#);
    assert!(start.arguments_cut);
    assert!(whole.starts_with(start.arguments.as_deref().unwrap()));
    let hash = Some(Digest::of(whole.as_bytes()).to_string());
    // The request has not waited for it.
    assert!(whole.len() > DIGEST_LATER);
    assert_eq!((&start.args_hash, &end.args_hash), (&None, &hash));
}

#[test]
fn arguments_that_are_cut_and_not_long_have_their_digest_at_once() {
    let text = "x".repeat(DIGEST_LATER - 8);
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"a":"{text}"}}}}}}"#
    );
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let all = records(&[&call], &[answer], 100);
    let [RelayRecord::CallStart(start), RelayRecord::CallEnd(end)] = all.as_slice() else {
        panic!("{all:?}")
    };
    let hash = Digest::of(format!(r#"{{"a":"{text}"}}"#).as_bytes()).to_string();
    assert_eq!((&start.args_hash, &end.args_hash), (&Some(hash), &None));
}

#[test]
fn a_call_without_arguments_has_no_digest() {
    let all = records(
        &[r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#],
        &[],
        10,
    );
    let [RelayRecord::CallStart(start)] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(
        (&start.arguments, &start.args_hash, &start.tool),
        (&None, &None, &None)
    );
    assert!(!start.arguments_cut);
}
