//! Each hook left out in turn: what it is said to stop gets through then, or
//! another wall, which is named, takes over. So no technique is counted for a
//! hook that does nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bypass::manifest::{self, Entry, Uid};
use bypass::place::GUARDS;
use serde_json::Value;

use super::host;
use super::judge::{belongs, describe, succeeded};
use super::phase::{Observation, Phase};
use crate::service::Service;

/// Runs the suite, or of it the hook named `only`.
pub fn run(only: &str, tell: &mut dyn FnMut(&str, bool)) {
    let techniques = manifest::read().expect("the manifest").techniques;
    let expected = manifest::left_out().expect("what is expected");
    let hooks: BTreeSet<&str> = techniques.iter().filter_map(Entry::hook).collect();
    let release = host::release();
    host::loosen();
    for hook in hooks.into_iter().filter(|hook| hook.contains(only)) {
        let entries: Vec<&Entry> = techniques
            .iter()
            .filter(|e| e.hook() == Some(hook))
            .filter(|e| !e.requires.as_ref().is_some_and(|r| r.lacks(&release)))
            .collect();
        let supervisor = Service::start();
        let pins = pins(hook);
        for pin in &pins {
            fs::remove_file(pin).expect("remove a pin");
        }
        // What reaches for the trail may get through here, and ruin it.
        let (trail, others): (Vec<&Entry>, Vec<&Entry>) = entries
            .into_iter()
            .partition(|entry| entry.name.starts_with("guard-trail"));
        let of = |uid| -> Vec<&Entry> { others.iter().copied().filter(|e| e.uid == uid).collect() };
        for (name, uid, entries) in [
            ("user", Uid::User, of(Uid::User)),
            ("root", Uid::Root, of(Uid::Root)),
            ("trail", Uid::Root, trail),
        ] {
            if entries.is_empty() || pins.is_empty() {
                continue;
            }
            // One that was ruined before would not be added to.
            let _ = fs::remove_file(format!("{GUARDS}/trail.jsonl"));
            let phase = Phase::prepare(&format!("/srv/without-{hook}"), uid, &entries);
            let done = phase.guarded(name, &supervisor);
            for entry in entries {
                let missing = Observation::default();
                let seen = done.observations.get(&entry.name).unwrap_or(&missing);
                let outcome = outcome(entry, seen, &done.events);
                let wanted = expected.get(&entry.name);
                let as_expected = wanted.is_some_and(|w| w.outcomes.contains(&outcome));
                println!("    {:28} without {hook}: {outcome}", entry.name);
                if !as_expected {
                    println!("    FAULT: expected {wanted:?}");
                }
                tell(&format!("left_out::{}", entry.name), as_expected);
            }
        }
        drop(supervisor);
    }
}

/// The pins that keep a hook's programs attached: one, whatever its form.
fn pins(hook: &str) -> Vec<PathBuf> {
    let versions = fs::read_dir("/sys/fs/bpf/guard").expect("guard's pins");
    let is_of = |name: &str| {
        let form = name.strip_prefix(hook);
        name.strip_prefix("guard_") == Some(hook)
            || form.is_some_and(|form| {
                form.is_empty()
                    || form
                        .strip_prefix('_')
                        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
            })
    };
    versions
        .flatten()
        .filter_map(|version| fs::read_dir(version.path().join("links")).ok())
        .flat_map(Iterator::flatten)
        .filter(|pin| is_of(&pin.file_name().to_string_lossy()))
        .map(|pin| pin.path())
        .collect()
}

/// What came of a technique: `gets through`, or what stopped it.
fn outcome(entry: &Entry, seen: &Observation, events: &[Value]) -> String {
    if succeeded(entry.goal, seen) {
        return "gets through".to_owned();
    }
    let denial = events
        .iter()
        .filter(|event| belongs(event, entry, seen) && event["verdict"] == "deny")
        .map(describe)
        .next_back();
    let told = seen.report.as_ref().map(|report| report.detail.clone());
    denial.unwrap_or_else(|| told.unwrap_or_else(|| "no report".to_owned()))
}
