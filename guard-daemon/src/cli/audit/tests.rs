use clap::Parser;

use super::*;
use crate::audit::event::{Attribution, AuditEvent, Body, Verdict};
use crate::audit::samples;
use crate::audit::sink::FileSink;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

struct Trail {
    dir: tempfile::TempDir,
}

struct Output {
    result: io::Result<bool>,
    out: String,
    problems: String,
}

impl Trail {
    fn of(events: &[AuditEvent]) -> Self {
        let trail = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        FileSink::open(&trail.path(), "b")
            .unwrap()
            .append(events)
            .unwrap();
        trail
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }
    fn run(&self, width: Option<u16>, options: &[&str]) -> Output {
        let file = self.path().into_os_string().into_string().unwrap();
        let mut words = vec!["audit"];
        words.extend(options);
        match options.first() {
            Some(&"verify") => words.push(&file),
            _ => words.extend(["--file", &file]),
        }
        let args = Cli::try_parse_from(words).unwrap().args;
        let screen = Screen {
            width,
            colour: false,
        };
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let result = execute(&args, &screen, &mut out, &mut problems);
        Output {
            result,
            out: String::from_utf8(out).unwrap(),
            problems: String::from_utf8(problems).unwrap(),
        }
    }
}

fn denial() -> AuditEvent {
    samples::all().remove(0)
}

/// An allowed access outside any call.
fn noise() -> AuditEvent {
    AuditEvent {
        call: Some(Attribution::None),
        verdict: Some(Verdict::Allow),
        rule: None,
        ..denial()
    }
}

fn first_call() -> AuditEvent {
    crate::audit::from_call_start(&samples::call_start(), 1, "b", &samples::sandbox())
}

#[test]
fn a_denial_reads_as_during_its_tool() {
    let shown = Trail::of(&[denial()]).run(None, &[]);
    assert!(shown.result.unwrap());
    for words in [
        "during read_text_file (3)",
        "read /srv/project/.env",
        "DENY",
        "files.deny[0] *.env",
    ] {
        assert!(shown.out.contains(words), "{words} in {}", shown.out);
    }
    assert!(!shown.out.contains("caused"));
}

#[test]
fn a_table_fits_the_terminal() {
    let trail = Trail::of(&samples::all());
    for width in [70, 80, 120, 200] {
        let shown = trail.run(Some(width), &["--all"]);
        for line in shown.out.lines() {
            assert!(
                line.chars().count() <= usize::from(width),
                "{width}: {line}"
            );
        }
        // Nothing is cut: a path is whole once the line ends are taken out.
        let joined: String = shown.out.split_whitespace().collect();
        assert!(joined.contains("DENY"), "{}", shown.out);
    }
}

#[test]
fn a_denial_is_red_where_there_are_colours() {
    let mut rows = Rows::new(
        Screen {
            width: Some(100),
            colour: true,
        },
        TimeZone::UTC,
        true,
    );
    let mut out = Vec::new();
    rows.event(&denial(), &Filter::default(), &mut out).unwrap();
    rows.finish(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let row = text.lines().find(|l| l.contains("DENY")).unwrap();
    assert!(row.contains('\u{1b}'), "{text:?}");
}

#[test]
fn start_up_is_one_line_until_the_first_tool_is_called() {
    let mut events = vec![noise(); 3];
    events.push(denial());
    events.push(first_call());
    events.push(noise());
    let trail = Trail::of(&events);
    let folded = trail.run(None, &[]).out;
    assert!(folded.contains("3 accesses (--all shows them)"), "{folded}");
    // The day, the head, the denial, the fold, the call, the later access.
    assert_eq!(folded.lines().count(), 6, "{folded}");
    let unfolded = trail.run(None, &["--all"]).out;
    assert_eq!(unfolded.lines().count(), 2 + events.len(), "{unfolded}");
    let never_called = Trail::of(&[noise()]).run(None, &[]).out;
    assert!(never_called.contains("1 access (--all"), "{never_called}");
}

#[test]
fn nothing_of_an_event_reaches_the_terminal_raw() {
    let mut event = denial();
    let evil = "/a\u{1b}]0;x\u{7}\u{9b}2J\nroot: DENY";
    if let Body::File(file) = &mut event.body {
        file.path = evil.into();
    }
    let mut start = samples::call_start();
    start.arguments = Some(evil.into());
    start.tool = Some(evil.into());
    let call = crate::audit::from_call_start(&start, 1, "b", &samples::sandbox());
    let trail = Trail::of(&[event, call]);
    for options in [&[][..], &["--json"], &["summary"]] {
        let shown = trail.run(Some(100), options).out;
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(control), "{options:?}: {shown:?}");
        assert!(!shown.lines().any(|l| l.starts_with("root")), "{shown}");
    }
}

#[test]
fn json_is_the_file_and_filters_hold() {
    let trail = Trail::of(&[denial(), noise(), first_call()]);
    let file = std::fs::read_to_string(trail.path()).unwrap();
    assert_eq!(trail.run(None, &["--json"]).out, file);
    let denials = trail.run(None, &["--json", "--verdict", "deny"]).out;
    assert_eq!(denials, file.lines().next().unwrap().to_owned() + "\n");
    let none = trail.run(None, &["--server", "other"]);
    assert_eq!(none.out, "no events\n");
}

#[test]
fn malformed_lines_are_named_and_the_rest_is_shown() {
    let trail = Trail::of(&[denial()]);
    let mut bytes = b"not json\n".to_vec();
    bytes.extend(std::fs::read(trail.path()).unwrap());
    std::fs::write(trail.path(), bytes).unwrap();
    let shown = trail.run(None, &[]);
    assert!(!shown.result.unwrap());
    assert!(shown.problems.contains("line 1"), "{}", shown.problems);
    assert!(shown.out.contains("DENY"));
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let trail = Trail::of(&[]);
    std::fs::remove_file(trail.path()).unwrap();
    let error = trail.run(None, &[]).result.unwrap_err().to_string();
    assert!(
        error.contains("audit.jsonl") && error.contains("--file"),
        "{error}"
    );
}

#[test]
fn verify_accepts_an_intact_trail_and_names_the_line_of_a_changed_byte() {
    let trail = Trail::of(&samples::all()[..4]);
    let shown = trail.run(None, &["verify"]);
    assert!(shown.result.unwrap());
    assert!(shown.out.contains("intact, 4 events"), "{}", shown.out);
    let mut bytes = std::fs::read(trail.path()).unwrap();
    let third = bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .nth(1)
        .unwrap()
        .0;
    bytes[third + 30] ^= 1;
    std::fs::write(trail.path(), bytes).unwrap();
    let shown = trail.run(None, &["verify"]);
    assert!(!shown.result.unwrap());
    assert!(
        shown.problems.contains("line 3: the line was changed"),
        "{}",
        shown.problems
    );
}

#[test]
fn summary_counts() {
    let events = [denial(), denial(), noise(), first_call()];
    let shown = Trail::of(&events).run(None, &["summary"]).out;
    assert!(
        shown.contains("filesystem: 0 starts, 1 accesses allowed, 2 denied"),
        "{shown}"
    );
    assert!(shown.contains("1 calls   read_text_file"), "{shown}");
    assert!(
        shown.contains("2 denied  read /srv/project/.env  (files.deny[0] *.env)"),
        "{shown}"
    );
}
