//! Random system calls of two confined processes; from outside it is seen that
//! no protected byte was read, changed, moved or deleted.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bypass::fuzz::{self, Round};

use super::stress::{Server, give_all};

/// Calls of each process in a round.
const CALLS: u64 = 1500;
/// Worlds made at a time.
const WORLDS: u64 = 60;
/// Seconds of one server.
const BATCH: u64 = 60;

type State = BTreeMap<String, String>;

/// Fresh worlds, and how each is.
fn worlds(base: &Path, count: u64) -> Vec<(PathBuf, State)> {
    let _ = std::fs::remove_dir_all(base);
    let worlds: Vec<PathBuf> = (0..count).map(|n| base.join(n.to_string())).collect();
    worlds.iter().for_each(|world| fuzz::prepare(world));
    give_all(base);
    worlds
        .into_iter()
        .map(|world| (world.clone(), fuzz::state(&world)))
        .collect()
}

/// What is wrong after a round.
fn faults(round: &Round, world: &Path, before: &State) -> Vec<String> {
    let mut faults: Vec<String> = round
        .leaks
        .iter()
        .map(|how| format!("read by {how}"))
        .collect();
    let after = fuzz::state(world);
    let changed = before
        .iter()
        .filter(|(name, then)| after.get(*name) != Some(*then));
    faults.extend(changed.map(|(name, then)| {
        format!(
            "changed: {:?} was {then}, is {}",
            name,
            after.get(name).map_or("gone", String::as_str)
        )
    }));
    let leaked = fuzz::leaked(&world.join("open"), world);
    faults.extend(
        leaked
            .iter()
            .map(|path| format!("copied to {}", path.display())),
    );
    faults
}

/// Runs it for so many seconds, from this seed on.
pub fn run(seconds: u64, seed: u64, tell: &mut dyn FnMut(&str, bool)) {
    println!("seed {seed}");
    tell(
        "syscalls::without_guard_the_fuzzer_gets_through",
        control(seed),
    );
    let base = Path::new("/srv/fuzz");
    let policy = r#"version = 1
include = ["base"]
[files]
read = ["/srv/fuzz/*/{open,readonly}/**"]
write = ["/srv/fuzz/*/open/**"]
deny = ["closed", "*.env", "/srv/fuzz/*/open/vault/key.txt"]
[audit]
log = "denials"
"#;
    let begun = Instant::now();
    let (mut rounds, mut done, mut found) = (0, 0, 0);
    while rounds == 0 || begun.elapsed() < Duration::from_secs(seconds) {
        let before = worlds(base, WORLDS);
        let left = seconds
            .saturating_sub(begun.elapsed().as_secs())
            .clamp(1, BATCH);
        let (from, calls, left) = (
            (seed + rounds).to_string(),
            CALLS.to_string(),
            left.to_string(),
        );
        let server = Server::start(
            "syscalls",
            policy,
            &["bypass", "fuzz", "/srv/fuzz", &from, &calls, &left],
        );
        let text = server.end();
        let told: Vec<Round> = text.lines().filter_map(Round::parse).collect();
        if told.is_empty() {
            println!("no round was reported:\n{text}");
            found += 1;
            break;
        }
        for round in &told {
            let (world, state) = &before[round.world as usize];
            for fault in faults(round, world, state) {
                println!("    FAULT in the round of seed {}: {fault}", round.seed);
                found += 1;
            }
            done += round.done;
        }
        rounds += told.len() as u64;
    }
    println!("{rounds} rounds from seed {seed}, {done} calls succeeded, {found} faults");
    tell(
        "syscalls::nothing_protected_was_read_or_changed",
        found == 0,
    );
    tell("syscalls::much_succeeded", done > rounds * CALLS / 10);
}

/// Without guard the same calls read and change what is protected.
fn control(seed: u64) -> bool {
    let base = Path::new("/srv/fuzz-control");
    let before = worlds(base, 3);
    let output = Command::new("bypass")
        .args([
            "fuzz",
            "/srv/fuzz-control",
            &seed.to_string(),
            &CALLS.to_string(),
            "30",
        ])
        .uid(1000)
        .gid(1000)
        .output()
        .expect("run the fuzzer");
    let text = String::from_utf8_lossy(&output.stderr);
    let rounds = text.lines().filter_map(Round::parse);
    let faults: Vec<String> = rounds
        .flat_map(|round| {
            let (world, state) = &before[round.world as usize];
            faults(&round, world, state)
        })
        .collect();
    let read = faults.iter().any(|fault| fault.starts_with("read"));
    let changed = faults.iter().any(|fault| fault.starts_with("changed"));
    println!(
        "without guard: {} faults, reads {read}, changes {changed}",
        faults.len()
    );
    read && changed
}
