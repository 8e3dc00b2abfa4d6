//! What the facts mean, and what to do about it. Pure.

use super::facts::{Bpffs, BtfFact, CAPABILITIES, Cgroup, Facts, Lsms, Probe, Source};
use super::lsm::LandlockPlace;
use super::version::{self, FLOOR};
use super::{Check, State};

/// Judges every requirement, in the order in which to put them right.
#[must_use]
pub fn checks(facts: &Facts) -> Vec<Check> {
    vec![
        root(facts),
        kernel(facts),
        btf(facts),
        bpf_lsm(facts),
        security_path(facts),
        lsm_list(facts),
        lsm_program(facts),
        cgroup(facts),
        controllers(facts),
        bpffs(facts),
        lockdown(facts),
        seccomp(facts),
        landlock(facts),
        jit(facts),
        supervisor(facts),
    ]
}

/// What guard does on a host that cannot enforce.
#[must_use]
pub fn without_enforcement() -> [&'static str; 4] {
    [
        "guard check POLICY: parse, compile and test a policy",
        "guard explain POLICY ACCESS…: which rule decides",
        "guard audit: show and verify a trail from elsewhere",
        "guard run --enforcement gateway-only: read and log the calls, with no rule enforced",
    ]
}

struct Draft(Check);

impl Draft {
    fn required(id: &'static str, name: &'static str) -> Self {
        Self(Check {
            id,
            name,
            state: State::Unknown,
            required: true,
            found: String::new(),
            action: None,
        })
    }
    fn informational(id: &'static str, name: &'static str) -> Self {
        let mut draft = Self::required(id, name);
        draft.0.required = false;
        draft
    }
    fn ok(mut self, found: impl Into<String>) -> Check {
        self.0.state = State::Ok;
        self.0.found = found.into();
        self.0
    }
    fn missing(mut self, found: impl Into<String>, action: impl Into<String>) -> Check {
        self.0.state = State::Missing;
        self.0.found = found.into();
        self.0.action = Some(action.into());
        self.0
    }
    fn unknown(self, found: impl Into<String>, action: impl Into<String>) -> Check {
        let mut check = self.missing(found, action);
        check.state = State::Unknown;
        check
    }
}

fn root(facts: &Facts) -> Check {
    let draft = Draft::required("root", "root with its capabilities");
    if facts.uid != 0 {
        return draft.missing(
            format!("run as uid {}", facts.uid),
            "run it as root: `sudo guard doctor`",
        );
    }
    let lacking: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| facts.capabilities >> bit & 1 == 0)
        .map(|(name, _)| *name)
        .collect();
    if lacking.is_empty() {
        draft.ok("root")
    } else {
        draft.missing(
            format!("root without {}", lacking.join(", ")),
            "run guard on the host, or give the container these capabilities",
        )
    }
}

fn kernel(facts: &Facts) -> Check {
    let draft = Draft::required("kernel", "Linux 6.1.54 or later");
    let real = version::of(&facts.release, &facts.build, facts.signature.as_deref());
    match real {
        None => draft.unknown(
            format!("kernel {:?} names no version", facts.release),
            "boot a kernel of your distribution, 6.1.54 or later",
        ),
        Some(v) if v >= FLOOR => draft.ok(format!("{} ({}.{}.{})", facts.release, v.0, v.1, v.2)),
        Some(v) => draft.missing(
            format!(
                "kernel older than 6.1.54: {} ({}.{}.{})",
                facts.release, v.0, v.1, v.2
            ),
            "update the kernel to 6.1.54 or later: older ones can skip an LSM program that is \
             entered twice on a CPU, which would allow",
        ),
    }
}

fn btf(facts: &Facts) -> Check {
    let draft = Draft::required("btf", "the kernel's type information (BTF)");
    let action = "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are";
    match &facts.btf {
        BtfFact::Present { .. } => draft.ok("/sys/kernel/btf/vmlinux"),
        BtfFact::Absent => draft.missing(
            "no BTF: there is no /sys/kernel/btf/vmlinux",
            format!("{action}; if /sys is not mounted: mount -t sysfs sysfs /sys"),
        ),
        BtfFact::Unusable(why) => draft.missing(why.clone(), action),
    }
}

fn bpf_lsm(facts: &Facts) -> Check {
    let draft = Draft::required("bpf-lsm", "BPF LSM in the kernel (CONFIG_BPF_LSM)");
    built_in(
        draft,
        facts,
        |lsm, _| lsm,
        "bpf_lsm_file_open",
        "CONFIG_BPF_LSM",
    )
}

fn security_path(facts: &Facts) -> Check {
    let draft = Draft::required("security-path", "path hooks (CONFIG_SECURITY_PATH)");
    built_in(
        draft,
        facts,
        |_, path| path,
        "bpf_lsm_path_unlink",
        "CONFIG_SECURITY_PATH",
    )
}

