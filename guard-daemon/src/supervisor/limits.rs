//! `[process]` memory, max_processes and cpu: cgroup v2's controllers on a
//! sandbox's own cgroup. A limit that cannot be set is a refusal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{CgroupError, Cgroups, SandboxCgroup};
use crate::policy::ProcessLimits;

/// Why a sandbox cannot be limited.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The cgroup itself.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A controller that the policy needs is not there.
    #[error(
        "the policy limits {key}, but this host has no cgroup v2 controller {controller:?}: {why}"
    )]
    NoController {
        /// `process.memory`, ….
        key: &'static str,
        /// `memory`, `pids` or `cpu`.
        controller: &'static str,
        /// What to do.
        why: String,
    },
    /// Swap cannot be kept from the sandbox.
    #[error(
        "the policy limits process.memory, but this kernel does not account swap in cgroups \
         ({0} is not there) and swap is in use: swapoff -a, or boot without swapaccount=0"
    )]
    Swap(PathBuf),
    /// A file of the cgroup file system.
    #[error("cannot set {value:?} in {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// To what.
        value: String,
        /// Why not.
        source: io::Error,
    },
}

/// A period of `cpu.max`, microseconds (the kernel's default).
const PERIOD: u64 = 100_000;

/// A limit in the cgroup's files.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    key: &'static str,
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// What is to be written, in this order.
fn settings(limits: &ProcessLimits) -> Vec<Setting> {
    let setting = |key, controller, file, value: String| Setting {
        key,
        controller,
        file,
        value,
    };
    let mut all = Vec::new();
    if let Some(bytes) = limits.memory {
        let memory = |file, value| setting("process.memory", "memory", file, value);
        all.push(memory("memory.max", bytes.to_string()));
        // Else memory would go to swap instead of ending.
        all.push(memory(SWAP, "0".into()));
        // A server of which a part was killed is of no use.
        all.push(memory("memory.oom.group", "1".into()));
    }
    if let Some(count) = limits.max_processes {
        let value = count.to_string();
        all.push(setting("process.max_processes", "pids", "pids.max", value));
    }
    if let Some(thousandths) = limits.cpu {
        let quota = u64::from(thousandths) * PERIOD / 1000;
        let value = format!("{quota} {PERIOD}");
        all.push(setting("process.cpu", "cpu", "cpu.max", value));
    }
    all
}

const SWAP: &str = "memory.swap.max";

/// Sets the limits of a sandbox in which nothing runs yet.
///
/// # Errors
/// When one cannot be set.
pub fn apply(
    cgroups: &Cgroups,
    cgroup: &SandboxCgroup,
    limits: &ProcessLimits,
) -> Result<(), LimitError> {
    let settings = settings(limits);
    let parent = cgroups.parent()?;
    for dir in [cgroups.root(), &parent] {
        for setting in &settings {
            enable(dir, setting)?;
        }
    }
    for setting in &settings {
        let path = cgroup.dir().join(setting.file);
        if setting.file == SWAP && !path.exists() {
            if swap_in_use() {
                return Err(LimitError::Swap(path));
            }
            continue;
        }
        write(&path, &setting.value)?;
    }
    Ok(())
}

fn write(path: &Path, value: &str) -> Result<(), LimitError> {
    fs::write(path, value).map_err(|source| LimitError::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Makes a controller available in the directories below `dir`.
fn enable(dir: &Path, setting: &Setting) -> Result<(), LimitError> {
    let Setting {
        key, controller, ..
    } = *setting;
    let has = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.split_whitespace().any(|name| name == controller)
    };
    if has("cgroup.subtree_control") {
        return Ok(());
    }
    if !has("cgroup.controllers") {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        return Err(LimitError::NoController {
            key,
            controller,
            why: why_missing(&mounts, controller),
        });
    }
    write(
        &dir.join("cgroup.subtree_control"),
        &format!("+{controller}"),
    )
}

/// A controller that a v1 hierarchy has is not v2's.
fn why_missing(mountinfo: &str, controller: &str) -> String {
    let v1 = mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut words = filesystem.split(' ');
        let bound = words.next() == Some("cgroup")
            && words.nth(1)?.split(',').any(|option| option == controller);
        bound.then(|| mount.split(' ').nth(4).unwrap_or_default())
    });
    match v1 {
        Some(place) => format!(
            "cgroup v1 has it, mounted at {place}: boot with \
             systemd.unified_cgroup_hierarchy=1, or unmount it and all that is below"
        ),
        None => format!(
            "boot without cgroup_disable={controller}, on a kernel that is built with it; in a \
             container it must be delegated"
        ),
    }
}

