//! A set of techniques run in fresh places, with guard or without it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use bypass::manifest::{Entry, Uid};
use bypass::place::{ALLOWED_PORT, GUARDS, Place};
use bypass::serve::Report;
use serde_json::Value;

use super::host::{Inherited, furnish};
use crate::service::Service;
use crate::sessions::guard::{Trail, eventually};

/// What was seen of one technique.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What it says itself.
    pub report: Option<Report>,
    /// Whether the bytes that it tells are the secret.
    pub has_secret: bool,
    /// Protected files that are not as before.
    pub changed: Vec<String>,
    /// What of the process outside is not as before.
    pub process: Vec<String>,
}

/// How long the attacks of one user may take together.
const LIMIT: Duration = Duration::from_secs(200);

/// How long the end of a sandbox may take to be in the trail.
const ENDS: Duration = Duration::from_secs(20);

/// What came of the attacks under guard.
pub struct Guarded {
    /// By technique.
    pub observations: BTreeMap<String, Observation>,
    /// The trail.
    pub events: Vec<Value>,
    /// Whether the server came to its end, the supervisor lives, and the trail is as it was
    /// written.
    pub whole: bool,
}

type State = BTreeMap<String, String>;

/// The processes outside, one for each technique that needs one.
struct Outsides {
    child: Child,
    _input: ChildStdin,
}

impl Drop for Outsides {
    fn drop(&mut self) {
        // The others end with it.
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

/// Techniques of one user in fresh places.
pub struct Phase<'a> {
    base: PathBuf,
    uid: Uid,
    entries: &'a [&'a Entry],
    secret: String,
    outsides: Option<Outsides>,
    before: BTreeMap<String, (State, State)>,
}

fn number(uid: Uid) -> u32 {
    match uid {
        Uid::User => 1000,
        Uid::Root => 0,
    }
}

