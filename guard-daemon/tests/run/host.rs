//! A host of its own for each test: `/run`, `/var/log` and the cgroup
//! hierarchy are private to the test's thread and what it starts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The ordinary user of the tests.
pub(crate) const NOBODY: u32 = 65534;
/// Nothing here takes longer, but on a machine that is very busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the caller stands in for root or for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Root,
    Nobody,
}

pub(crate) struct Host {
    pub(crate) caller: Caller,
    cgroup: PathBuf,
    home: tempfile::TempDir,
}

/// A copy of the program that anybody can execute, wherever the tree lies.
fn guard() -> &'static Path {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &COPY
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(dir.path(), mode).unwrap();
            let copy = dir.path().join("guard");
            std::fs::copy(env!("CARGO_BIN_EXE_guard"), &copy).unwrap();
            (dir, copy)
        })
        .1
}

fn cgroup_mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 "));
    line.expect("cgroup v2 is mounted")
        .split(' ')
        .nth(4)
        .unwrap()
        .into()
}

impl Host {
    /// A fresh host for this thread. The tests need root to make one.
    pub(crate) fn new(caller: Caller) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make mount namespaces and change users: run them as root"
        );
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        for dir in ["/run", "/var/log"] {
            mount(
                Some("tmpfs"),
                dir,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )
            .unwrap();
        }
        let top = cgroup_mount();
        let thread = nix::unistd::gettid();
        let cgroup = top.join(format!("guard-test-{thread}"));
        std::fs::create_dir(&cgroup).unwrap();
        mount(Some(&cgroup), &top, none, MsFlags::MS_BIND, none).unwrap();
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            caller,
            cgroup: top,
            home,
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The trail.
    pub(crate) fn trail(&self) -> PathBuf {
        match self.caller {
            Caller::Root => "/var/log/guard/audit.jsonl".into(),
            Caller::Nobody => self.home().join(".local/state/guard/audit.jsonl"),
        }
    }

    /// The events in the trail.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.trail()).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    /// `guard` with a small, known environment.
    pub(crate) fn guard(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(guard());
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home())
            .env("LANG", "C")
            .env("SECRET_OF_TEST", "the-value")
            .current_dir(self.home());
        if self.caller == Caller::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// `guard run` without the kernel; as root with `--user nobody`.
    pub(crate) fn run(&self, options: &[&str], server: &[&str]) -> Session {
        let mut arguments = vec!["run", "--enforcement", "gateway-only"];
        if self.caller == Caller::Root {
            arguments.extend(["--user", "nobody"]);
        }
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(server);
        Session::start(self.guard(&arguments))
    }

    /// What `guard status` prints.
    pub(crate) fn status(&self) -> String {
        let output = self.guard(&["status"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The process of the host's supervisor.
    pub(crate) fn supervisor(&self) -> i32 {
        let status = self.status();
        let words: Vec<&str> = status.split([' ', ',']).collect();
        let at = words
            .iter()
            .position(|w| *w == "supervisor")
            .expect("a supervisor runs");
        words[at + 1].parse().unwrap()
    }

    /// Sandboxes' cgroups that are there.
    pub(crate) fn cgroups(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.cgroup.join("guard")) else {
            return Vec::new();
        };
        entries
            .map(|e| e.unwrap())
            .filter(|e| e.file_type().unwrap().is_dir())
            .map(|e| e.file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // On-demand supervisors end by themselves; the group goes with what is in it.
        let _ = std::fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = nix::mount::umount2(&self.cgroup, nix::mount::MntFlags::MNT_DETACH);
        let own = self
            .cgroup
            .join(format!("guard-test-{}", nix::unistd::gettid()));
        for below in ["guard", "guard-relays"] {
            for entry in std::fs::read_dir(own.join(below))
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = std::fs::remove_dir(entry.path());
            }
            let _ = std::fs::remove_dir(own.join(below));
        }
        let _ = std::fs::remove_dir(own);
    }
}

/// A running `guard run`.
pub(crate) struct Session {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Lines of stderr that were taken already.
    pub(crate) heard: Vec<String>,
}

fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Session {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: lines(child.stdout.take().unwrap()),
            stderr: lines(child.stderr.take().unwrap()),
            heard: Vec::new(),
            child,
        }
    }

    pub(crate) fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn line(&mut self) -> String {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("no line came ({error}); stderr: {:?}", self.all_stderr()),
        }
    }

    /// The next line of stderr that starts with this, without it.
    pub(crate) fn stderr_after(&mut self, start: &str) -> String {
        loop {
            let line = self.stderr.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("{e}: no {start:?} in {:?}", self.heard));
            self.heard.push(line.clone());
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn all_stderr(&mut self) -> Vec<String> {
        while let Ok(line) = self.stderr.recv_timeout(Duration::from_secs(2)) {
            self.heard.push(line);
        }
        self.heard.clone()
    }

    /// Waits for the end: exit status and the rest of stdout.
    pub(crate) fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let status = self.status();
        (status, self.stdout.iter().collect())
    }

    /// Waits for the end.
    pub(crate) fn status(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("guard run ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|s| s.code())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "it never came to be: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn lives(pid: i32) -> bool {
    let mut stat = String::new();
    let read = std::fs::File::open(format!("/proc/{pid}/stat"))
        .and_then(|mut file| file.read_to_string(&mut stat));
    read.is_ok()
        && !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
}

pub(crate) fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}
