//! The host around the attacks: settings as loose as they can be, so that only
//! guard stands in the way; and what guard would have, where it does not run.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};

use bypass::place::{GUARDS, INHERITED};

/// What hosts may have set. Those that a kernel has not got are skipped.
const LOOSE: &[(&str, &str)] = &[
    ("kernel/yama/ptrace_scope", "0"),
    ("kernel/unprivileged_userns_clone", "1"),
    ("kernel/unprivileged_bpf_disabled", "0"),
    ("kernel/perf_event_paranoid", "-1"),
    ("kernel/dmesg_restrict", "0"),
    ("kernel/io_uring_disabled", "0"),
    ("vm/unprivileged_userfaultfd", "1"),
    ("fs/protected_hardlinks", "0"),
    ("fs/protected_symlinks", "0"),
    ("fs/protected_regular", "0"),
    ("dev/tty/legacy_tiocsti", "1"),
    ("net/ipv4/tcp_fastopen", "1027"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/mptcp/enabled", "1"),
];

/// Takes away what would stop an attack without guard.
pub fn loosen() {
    for (name, value) in LOOSE {
        let path = format!("/proc/sys/{name}");
        if Path::new(&path).exists() {
            fs::write(&path, value).unwrap_or_else(|e| panic!("write {path}: {e}"));
        }
    }
    fs::create_dir_all("/root/bypass").expect("make a directory");
    if !Path::new("/dev/mqueue").exists() {
        fs::create_dir_all("/dev/mqueue").expect("make a directory");
    }
}

/// The running kernel.
pub fn release() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    text.trim().to_owned()
}

/// Guard's own directories, as root's techniques find them.
fn guards(policy: &str) {
    fs::create_dir_all(format!("{GUARDS}/policies")).expect("make a directory");
    fs::write(format!("{GUARDS}/policies/policy.toml"), policy).expect("write the policy");
}

/// Writes the policy and the number of guard's process where root's techniques find them.
pub fn furnish(policy: &str, supervisor: u32) {
    guards(policy);
    let pid = format!("{GUARDS}/supervisor.pid");
    fs::write(pid, supervisor.to_string()).expect("write a number");
}

/// In the place of guard, where it does not run.
pub struct StandIns {
    _listeners: [UnixListener; 2],
    process: Child,
}

impl StandIns {
    /// Makes them.
    pub fn make() -> Self {
        fs::create_dir_all("/run/guard").expect("make a directory");
        let listeners = ["/run/guard/guard.sock", "/run/guard/relay.sock"]
            .map(|path| UnixListener::bind(path).expect("listen"));
        fs::create_dir_all("/sys/fs/bpf/guard").expect("make a directory");
        let process = Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("start sleep");
        furnish("# a stand-in\n", process.id());
        fs::write(format!("{GUARDS}/trail.jsonl"), "# a stand-in\n").expect("write a trail");
        Self {
            _listeners: listeners,
            process,
        }
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
        for dir in ["/run/guard", GUARDS] {
            fs::remove_dir_all(dir).expect("remove a directory");
        }
        fs::remove_dir("/sys/fs/bpf/guard").expect("remove a directory");
    }
}

/// A secret's file at the number that [`INHERITED`] says, open over an exec.
pub struct Inherited;

impl Inherited {
    /// Opens it.
    pub fn open(path: &Path) -> Self {
        let file = fs::File::open(path).expect("open a secret");
        // SAFETY: takes integers. Nothing of this program has that number.
        let done = unsafe { libc::dup2(file.as_raw_fd(), INHERITED) };
        assert_eq!(done, INHERITED, "dup2");
        Self
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        // SAFETY: the descriptor made above.
        unsafe { libc::close(INHERITED) };
    }
}