fn swap_in_use() -> bool {
    // The first line says what the columns are.
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Limits that a sandbox met, in words, for the trail.
#[must_use]
pub fn met(cgroup: &SandboxCgroup) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(cgroup.dir().join(file)).unwrap_or_default();
    // Without a limit of its own it may have met another's.
    let count = |limit: &str, file: &str, name: &str| match read(limit).trim() {
        "" | "max" => 0,
        _ => counted(&read(file), name),
    };
    let mut all = Vec::new();
    let killed = count("memory.max", "memory.events", "oom_kill");
    if killed > 0 {
        all.push(format!(
            "process.memory: the kernel killed {killed} processes of the server"
        ));
    }
    let refused = count("pids.max", "pids.events", "max");
    if refused > 0 {
        all.push(format!(
            "process.max_processes: the kernel refused {refused} times to make a process or thread"
        ));
    }
    all
}

/// A line `NAME NUMBER`.
fn counted(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let limits = ProcessLimits {
            memory: Some(512 << 20),
            max_processes: Some(64),
            cpu: Some(1500),
            io_uring: false,
        };
        let written: Vec<_> = settings(&limits)
            .into_iter()
            .map(|s| (s.file, s.value))
            .collect();
        let expected = [
            ("memory.max", "536870912"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("pids.max", "64"),
            ("cpu.max", "150000 100000"),
        ];
        assert_eq!(
            written,
            expected.map(|(file, value)| (file, value.to_owned()))
        );
        assert_eq!(settings(&ProcessLimits::default()), []);
        // The smallest share that a policy can give is one that the kernel takes.
        let least = ProcessLimits {
            cpu: Some(10),
            ..ProcessLimits::default()
        };
        assert_eq!(settings(&least)[0].value, "1000 100000");
    }

    #[test]
    fn a_missing_controller_says_where_it_is() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
            41 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let why = why_missing(hybrid, "memory");
        assert!(why.contains("/sys/fs/cgroup/memory"), "{why}");
        assert!(why_missing(hybrid, "pids").contains("cgroup_disable=pids"));
    }

    #[test]
    fn a_controller_is_asked_for_where_it_is_not_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let limits = ProcessLimits {
            max_processes: Some(1),
            ..ProcessLimits::default()
        };
        let pids = &settings(&limits)[0];
        fs::write(at("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(at("cgroup.subtree_control"), "").unwrap();
        let refused = enable(dir.path(), pids).unwrap_err().to_string();
        assert!(refused.contains("process.max_processes"), "{refused}");
        fs::write(at("cgroup.controllers"), "cpu pids\n").unwrap();
        enable(dir.path(), pids).unwrap();
        let asked = fs::read_to_string(at("cgroup.subtree_control")).unwrap();
        assert_eq!(asked, "+pids");
        fs::write(at("cgroup.subtree_control"), "cpu pids\n").unwrap();
        enable(dir.path(), pids).unwrap();
        let asked = fs::read_to_string(at("cgroup.subtree_control")).unwrap();
        assert_eq!(asked, "cpu pids\n");
    }

    #[test]
    fn counters_are_read() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(counted(text, "oom_kill"), 2);
        assert_eq!(counted(text, "max"), 0);
        assert_eq!(counted("max 7\n", "max"), 7);
    }
}
