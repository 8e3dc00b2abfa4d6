//! The suite `network`: a table of clients and tricks, each first without guard,
//! where it must do what it is for, then in a sandbox, where it must come out as
//! the table says and leave the events that the table names. A lab in the guest is
//! the network ([`lab`]).
//!
//! `network [PART OF A ROW'S NAME] [controls]`; with `controls` guard is left out,
//! to see whether the lab is as it should be.

mod judge;
mod lab;
mod row;
mod rows;
mod sandbox;

use std::collections::BTreeMap;
use std::time::Instant;

use bypass::probe::Done;
use serde_json::{Value, json};

use crate::service::Service;
use judge::Seen;
use row::{Policy, Row};

/// Where the table's results are left.
const RESULTS: &str = "/root/network/results.json";

type Ends = BTreeMap<String, Done>;

/// Runs the suite, or of it the rows with the first argument in their name.
pub fn run(arguments: &[String], tell: &mut dyn FnMut(&str, bool)) {
    let controls_only = arguments.last().is_some_and(|word| word == "controls");
    let only = arguments.first().filter(|word| *word != "controls");
    let only = only.map_or("", String::as_str);
    let all = rows::all();
    let chosen: Vec<&Row> = all.iter().filter(|row| row.name.contains(only)).collect();
    let begun = Instant::now();
    let pass = |what: &str| println!("{:6.1} s: {what}", begun.elapsed().as_secs_f64());
    let lab = lab::Lab::start();
    pass("the lab is there");
    let (controls, _) = all_of(&chosen, false);
    pass("controls have run");
    let until = lab.arrived().len();
    let mut guarded = None;
    let mut events: BTreeMap<Policy, Vec<Value>> = BTreeMap::new();
    if !controls_only {
        let service = Service::start();
        pass("guard runs");
        let (ends, whole) = all_of(&chosen, true);
        for policy in policies(&chosen) {
            let (found, verified) = sandbox::events(policy);
            let lost = found.iter().filter(|e| e["kind"] == "loss").count();
            println!(
                "    {}: {} events, {lost} of them losses",
                policy.name(),
                found.len()
            );
            let well = whole.get(&policy).copied().unwrap_or_default();
            tell(&format!("network::{}::ends_well", policy.name()), well);
            tell(
                &format!("network::{}::trail_is_whole", policy.name()),
                verified && lost == 0,
            );
            events.insert(policy, found);
        }
        pass("rows under guard have run");
        guarded = Some(ends);
        tell(
            "network::guard_stays_whole",
            service.alive() && service.end(),
        );
    }
    // Packets are written after they have come.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let arrived = lab.arrived();
    let (before, after) = arrived.split_at(until);
    let (before, after) = (judge::packets(before), judge::packets(after));
    println!(
        "    packets: {} without guard, {} under it",
        before.len(),
        after.len()
    );
    let mut results = Vec::new();
    for row in &chosen {
        let seen = Seen {
            control: controls.get(row.name),
            guarded: guarded.as_ref().map(|ends: &Ends| ends.get(row.name)),
            events: events.get(&row.policy).map_or(&[], Vec::as_slice),
            arrived: (&before, &after),
        };
        let faults = judge::faults(row, &seen);
        show(row, &seen, &faults);
        tell(
            &format!("network::{}", row.name.replace(' ', "_")),
            faults.is_empty(),
        );
        results.push(json!({"name": row.name, "policy": row.policy.name(), "faults": faults}));
    }
    let all_well = results.iter().all(|row| row["faults"] == json!([]));
    if !all_well {
        print!("{}", lab::logs());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let run = json!({"release": release.trim(), "rows": results});
    std::fs::write(RESULTS, run.to_string()).expect("write the results");
}

fn policies(rows: &[&Row]) -> Vec<Policy> {
    let with = |policy: &Policy| rows.iter().any(|row| row.policy == *policy);
    Policy::ALL.into_iter().filter(with).collect()
}

/// All policies at once, each row for itself: how each ended, and which policies'
/// rows all ran.
fn all_of(rows: &[&Row], guard: bool) -> (Ends, BTreeMap<Policy, bool>) {
    let started: Vec<_> = policies(rows)
        .into_iter()
        .map(|policy| {
            let own: Vec<&Row> = rows
                .iter()
                .copied()
                .filter(|r| r.policy == policy)
                .collect();
            (policy, sandbox::start(policy, &own, guard))
        })
        .collect();
    let (mut all, mut whole) = (Ends::new(), BTreeMap::new());
    for (policy, running) in started {
        let (ends, well) = running.end();
        all.extend(ends);
        whole.insert(policy, well);
    }
    (all, whole)
}

/// A line of the table.
fn show(row: &Row, seen: &Seen<'_>, faults: &[String]) {
    let line = |done: Option<&Done>| {
        let text = done.map_or("did not run", |d| d.output.as_str());
        let last = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("");
        let cut = last.char_indices().nth(48).map_or(last.len(), |(at, _)| at);
        last[..cut].to_owned()
    };
    let guarded = seen.guarded.map_or_else(|| "-".to_owned(), line);
    let took = seen.guarded.flatten().or(seen.control).map_or(0.0, |done| {
        done.ended.saturating_sub(done.begun) as f64 / 1e9
    });
    println!(
        "{:36} {:48} {guarded:48} {took:4.1} s",
        row.name,
        line(seen.control)
    );
    for fault in faults {
        println!("    FAULT: {fault}");
    }
}
