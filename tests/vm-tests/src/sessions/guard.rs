//! `guard run` as its users start it, and what it leaves in the trail.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::service;

/// What the servers may use.
pub const PROJECT: &str = "/srv/project";
/// A file there whose name every policy here denies, though anybody may read it.
pub const SECRET: &str = "/srv/project/secret.env";
/// A file there that may be read.
pub const NOTES: &str = "/srv/project/notes.txt";
/// What is in it.
pub const NOTES_TEXT: &str = "just notes";
/// The policy of most tests.
pub const POLICY: &str = r#"version = 1
include = ["base"]
[files]
read = ["/srv/project/**"]
write = ["/srv/project/out/**"]
deny = ["*.env"]
[audit]
log = "all"
"#;

/// Nothing takes longer, but on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(240);
const SCRATCH: &str = "/root/sessions";

/// Waits until something is so.
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "it never came to be: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The files that the servers of these tests work on.
fn fixtures() {
    for directory in [PROJECT, "/srv/project/out", SCRATCH] {
        std::fs::create_dir_all(directory).expect("make a directory");
    }
    let secrets = ["secret", "four", "late", "alone", "after"];
    let secrets = secrets.map(|name| (format!("{PROJECT}/{name}.env"), "TOKEN=secret"));
    for (path, text) in secrets.into_iter().chain([(NOTES.to_owned(), NOTES_TEXT)]) {
        std::fs::write(&path, text).expect("write a file");
        std::fs::set_permissions(path, Permissions::from_mode(0o644)).expect("open it to all");
    }
    std::fs::set_permissions("/srv/project/out", Permissions::from_mode(0o777))
        .expect("open it to all");
}

/// Runs `guard` to its end.
pub fn guard(arguments: &[&str]) -> Output {
    let output = Command::new("guard").args(arguments).output();
    output.expect("start guard")
}

/// A trail with the events of one test.
pub struct Trail(pub PathBuf);

impl Trail {
    /// Every event that is in it. A last line without its end is being written.
    pub fn events(&self) -> Vec<Value> {
        let mut text = std::fs::read(&self.0).expect("read the trail");
        text.truncate(text.iter().rposition(|b| *b == b'\n').unwrap_or(0));
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let parse = |line: &[u8]| serde_json::from_slice(line).expect("a line of the trail");
        lines.map(parse).collect()
    }

    /// Waits for events that are as wanted, and returns them.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut found = Vec::new();
        let begun = Instant::now();
        while found.is_empty() {
            found = self.events();
            found.retain(&wanted);
            assert!(
                !found.is_empty() || begun.elapsed() < PATIENCE,
                "no {what} in {:#?}",
                self.events()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        found
    }

    /// `guard audit verify`: whether it accepts the trail.
    pub fn verified(&self) -> bool {
        verified(&self.0)
    }
}

/// `guard audit verify`: whether it accepts the file.
pub fn verified(file: &Path) -> bool {
    let output = guard(&["audit", "verify", file.to_str().expect("a path in UTF-8")]);
    output.status.success()
}

/// What is to be started, and under which policy.
pub struct Run<'a> {
    /// Names the trail, too.
    pub name: &'a str,
    /// The policy's text, or a name or path (then it holds no newline).
    pub policy: &'a str,
    /// The command.
    pub server: &'a [&'a str],
    /// Environment besides this program's.
    pub env: &'a [(&'a str, &'a str)],
    /// More of `guard run`'s options.
    pub options: &'a [&'a str],
}

impl<'a> Run<'a> {
    /// `fake-mcp` under this policy.
    pub fn fake(name: &'a str, policy: &'a str) -> Self {
        Self {
            name,
            policy,
            server: &["fake-mcp"],
            env: &[],
            options: &[],
        }
    }

    /// Starts it.
    pub fn start(&self) -> Session {
        fixtures();
        let scratch = Path::new(SCRATCH);
        let policy = if self.policy.contains('\n') {
            let file = scratch.join(format!("{}.toml", self.name));
            std::fs::write(&file, self.policy).expect("write the policy");
            file.to_str().expect("a path in UTF-8").to_owned()
        } else {
            self.policy.to_owned()
        };
        let trail = scratch.join(format!("{}.jsonl", self.name));
        let stderr = scratch.join(format!("{}.stderr", self.name));
        let mut child = Command::new("guard")
            .args(["run", "--user", "user", "--name", self.name])
            .args(["--policy", &policy, "--audit-file"])
            .arg(&trail)
            .args(self.options)
            .arg("--")
            .args(self.server)
            .envs(self.env.iter().copied())
            .current_dir(PROJECT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).expect("make a file"))
            .spawn()
            .expect("start guard run");
        Session {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().expect("its output"),
            child,
            pending: Vec::new(),
            stderr,
            trail: Trail(trail),
            calls: 0,
        }
    }
}

