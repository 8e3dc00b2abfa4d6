//! Directories move while confined processes open files through them: what was
//! denied all the while is never read, and what was allowed is never refused.

use std::path::Path;
use std::process::{Command, Stdio};

use bypass::race::{self, Found};

use super::stress::{Server, give_all};

const DIR: &str = "/srv/race";

/// Runs it for so many seconds.
pub fn run(seconds: u64, tell: &mut dyn FnMut(&str, bool)) {
    let dir = Path::new(DIR);
    race::prepare(dir);
    // Everything is open to the reader's user: only guard stands in the way.
    give_all(dir);
    let rules: Vec<String> = race::read_rules(dir)
        .iter()
        .map(|r| format!("    {r:?},\n"))
        .collect();
    let policy = format!(
        "version = 1\ninclude = [\"base\"]\n[files]\nread = [\n{}]\n[audit]\nlog = \"denials\"\n",
        rules.concat()
    );
    let time = seconds.to_string();
    let server = Server::start("race", &policy, &["bypass", "race-read", DIR, &time]);
    server.wait_for("both readers are ready", |text| {
        text.matches(race::READY).count() == 2
    });
    let writer = Command::new("bypass")
        .args(["race-write", DIR, &time])
        .stdout(Stdio::piped())
        .output()
        .expect("run the writer");
    let rounds = String::from_utf8_lossy(&writer.stdout)
        .trim()
        .parse::<u64>();
    let text = server.end();
    let found = text.lines().find_map(Found::parse);
    println!("{} rounds of moves; {found:?}", rounds.clone().unwrap_or(0));
    let found = found.unwrap_or_else(|| {
        println!("{text}");
        Found {
            wrong: u64::MAX,
            ..Found::default()
        }
    });
    tell(
        "race::nothing_is_read_that_was_denied_all_the_while",
        found.wrong == 0,
    );
    tell(
        "race::nothing_is_refused_that_was_allowed_all_the_while",
        found.refused == 0,
    );
    tell(
        "race::moves_elsewhere_refuse_nothing",
        found.calm_denied == 0,
    );
    // Or it has proven nothing.
    let met = rounds.is_ok_and(|rounds| rounds > 0) && found.allowed > 0 && found.denied > 0;
    tell("race::readers_and_moves_met", met);
}
