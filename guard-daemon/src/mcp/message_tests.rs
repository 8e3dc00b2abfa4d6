use super::super::scan::{Scanner, Shape};
use super::*;

/// Reads one line and hands it to `check`.
fn with<T>(line: &str, side: Side, check: impl FnOnce(Result<Message<'_>, Fault>) -> T) -> T {
    let mut scanner = Scanner::default();
    let scanned = scanner.scan(line.as_bytes(), side);
    assert_eq!(scanned, Ok(Shape::Single), "{line}");
    check(read(line.as_bytes(), &scanner.messages()[0], side))
}

fn fault(line: &str) -> Option<Fault> {
    with(line, Side::Client, |message| message.err())
}

#[test]
fn every_official_example_is_read() {
    let lines = include_str!("../../../tests/data/mcp/messages-2026-07-28.jsonl");
    let mut seen = [0; 3];
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = with(line, Side::Client, |message| match message.unwrap() {
            Message::Request(request) => {
                assert_eq!(request.method, value["method"].as_str().unwrap());
                assert_eq!(request.id.raw, value["id"].to_string());
                let name = value["params"]["name"].as_str();
                let tool = name.filter(|_| request.method == "tools/call");
                assert_eq!(request.tool.as_deref(), tool);
                0
            }
            Message::Notification(notification) => {
                assert_eq!(notification.method, value["method"].as_str().unwrap());
                let cancels = notification.cancels.map(|id| id.raw.to_owned());
                let wanted = value["params"].get("requestId").map(ToString::to_string);
                assert_eq!(cancels, wanted);
                1
            }
            Message::Response(response) => {
                assert_eq!(
                    matches!(response.body, Body::Error),
                    value.get("error").is_some()
                );
                2
            }
        });
        seen[kind] += 1;
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}

#[test]
fn ids_that_are_one_and_ids_that_are_not() {
    let key = |text: &str| Id::read(text.as_bytes()).map(|id| id.key.into_owned());
    assert_ne!(key("1"), key("\"1\""));
    assert_eq!(key("\"a\""), key("\"\\u0061\""));
    assert_ne!(key("\"a\""), key("\"A\""));
    assert_eq!(key("9007199254740992").as_deref(), Ok("9007199254740992"));
    assert_eq!(key("-9007199254740992").as_deref(), Ok("-9007199254740992"));
    let long = format!("\"{}\"", "x".repeat(MAX_ID - 1));
    for bad in [
        "9007199254740993",
        "-9007199254740993",
        "1e3",
        "1.0",
        "-0",
        "null",
        "true",
        "[]",
        "{}",
        "99999999999999999999999999",
        &long,
    ] {
        assert_eq!(key(bad), Err(Fault::BadId), "{bad}");
    }
    assert_eq!(key("\"\\u0000\""), Err(Fault::Nul));
    assert_eq!(key("\"\\ud800\""), Err(Fault::Surrogate));
}

#[test]
fn what_is_no_message() {
    for (line, wanted) in [
        (r#"{"id":1,"method":"x"}"#, Fault::NotAMessage),
        (r#"{"jsonrpc":2.0,"id":1,"method":"x"}"#, Fault::NotAMessage),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
            Fault::NotAMessage,
        ),
        (r#"{"jsonrpc":"2.0","id":1}"#, Fault::NotAMessage),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","result":{}}"#,
            Fault::NotAMessage,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            Fault::NotAMessage,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, Fault::NotAMessage),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#,
            Fault::NotAMessage,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":null}"#,
            Fault::NotAMessage,
        ),
        (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, Fault::BadId),
        (r#"{"jsonrpc":"2.0","result":{}}"#, Fault::NotAMessage),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            Fault::NoToolName,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#,
            Fault::NoToolName,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools\u002fcall","params":{}}"#,
            Fault::NoToolName,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1.5}}"#,
            Fault::BadId,
        ),
    ] {
        assert_eq!(fault(line), Some(wanted), "{line}");
    }
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#,
        "x".repeat(1025)
    );
    assert_eq!(fault(&long), Some(Fault::NameTooLong));
}

#[test]
fn results_say_what_they_are() {
    let body = |result: &str, check: &dyn Fn(Body<'_>)| {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        with(&line, Side::Server, |message| match message {
            Ok(Message::Response(response)) => check(response.body),
            other => panic!("{other:?}"),
        });
    };
    body(r#"{"isError":true}"#, &|body| {
        assert!(matches!(
            body,
            Body::Result {
                tool_error: true,
                ..
            }
        ));
    });
    body(
        r#"{"isError":"true","structuredContent":{"isError":true}}"#,
        &|body| {
            assert!(matches!(
                body,
                Body::Result {
                    tool_error: false,
                    ..
                }
            ));
        },
    );
    body(r#"{"task":{"taskId":"t1","status":"working"}}"#, &|body| {
        assert!(matches!(body, Body::Result { handed: Some(id), .. } if id == "t1"));
    });
    body(
        r#"{"resultType":"task","taskId":"t2","status":"working"}"#,
        &|body| {
            assert!(matches!(body, Body::Result { handed: Some(id), .. } if id == "t2"));
        },
    );
    body(r#"{"taskId":"t3","status":"failed"}"#, &|body| {
        let Body::Result {
            handed: None,
            task: Some((id, state)),
            ..
        } = body
        else {
            panic!("{body:?}")
        };
        assert_eq!((id.as_ref(), state), ("t3", TaskState::Failed));
    });
    body(
        r#"{"resultType":"input_required","requestState":"s"}"#,
        &|body| {
            assert!(matches!(
                body,
                Body::Result {
                    state: Some(b"\"s\""),
                    ..
                }
            ));
        },
    );
    body(r#"{"resultType":"complete","requestState":"s"}"#, &|body| {
        assert!(matches!(body, Body::Result { state: None, .. }));
    });
    // A result that is no object (2026-07-28 lets extensions have them).
    body("[1]", &|body| {
        assert!(matches!(
            body,
            Body::Result {
                tool_error: false,
                ..
            }
        ))
    });
}
