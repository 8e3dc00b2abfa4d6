use super::*;
use crate::supervisor::state::PolicyState;
use crate::wire::Enforcement;

pub(in crate::supervisor) fn session() -> Session {
    let policy = PolicyState {
        name: "p".into(),
        hash: Digest::of(b"").as_str().into(),
        generation: 1,
        text: String::new(),
        source: "p".into(),
        home: None,
        cwd: "/".into(),
        command: vec![],
        env: vec![],
        set: vec![],
        own: Vec::new(),
    };
    let [id, server, token] = ["id", "server", "token"].map(str::to_owned);
    let (audit, tmp) = ("/a".into(), "/t".into());
    let enforcement = Enforcement::Kernel;
    let state = SandboxState::new(1, id, server, enforcement, token, audit, tmp, policy);
    Session::new(state, None)
}

/// A relay's packet.
fn packet(seq: u64, record: &str) -> Vec<u8> {
    format!("{{\"seq\":{seq},\"record\":{record}}}").into_bytes()
}

fn start(call: u64) -> String {
    format!(
        "{{\"call_start\":{{\"call\":{call},\"id\":\"{call}\",\"method\":\"tools/call\",\
         \"tool\":\"t\",\"arguments\":null,\"arguments_cut\":false,\"args_hash\":null,\
         \"time\":0}}}}"
    )
}

fn end(call: u64) -> String {
    format!(
        "{{\"call_end\":{{\"call\":{call},\"outcome\":\"result\",\"result_bytes\":0,\
         \"result_hash\":null,\"duration\":0,\"time\":0}}}}"
    )
}

/// What a packet brings to the trail.
fn said(session: &mut Session, packet: &[u8]) -> Vec<AuditEvent> {
    let mut events = Vec::new();
    session.packet(packet, "b", &mut |event| events.push(event));
    events
}

/// What the next record brings.
fn next(session: &mut Session, record: &str) -> Vec<AuditEvent> {
    let seq = session.heard + 1;
    said(session, &packet(seq, record))
}

#[test]
fn a_call_is_known_after_its_end_too() {
    let mut session = session();
    assert_eq!(next(&mut session, &start(1)).len(), 1);
    assert_eq!(session.in_flight(), 1);
    assert_eq!(next(&mut session, &end(1)).len(), 1);
    assert_eq!(session.in_flight(), 0);
    assert_eq!(session.calls[&1].tool.as_deref(), Some("t"));
}

#[test]
fn a_relay_cannot_fill_the_memory() {
    let mut session = session();
    for call in 1..=(3 * MAX_ENDED as u64) {
        next(&mut session, &start(call));
        next(&mut session, &end(call));
    }
    assert_eq!(session.calls.len(), MAX_ENDED);
    for call in 1..=(3 * MAX_ENDED as u64) {
        next(&mut session, &start(1_000_000 + call));
    }
    assert!(session.calls.len() <= 2 * MAX_ENDED);
    assert!(session.in_flight() <= 2 * MAX_ENDED);
}

#[test]
fn what_is_no_record_is_an_alert() {
    let mut session = session();
    let unnumbered = start(1);
    for packet in [
        &b"{}"[..],
        b"\xff\x00",
        b"{\"seq\":1,\"record\":{\"call_start\":{}}}",
        unnumbered.as_bytes(),
    ] {
        let events = said(&mut session, packet);
        assert_eq!(events[0].reason, Some(Reason::RelayRecord));
    }
}

#[test]
fn how_the_server_ended_is_kept_for_the_last_line() {
    let mut session = session();
    let exit = "{\"server_exit\":{\"status\":null,\"signal\":9}}";
    assert!(next(&mut session, exit).is_empty());
    assert_eq!(session.exit, (None, Some(9)));
}

#[test]
fn a_record_is_taken_once_and_a_missing_one_is_a_loss() {
    let mut session = session();
    assert_eq!(said(&mut session, &packet(1, &start(1))).len(), 1);
    assert!(said(&mut session, &packet(1, &start(1))).is_empty());
    assert!(said(&mut session, &packet(0, &start(1))).is_empty());
    let events = said(&mut session, &packet(5, &end(1)));
    assert_eq!(events.len(), 2);
    assert_eq!(
        events[0].body,
        Body::Loss(Loss::Relay { count: 3, rseq: 4 })
    );
    assert_eq!(events[0].reason, Some(Reason::SequenceGap));
    assert!(
        said(&mut session, &packet(4, &end(1))).is_empty(),
        "told as lost"
    );
    assert_eq!(said(&mut session, &packet(u64::MAX, &end(1))).len(), 2);
    assert!(said(&mut session, &packet(u64::MAX, &end(1))).is_empty());
}
