#![allow(
    unused_must_use,
    reason = "what a step returns is looked at where it is the point"
)]

use serde_json::{Value, json};

use super::super::ledger::{CANCELLED_NS, TASK_NS};
use super::*;

/// Everything that a session says, in order.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Start(u64, String, Option<u64>),
    Calls(Vec<u64>),
    End(u64, Outcome, bool),
    Note(Side, &'static str, bool),
}

#[derive(Default)]
struct Log(Vec<Said>);

impl Record for Log {
    fn start(&mut self, start: &Start<'_>) {
        let what = start.request.tool.as_ref().unwrap_or(&start.request.method);
        self.0
            .push(Said::Start(start.call, what.to_string(), start.continues));
    }
    fn calls(&mut self, calls: &Ledger) {
        self.0.push(Said::Calls(calls.calls().collect()));
    }
    fn end(&mut self, end: &End) {
        self.0.push(Said::End(end.call, end.outcome, end.whole));
    }
    fn note(&mut self, note: Note) {
        assert!(note.detail.len() < 1000);
        self.0
            .push(Said::Note(note.from, note.reason, note.refused));
    }
}

/// A session, its log, and its clock.
#[derive(Default)]
struct Test {
    session: Session,
    log: Log,
    now: u64,
}

impl Test {
    fn client(&mut self, line: impl ToString) -> Action {
        self.session
            .client_line(line.to_string().as_bytes(), self.now, &mut self.log)
    }
    fn server(&mut self, line: impl ToString) -> Action {
        self.session
            .server_line(line.to_string().as_bytes(), self.now, &mut self.log)
    }
    fn call(&mut self, id: impl Into<Value>, tool: &str) -> Action {
        self.client(
            json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call",
            "params": {"name": tool, "arguments": {}}}),
        )
    }
    fn result(&mut self, id: impl Into<Value>, result: Value) -> Action {
        self.server(json!({"jsonrpc": "2.0", "id": id.into(), "result": result}))
    }
    fn initialize(&mut self, revision: &str) {
        let request = json!({"jsonrpc": "2.0", "id": "init", "method": "initialize",
            "params": {"protocolVersion": revision}});
        assert_eq!(self.client(request), Action::Forward);
        let done = self.result("init", json!({"protocolVersion": revision}));
        assert_eq!(done, Action::Forward);
    }
    fn said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.log.0)
    }
    fn in_flight(&self) -> Vec<u64> {
        self.session.ledger.calls().collect()
    }
}

/// The only error in what the client gets.
fn error(action: Action) -> (Value, i64) {
    let Action::Withhold(lines) = action else {
        panic!("forwarded")
    };
    let value: Value = serde_json::from_slice(&lines).unwrap();
    (
        value["id"].clone(),
        value["error"]["code"].as_i64().unwrap(),
    )
}

#[test]
fn a_call_is_told_then_in_force_and_its_end_the_other_way_round() {
    let mut test = Test::default();
    assert_eq!(test.call(1, "read"), Action::Forward);
    assert_eq!(
        test.said(),
        [Said::Start(1, "read".into(), None), Said::Calls(vec![1])]
    );
    assert_eq!(test.result(1, json!({"isError": true})), Action::Forward);
    assert_eq!(
        test.said(),
        [Said::Calls(vec![]), Said::End(1, Outcome::ToolError, true)]
    );
}

#[test]
fn the_probe_the_handshake_and_ping_are_no_calls_and_pass_at_once() {
    let mut test = Test::default();
    for method in [
        "server/discover",
        "initialize",
        "ping",
        "subscriptions/listen",
    ] {
        let line = json!({"jsonrpc": "2.0", "id": method, "method": method});
        assert_eq!(test.client(line), Action::Forward);
    }
    assert!(test.said().is_empty());
    let refused = json!({"jsonrpc": "2.0", "id": "server/discover",
        "error": {"code": -32601, "message": ""}});
    assert_eq!(test.server(refused), Action::Forward);
    assert_eq!(test.result("ping", json!({})), Action::Forward);
    assert!(test.said().is_empty());
}

