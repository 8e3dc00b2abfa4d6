//! Whether a row came out as the table says.

use std::net::IpAddr;

use bypass::probe::Done;
use serde_json::Value;

use super::row::Row;

/// What was seen of a row.
pub struct Seen<'a> {
    /// Without guard.
    pub control: Option<&'a Done>,
    /// Under it; `None` where guard did not run.
    pub guarded: Option<Option<&'a Done>>,
    /// All events of its sandbox.
    pub events: &'a [Value],
    /// What arrived in the world without guard, and under it.
    pub arrived: (&'a [Packet<'a>], &'a [Packet<'a>]),
}

/// A packet that arrived.
pub struct Packet<'a> {
    /// Nanoseconds since the epoch.
    time: u64,
    bytes: &'a [u8],
}

/// Reads the world's packets (see `bypass::probe`).
pub fn packets(mut bytes: &[u8]) -> Vec<Packet<'_>> {
    let mut all = Vec::new();
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    while let Some((head, rest)) = bytes.split_at_checked(16) {
        let (time, length) = (number(&head[..8]), number(&head[8..]));
        // The last one may be being written.
        let Some((packet, rest)) = rest.split_at_checked(length as usize) else {
            break;
        };
        all.push(Packet {
            time,
            bytes: packet,
        });
        bytes = rest;
    }
    all
}

impl Packet<'_> {
    /// Whether it is what `name:NAME` or `to:ADDRESS` says.
    fn is(&self, what: &str) -> bool {
        if let Some(name) = what.strip_prefix("name:") {
            // Labels with their lengths, as in a question; of any case.
            let mut wire = Vec::new();
            for label in name.trim_end_matches('.').split('.') {
                wire.push(label.len() as u8);
                wire.extend(label.bytes());
            }
            wire.push(0);
            return self
                .bytes
                .windows(wire.len())
                .any(|at| at.eq_ignore_ascii_case(&wire));
        }
        let to: IpAddr = what
            .strip_prefix("to:")
            .and_then(|to| to.parse().ok())
            .unwrap_or_else(|| panic!("{what:?} in the table"));
        match to {
            IpAddr::V4(to) => {
                self.bytes.first().is_some_and(|b| b >> 4 == 4)
                    && self.bytes.get(16..20) == Some(&to.octets())
            }
            IpAddr::V6(to) => {
                self.bytes.first().is_some_and(|b| b >> 4 == 6)
                    && self.bytes.get(24..40) == Some(&to.octets())
            }
        }
    }
}

/// Everything of a row that is not as it should be.
pub fn faults(row: &Row, seen: &Seen<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    match seen.control {
        None => faults.push("without guard it did not run".into()),
        Some(done) => {
            if !row.control.holds(done.status, &done.output) {
                faults.push(format!(
                    "without guard: wanted {:?}, is {}",
                    row.control,
                    told(done)
                ));
            }
            for what in row.unseen {
                if !during(done, seen.arrived.0).any(|packet| packet.is(what)) {
                    faults.push(format!("without guard {what} does not arrive"));
                }
            }
        }
    }
    let Some(guarded) = seen.guarded else {
        return faults;
    };
    let Some(done) = guarded else {
        faults.push("under guard it did not run".into());
        return faults;
    };
    if !row.guarded.holds(done.status, &done.output) {
        faults.push(format!(
            "under guard: wanted {:?}, is {}",
            row.guarded,
            told(done)
        ));
    }
    // At any time: nobody may send it.
    for what in row.unseen {
        if seen.arrived.1.iter().any(|packet| packet.is(what)) {
            faults.push(format!("under guard {what} arrives"));
        }
    }
    let own: Vec<&Value> = seen
        .events
        .iter()
        .filter(|event| is_during(done, event))
        .collect();
    for expected in row.events {
        if !own.iter().any(|event| matches(event, expected)) {
            let mut all: Vec<String> = own.iter().map(|event| describe(event)).collect();
            all.dedup();
            all.truncate(8);
            faults.push(format!(
                "no event {expected}; there are: {}",
                all.join("; ")
            ));
        }
    }
    faults
}

fn told(done: &Done) -> String {
    format!("{:?} {:?}", done.status, done.output)
}

/// A little more than the row took: clocks are read one after the other.
fn window(done: &Done) -> (u64, u64) {
    const SLACK: u64 = 2_000_000;
    (done.begun.saturating_sub(SLACK), done.ended + SLACK)
}

fn during<'a>(done: &Done, packets: &'a [Packet<'a>]) -> impl Iterator<Item = &'a Packet<'a>> {
    let (begun, ended) = window(done);
    // What was sent last may arrive after the sender's end.
    let ended = ended + 500_000_000;
    packets
        .iter()
        .filter(move |p| p.time >= begun && p.time <= ended)
}

fn is_during(done: &Done, event: &Value) -> bool {
    let (begun, ended) = window(done);
    let time = event["time"].as_str().and_then(nanoseconds);
    time.is_some_and(|time| time >= begun && time <= ended)
        && (event["kind"] == "network" || event["kind"] == "dns" || event["kind"] == "file")
}

/// Nanoseconds since the epoch of `2026-11-27T18:00:00.123456789Z`.
fn nanoseconds(text: &str) -> Option<u64> {
    let part = |at: std::ops::Range<usize>| text.get(at)?.parse::<u64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    // Days since 1 March of the year 0, years beginning in March (H. Hinnant,
    // "chrono-compatible low-level date algorithms").
    let (y, m) = match month > 2 {
        true => (year, month - 3),
        false => (year - 1, month + 9),
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + part(11..13)?) * 60 + part(14..16)?) * 60 + part(17..19)?;
    Some(seconds * 1_000_000_000 + part(20..29)?)
}

/// Whether an event is as `KIND/OP VERDICT MEMBER=VALUE…` says. `KIND/` is any
/// refusal of that kind; the value of `rule` is how its id begins; of a list, one
/// of its members.
fn matches(event: &Value, expected: &str) -> bool {
    let mut words = expected.split_whitespace();
    let (kind, op) = words
        .next()
        .and_then(|word| word.split_once('/'))
        .unwrap_or_default();
    if event["kind"] != *kind || !op.is_empty() && event["op"] != *op {
        return false;
    }
    let verdict = words.next().unwrap_or("deny");
    event["verdict"] == *verdict
        && words.all(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, &event[key]) {
                ("rule", rule) => rule["id"].as_str().is_some_and(|id| id.starts_with(value)),
                (_, Value::Array(list)) => list.iter().any(|one| one == value),
                (_, Value::String(text)) => text == value,
                (_, Value::Null) => value == "null",
                (_, other) => *other == value,
            }
        })
}

/// An event in short.
fn describe(event: &Value) -> String {
    let mut text = String::new();
    for key in [
        "kind", "op", "verdict", "name", "record", "outcome", "address", "port", "reason",
    ] {
        match &event[key] {
            Value::Null => {}
            Value::String(word) => text.push_str(&format!("{word} ")),
            other => text.push_str(&format!("{other} ")),
        }
    }
    if let Some(id) = event["rule"]["id"].as_str() {
        text.push_str(id);
    }
    text.trim_end().to_owned()
}
