//! Runs the rows of one policy, without guard or in one sandbox.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bypass::probe::{self, Done};
use serde_json::Value;

use super::lab::{HOME, TRUSTED, WORK};
use super::row::{Policy, Row};
use crate::sessions::guard::Trail;

/// How long the end of a sandbox may take to be in the trail.
const ENDS: Duration = Duration::from_secs(30);

/// A running program that runs rows.
pub struct Running {
    child: Child,
    name: String,
    limit: Duration,
    begun: Instant,
}

/// Starts the rows of a policy; `guard` says whether in a sandbox.
pub fn start(policy: Policy, rows: &[&Row], guard: bool) -> Running {
    let name = match guard {
        true => policy.name().to_owned(),
        false => format!("{}-control", policy.name()),
    };
    let commands: Vec<probe::Command> = rows
        .iter()
        .map(|row| {
            let words = match row.control_words {
                Some(words) if !guard => words,
                _ => row.words,
            };
            probe::Command {
                name: row.name.to_owned(),
                words: words.iter().map(|word| (*word).to_owned()).collect(),
                limit: row.limit,
            }
        })
        .collect();
    let file = format!("{HOME}/{name}.json");
    fs::write(&file, serde_json::to_vec(&commands).expect("JSON")).expect("write the rows");
    let mut command = match guard {
        true => {
            let text = format!("{HOME}/{name}.toml");
            fs::write(&text, policy.text()).expect("write the policy");
            let mut command = Command::new("guard");
            command.args(["run", "--user", "user", "--name", &name, "--policy", &text]);
            command.args(["--audit-file", &trail(policy), "--", "bypass"]);
            command
        }
        false => {
            let mut command = Command::new("bypass");
            command.uid(1000).gid(1000);
            command
        }
    };
    let child = command
        .args(["probe", "rows", &file])
        .env("HOME", "/home/user")
        .env("SSL_CERT_FILE", TRUSTED)
        .env("REQUESTS_CA_BUNDLE", TRUSTED)
        .current_dir(WORK)
        // While it has its input, it is not ended by others.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(told(&name)).expect("make a file"))
        .spawn()
        .expect("start the rows");
    let limit = 60 + rows.iter().map(|row| row.limit).sum::<u64>();
    Running {
        child,
        name,
        limit: Duration::from_secs(limit),
        begun: Instant::now(),
    }
}

fn told(name: &str) -> String {
    format!("/root/network/{name}.stderr")
}

/// The trail of a policy's sandbox.
pub fn trail(policy: Policy) -> String {
    format!("/root/network/{}.jsonl", policy.name())
}

impl Running {
    /// Waits for its end: how each row ended, and whether it came to its end by itself.
    pub fn end(mut self) -> (BTreeMap<String, Done>, bool) {
        let input = self.child.stdin.take();
        let status = loop {
            let status = self.child.try_wait().expect("wait for the rows");
            if status.is_some() || self.begun.elapsed() > self.limit {
                break status;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if status.is_none() {
            self.child.kill().expect("kill");
            self.child.wait().expect("wait");
        }
        drop(input);
        let text = fs::read(told(&self.name)).expect("read what was told");
        let mut all = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            match Done::parse(line) {
                Some(done) => drop(all.insert(done.name.clone(), done)),
                None => println!("    {}: {line}", self.name),
            }
        }
        let took = self.begun.elapsed().as_secs_f64();
        println!("    {} ended after {took:.1} s: {status:?}", self.name);
        (all, status.is_some_and(|status| status.success()))
    }
}

/// The events of a policy's sandbox after its end, and whether the trail is whole.
pub fn events(policy: Policy) -> (Vec<Value>, bool) {
    let trail = Trail(trail(policy).into());
    if !trail.0.exists() {
        return (Vec::new(), false);
    }
    let begun = Instant::now();
    loop {
        let events = trail.events();
        let stopped = events
            .iter()
            .any(|e| e["kind"] == "sandbox" && e["op"] == "stop");
        if stopped || begun.elapsed() > ENDS {
            return (events, stopped && trail.verified());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