fn built_in(
    draft: Draft,
    facts: &Facts,
    present: fn(bool, bool) -> bool,
    function: &str,
    option: &str,
) -> Check {
    match facts.btf {
        BtfFact::Present { lsm, path } if present(lsm, path) => {
            draft.ok(format!("the kernel has {function}"))
        }
        BtfFact::Present { .. } => draft.missing(
            format!("the kernel has no {function}"),
            format!("boot a kernel built with {option}=y"),
        ),
        BtfFact::Absent | BtfFact::Unusable(_) => draft.unknown(
            "without BTF it cannot be told",
            "see the kernel's type information above",
        ),
    }
}

fn lsm_list(facts: &Facts) -> Check {
    let draft = Draft::required("lsm-list", "`bpf` among the active LSMs");
    let list = facts.lsms.as_ref();
    let found = list.map_or_else(|| "the list could not be read".to_owned(), described);
    match (&facts.probe, list) {
        // What the kernel did is worth more than any list.
        (Probe::Works, _) => draft.ok(format!("an LSM program is called; {found}")),
        (Probe::NeverCalled, _) => draft.missing(
            format!(
                "BPF LSM not in the lsm= list: an LSM program can be attached but is never called; {found}"
            ),
            add_bpf(facts),
        ),
        (_, Some(list)) if !list.has("bpf") => draft.missing(
            format!("BPF LSM not in the lsm= list: {found}"),
            add_bpf(facts),
        ),
        (_, Some(list)) if matches!(list.source, Source::Mounted | Source::Private) => {
            draft.ok(found)
        }
        (_, Some(_)) => draft.unknown(
            format!("{found}; whether that is what is active cannot be told"),
            "run it as root: `sudo guard doctor` then tries it",
        ),
        (_, None) => draft.unknown(found, "run it as root: `sudo guard doctor`"),
    }
}

fn described(lsms: &Lsms) -> String {
    let source = match &lsms.source {
        Source::Mounted => "active, by /sys/kernel/security/lsm".to_owned(),
        Source::Private => {
            "active, by a private securityfs (none is mounted at /sys/kernel/security)".to_owned()
        }
        Source::CommandLine => "asked for by lsm= in /proc/cmdline".to_owned(),
        Source::Config(path) => format!("CONFIG_LSM in {path}"),
    };
    format!("{} ({source})", lsms.names.join(","))
}

/// Where to write which `lsm=`.
fn add_bpf(facts: &Facts) -> String {
    let Some(lsms) = &facts.lsms else {
        return "add `bpf` to the kernel parameter lsm=, and keep what is active now: \
                mount -t securityfs securityfs /sys/kernel/security and run guard doctor again \
                for the whole line"
            .to_owned();
    };
    let line = lsms.with_bpf();
    if is_wsl(&facts.release) {
        return format!(
            "in %UserProfile%\\.wslconfig, section [wsl2], write\n    kernelCommandLine = {line}\n\
             (behind what that line may hold already), then `wsl --shutdown`"
        );
    }
    format!(
        "in /etc/default/grub write into GRUB_CMDLINE_LINUX (in place of any lsm= or security= there)\n    \
         {line}\n\
         then `update-grub` (Debian, Ubuntu) or `grub2-mkconfig -o /boot/grub2/grub.cfg` \
         (Fedora, RHEL, SUSE), and reboot; with another boot loader, put it on the kernel's command line"
    )
}

/// Windows' kernels say so in their release: `5.15.167.4-microsoft-standard-WSL2`.
fn is_wsl(release: &str) -> bool {
    release.to_ascii_lowercase().contains("microsoft")
}

fn lsm_program(facts: &Facts) -> Check {
    let draft = Draft::required("lsm-program", "loading and attaching an LSM program, tried");
    let active = facts.lsms.as_ref().is_some_and(|l| l.has("bpf"));
    let number = |errno: i32| std::io::Error::from_raw_os_error(errno).to_string();
    match &facts.probe {
        Probe::Works => draft.ok("loaded, attached, called"),
        Probe::NeverCalled => draft.missing(
            "loaded and attached, but never called",
            "put `bpf` into the active LSMs, as above",
        ),
        Probe::NotTried => draft.unknown(
            "not tried: it needs root and a kernel with BPF LSM",
            "put right what is missing above",
        ),
        Probe::LoadRefused { errno, others_load } if *others_load => {
            let although = if active {
                ", although the LSM is active"
            } else {
                ""
            };
            draft.missing(
                format!(
                    "this kernel refuses LSM programs{although} ({}); it loads BPF programs of other types",
                    number(*errno)
                ),
                "whoever provides this kernel (a hosted sandbox, a hardened build) has forbidden \
                 them, and no setting of this host allows them: use another kernel or a virtual machine",
            )
        }
        Probe::LoadRefused { errno, .. } => draft.missing(
            format!("no BPF program can be loaded ({})", number(*errno)),
            "run guard on the host instead of in a container, with CAP_BPF and CAP_SYS_ADMIN, and \
             without a seccomp filter that forbids bpf(2)",
        ),
        Probe::AttachRefused { errno } => draft.missing(
            format!(
                "an LSM program loads but cannot be attached ({})",
                number(*errno)
            ),
            "the architecture may lack BPF trampolines (arm64 has them since 6.0), or 38 programs \
             are attached to file_open already: `bpftool link` lists them",
        ),
        Probe::Failed(why) => draft.unknown(why.clone(), "report this with the kernel's version"),
    }
}