impl<'a> Phase<'a> {
    /// Makes the places, starts the processes outside, and notes how all is.
    pub fn prepare(base: &str, uid: Uid, entries: &'a [&'a Entry]) -> Self {
        let base = PathBuf::from(base);
        fs::create_dir_all(&base).expect("make a directory");
        let mut bytes = [0_u8; 12];
        let mut random = fs::File::open("/dev/urandom").expect("open urandom");
        std::io::Read::read_exact(&mut random, &mut bytes).expect("read urandom");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let mut phase = Self {
            base,
            uid,
            entries,
            secret: format!("secret-{hex}"),
            outsides: None,
            before: BTreeMap::new(),
        };
        let mut with_outside = Vec::new();
        for entry in entries {
            let technique = bypass::technique(&entry.name).expect("a technique");
            let place = phase.place(&entry.name);
            place.prepare(&phase.secret);
            if let Some(prepare) = technique.prepare {
                prepare(&place);
            }
            place.give(number(uid));
            if technique.outside {
                with_outside.push(entry.name.as_str());
            }
        }
        if !with_outside.is_empty() {
            phase.outsides = Some(phase.start_outsides(&with_outside));
        }
        for name in with_outside {
            let told = phase.place(name).at("outside.txt");
            eventually(&format!("the process outside of {name} is ready"), || {
                told.exists()
            });
        }
        phase.before = entries
            .iter()
            .map(|e| (e.name.clone(), phase.state(&e.name)))
            .collect();
        phase
    }

    fn place(&self, name: &str) -> Place {
        Place::new(&self.base, name)
    }

    fn start_outsides(&self, names: &[&str]) -> Outsides {
        let mut child = Command::new("bypass")
            .arg("outside")
            .arg(&self.base)
            .args(names)
            .env("BYPASS_SECRET", &self.secret)
            .uid(number(self.uid))
            .gid(number(self.uid))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("start the processes outside");
        let input = child.stdin.take().expect("its input");
        Outsides {
            child,
            _input: input,
        }
    }

    fn state(&self, name: &str) -> (State, State) {
        let place = self.place(name);
        let process = place.number("pid").map(|pid| process_state(pid, &place));
        (place.snapshot(), process.unwrap_or_default())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.name.as_str())
    }

    fn inherited(&self) -> Option<Inherited> {
        let place = self.place("descriptor-inherited");
        place.dir.exists().then(|| Inherited::open(&place.secret()))
    }

    /// Runs a command that serves techniques, and returns what it reported,
    /// and whether it came to its end by itself.
    fn reports(&self, command: &mut Command) -> (BTreeMap<String, Report>, bool) {
        let inherited = self.inherited();
        let told = Path::new("/root/bypass/stderr");
        let mut child = command
            .env("BYPASS_SECRET", &self.secret)
            .current_dir(&self.base)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(told).expect("make a file"))
            .spawn()
            .expect("start the attacks");
        drop(inherited);
        let begun = Instant::now();
        let mut first = None;
        let status = loop {
            let told = fs::metadata(told).is_ok_and(|meta| meta.len() > 0);
            if told && first.is_none() {
                first = Some(begun.elapsed());
            }
            let status = child.try_wait().expect("wait for the attacks");
            if status.is_some() || begun.elapsed() > LIMIT {
                break status;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.is_none() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        let text = fs::read(told).expect("read what was reported");
        let text = String::from_utf8_lossy(&text);
        let mut reports = BTreeMap::new();
        for line in text.lines() {
            match Report::parse(line) {
                Some(report) => drop(reports.insert(report.name.clone(), report)),
                None => println!("    {line}"),
            }
        }
        println!(
            "    first report after {first:?}, ended after {:?}",
            begun.elapsed()
        );
        match status {
            Some(status) if status.success() => {}
            Some(status) => println!("    the attacks' program: {status}"),
            None => println!("    the attacks' program came to no end"),
        }
        (reports, status.is_some())
    }

    fn observe(&self, reports: &BTreeMap<String, Report>) -> BTreeMap<String, Observation> {
        let observe = |name: &str| {
            let report = reports.get(name).cloned();
            let told = report.as_ref().and_then(|r| r.secret.as_deref());
            let (files, process) = self.state(name);
            let before = self.before.get(name).expect("its state before");
            Observation {
                has_secret: told.is_some_and(|told| told == self.secret.as_bytes()),
                changed: differences(&before.0, &files),
                process: differences(&before.1, &process),
                report,
            }
        };
        self.names()
            .map(|name| (name.to_owned(), observe(name)))
            .collect()
    }

    /// Runs all without guard.
    pub fn control(self) -> BTreeMap<String, Observation> {
        let mut command = Command::new("bypass");
        command.arg("serve").arg(&self.base).args(self.names());
        command.uid(number(self.uid)).gid(number(self.uid));
        let (reports, _) = self.reports(&mut command);
        self.observe(&reports)
    }

    /// Runs all under guard.
    pub fn guarded(self, name: &str, supervisor: &Service) -> Guarded {
        let text = self.policy();
        let (policy, trail, user) = match self.uid {
            Uid::User => (
                "/root/bypass/policy.toml".into(),
                format!("/root/bypass/{name}.jsonl"),
                "user",
            ),
            Uid::Root => (
                format!("{GUARDS}/policies/policy.toml"),
                format!("{GUARDS}/{name}.jsonl"),
                "root",
            ),
        };
        match self.uid {
            Uid::User => fs::write(&policy, &text).expect("write the policy"),
            Uid::Root => furnish(&text, supervisor.pid()),
        }
        let mut command = Command::new("guard");
        command.args([
            "run", "--name", "bypass", "--user", user, "--policy", &policy,
        ]);
        command.args(["--audit-file", &trail, "--", "bypass", "serve"]);
        command.arg(&self.base).args(self.names());
        let (reports, ended) = self.reports(&mut command);
        let trail = Trail(trail.into());
        if ended && supervisor.alive() {
            // By its text: an attack may have reached into it.
            let stop = |text: String| {
                let last = text.trim_end().lines().next_back();
                let last = last.and_then(|line| serde_json::from_str::<Value>(line).ok());
                last.is_some_and(|e| e["kind"] == "sandbox" && e["op"] == "stop")
            };
            let begun = Instant::now();
            while !fs::read_to_string(&trail.0).is_ok_and(stop) && begun.elapsed() < ENDS {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let whole = ended && supervisor.alive() && trail.verified();
        // Also of a trail that an attack has reached into: that is a fault of its own.
        let text = fs::read(&trail.0).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let events = events.collect();
        Guarded {
            observations: self.observe(&reports),
            events,
            whole,
        }
    }

    /// As much as the attacks may have, and no more.
    fn policy(&self) -> String {
        let base = self.base.display();
        // Literal rules: for these, other names of the file are denied too.
        let literal = |name: &str, below: &str| format!("    \"{base}/{name}/{below}\",\n");
        let literals: String = ["open-literal", "hardlink-before", "bind-mount-before"]
            .iter()
            .map(|name| literal(name, "literal.key"))
            .chain([
                literal("rename-parent-of-literal", "open/vault/inner/key.txt"),
                // guard refuses to start a server that may write its own policy.
                format!("    \"{GUARDS}/policies/policy.toml\",\n"),
            ])
            .collect();
        let (also, user) = match self.uid {
            Uid::User => ("", ""),
            Uid::Root => (
                concat!(
                    ", \"/srv/bypass-guard/**\", \"/run/guard/**\", \"/sys/fs/bpf/**\"",
                    ", \"/sys/fs/cgroup/**\""
                ),
                "[process]\nuser = \"root\"\n",
            ),
        };
        format!(
            r#"version = 1
include = ["base"]
[files]
read = ["{base}/*/{{open,readonly,bin,closed,box,outside.txt,log,literal.key}}/**", "/proc/**",
    "/usr/bin/true", "/usr/local/bin/bypass"{also}]
write = ["{base}/*/{{open,closed}}/**", "/proc/*/mem"{also}]
exec = ["{base}/*/bin/**"]
deny = ["closed", "*.env",
{literals}]
[network]
allow = ["127.0.0.1:{ALLOWED_PORT}"]
{user}[audit]
log = "denials"
"#
        )
    }
}

/// What of two states differs, in words.
fn differences(before: &State, after: &State) -> Vec<String> {
    let gone = before
        .keys()
        .filter(|k| !after.contains_key(*k))
        .map(|k| format!("{k} is gone"));
    let other = after.iter().filter_map(|(key, now)| match before.get(key) {
        None => Some(format!("{key} is new")),
        Some(then) if then != now => Some(format!("{key} was {then}, is {now}")),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

/// What can be changed of a process from outside.
fn process_state(pid: usize, place: &Place) -> State {
    let mut state = State::new();
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    // proc(5): the third field is the state; the 19th nice, the 41st the scheduling class.
    let field = |n: usize| fields.get(n - 3).copied().unwrap_or_default().to_owned();
    let gone = ["Z", "X", ""].contains(&field(3).as_str());
    state.insert(
        "life".into(),
        if gone { "ended".into() } else { "runs".into() },
    );
    if gone {
        return state;
    }
    state.insert("nice".into(), field(19));
    state.insert("class".into(), field(41));
    let limits = read("limits");
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    state.insert(
        "limit of files".into(),
        files.unwrap_or_default().to_owned(),
    );
    let status = read("status");
    let processors = status.lines().find(|l| l.starts_with("Cpus_allowed:"));
    state.insert(
        "processors".into(),
        processors.unwrap_or_default().to_owned(),
    );
    state.insert("oom score".into(), read("oom_score_adj"));
    // SAFETY: takes integers: IOPRIO_WHO_PROCESS and the process.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) };
    state.insert("disk class".into(), disk.to_string());
    if let Ok(semaphore) = place.number("sem") {
        // SAFETY: takes integers.
        let value = unsafe { libc::semctl(semaphore as i32, 0, libc::GETVAL) };
        state.insert("semaphore".into(), value.to_string());
    }
    state
}

/// Whether a path is in a technique's place.
pub fn in_place(path: &str, name: &str) -> bool {
    Path::new(path).components().any(|c| c.as_os_str() == name)
}
