use super::super::can_enforce;
use super::*;

fn lsms(names: &str, source: Source) -> Option<Lsms> {
    Some(Lsms {
        names: names.split(',').map(str::to_owned).collect(),
        source,
    })
}

/// A host that can enforce.
fn good() -> Facts {
    Facts {
        uid: 0,
        capabilities: u64::MAX,
        release: "6.12.9".into(),
        build: "#1".into(),
        signature: None,
        btf: BtfFact::Present {
            lsm: true,
            path: true,
        },
        lsms: lsms("capability,landlock,bpf", Source::Mounted),
        probe: Probe::Works,
        cgroup: Cgroup::Unified("/sys/fs/cgroup".into()),
        controllers: ["cpu", "memory", "pids"].map(str::to_owned).to_vec(),
        bpffs: Bpffs::Mounted,
        lockdown: Some("integrity".into()),
        seccomp: true,
        jit: Some(1),
        supervisor: false,
    }
}

/// One thing is wrong: which checks stop, and what do they say?
fn stops(wrong: impl FnOnce(&mut Facts)) -> Vec<(&'static str, String)> {
    let mut facts = good();
    wrong(&mut facts);
    let checks = checks(&facts);
    let stopping: Vec<_> = checks
        .iter()
        .filter(|c| c.stops())
        .map(|c| {
            (
                c.id,
                format!("{} / {}", c.found, c.action.clone().unwrap_or_default()),
            )
        })
        .collect();
    assert_eq!(can_enforce(&checks), stopping.is_empty());
    stopping
}

/// Exactly this check stops, and says this.
#[track_caller]
fn only(id: &str, words: &[&str], wrong: impl FnOnce(&mut Facts)) {
    let stopping = stops(wrong);
    assert_eq!(stopping.len(), 1, "{stopping:?}");
    assert_eq!(stopping[0].0, id);
    for word in words {
        assert!(
            stopping[0].1.contains(word),
            "no {word:?} in {:?}",
            stopping[0].1
        );
    }
}

#[test]
fn a_good_host_enforces() {
    assert_eq!(stops(|_| {}), []);
    assert_eq!(
        stops(|f| f.cgroup = Cgroup::Hybrid("/sys/fs/cgroup/unified".into())),
        []
    );
    assert_eq!(stops(|f| f.bpffs = Bpffs::Mountable), []);
    assert_eq!(stops(|f| f.lockdown = None), []);
    // Information never stops.
    assert_eq!(stops(|f| (f.jit, f.supervisor) = (Some(0), false)), []);
    // What the kernel did outweighs what a list says.
    assert_eq!(stops(|f| f.lsms = None), []);
    assert_eq!(
        stops(|f| f.lsms = lsms("landlock", Source::Config("/boot/c".into()))),
        []
    );
}

#[test]
fn each_missing_thing_is_told_apart() {
    only("root", &["uid 1000", "sudo"], |f| f.uid = 1000);
    only("root", &["CAP_BPF"], |f| f.capabilities &= !(1 << 39));
    only("kernel", &["older than 6.1.54", "6.1.53"], |f| {
        f.release = "6.1.53".into()
    });
    only("kernel", &["names no version"], |f| {
        f.release = "mine".into()
    });
    only(
        "lockdown",
        &["confidentiality", "lockdown=integrity"],
        |f| {
            f.lockdown = Some("confidentiality".into());
        },
    );
    only("lockdown", &["could not be read"], |f| {
        f.lockdown = None;
        f.lsms = lsms("lockdown,bpf", Source::Mounted);
    });
    only("seccomp", &["CONFIG_SECCOMP_FILTER"], |f| f.seccomp = false);
    only("bpffs", &["/sys/fs/bpf"], |f| f.bpffs = Bpffs::Absent);
    only(
        "cgroup2",
        &["not mounted", "unified_cgroup_hierarchy=1"],
        |f| {
            f.cgroup = Cgroup::Absent { known: true };
        },
    );
    only("cgroup2", &["no cgroup v2"], |f| {
        f.cgroup = Cgroup::Absent { known: false }
    });
    only("security-path", &["CONFIG_SECURITY_PATH"], |f| {
        f.btf = BtfFact::Present {
            lsm: true,
            path: false,
        };
    });
}

#[test]
fn no_btf_leaves_what_depends_on_it_unknown() {
    let stopping = stops(|f| (f.btf, f.probe) = (BtfFact::Absent, Probe::NotTried));
    let ids: Vec<_> = stopping.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["btf", "bpf-lsm", "security-path", "lsm-program"]);
    assert!(stopping[0].1.contains("no BTF"));
}

