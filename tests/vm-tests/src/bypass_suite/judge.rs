//! Whether a technique was stopped, and whether guard said so.

use bypass::manifest::{Entry, Expected, Goal, Uid};
use serde_json::Value;

use super::phase::{Observation, in_place};

/// A line of the table.
pub struct Row {
    /// The technique.
    pub name: String,
    /// Whose process it was.
    pub uid: &'static str,
    /// How it ended without guard.
    pub control: String,
    /// How it ended under guard.
    pub guarded: String,
    /// What was to stop it.
    pub stopped_by: String,
    /// The event that it left.
    pub event: String,
    /// What this kernel has not got, so that the technique could not be tried.
    pub lacking: Option<String>,
    /// Everything that is not as it should be.
    pub faults: Vec<String>,
}

/// Judges one technique.
pub fn judge(
    entry: &Entry,
    control: &Observation,
    guarded: &Observation,
    events: &[Value],
    release: &str,
) -> Row {
    let status = |o: &Observation| o.report.as_ref().map(|r| r.status);
    let detail = |o: &Observation| {
        o.report
            .as_ref()
            .map_or("no report".to_owned(), |r| r.detail.clone())
    };
    let mut faults = Vec::new();
    let lacks = entry.requires.as_ref().filter(|r| r.lacks(release));
    let lacking = lacks
        .filter(|_| status(control) == Some(2))
        .map(|r| format!("{} ({})", r.what, detail(control)));
    if lacking.is_none() && !succeeded(entry.goal, control) {
        faults.push(format!(
            "without guard it does not succeed: {}",
            detail(control)
        ));
    }
    if status(guarded) == Some(0) || guarded.has_secret {
        faults.push("it got through".into());
    } else if lacking.is_none() && status(guarded) != Some(1) {
        faults.push(format!(
            "under guard it was not stopped but broke: {}",
            detail(guarded)
        ));
    }
    let effects = guarded.changed.iter().chain(&guarded.process);
    faults.extend(effects.map(|what| format!("it changed something: {what}")));
    let own: Vec<&Value> = events
        .iter()
        .filter(|event| belongs(event, entry, guarded))
        .collect();
    let found = own
        .iter()
        .find(|event| entry.events.iter().any(|expected| matches(event, expected)));
    if lacking.is_none() && found.is_none() && !entry.events.is_empty() {
        let wanted: Vec<String> = entry.events.iter().map(describe_expected).collect();
        let mut seen: Vec<String> = own.iter().map(|event| describe(event)).collect();
        seen.dedup();
        seen.truncate(8);
        faults.push(format!(
            "no event {}; its own: {}",
            wanted.join(" or "),
            seen.join(", ")
        ));
    }
    let event = match (found, &entry.no_event) {
        (Some(event), _) => describe(event),
        (None, Some(why)) => format!("no event: {why}"),
        (None, None) => "none".to_owned(),
    };
    Row {
        name: entry.name.clone(),
        uid: match entry.uid {
            Uid::User => "user",
            Uid::Root => "root",
        },
        control: if succeeded(entry.goal, control) {
            "succeeds".into()
        } else {
            "fails".into()
        },
        guarded: detail(guarded),
        stopped_by: entry.stopped_by.clone(),
        event,
        lacking,
        faults,
    }
}

/// Whether it reached its goal, by what can be seen.
pub fn succeeded(goal: Goal, control: &Observation) -> bool {
    let claimed = control.report.as_ref().is_some_and(|r| r.status == 0);
    claimed
        && match goal {
            Goal::Secret => control.has_secret,
            Goal::Change => !control.changed.is_empty(),
            Goal::Process => !control.process.is_empty(),
            Goal::Claim => true,
        }
}

/// Whether an event is this technique's: by process, parent or path.
pub fn belongs(event: &Value, entry: &Entry, guarded: &Observation) -> bool {
    let pid = guarded.report.as_ref().map(|r| r.pid);
    let is = |key: &str| pid.is_some() && event["process"][key].as_u64() == pid.map(u64::from);
    is("pid")
        || is("ppid")
        || event["path"]
            .as_str()
            .is_some_and(|path| in_place(path, &entry.name))
}

fn matches(event: &Value, expected: &Expected) -> bool {
    let reason = match &expected.reason {
        Some(reason) => event["reason"] == **reason,
        None => event["reason"].is_null() && event["rule"].is_object(),
    };
    event["verdict"] == "deny"
        && event["mode"] == "enforce"
        && event["kind"] == *expected.kind
        && event["op"] == *expected.op
        && reason
}

fn describe_expected(expected: &Expected) -> String {
    format!(
        "{}/{}/{}",
        expected.kind,
        expected.op,
        expected.reason.as_deref().unwrap_or("rule")
    )
}

/// An event in short.
pub fn describe(event: &Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let reason = match (&event["rule"], &event["reason"]) {
        (_, Value::String(reason)) => reason.clone(),
        (Value::Object(rule), _) => format!("rule {}", rule["id"].as_str().unwrap_or("?")),
        _ => "no rule, no reason".to_owned(),
    };
    format!("{}/{} {reason}", word("kind"), word("op"))
}
