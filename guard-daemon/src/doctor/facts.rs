//! What this host is. Asks, judges nothing.

use std::fs;
use std::path::{Path, PathBuf};

pub use super::lsm::{Lsms, Source};
use crate::kernel::btf::{Btf, VMLINUX};
use crate::sys::bpf_probe::{LsmProbe, LsmProbeError, load_socket_filter};

/// Capabilities that the supervisor cannot do without (linux/capability.h).
pub const CAPABILITIES: [(&str, u32); 10] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// Everything that the decisions need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub build: String,
    /// `/proc/version_signature` (Ubuntu).
    pub signature: Option<String>,
    /// The kernel's types.
    pub btf: BtfFact,
    /// Active LSMs; `None` when nothing could be learned.
    pub lsms: Option<Lsms>,
    /// What came of trying.
    pub probe: Probe,
    /// Where cgroup v2 is.
    pub cgroup: Cgroup,
    /// Controllers that cgroup v2 has at its root.
    pub controllers: Vec<String>,
    /// bpffs.
    pub bpffs: Bpffs,
    /// Lockdown mode (`none`, `integrity`, `confidentiality`); `None` when the
    /// kernel has no lockdown or does not say.
    pub lockdown: Option<String>,
    /// Whether the kernel has seccomp filters.
    pub seccomp: bool,
    /// `net.core.bpf_jit_enable`; `None` when it cannot be read, as where the
    /// JIT is always on.
    pub jit: Option<u32>,
    /// Whether a supervisor's socket is there.
    pub supervisor: bool,
}

/// The kernel's BTF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BtfFact {
    /// It can be read.
    Present {
        /// `bpf_lsm_file_open` is there (`CONFIG_BPF_LSM`).
        lsm: bool,
        /// `bpf_lsm_path_unlink` is there (`CONFIG_SECURITY_PATH`).
        path: bool,
    },
    /// The kernel shows none.
    Absent,
    /// It cannot be read or understood.
    Unusable(String),
}

/// What came of loading and attaching an LSM program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Not tried.
    NotTried,
    /// It was called.
    Works,
    /// It was attached and never called: `bpf` is not an active LSM.
    NeverCalled,
    /// The kernel would not load it.
    LoadRefused {
        /// The error number.
        errno: i32,
        /// Whether it loads programs of another type.
        others_load: bool,
    },
    /// The kernel would not attach it.
    AttachRefused {
        /// The error number.
        errno: i32,
    },
    /// The test itself failed.
    Failed(String),
}

/// Where cgroup v2 is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// All of cgroup is v2.
    Unified(PathBuf),
    /// v2 beside v1.
    Hybrid(PathBuf),
    /// Not mounted; the kernel has it or not.
    Absent {
        /// `/proc/filesystems` names it.
        known: bool,
    },
}

/// The file system for pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// Mounted at `/sys/fs/bpf`.
    Mounted,
    /// Its mount point is there.
    Mountable,
    /// Neither.
    Absent,
}

impl Facts {
    /// Asks the host. Attaches an LSM program that allows everything, for a
    /// moment, when it may.
    #[must_use]
    pub fn collect() -> Self {
        let (release, build) = nix::sys::utsname::uname().map_or_else(
            |_| (String::new(), String::new()),
            |u| {
                let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
                (text(u.release()), text(u.version()))
            },
        );
        let (btf, function) = btf();
        let uid = nix::unistd::geteuid().as_raw();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cgroup = cgroup(
            &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            &fs::read_to_string("/proc/filesystems").unwrap_or_default(),
        );
        Self {
            uid,
            capabilities: capabilities(&status),
            signature: fs::read_to_string("/proc/version_signature").ok(),
            btf,
            lsms: super::lsm::active(&release),
            probe: match function {
                Some(function) if uid == 0 => probe(function),
                _ => Probe::NotTried,
            },
            controllers: controllers(&cgroup),
            cgroup,
            bpffs: bpffs(),
            lockdown: super::lsm::securityfs("lockdown").and_then(|(text, _)| chosen(&text)),
            seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            supervisor: Path::new(crate::wire::SOCKET_PATH).exists(),
            release,
            build,
        }
    }
}

