use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn scan(line: &[u8], side: Side) -> Result<Shape, Fault> {
    Scanner::default().scan(line, side)
}

fn client(line: &str) -> Result<Shape, Fault> {
    scan(line.as_bytes(), Side::Client)
}

#[test]
fn what_is_refused_and_why() {
    use Fault::*;
    for (line, fault) in [
        ("{\"a\":1,\"a\":1}", DuplicateKey),
        ("{\"id\":1,\"\\u0069d\":2}", DuplicateKey),
        (
            "{\"params\":{\"name\":1,\"x\":{\"b\":[{\"c\":1,\"c\":2}]}}}",
            DuplicateKey,
        ),
        (
            "{\"x\":{\"\\ud83d\\ude00\":1,\"\u{1f600}\":2}}",
            DuplicateKey,
        ),
        ("{\"ID\":1}", AmbiguousKey),
        ("{\"Method\":1}", AmbiguousKey),
        ("{\"param\u{17f}\":1}", AmbiguousKey),
        ("{\"params\":{\"Name\":1}}", AmbiguousKey),
        ("{\"params\":{\"argument\\u017f\":1}}", AmbiguousKey),
        ("{\"params\":{\"TASKID\":1}}", AmbiguousKey),
        ("{\"params\":{\"tas\u{212a}Id\":1}}", AmbiguousKey),
        ("\u{feff}{}", ByteOrderMark),
        ("{\"a\":\"\0\"}", Nul),
        ("{\0}", Nul),
        ("{}\0", Nul),
        ("{\"a\\u0000\":1}", Nul),
        ("{\"a\":\r1}", CarriageReturn),
        ("{\r\n}", CarriageReturn),
        ("{\"a\":\"\\ud800\"}", Surrogate),
        ("{\"a\":\"\\udc00\\ud800\"}", Surrogate),
        ("{\"a\":\"\\ud800\\u0041\"}", Surrogate),
        ("3", NotAMessage),
        ("\"x\"", NotAMessage),
        ("[]", NotAMessage),
        ("[{},1]", NotAMessage),
        ("", NotJson),
        ("{\"a\":01}", NotJson),
        ("{\"a\":1.}", NotJson),
        ("{\"a\":.5}", NotJson),
        ("{\"a\":+1}", NotJson),
        ("{\"a\":1e}", NotJson),
        ("{\"a\":-}", NotJson),
        ("{\"a\":NaN}", NotJson),
        ("{\"a\":tru}", NotJson),
        ("{\"a\":1,}", NotJson),
        ("{\"a\" 1}", NotJson),
        ("{'a':1}", NotJson),
        ("{\"a\":\"\t\"}", NotJson),
        ("{\"a\":\"\\x\"}", NotJson),
        ("{\"a\":\"\\u12g4\"}", NotJson),
        ("{\"a\":\"", NotJson),
        ("{\"a\":\"\\", NotJson),
        ("{\"a\":\"\\u12", NotJson),
        ("{", NotJson),
        ("{} {}", NotJson),
        ("{}\u{2028}", NotJson),
        ("[{}", NotJson),
    ] {
        if line.is_empty() {
            assert_eq!(client(line), Ok(Shape::Blank));
        } else {
            assert_eq!(client(line), Err(fault), "{line:?}");
        }
    }
    assert_eq!(scan(b"{\"a\":\"\xff\"}", Side::Client), Err(NotUtf8));
    assert_eq!(
        scan(b"{\"a\":\"\xed\xa0\x80\"}", Side::Client),
        Err(NotUtf8)
    );
}

#[test]
fn what_is_taken() {
    for (line, shape) in [
        (" \t\r\n", Shape::Blank),
        ("{}\r\n", Shape::Single),
        (" { } ", Shape::Single),
        ("{\"a\":\"\\u0000\\ud83d\\ude00\u{2028}\"}\n", Shape::Single),
        (
            "{\"Ids\":1,\"NAME\":2,\"result\":{\"IsError\":1}}",
            Shape::Single,
        ),
        ("{\"x\":{\"id\":1,\"ID\":2}}", Shape::Single),
        (
            "{\"a\":[-0,0.0,1e9,-1.5E-3,null,true,false,[],{}]}",
            Shape::Single,
        ),
        ("[{},{}]", Shape::Batch),
    ] {
        assert_eq!(client(line), Ok(shape), "{line:?}");
    }
    let lone = "{\"result\":{\"text\":\"\\ud83d\"}}";
    assert_eq!(scan(lone.as_bytes(), Side::Server), Ok(Shape::Single));
    // Keys of half pairs stay different ones.
    let keys = "{\"\\ud800\":1,\"\\ud801\":2}";
    assert_eq!(scan(keys.as_bytes(), Side::Server), Ok(Shape::Single));
    let same = "{\"\\ud800\":1,\"\\uD800\":2}";
    assert_eq!(
        scan(same.as_bytes(), Side::Server),
        Err(Fault::DuplicateKey)
    );
}

#[test]
fn depth_is_bounded_at_128() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| {
            let inner = levels - 1;
            format!("{{\"a\":{}1{}}}", open.repeat(inner), close.repeat(inner))
        };
        assert_eq!(client(&nested(128)), Ok(Shape::Single));
        assert_eq!(client(&nested(129)), Err(Fault::TooDeep));
        assert_eq!(client(&nested(1_000_000)), Err(Fault::TooDeep));
    }
}