#[test]
fn the_servers_requests_live_in_their_own_ids() {
    let mut test = Test::default();
    test.call(1, "a");
    test.said();
    let sampling = json!({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage"});
    assert_eq!(test.server(&sampling), Action::Forward);
    assert_eq!(
        test.in_flight(),
        [1],
        "a request with the call's id answers nothing"
    );
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    assert_eq!(test.client(&answer), Action::Forward);
    assert_eq!(test.in_flight(), [1]);
    assert!(test.said().is_empty());
    assert_eq!(test.client(&answer), Action::Forward);
    assert_eq!(
        test.said(),
        [Said::Note(Side::Client, "unknown-response", false)]
    );
    test.server(&sampling);
    test.server(&sampling);
    assert_eq!(
        test.said(),
        [Said::Note(Side::Server, "duplicate-id", false)]
    );
}

#[test]
fn ids_are_matched_by_what_they_denote() {
    let mut test = Test::default();
    test.call(1, "a");
    test.call("1", "b");
    test.server("{\"jsonrpc\":\"2.0\",\"id\":\"\\u0031\",\"result\":{}}");
    assert_eq!(test.in_flight(), [1]);
    let (id, code) = error(test.call(1, "c"));
    assert_eq!(
        (id, code),
        (Value::Null, -32600),
        "not the id of the call in flight"
    );
    assert_eq!(test.in_flight(), [1]);
}

#[test]
fn a_refused_line_is_answered_with_its_id_where_that_is_certain() {
    let mut test = Test::default();
    let (id, code) =
        error(test.client("{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"x\",\"a\":1,\"a\":2}"));
    assert_eq!((id, code), (json!(4), -32600));
    for unsure in [
        "{\"jsonrpc\":\"2.0\",\"id\":4,\"id\":4,\"method\":\"x\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1e2,\"method\":\"x\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":4,\"result\":{},\"a\":1,\"a\":1}",
        "{",
    ] {
        assert_eq!(error(test.client(unsure)).0, Value::Null, "{unsure}");
    }
    test.call(4, "a");
    let again = "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"x\",\"a\":1,\"a\":2}";
    assert_eq!(error(test.client(again)).0, Value::Null);
    assert_eq!(test.in_flight(), [1]);
}

#[test]
fn the_sixty_fifth_call_is_refused_in_words() {
    let mut test = Test::default();
    for id in 0..64 {
        assert_eq!(test.call(id, "a"), Action::Forward);
    }
    assert_eq!(error(test.call(64, "a")), (json!(64), -32000));
    test.result(0, json!({}));
    assert_eq!(test.call(64, "a"), Action::Forward);
}

#[test]
fn batches_are_legal_in_one_revision_only() {
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a"}},
        {"jsonrpc": "2.0", "method": "notifications/x"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}]);
    for revision in ["2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28", ""] {
        let mut test = Test::default();
        if !revision.is_empty() {
            test.initialize(revision);
        }
        assert_eq!(
            error(test.client(&batch)),
            (Value::Null, -32600),
            "{revision}"
        );
        assert_eq!(test.said(), [Said::Note(Side::Client, "batch", true)]);
        assert!(test.in_flight().is_empty());
    }
    let mut test = Test::default();
    test.initialize("2025-03-26");
    assert_eq!(test.client(&batch), Action::Forward);
    assert_eq!(
        test.said(),
        [
            Said::Start(1, "a".into(), None),
            Said::Start(2, "tools/list".into(), None),
            Said::Calls(vec![1, 2])
        ],
        "all of it is in force at once"
    );
    let answers = json!([
        {"jsonrpc": "2.0", "id": 2, "result": {}}, {"jsonrpc": "2.0", "id": 1, "result": {}}]);
    assert_eq!(test.server(&answers), Action::Forward);
    assert!(test.in_flight().is_empty());
}