fn cgroup(facts: &Facts) -> Check {
    let draft = Draft::required("cgroup2", "cgroup v2");
    match &facts.cgroup {
        Cgroup::Unified(path) => draft.ok(format!("mounted at {}", path.display())),
        Cgroup::Hybrid(path) => draft.ok(format!(
            "mounted at {}, beside v1: sandboxes work, limits of memory, processes and CPU need v2 alone",
            path.display()
        )),
        Cgroup::Absent { known: true } => draft.missing(
            "cgroup v2 not mounted",
            "boot with systemd.unified_cgroup_hierarchy=1, or without systemd: \
             mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
        Cgroup::Absent { known: false } => draft.missing(
            "this kernel has no cgroup v2",
            "boot a kernel built with CONFIG_CGROUPS=y and CONFIG_CGROUP_BPF=y",
        ),
    }
}

fn controllers(facts: &Facts) -> Check {
    let draft = Draft::informational("controllers", "cgroup v2 controllers for limits");
    let lacking: Vec<&str> = ["memory", "pids", "cpu"]
        .into_iter()
        .filter(|name| !facts.controllers.iter().any(|c| c == name))
        .collect();
    if lacking.is_empty() {
        return draft.ok("memory, pids, cpu");
    }
    draft.missing(
        format!("not in cgroup v2: {}", lacking.join(", ")),
        "policies that set process.memory, max_processes or cpu are refused where it takes one of \
         these: boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=",
    )
}

fn bpffs(facts: &Facts) -> Check {
    let draft = Draft::required("bpffs", "bpffs at /sys/fs/bpf");
    match facts.bpffs {
        Bpffs::Mounted => draft.ok("mounted"),
        Bpffs::Mountable => draft.ok("not mounted; guard mounts it when it needs it"),
        Bpffs::Absent => draft.missing(
            "there is no /sys/fs/bpf",
            "mount sysfs (mount -t sysfs sysfs /sys), on a kernel with CONFIG_BPF_SYSCALL=y",
        ),
    }
}

fn lockdown(facts: &Facts) -> Check {
    let draft = Draft::required("lockdown", "kernel lockdown that lets BPF read");
    match facts.lockdown.as_deref() {
        Some("confidentiality") => draft.missing(
            "lockdown confidentiality: BPF programs may not read kernel memory",
            "boot with lockdown=integrity (or none) in place of lockdown=confidentiality",
        ),
        Some(mode) => draft.ok(format!("lockdown {mode}")),
        None if facts.lsms.as_ref().is_some_and(|l| !l.has("lockdown")) => {
            draft.ok("lockdown is not an active LSM")
        }
        None => draft.unknown(
            "the mode could not be read",
            "run it as root: `sudo guard doctor`",
        ),
    }
}

fn seccomp(facts: &Facts) -> Check {
    let draft = Draft::required("seccomp", "seccomp filters");
    if facts.seccomp {
        draft.ok("the kernel has them")
    } else {
        draft.missing(
            "there is no /proc/sys/kernel/seccomp",
            "boot a kernel built with CONFIG_SECCOMP_FILTER=y",
        )
    }
}

fn landlock(facts: &Facts) -> Check {
    let draft = Draft::informational(
        "landlock",
        "Landlock behind BPF LSM, a second wall for files",
    );
    let Some(lsms) = &facts.lsms else {
        return draft.unknown(
            "the list could not be read",
            "run it as root: `sudo guard doctor`",
        );
    };
    match lsms.landlock() {
        LandlockPlace::AfterBpf => draft.ok("active, asked after bpf"),
        LandlockPlace::BeforeBpf if lsms.has("bpf") => draft.missing(
            "active, but asked before bpf: guard does not use it, since what it denies would be \
             missing in the trail",
            format!(
                "the kernel programs hold alone; for both walls boot with `bpf` before \
                 `landlock`:\n    {}",
                lsms.with_bpf()
            ),
        ),
        LandlockPlace::BeforeBpf => draft.missing(
            "active, without bpf",
            "put `bpf` into the active LSMs, as above",
        ),
        LandlockPlace::Absent => draft.missing(
            "not active: the kernel programs hold alone",
            "for a second wall boot a kernel with CONFIG_SECURITY_LANDLOCK=y and put `landlock` \
             after `bpf` in lsm=",
        ),
    }
}

fn jit(facts: &Facts) -> Check {
    let draft = Draft::informational("bpf-jit", "BPF compiled to machine code");
    match facts.jit {
        None => draft.unknown("it cannot be read", "nothing to do"),
        Some(0) => draft.missing(
            "off: every check is interpreted",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Some(_) => draft.ok("on"),
    }
}

fn supervisor(facts: &Facts) -> Check {
    let draft = Draft::informational("supervisor", "a running supervisor");
    if facts.supervisor {
        draft.ok(format!("there is a socket {}", crate::wire::SOCKET_PATH))
    } else {
        draft.missing("none runs", "nothing to do: `guard run` as root starts one")
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
