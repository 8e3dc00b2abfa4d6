//! `guard daemon` as a host's service. What loads the kernel programs is slow on
//! an emulated processor: sessions under a service share one loading.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sessions::guard::eventually;

/// Process of the service, 0 while there is none: tests that are forked off see it.
static RUNNING: AtomicU32 = AtomicU32::new(0);
const DIRECTORY: &str = "/root/service";

/// The service's process, if it was started.
pub fn running() -> Option<u32> {
    Some(RUNNING.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
}

/// A running service, which is taken down with all that it loaded.
pub struct Service {
    child: Child,
}

impl Service {
    /// Starts it, and waits until the kernel programs are loaded.
    pub fn start() -> Self {
        let child = Command::new("guard")
            .arg("daemon")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("start guard daemon");
        eventually("the supervisor listens", || {
            Path::new("/run/guard/guard.sock").exists()
        });
        RUNNING.store(child.id(), Ordering::Relaxed);
        std::fs::create_dir_all(DIRECTORY).expect("make a directory");
        let service = Self { child };
        // The first sandbox loads them.
        let first = Command::new("guard")
            .args(["run", "--user", "user", "--policy", "default"])
            .args(["--audit-file", &format!("{DIRECTORY}/first.jsonl")])
            .args(["--", "bypass", "reached"])
            .current_dir("/srv")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        let first = first.expect("run guard");
        assert!(first.success(), "guard starts nothing: {first}");
        service
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .is_ok_and(|text| !text.contains(") Z "))
    }

    /// Ends it and takes everything down: whether both went well.
    pub fn end(mut self) -> bool {
        self.take_down()
    }

    fn take_down(&mut self) -> bool {
        // SAFETY: takes integers; the child was not waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let ended = self.child.wait();
        RUNNING.store(0, Ordering::Relaxed);
        let down = Command::new("guard")
            .args(["daemon", "--teardown"])
            .status();
        let well = |status: std::io::Result<std::process::ExitStatus>| {
            status.is_ok_and(|status| status.success())
        };
        well(ended) && well(down) && !Path::new("/sys/fs/bpf/guard").exists()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if running() == Some(self.pid()) {
            self.take_down();
        }
    }
}
