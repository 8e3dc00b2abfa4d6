//! Which call an access belongs to, as far as anybody can know.

use serde_json::{Value, json};

use super::guard::{NOTES, Run, SECRET, nothing_left};

/// As the usual policy; a shell may start the server.
const POLICY: &str = r#"version = 1
include = ["base"]
[files]
read = ["/srv/project/**"]
exec = ["/usr/bin/{sh,dash,sleep}", "/usr/local/bin/fake-mcp"]
deny = ["*.env"]
[audit]
log = "all"
"#;

/// Accesses to this path, in the order of the trail.
fn accesses<'a>(events: &'a [Value], path: &str) -> Vec<&'a Value> {
    let found: Vec<_> = events.iter().filter(|e| e["path"] == path).collect();
    assert!(!found.is_empty(), "no access to {path} in {events:#?}");
    found
}

/// `none` before the first call and after the last one, `sole` during one,
/// `ambiguous` with all candidates during four.
pub fn labels() {
    let script = format!("{{ true; }} < {SECRET}; exec fake-mcp");
    let mut session = Run {
        server: &["sh", "-c", &script],
        ..Run::fake("labels", POLICY)
    }
    .start();
    session.initialize();

    // One.
    let alone = session.call("read_file", json!({"path": NOTES}));
    assert!(alone.is_ok(), "{alone:?}");
    // Four, which read while all of them are in flight.
    let four = "/srv/project/four.env";
    let barrier = json!({"path": four, "n": 4});
    let calls: Vec<u64> = (0..4)
        .map(|_| session.begin("read_when_n", barrier.clone()))
        .collect();
    let mut awaited = calls.clone();
    while !awaited.is_empty() {
        let answer = session.receive();
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        awaited.retain(|id| answer["id"] != *id);
    }
    // None: the thread reads when its call has long been answered.
    let late = "/srv/project/late.env";
    let later = session.call("read_later", json!({"path": late, "ms": 400}));
    assert!(later.is_ok(), "{later:?}");
    session
        .trail
        .wait("access after the call", |e| e["path"] == late);
    let trail = session.end();

    let events = trail.events();
    for event in accesses(&events, SECRET) {
        assert_eq!(event["call"]["attribution"], "none", "{event}");
        assert_eq!(event["verdict"], "deny", "{event}");
    }
    for event in accesses(&events, NOTES) {
        assert_eq!(event["call"]["attribution"], "sole", "{event}");
        assert_eq!(event["call"]["tool"], "read_file", "{event}");
        assert_eq!(event["call"]["candidates"], json!([]), "{event}");
    }
    let ambiguous = accesses(&events, four);
    assert_eq!(ambiguous.len(), 4, "{ambiguous:#?}");
    for event in ambiguous {
        assert_eq!(event["call"]["attribution"], "ambiguous", "{event}");
        assert!(event["call"]["tool"].is_null(), "{event}");
        let candidates = event["call"]["candidates"].as_array().expect("an array");
        let mut ids: Vec<u64> = candidates
            .iter()
            .map(|c| {
                assert_eq!(c["tool"], "read_when_n", "{event}");
                let id = c["id"].as_str().expect("an id");
                id.parse().expect("a number")
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, calls, "{event}");
    }
    for event in accesses(&events, late) {
        assert_eq!(event["call"]["attribution"], "none", "{event}");
    }
    assert!(trail.verified());
    nothing_left();
}
