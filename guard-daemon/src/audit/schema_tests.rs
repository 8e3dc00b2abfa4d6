//! The schema in docs/ and the code say the same.

use serde_json::Value;

use super::chain::{Tip, seal};
use super::event::AuditEvent;
use super::samples;

const SCHEMA: &str = include_str!("../../../docs/audit.schema.json");

/// The example of the contract, its placeholders filled in.
const EXAMPLE: &str = concat!(
    r#"{"v":1,"seq":812,"time":"2026-11-20T21:00:00.123456789Z","boot":"7c9e6679","#,
    r#""sandbox":{"id":"fs-1","server":"filesystem","policy":"filesystem","policy_hash":"#,
    r#""sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","generation":3},"#,
    r#""call":{"attribution":"sole","id":"3","tool":"read_text_file","args_hash":"#,
    r#""sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","candidates":[]},"#,
    r#""process":{"pid":4242,"tid":4242,"ppid":4200,"uid":1000,"exe":"/usr/bin/node"},"#,
    r#""kind":"file","op":"open","access":["read"],"path":"/srv/project/.env","kseq":977,"#,
    r#""verdict":"deny","mode":"enforce","rule":{"id":"files.deny[0]","text":"*.env"},"reason":null,"#,
    r#""prev":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
    r#""hash":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#,
);

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn line_of(event: &AuditEvent) -> Value {
    serde_json::from_slice(&seal(event, &Tip::start()).unwrap().0).unwrap()
}

#[test]
fn every_event_that_the_code_makes_fits() {
    let validator = validator();
    let mut kinds = std::collections::BTreeSet::new();
    for event in samples::all() {
        let line = line_of(&event);
        let errors: Vec<String> = validator
            .iter_errors(&line)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{line:#}\n{errors:#?}");
        kinds.insert(format!("{}-{}", line["kind"], line["op"]));
        let read: AuditEvent = serde_json::from_value(line).unwrap();
        assert_eq!(read, event);
    }
    // Every form that the schema has is written by some code.
    assert_eq!(kinds.len(), 54, "{kinds:?}");
}

#[test]
fn every_reason_of_an_access_is_written_by_some_code() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let named = schema["$defs"]["access-reason"]["enum"].as_array().unwrap();
    let made: Vec<Value> = samples::all()
        .iter()
        .map(line_of)
        .filter(|line| !line["process"].is_null())
        .map(|line| line["reason"].clone())
        .collect();
    for reason in named {
        assert!(made.contains(reason), "{reason}");
    }
}

#[test]
fn the_schema_is_closed() {
    let validator = validator();
    for event in samples::all() {
        let line = line_of(&event);
        let mut more = line.clone();
        more["surprise"] = 1.into();
        assert!(!validator.is_valid(&more), "{more:#}");
        for (name, member) in line.as_object().unwrap() {
            let mut less = line.clone();
            less.as_object_mut().unwrap().remove(name);
            let optional = [
                "path_escaped",
                "path_partial",
                "proc_self",
                "continues",
                "shared",
                "sni",
            ];
            // An address that others share is one that a name led to.
            let by_rule = name == "name" && line["kind"] == "network" && line["shared"].is_null();
            // Of sockets, only those with a name have a path.
            let unnamed = name == "path"
                && line["kind"] == "network"
                && ["path_escaped", "path_partial"]
                    .iter()
                    .all(|m| line[m].is_null());
            assert_eq!(
                validator.is_valid(&less),
                optional.contains(&name.as_str()) || unnamed || by_rule,
                "{name} of {line}"
            );
            if member.is_object() {
                let mut more = line.clone();
                more[name]["surprise"] = 1.into();
                assert!(!validator.is_valid(&more), "{more:#}");
            }
        }
        for word in ["kind", "op", "verdict", "mode"] {
            let mut other = line.clone();
            other[word] = "surprise".into();
            assert!(!validator.is_valid(&other), "{word}");
        }
    }
}

#[test]
fn the_contracts_example_fits_and_comes_back_byte_for_byte() {
    let value: Value = serde_json::from_str(EXAMPLE).unwrap();
    assert!(validator().is_valid(&value));
    let event: AuditEvent = serde_json::from_str(EXAMPLE).unwrap();
    let (line, _) = seal(&event, &Tip::start()).unwrap();
    let members = |text: &str| {
        let from = text.find("\"time\"").unwrap();
        let to = text.find(",\"prev\":").unwrap();
        text[from..to].to_owned()
    };
    assert_eq!(members(&String::from_utf8(line).unwrap()), members(EXAMPLE));
}

#[test]
fn a_certain_label_never_carries_candidates() {
    let validator = validator();
    let event = |call: &str| {
        let mut value: Value = serde_json::from_str(EXAMPLE).unwrap();
        value["call"] = serde_json::from_str(call).unwrap();
        value
    };
    let candidate = r#"{"id":"1","tool":"t","method":"tools/call","number":1,"args_hash":null}"#;
    for bad in [
        format!(
            r#"{{"attribution":"sole","id":"3","tool":"x","args_hash":null,"candidates":[{candidate}]}}"#
        ),
        r#"{"attribution":"none","id":"3","tool":null,"args_hash":null,"candidates":[]}"#.into(),
        r#"{"attribution":"ambiguous","id":null,"tool":"x","args_hash":null,"candidates":[]}"#
            .into(),
        r#"{"attribution":"likely","id":"3","tool":"x","args_hash":null,"candidates":[]}"#.into(),
    ] {
        let value = event(&bad);
        assert!(!validator.is_valid(&value), "{bad}");
        assert!(
            serde_json::from_value::<AuditEvent>(value).is_err(),
            "{bad}"
        );
    }
}
