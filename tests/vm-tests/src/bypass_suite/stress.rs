//! A confined program that runs for a while and tells on stderr what it found.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::sessions::guard::eventually;

/// A running `guard run`.
pub struct Server {
    child: Child,
    stderr: PathBuf,
}

impl Server {
    /// Starts a command under a policy, as the ordinary user.
    pub fn start(name: &str, policy: &str, command: &[&str]) -> Self {
        fs::create_dir_all("/root/bypass").expect("make a directory");
        let file = |kind: &str| format!("/root/bypass/{name}.{kind}");
        fs::write(file("toml"), policy).expect("write the policy");
        // Of an earlier batch: it can be large.
        let _ = fs::remove_file(file("jsonl"));
        let stderr = PathBuf::from(file("stderr"));
        let child = Command::new("guard")
            .args([
                "run",
                "--name",
                name,
                "--user",
                "user",
                "--policy",
                &file("toml"),
            ])
            .args(["--audit-file", &file("jsonl"), "--"])
            .args(command)
            .current_dir("/srv")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("make a file"))
            .spawn()
            .expect("start guard run");
        Self { child, stderr }
    }

    fn text(&self) -> String {
        let bytes = fs::read(&self.stderr).expect("read what it told");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has told something.
    pub fn wait_for(&self, what: &str, so: impl Fn(&str) -> bool) {
        eventually(what, || so(&self.text()));
    }

    /// Waits until it ends, and returns all that it told.
    pub fn end(mut self) -> String {
        // While it has its input, it is not ended by others.
        let input = self.child.stdin.take();
        let status = self.child.wait().expect("wait for guard run");
        drop(input);
        if !status.success() {
            println!("guard run: {status}");
        }
        self.text()
    }
}

/// Gives a tree to the ordinary user.
pub fn give_all(dir: &Path) {
    bypass::place::give(dir, 1000);
}