#[test]
fn a_kernel_that_refuses_lsm_programs_is_told_from_one_without_the_lsm() {
    let refused = |others_load| Probe::LoadRefused {
        errno: libc::EPERM,
        others_load,
    };
    only(
        "lsm-program",
        &[
            "refuses LSM programs, although the LSM is active",
            "not permitted",
        ],
        |f| {
            f.probe = refused(true);
        },
    );
    only("lsm-program", &["no BPF program can be loaded"], |f| {
        f.probe = refused(false)
    });
    only("lsm-program", &["cannot be attached"], |f| {
        f.probe = Probe::AttachRefused { errno: libc::EBUSY };
    });
    let stopping = stops(|f| {
        f.lsms = lsms("capability,yama", Source::Mounted);
        f.probe = Probe::NeverCalled;
    });
    let ids: Vec<_> = stopping.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["lsm-list", "lsm-program"]);
}

#[test]
fn the_whole_lsm_line_is_printed_for_the_boot_loader_that_is_there() {
    let inactive = |f: &mut Facts| {
        f.lsms = lsms("capability,landlock,yama,apparmor", Source::Private);
        f.probe = Probe::NeverCalled;
    };
    let said = |wrong: fn(&mut Facts)| {
        let mut facts = good();
        inactive(&mut facts);
        wrong(&mut facts);
        let check = lsm_list(&facts);
        assert!(check.stops());
        check.action.unwrap()
    };
    let grub = said(|_| {});
    assert!(grub.contains("lsm=bpf,landlock,yama,apparmor\n"), "{grub}");
    assert!(grub.contains("GRUB_CMDLINE_LINUX") && !grub.contains("wslconfig"));
    let wsl = said(|f| f.release = "6.6.87.2-microsoft-standard-WSL2".into());
    assert!(
        wsl.contains("kernelCommandLine = lsm=bpf,landlock,yama,apparmor\n"),
        "{wsl}"
    );
    assert!(wsl.contains(".wslconfig") && !wsl.contains("GRUB"));
    let unknown = said(|f| f.lsms = None);
    assert!(unknown.contains("keep what is active now"), "{unknown}");
}

#[test]
fn a_list_that_is_only_asked_for_is_not_proof() {
    let stopping = stops(|f| {
        f.uid = 1000;
        f.probe = Probe::NotTried;
        f.lsms = lsms("landlock,bpf", Source::CommandLine);
    });
    let ids: Vec<_> = stopping.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ["root", "lsm-list", "lsm-program"]);
}

#[test]
fn every_check_has_its_own_id_and_says_what_to_do() {
    let mut bad = good();
    bad.uid = 1;
    bad.btf = BtfFact::Absent;
    bad.probe = Probe::NotTried;
    bad.lsms = None;
    bad.seccomp = false;
    for facts in [good(), bad] {
        let checks = checks(&facts);
        let ids: std::collections::BTreeSet<_> = checks.iter().map(|c| c.id).collect();
        assert_eq!(ids.len(), checks.len());
        for check in checks {
            assert!(!check.found.is_empty(), "{}", check.id);
            assert_eq!(
                check.action.is_some(),
                check.state != State::Ok,
                "{}",
                check.id
            );
        }
    }
}

/// What a check that stops nothing says.
fn informs(id: &str, wrong: impl FnOnce(&mut Facts)) -> (State, String) {
    let mut facts = good();
    wrong(&mut facts);
    let all = checks(&facts);
    let check = all.into_iter().find(|c| c.id == id).unwrap();
    assert!(!check.required);
    let action = check.action.unwrap_or_default();
    (check.state, format!("{} / {action}", check.found))
}

#[test]
fn landlock_is_of_use_behind_bpf_only() {
    let behind = |f: &mut Facts| f.lsms = lsms("lockdown,bpf,landlock", Source::Mounted);
    assert_eq!(informs("landlock", behind).0, State::Ok);
    let (state, said) = informs("landlock", |_| {});
    assert_eq!(state, State::Missing);
    assert!(said.contains("lsm=bpf,landlock"), "{said}");
    let (state, said) = informs("landlock", |f| f.lsms = lsms("bpf", Source::Mounted));
    assert_eq!(state, State::Missing);
    assert!(said.contains("not active"), "{said}");
}

#[test]
fn controllers_that_v1_has_are_missing() {
    assert_eq!(informs("controllers", |_| {}).0, State::Ok);
    let (state, said) = informs("controllers", |f| f.controllers = vec!["pids".into()]);
    assert_eq!(state, State::Missing);
    assert!(said.contains("not in cgroup v2: memory, cpu"), "{said}");
}