fn btf() -> (BtfFact, Option<u32>) {
    if !Path::new(VMLINUX).exists() {
        return (BtfFact::Absent, None);
    }
    match Btf::vmlinux() {
        Ok(btf) => {
            let function = btf.function("bpf_lsm_file_open");
            let fact = BtfFact::Present {
                lsm: function.is_some(),
                path: btf.function("bpf_lsm_path_unlink").is_some(),
            };
            (fact, function)
        }
        Err(e) => (BtfFact::Unusable(e.to_string()), None),
    }
}

fn probe(function: u32) -> Probe {
    let errno = |e: &std::io::Error| e.raw_os_error().unwrap_or(0);
    match LsmProbe::attach(function) {
        Ok(probe) => {
            // Any open calls the hook.
            let opened = fs::File::open("/proc/self/status");
            match (opened, probe.has_run()) {
                (_, Ok(true)) => Probe::Works,
                (Ok(_), Ok(false)) => Probe::NeverCalled,
                (Err(e), _) | (_, Err(e)) => Probe::Failed(e.to_string()),
            }
        }
        Err(LsmProbeError::Load(e)) => Probe::LoadRefused {
            errno: errno(&e),
            others_load: load_socket_filter().is_ok(),
        },
        Err(LsmProbeError::Attach(e)) => Probe::AttachRefused { errno: errno(&e) },
        Err(e @ LsmProbeError::Map(_)) => Probe::Failed(e.to_string()),
    }
}

fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
        .unwrap_or(0)
}

/// The first cgroup v2 mount, from mountinfo (Documentation/filesystems/proc.rst).
fn cgroup(mountinfo: &str, filesystems: &str) -> Cgroup {
    let mut v2 = None;
    let mut v1 = false;
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else {
            continue;
        };
        match fs.split(' ').next() {
            Some("cgroup2") => {
                let place = mount.split(' ').nth(4).unwrap_or_default();
                v2 = v2.or_else(|| Some(PathBuf::from(unescape_mount(place))));
            }
            Some("cgroup") => v1 = true,
            _ => {}
        }
    }
    match (v2, v1) {
        (Some(path), false) => Cgroup::Unified(path),
        (Some(path), true) => Cgroup::Hybrid(path),
        (None, _) => Cgroup::Absent {
            known: filesystems
                .lines()
                .any(|l| l.split_whitespace().last() == Some("cgroup2")),
        },
    }
}

fn controllers(cgroup: &Cgroup) -> Vec<String> {
    let (Cgroup::Unified(path) | Cgroup::Hybrid(path)) = cgroup else {
        return Vec::new();
    };
    let text = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// mountinfo writes blanks and the like as `\040`.
fn unescape_mount(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn bpffs() -> Bpffs {
    /// include/uapi/linux/magic.h
    const BPF_FS_MAGIC: i128 = 0xcafe_4a11;
    let place = "/sys/fs/bpf";
    match nix::sys::statfs::statfs(place) {
        // The magic has its highest bit set: compare its 32 bits.
        Ok(s) if i128::from(s.filesystem_type().0) & 0xffff_ffff == BPF_FS_MAGIC => Bpffs::Mounted,
        Ok(_) if Path::new(place).is_dir() => Bpffs::Mountable,
        _ => Bpffs::Absent,
    }
}

/// The word in brackets: `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let hybrid = "31 23 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /a\\040b rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup(v2, ""), Cgroup::Unified("/sys/fs/cgroup".into()));
        assert_eq!(cgroup(hybrid, ""), Cgroup::Hybrid("/a b".into()));
        for (filesystems, known) in [("nodev\tcgroup2\n", true), ("nodev\tcgroup\n", false)] {
            assert_eq!(cgroup("", filesystems), Cgroup::Absent { known });
        }
    }

    #[test]
    fn small_files_are_read() {
        assert_eq!(
            capabilities("Name: x\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(capabilities(""), 0);
        assert_eq!(
            chosen("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn this_host_can_be_asked() {
        let facts = Facts::collect();
        assert!(facts.release.starts_with(|c: char| c.is_ascii_digit()));
        // Whatever the answer is, a refused probe is told from an untried one.
        if facts.uid == 0 && matches!(facts.btf, BtfFact::Present { lsm: true, .. }) {
            assert_ne!(facts.probe, Probe::NotTried);
        }
    }
}