#[test]
fn one_bad_element_refuses_the_whole_batch() {
    for bad in [
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "b"}}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {}}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "initialize"}),
        json!({"jsonrpc": "2.0", "id": 2.5, "method": "x"}),
        json!(1),
    ] {
        let mut test = Test::default();
        test.initialize("2025-03-26");
        let good = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "a"}});
        assert_eq!(error(test.client(json!([good, bad]))).0, Value::Null);
        assert!(test.in_flight().is_empty());
        assert!(!test.said().iter().any(|s| matches!(s, Said::Start(..))));
        assert_eq!(test.call(1, "a"), Action::Forward, "its ids are free");
    }
}

#[test]
fn a_batch_of_the_server_where_there_are_none_is_withheld_and_answered() {
    let mut test = Test::default();
    test.call(1, "a");
    test.call(2, "a");
    let action = test.server(json!([{"jsonrpc": "2.0", "id": 2, "result": {}}]));
    assert_eq!(error(action), (json!(2), -32603));
    assert_eq!(test.in_flight(), [1]);
}

#[test]
fn free_text_of_the_server_passes_and_what_could_be_two_things_does_not() {
    let mut test = Test::default();
    test.call(1, "a");
    test.said();
    for noise in [
        "Server running on stdio",
        "[INFO] up",
        "{\"level\":\"info\"}",
        "\u{1b}[0m",
    ] {
        assert_eq!(test.server(noise), Action::Forward, "{noise}");
    }
    assert_eq!(test.said().len(), 4);
    let doubled = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":1,\"a\":2}}";
    assert_eq!(error(test.server(doubled)), (json!(1), -32603));
    assert_eq!(
        test.said(),
        [
            Said::Note(Side::Server, "duplicate-key", true),
            Said::Calls(vec![]),
            Said::End(1, Outcome::ProtocolError, false)
        ]
    );
    // Which of the two is meant is not known: withheld, and nothing is answered.
    test.call(2, "a");
    let two = "{\"jsonrpc\":\"2.0\",\"id\":2,\"id\":3,\"result\":{}}";
    assert_eq!(test.server(two), Action::Withhold(vec![]));
    assert_eq!(test.in_flight(), [2]);
    // NaN is no JSON, but some clients read it: with a call's id it is answered.
    let nan = "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":NaN}";
    assert_eq!(error(test.server(nan)), (json!(2), -32603));
    assert!(test.in_flight().is_empty());
}

#[test]
fn an_unknown_response_is_noted_and_forwarded() {
    let mut test = Test::default();
    assert_eq!(test.result(9, json!({})), Action::Forward);
    let lost = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": ""}});
    assert_eq!(test.server(lost), Action::Forward);
    let note = || Said::Note(Side::Server, "unknown-response", false);
    assert_eq!(test.said(), [note(), note()]);
}

#[test]
fn a_cancelled_call_stays_a_candidate() {
    let mut test = Test::default();
    let cancel = |id: u64| {
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": {"requestId": id}})
    };
    test.call(1, "a");
    test.call(2, "a");
    test.now = 1000;
    assert_eq!(test.client(cancel(1)), Action::Forward);
    test.client(cancel(2));
    assert_eq!(test.in_flight(), [1, 2]);
    test.result(2, json!({}));
    test.said();
    test.session.expire(1000 + CANCELLED_NS, &mut test.log);
    assert_eq!(
        test.said(),
        [Said::Calls(vec![]), Said::End(1, Outcome::Cancelled, false)]
    );
}

