use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn entry(key: &str, method: &str) -> Entry {
    Entry {
        key: key.into(),
        raw: key.into(),
        kind: Kind::of(method),
        number: 0,
        since: 0,
        state: State::Waiting,
        about: None,
    }
}

fn calls(ledger: &Ledger) -> Vec<u64> {
    ledger.calls().collect()
}

#[test]
fn every_method_of_every_revision_is_a_call_but_for_four() {
    let all: HashMap<String, HashMap<String, Vec<String>>> =
        serde_json::from_str(include_str!("../../../tests/data/mcp/methods.json")).unwrap();
    assert_eq!(all.len(), 5);
    for (revision, sides) in all {
        for method in &sides["ClientRequest"] {
            let wanted = match method.as_str() {
                "initialize" => Kind::Initialize,
                "ping" | "server/discover" | "subscriptions/listen" => Kind::Housekeeping,
                _ => Kind::Call,
            };
            assert_eq!(Kind::of(method), wanted, "{revision} {method}");
        }
    }
    assert_eq!(Kind::of("anything/else"), Kind::Call);
}

#[test]
fn calls_are_numbered_from_one_and_others_have_none() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.open(entry("1", "initialize")), Ok(0));
    assert_eq!(ledger.open(entry("2", "tools/call")), Ok(1));
    assert_eq!(ledger.open(entry("3", "ping")), Ok(0));
    assert_eq!(ledger.open(entry("4", "tools/list")), Ok(2));
    assert_eq!(calls(&ledger), [1, 2]);
    assert_eq!(ledger.close("2").unwrap().number, 1);
    assert_eq!(calls(&ledger), [2]);
    assert!(ledger.close("2").is_none());
    assert_eq!(
        ledger.open(entry("2", "tools/call")),
        Ok(3),
        "never a number twice"
    );
}

#[test]
fn an_id_in_flight_is_refused_until_its_response() {
    let mut ledger = Ledger::default();
    ledger.open(entry("1", "tools/call")).unwrap();
    assert_eq!(ledger.open(entry("1", "ping")), Err(Fault::DuplicateId));
    ledger.open(entry("\"1", "tools/call")).unwrap();
    ledger.cancel("1", 5);
    assert_eq!(
        ledger.open(entry("1", "tools/call")),
        Err(Fault::DuplicateId)
    );
    ledger.close("1").unwrap();
    ledger.open(entry("1", "tools/call")).unwrap();
}

#[test]
fn the_slot_is_never_overfull() {
    let mut ledger = Ledger::default();
    for id in 0..MAX_CALLS {
        ledger.open(entry(&id.to_string(), "tools/call")).unwrap();
    }
    assert_eq!(
        ledger.open(entry("x", "tools/call")),
        Err(Fault::TooManyCalls)
    );
    ledger.open(entry("p", "ping")).unwrap();
    let task = ledger.close("0").unwrap();
    ledger.keep(task, "t", 0);
    ledger.cancel("1", 0);
    assert_eq!(
        ledger.open(entry("x", "tools/call")),
        Err(Fault::TooManyCalls)
    );
    ledger.close("2").unwrap();
    ledger.open(entry("x", "tools/call")).unwrap();
    assert_eq!(calls(&ledger).len(), MAX_CALLS);
    for id in 0..MAX_HOUSEKEEPING - 1 {
        ledger.open(entry(&format!("q{id}"), "ping")).unwrap();
    }
    assert_eq!(ledger.open(entry("r", "ping")), Err(Fault::TooManyCalls));
}

#[test]
fn a_cancelled_call_stays_until_its_response_or_sixty_seconds() {
    let mut ledger = Ledger::default();
    for id in ["1", "2"] {
        ledger.open(entry(id, "tools/call")).unwrap();
        assert!(ledger.cancel(id, 1000));
    }
    assert!(!ledger.cancel("3", 1000));
    ledger.cancel("1", 9_000_000_000); // a second one does not prolong it
    assert!(ledger.expire(1000 + CANCELLED_NS - 1).is_empty());
    assert_eq!(ledger.close("2").unwrap().number, 2);
    let ended = ledger.expire(1000 + CANCELLED_NS);
    assert_eq!(ended.iter().map(|e| e.number).collect::<Vec<_>>(), [1]);
    assert!(calls(&ledger).is_empty());
}

#[test]
fn a_task_keeps_its_call_until_it_ends_or_ten_minutes() {
    let mut ledger = Ledger::default();
    for id in ["1", "2", "3"] {
        ledger.open(entry(id, "tools/call")).unwrap();
    }
    for (id, task) in [("2", "b"), ("1", "a")] {
        let entry = ledger.close(id).unwrap();
        ledger.keep(entry, task, 50);
    }
    assert_eq!(calls(&ledger), [1, 2, 3], "candidates, in order");
    assert!(ledger.waiting("1").is_none(), "its id is free again");
    assert_eq!(ledger.sole_waiting().unwrap().number, 3);
    assert_eq!(ledger.end_task("b")[0].number, 2);
    assert!(ledger.end_task("b").is_empty());
    assert!(ledger.expire(50 + TASK_NS - 1).is_empty());
    assert_eq!(ledger.expire(50 + TASK_NS)[0].number, 1);
    assert_eq!(calls(&ledger), [3]);
}

#[test]
fn a_rollback_leaves_no_trace() {
    let mut ledger = Ledger::default();
    ledger.open(entry("1", "tools/call")).unwrap();
    let mark = ledger.mark();
    ledger.open(entry("2", "tools/call")).unwrap();
    ledger.open(entry("3", "ping")).unwrap();
    assert_eq!(ledger.since(mark), 1);
    ledger.rollback(mark);
    assert_eq!(calls(&ledger), [1]);
    assert_eq!(ledger.open(entry("3", "tools/call")), Ok(2));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The ledger against a plain model: a map from id to number.
    #[test]
    fn agrees_with_a_model(steps in prop::collection::vec((0..8_u8, 0..4_u8), 0..200)) {
        let mut ledger = Ledger::default();
        let mut model: Vec<(String, u64)> = Vec::new();
        let mut last = 0;
        for (id, what) in steps {
            let key = id.to_string();
            match what {
                0 | 1 => {
                    let opened = ledger.open(entry(&key, "tools/call"));
                    if model.iter().any(|(k, _)| *k == key) {
                        prop_assert_eq!(opened, Err(Fault::DuplicateId));
                    } else {
                        last += 1;
                        prop_assert_eq!(opened, Ok(last));
                        model.push((key, last));
                    }
                }
                2 => {
                    let at = model.iter().position(|(k, _)| *k == key);
                    let wanted = at.map(|at| model.remove(at).1);
                    prop_assert_eq!(ledger.close(&key).map(|e| e.number), wanted);
                }
                _ => {
                    ledger.cancel(&key, 0);
                }
            }
            let wanted: Vec<u64> = model.iter().map(|(_, n)| *n).collect();
            prop_assert_eq!(calls(&ledger), wanted);
        }
    }
}