#[test]
fn many_keys_are_told_apart_in_little_time() {
    let keys = |last: &str| {
        let many: Vec<String> = (0..50_000).map(|n| format!("\"k{n}\":0")).collect();
        format!("{{{},\"{last}\":0}}", many.join(","))
    };
    let since = std::time::Instant::now();
    assert_eq!(client(&keys("k")), Ok(Shape::Single));
    assert_eq!(client(&keys("k77")), Err(Fault::DuplicateKey));
    assert_eq!(client(&keys("\\u006b77")), Err(Fault::DuplicateKey));
    assert!(since.elapsed().as_secs() < 20);
}

#[test]
fn fields_are_found_whatever_their_order_and_spelling() {
    let line = br#" {"params":{"x":{"name":"no"},"arguments":{"a":[1]},"n\u0061me":"yes"},"id" : "q", "result":{"task":{"taskId":"t"},"isError":true}} "#;
    let mut scanner = Scanner::default();
    assert_eq!(scanner.scan(line, Side::Client), Ok(Shape::Single));
    let fields = scanner.messages()[0];
    let get = |field| {
        fields
            .get(line, field)
            .map(|v| std::str::from_utf8(v).unwrap())
    };
    assert_eq!(get(Field::Id), Some("\"q\""));
    assert_eq!(get(Field::Name), Some("\"yes\""));
    assert_eq!(get(Field::Arguments), Some("{\"a\":[1]}"));
    assert_eq!(get(Field::HandedTaskId), Some("\"t\""));
    assert_eq!(get(Field::IsError), Some("true"));
    assert_eq!(get(Field::Method), None);
    // A second id: none is told, whichever another parser would take.
    let twice = b"{\"id\":1,\"id\":2}";
    assert_eq!(scanner.scan(twice, Side::Client), Err(Fault::DuplicateKey));
    assert_eq!(scanner.messages()[0].get(twice, Field::Id), None);
}

#[test]
fn stops_are_found_at_every_place_of_a_long_string() {
    for at in 0..100 {
        let mut text = "x".repeat(100);
        text.insert(at, '\u{1}');
        assert_eq!(
            client(&format!("{{\"a\":\"{text}\"}}")),
            Err(Fault::NotJson),
            "{at}"
        );
        let mut text = "x".repeat(100);
        text.insert_str(at, "\\\"");
        assert_eq!(
            client(&format!("{{\"a\":\"{text}\"}}")),
            Ok(Shape::Single),
            "{at}"
        );
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![
            "[^\\x00]{0,5}",
            "(id|method|params|name|arguments|result|jsonrpc)"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..24)
                .prop_map(|all| Value::Object(all.into_iter().collect())),
        ]
    })
}

/// What serde_json makes of it, given that the scanner took it.
fn agrees(line: &[u8]) -> Result<(), TestCaseError> {
    let mut scanner = Scanner::default();
    let Ok(shape) = scanner.scan(line, Side::Client) else {
        return Ok(());
    };
    if shape == Shape::Blank {
        return Ok(());
    }
    // Numbers beyond f64 are none to serde_json; the scanner leaves them to the server.
    let value: Value = match serde_json::from_slice(line) {
        Err(error) if error.to_string().contains("number out of range") => return Ok(()),
        other => other.map_err(|error| TestCaseError::fail(format!("{error}: {line:?}")))?,
    };
    let Value::Object(object) = &value else {
        prop_assert_eq!(shape, Shape::Batch);
        return Ok(());
    };
    let fields = scanner.messages()[0];
    for (field, place) in [
        (Field::Id, object.get("id")),
        (Field::Method, object.get("method")),
        (Field::Params, object.get("params")),
        (
            Field::Name,
            object.get("params").and_then(|p| p.get("name")),
        ),
        (
            Field::Arguments,
            object.get("params").and_then(|p| p.get("arguments")),
        ),
    ] {
        let found = fields.get(line, field).map(|text| {
            serde_json::from_slice::<Value>(text).unwrap_or_else(|e| panic!("{field:?}: {e}"))
        });
        prop_assert_eq!(found.as_ref(), place);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// Everything that serde_json writes is taken, but for keys that Go would fold.
    #[test]
    fn takes_what_is_json(value in json()) {
        let line = serde_json::to_vec(&serde_json::json!({"x": value})).unwrap();
        prop_assert_eq!(scan(&line, Side::Client), Ok(Shape::Single));
    }

    /// What is taken means the same to serde_json, and serde_json takes it.
    #[test]
    fn means_the_same_to_serde_json(
        value in json(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 0..3),
    ) {
        let mut line = serde_json::to_vec(&value).unwrap();
        for (at, byte, what) in cuts {
            let bytes = b"{}[]\",:\\u0e-1.n\x00\r\xff ";
            let byte = bytes[usize::from(byte) % bytes.len()];
            let at = at.index(line.len());
            match what {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                2 if line.len() > 1 => drop(line.remove(at)),
                _ => {}
            }
        }
        agrees(&line)?;
    }

    /// No input is too strange to be answered.
    #[test]
    fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agrees(&bytes)?;
        let _ = scan(&bytes, Side::Server);
    }

    /// Escapes denote what serde_json says they do.
    #[test]
    fn unescapes_like_serde_json(units in prop::collection::vec(
        prop_oneof!["\\\\u[0-9a-fA-F]{4}", "\\\\[\"\\\\/bfnrt]", "[ a-z\u{e9}\u{1f600}]"], 0..12)) {
        let inside = units.concat();
        let text = format!("\"{inside}\"");
        let Ok(wanted) = serde_json::from_str::<String>(&text) else { return Ok(()) };
        let mut out = Vec::new();
        unescape_into(inside.as_bytes(), &mut out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }
}