#[test]
fn a_task_keeps_its_call_until_the_server_says_it_ended() {
    let handed = [
        json!({"task": {"taskId": "t", "status": "working"}}),
        json!({"resultType": "task", "taskId": "t", "status": "working"}),
    ];
    let ask = |method: &str| json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": {"taskId": "t"}});
    let ways = [
        (
            "tasks/get",
            json!({"taskId": "t", "status": "completed"}),
            Outcome::Result,
        ),
        (
            "tasks/get",
            json!({"taskId": "t", "status": "failed"}),
            Outcome::ToolError,
        ),
        (
            "tasks/cancel",
            json!({"taskId": "t", "status": "cancelled"}),
            Outcome::Cancelled,
        ),
        ("tasks/result", json!({"content": []}), Outcome::Result),
    ];
    for handed in handed {
        for (method, answer, outcome) in &ways {
            let mut test = Test::default();
            test.call(1, "a");
            test.result(1, handed.clone());
            assert_eq!(test.in_flight(), [1]);
            test.client(ask("tasks/get"));
            test.result(2, json!({"taskId": "t", "status": "working"}));
            assert_eq!(test.in_flight(), [1], "still working");
            test.client(ask(method));
            assert_eq!(test.in_flight(), [1, 3]);
            test.said();
            test.result(2, answer.clone());
            assert!(test.in_flight().is_empty(), "{method}");
            assert!(
                test.said().contains(&Said::End(1, *outcome, false)),
                "{method}"
            );
        }
    }
    let mut test = Test::default();
    test.call(1, "a");
    test.result(1, json!({"task": {"taskId": "t"}}));
    test.client(ask("tasks/get"));
    test.result(2, json!({"taskId": "another", "status": "completed"}));
    assert_eq!(test.in_flight(), [1], "another task's end");
    test.server(
        json!({"jsonrpc": "2.0", "method": "notifications/tasks/status",
        "params": {"taskId": "t", "status": "completed"}}),
    );
    assert!(test.in_flight().is_empty());
    test.call(3, "a");
    test.now = 7;
    test.result(3, json!({"task": {"taskId": "t"}}));
    test.session.expire(7 + TASK_NS, &mut test.log);
    assert!(test.in_flight().is_empty());
}

#[test]
fn a_repeated_request_names_the_call_that_it_goes_on_with() {
    let mut test = Test::default();
    test.call(1, "a");
    test.result(
        1,
        json!({"resultType": "input_required", "requestState": "s1"}),
    );
    assert!(test.in_flight().is_empty(), "it has ended");
    test.said();
    test.client(
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params":
        {"name": "a", "requestState": "s1", "inputResponses": {}}}),
    );
    assert_eq!(test.said()[0], Said::Start(2, "a".into(), Some(1)));
    test.client(
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params":
        {"name": "a", "requestState": "s2"}}),
    );
    assert_eq!(test.said()[0], Said::Start(3, "a".into(), None));
}

#[test]
fn a_response_over_the_limit_is_answered_by_its_id_or_as_the_only_one() {
    let mut test = Test::default();
    let too_long = |test: &mut Test, prefix: &str| {
        test.session
            .server_too_long(prefix.as_bytes(), 10, 0, &mut test.log)
    };
    test.call(1, "a");
    test.call(2, "a");
    let action = too_long(
        &mut test,
        "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"x\":\"yyyy",
    );
    assert_eq!(error(action), (json!(2), -32603));
    test.call(3, "a");
    assert_eq!(
        too_long(&mut test, "{\"result\":{\"x\":\"yyyy"),
        Action::Withhold(vec![]),
        "two wait, and it may be either's"
    );
    test.result(1, json!({}));
    let request = "{\"method\":\"sampling/createMessage\",\"params\":{\"x";
    assert_eq!(too_long(&mut test, request), Action::Withhold(vec![]));
    assert_eq!(test.in_flight(), [3]);
    assert_eq!(
        error(too_long(&mut test, "{\"result\":{\"x")),
        (json!(3), -32603)
    );
    assert!(test.in_flight().is_empty());
}

#[test]
fn at_the_end_every_call_is_abandoned() {
    let mut test = Test::default();
    test.call(1, "a");
    test.call(2, "a");
    test.said();
    test.session.end(0, &mut test.log);
    let said = test.said();
    assert!(said.contains(&Said::End(1, Outcome::Abandoned, false)));
    assert!(said.contains(&Said::End(2, Outcome::Abandoned, false)));
    assert!(said.contains(&Said::Calls(vec![])));
}
