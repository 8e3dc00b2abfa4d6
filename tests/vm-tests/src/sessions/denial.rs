//! A path that the policy denies: error, event, and a trail that shows changes.

use serde_json::json;

use super::guard::{NOTES, NOTES_TEXT, POLICY, Run, SECRET, guard, nothing_left, verified};

/// `guard doctor` finds all that it needs.
pub fn doctor() {
    let output = guard(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("missing"), "{text}");
}

/// The tool meets EACCES, the trail says which rule it was, and cannot be changed unseen.
pub fn path() {
    let mut session = Run::fake("denied", POLICY).start();
    session.initialize();
    let notes = session.call("read_file", json!({"path": NOTES}));
    assert_eq!(notes.as_deref(), Ok(NOTES_TEXT));
    let refused = session.call("read_file", json!({"path": SECRET}));
    let refused = refused.expect_err("the secret must not be read");
    assert!(refused.contains("os error 13"), "{refused}");
    // Not denied by name, but not allowed either.
    let outside = session.call("read_file", json!({"path": "/root/sessions/denied.toml"}));
    assert!(outside.is_err(), "{outside:?}");
    let shadowed = session.call("read_file", json!({"path": "/etc/debian_version"}));
    let shadowed = shadowed.expect_err("nothing allows it");
    assert!(shadowed.contains("os error 13"), "{shadowed}");
    // What a process executes is read when its event is: as long as it lives.
    let seen = |path: &'static str| move |e: &serde_json::Value| e["path"] == path;
    session.trail.wait("the secret's event", seen(SECRET));
    let trail = session.end();

    let events = trail.events();
    let of = |path: &str| {
        let found = events.iter().find(|e| e["path"] == path);
        found.unwrap_or_else(|| panic!("no event of {path} in {events:#?}"))
    };
    let denied = of(SECRET);
    assert_eq!(denied["kind"], "file", "{denied}");
    assert_eq!(denied["op"], "open", "{denied}");
    assert_eq!(denied["access"], json!(["read"]), "{denied}");
    assert_eq!(denied["verdict"], "deny", "{denied}");
    assert_eq!(denied["mode"], "enforce", "{denied}");
    let rule = json!({"id": "files.deny[0]", "text": "*.env"});
    assert_eq!(denied["rule"], rule, "{denied}");
    assert_eq!(denied["call"]["attribution"], "sole", "{denied}");
    assert_eq!(denied["call"]["tool"], "read_file", "{denied}");
    assert_eq!(denied["process"]["uid"], 1000, "{denied}");
    assert_eq!(
        denied["process"]["exe"], "/usr/local/bin/fake-mcp",
        "{denied}"
    );
    assert_eq!(of(NOTES)["verdict"], "allow");
    let unnamed = of("/etc/debian_version");
    assert_eq!(unnamed["verdict"], "deny", "{unnamed}");
    // No rule has denied it: none has allowed it.
    assert!(unnamed["rule"].is_null(), "{unnamed}");
    assert_eq!(unnamed["reason"], "no-rule", "{unnamed}");

    assert!(trail.verified(), "the trail as it was written");
    let whole = std::fs::read(&trail.0).expect("read the trail");
    let changed = trail.0.with_extension("changed");
    // One byte in each part: the start, a path in the middle, the last hash.
    let path = String::from_utf8_lossy(&whole)
        .find("secret.env")
        .expect("the path");
    for at in [2, path, whole.len() / 2, whole.len() - 5] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&changed, &bytes).expect("write a copy");
        assert!(!verified(&changed), "a change of byte {at} was not seen");
    }
    nothing_left();
}
