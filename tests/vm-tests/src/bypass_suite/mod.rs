//! The bypass suite: every technique of `tests/bypass/manifest.json`, first
//! without guard, where it must succeed, then under guard, where it must not
//! and must leave the event that the manifest expects.

pub mod fuzz;
mod host;
mod judge;
pub mod left_out;
mod phase;
pub mod race;
mod stress;

use std::collections::BTreeMap;

use bypass::docs;
use bypass::manifest::{self, Entry, Uid};

use crate::service::Service;
use judge::Row;
use phase::{Observation, Phase};

/// Where the rows are left for `docs/bypass.md`.
const RESULTS: &str = "/root/bypass/results.json";

/// Runs the suite, or of it what has `only` in its name, and tells each result.
pub fn run(only: &str, tell: &mut dyn FnMut(&str, bool)) {
    let manifest = manifest::read().expect("the manifest");
    let entries: Vec<Entry> = manifest.techniques;
    let entries: Vec<&Entry> = entries.iter().filter(|e| e.name.contains(only)).collect();
    host::loosen();
    let begun = std::time::Instant::now();
    let pass = |what: &str| println!("{:6.1} s: {what}", begun.elapsed().as_secs_f64());
    let of = |uid| -> Vec<&Entry> { entries.iter().copied().filter(|e| e.uid == uid).collect() };
    let mut controls = BTreeMap::new();
    let stand_ins = host::StandIns::make();
    for uid in [Uid::User, Uid::Root] {
        let entries = of(uid);
        let phase = Phase::prepare("/srv/control", uid, &entries);
        pass("places for the controls are ready");
        controls.extend(phase.control());
        pass("controls have run");
    }
    drop(stand_ins);
    let supervisor = Service::start();
    pass("guard runs");
    let mut guarded = BTreeMap::new();
    let mut events = Vec::new();
    // What reaches for the trail comes last and has one of its own: were it to succeed, it
    // would take the others' events with it.
    let (trail, root): (Vec<&Entry>, Vec<&Entry>) = of(Uid::Root)
        .into_iter()
        .partition(|entry| entry.name.starts_with("guard-trail"));
    for (name, uid, entries) in [
        ("user", Uid::User, of(Uid::User)),
        ("root", Uid::Root, root),
        ("trail", Uid::Root, trail),
    ] {
        if entries.is_empty() {
            continue;
        }
        let phase = Phase::prepare("/srv/bypass", uid, &entries);
        pass("places are ready");
        let done = phase.guarded(name, &supervisor);
        tell(&format!("bypass::guard_stays_whole::{name}"), done.whole);
        guarded.extend(done.observations);
        events.extend(done.events);
        pass("attacks under guard have run");
    }
    drop(supervisor);
    let release = host::release();
    let missing = Observation::default();
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| {
            let control = controls.get(&entry.name).unwrap_or(&missing);
            let guarded = guarded.get(&entry.name).unwrap_or(&missing);
            judge::judge(entry, control, guarded, &events, &release)
        })
        .collect();
    show(&rows);
    for row in &rows {
        if row.lacking.is_none() {
            tell(&format!("bypass::{}", row.name), row.faults.is_empty());
        }
    }
    let lost = events.iter().filter(|e| e["kind"] == "loss").count();
    if lost > 0 {
        println!("{lost} loss events in the trail");
    }
    tell("bypass::no_event_was_lost", lost == 0);
    leave(&release, &rows);
}

fn show(rows: &[Row]) {
    println!(
        "{:28} {:5} {:8} {:40} stopped by, event",
        "technique", "uid", "control", "under guard"
    );
    for row in rows {
        println!(
            "{:28} {:5} {:8} {:40} {}; {}",
            row.name, row.uid, row.control, row.guarded, row.stopped_by, row.event
        );
        if let Some(lacking) = &row.lacking {
            println!("    not on this kernel: {lacking}");
        }
        for fault in &row.faults {
            println!("    FAULT: {fault}");
        }
    }
}

/// Writes what `cargo xtask test --suite bypass --write-docs` reads.
fn leave(release: &str, rows: &[Row]) {
    let rows = rows.iter().map(|row| docs::Row {
        name: row.name.clone(),
        stopped: row.faults.is_empty() && row.lacking.is_none(),
        lacking: row.lacking.clone(),
        faults: row.faults.clone(),
    });
    let run = docs::Run {
        release: release.to_owned(),
        rows: rows.collect(),
    };
    let results = serde_json::to_string(&run).expect("JSON");
    std::fs::write(RESULTS, results).expect("write the results");
}