/// A running `guard run`, seen from its client.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    pending: Vec<u8>,
    stderr: PathBuf,
    /// Its own trail.
    pub trail: Trail,
    calls: u64,
}

impl Session {
    /// Writes a message.
    pub fn send(&mut self, message: &Value) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin
            .write_all(format!("{message}\n").as_bytes())
            .unwrap_or_else(|e| panic!("write to guard run: {e}; stderr: {}", self.stderr()));
    }

    /// The next message.
    pub fn receive(&mut self) -> Value {
        let line = self.line();
        let line = line.unwrap_or_else(|| panic!("end of output; stderr: {}", self.stderr()));
        serde_json::from_slice(&line).expect("JSON from the server")
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                return Some(self.pending.drain(..=end).collect());
            }
            let mut poll = libc::pollfd {
                fd: self.stdout.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one pollfd, as the count says.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 200) };
            if ready <= 0 {
                let late = Instant::now() > deadline;
                assert!(!late, "no line came; stderr: {}", self.stderr());
                continue;
            }
            let mut buffer = [0; 4096];
            let count = self.stdout.read(&mut buffer).expect("read from guard run");
            if count == 0 {
                return None;
            }
            self.pending.extend_from_slice(&buffer[..count]);
        }
    }

    /// Sends a call of a tool and returns its id.
    pub fn begin(&mut self, tool: &str, arguments: Value) -> u64 {
        let params = json!({"name": tool, "arguments": arguments});
        self.request("tools/call", &params)
    }

    /// Sends a request and returns its id.
    pub fn request(&mut self, method: &str, params: &Value) -> u64 {
        self.calls += 1;
        let id = self.calls;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// Waits for the response to a request, past notifications, and returns its result.
    pub fn result(&mut self, id: u64) -> Value {
        loop {
            let mut message = self.receive();
            if message["id"] == id {
                assert!(message.get("result").is_some(), "{message}");
                return message["result"].take();
            }
            assert!(message.get("method").is_some(), "not awaited: {message}");
        }
    }

    /// Calls a tool: the text of its result, `Err` for an error of the tool.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Result<String, String> {
        let id = self.begin(tool, arguments);
        let result = self.result(id);
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        match result["isError"] == true {
            true => Err(text.to_owned()),
            false => Ok(text.to_owned()),
        }
    }

    /// Opens the session as a client does.
    pub fn initialize(&mut self) -> Value {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "vm-tests", "version": "0"}});
        let id = self.request("initialize", &params);
        let result = self.result(id);
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        result
    }

    /// Closes the server's input.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of `guard run`: its status.
    pub fn status(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("guard run ends", || {
            status = self.child.try_wait().expect("wait for guard run");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Ends it as a client does, and waits until its end is in the trail.
    pub fn end(mut self) -> Trail {
        self.close();
        assert_eq!(self.status(), Some(0), "stderr: {}", self.stderr());
        let trail = Trail(self.trail.0.clone());
        trail.wait("end of the sandbox", |event| {
            event["kind"] == "sandbox" && event["op"] == "stop"
        });
        trail
    }

    /// What was written to stderr so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Of a test that failed. What it started must not meet the next one.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes that run this program.
pub fn running(program: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("read /proc");
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let runs = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(program))
    };
    pids.filter(runs).collect()
}

/// Cgroups of sandboxes.
pub fn cgroups() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup/guard") else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Waits until nothing of any sandbox is left, and no supervisor that came on demand.
pub fn nothing_left() {
    eventually("no process of fake-mcp is left", || {
        running("/usr/local/bin/fake-mcp").is_empty()
    });
    let service: Vec<i32> = service::running()
        .map(|pid| pid as i32)
        .into_iter()
        .collect();
    eventually("no process of guard is left but its service", || {
        running("/usr/local/bin/guard") == service
    });
    if service.is_empty() {
        let pins = Path::new("/sys/fs/bpf/guard");
        assert!(!pins.exists(), "{} is there", pins.display());
    } else {
        // An on-demand supervisor ends after it has removed them.
        eventually("no cgroup is left", || cgroups().is_empty());
    }
    assert_eq!(cgroups(), Vec::<PathBuf>::new());
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: takes integers.
    let done = unsafe { libc::kill(pid, signal) };
    assert_eq!(done, 0, "kill {pid}: {}", std::io::Error::last_os_error());
}

/// The host's supervisor, by what `guard status` says.
pub fn supervisor() -> i32 {
    let output = guard(&["status"]);
    let status = String::from_utf8(output.stdout).expect("UTF-8");
    let words: Vec<&str> = status.split([' ', ',']).collect();
    let at = words.iter().position(|word| *word == "supervisor");
    let at = at.unwrap_or_else(|| panic!("no supervisor in {status:?}"));
    words[at + 1].parse().expect("its process")
}
