//! Loading the programs, attaching and pinning them; or adopting what a
//! former supervisor left.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, Lsm, Program, ProgramError,
};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use guard_common::offsets::{DENTRY_HEAD, Offsets};
use sha2::{Digest, Sha256};

use super::btf::Btf;
use super::error::KernelError;

/// The compiled kernel programs, committed beside their source.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../guard-ebpf/guard.bpf.o");

/// bpffs, where systemd and most distributions mount it.
const BPFFS: &str = "/sys/fs/bpf";

/// LSM hooks, by program name (which is the hook's).
pub const LSM_PROGRAMS: &[&str] = &[
    "file_open",
    "bprm_check_security",
    "mmap_file",
    "socket_create",
    "socket_connect",
];

/// Programs on the parent cgroup.
pub const CGROUP_PROGRAMS: &[(&str, CgroupSockAddrAttachType)] = &[
    ("guard_connect4", CgroupSockAddrAttachType::Connect4),
    ("guard_connect6", CgroupSockAddrAttachType::Connect6),
    ("guard_sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    ("guard_sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
];

/// Maps that outlive the supervisor.
pub const MAPS: &[&str] = &[
    "CONFIG",
    "SANDBOXES",
    "SLOTS",
    "ARENA",
    "COUNTERS",
    "DENIALS",
    "ALLOWS",
];

/// What one program cost to load.
#[derive(Clone, Debug)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier walked.
    pub verified: u32,
    /// Time to verify and compile.
    pub time: std::time::Duration,
}

/// Maps and programs that are in force.
pub struct Loaded {
    /// By name.
    pub maps: BTreeMap<&'static str, Map>,
    /// The cgroup programs, to attach to the parent.
    pub cgroup: Vec<(&'static str, CgroupSockAddr)>,
    /// Where they are pinned.
    pub dir: PathBuf,
    /// Whether they were there before.
    pub adopted: bool,
    /// Costs, when they were loaded now.
    pub costs: Vec<ProgramCost>,
}

/// The name of this version's pin directory: by the object's digest, so that
/// programs and layouts of another build are never mixed with this one's.
fn version() -> String {
    use std::fmt::Write;
    let digest = Sha256::digest(OBJECT);
    digest.iter().take(8).fold(String::from("v"), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// Root of all pins.
#[must_use]
pub fn pin_root() -> PathBuf {
    Path::new(BPFFS).join("guard")
}

/// Loads or adopts.
///
/// # Errors
/// When this kernel cannot run the programs.
pub fn load_or_adopt() -> Result<Loaded, KernelError> {
    mount_bpffs()?;
    let dir = pin_root().join(version());
    if dir.join("ready").is_dir() {
        return adopt(&dir);
    }
    // Left by a supervisor that died while it was loading: nothing runs under it.
    remove_tree(&dir)?;
    refuse_other_version(&dir)?;
    load(&dir)
}

fn load(dir: &Path) -> Result<Loaded, KernelError> {
    let offsets = read_offsets()?;
    let kernel = kernel_release();
    let btf = aya::Btf::from_sys_fs().map_err(|e| KernelError::Map {
        map: "BTF",
        reason: e.to_string(),
    })?;
    for sub in ["maps", "links", "programs"] {
        make_dir(&dir.join(sub))?;
    }
    let slots = dir.join("maps/SLOTS");
    super::slots::create(&slots)?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("OFFSETS", &offsets, true)
        .map_pin_path("SLOTS", &slots)
        .load(OBJECT)
        .map_err(|e| KernelError::Load(Box::new(e)))?;
    let mut maps = BTreeMap::new();
    for name in MAPS {
        let map = ebpf.take_map(name).ok_or(KernelError::Map {
            map: name,
            reason: "not in the object".into(),
        })?;
        let path = dir.join("maps").join(name);
        if path != slots {
            map.pin(&path).map_err(KernelError::pin("pin", &path))?;
        }
        maps.insert(*name, map);
    }
    let mut costs = Vec::new();
    for name in LSM_PROGRAMS {
        load_lsm(&mut ebpf, name, &btf, &kernel, dir, &mut costs)?;
    }
    for (name, _) in CGROUP_PROGRAMS {
        load_cgroup(&mut ebpf, name, &kernel, dir, &mut costs)?;
    }
    make_dir(&dir.join("ready"))?;
    Ok(Loaded {
        maps,
        cgroup: open_cgroup_programs(dir)?,
        dir: dir.to_path_buf(),
        adopted: false,
        costs,
    })
}

fn adopt(dir: &Path) -> Result<Loaded, KernelError> {
    let mut maps = BTreeMap::new();
    for name in MAPS {
        let path = dir.join("maps").join(name);
        let data = MapData::from_pin(&path).map_err(KernelError::pin("open", &path))?;
        maps.insert(
            *name,
            Map::from_map_data(data).map_err(KernelError::map(name))?,
        );
    }
    for name in LSM_PROGRAMS {
        let path = dir.join("links").join(name);
        // Opened to see that it is there; the pin keeps it attached.
        PinnedLink::from_pin(&path).map_err(KernelError::pin("open", &path))?;
    }
    Ok(Loaded {
        maps,
        cgroup: open_cgroup_programs(dir)?,
        dir: dir.to_path_buf(),
        adopted: true,
        costs: Vec::new(),
    })
}

fn open_cgroup_programs(dir: &Path) -> Result<Vec<(&'static str, CgroupSockAddr)>, KernelError> {
    CGROUP_PROGRAMS
        .iter()
        .map(|(name, attach)| {
            let path = dir.join("programs").join(name);
            let program = CgroupSockAddr::from_pin(&path, *attach)
                .map_err(KernelError::pin("open", &path))?;
            Ok((*name, program))
        })
        .collect()
}

fn refused(program: &str, kernel: &str, error: &ProgramError) -> KernelError {
    let reason = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(12)..].join("\n");
            format!("{io_error}\n{tail}")
        }
        other => super::error::chain(other),
    };
    KernelError::Program {
        program: program.into(),
        kernel: kernel.into(),
        reason,
    }
}

fn load_lsm(
    ebpf: &mut Ebpf,
    name: &'static str,
    btf: &aya::Btf,
    kernel: &str,
    dir: &Path,
    costs: &mut Vec<ProgramCost>,
) -> Result<(), KernelError> {
    let no_program = || KernelError::Program {
        program: name.into(),
        kernel: kernel.into(),
        reason: "not in the object".into(),
    };
    let fail = |e: ProgramError| refused(name, kernel, &e);
    let program: &mut Lsm = ebpf
        .program_mut(name)
        .ok_or_else(no_program)?
        .try_into()
        .map_err(fail)?;
    let start = std::time::Instant::now();
    program.load(name, btf).map_err(fail)?;
    costs.push(cost(name, start, program.info()));
    let id = program.attach().map_err(fail)?;
    let link = program.take_link(id).map_err(fail)?;
    let link: FdLink = link.into();
    let path = dir.join("links").join(name);
    link.pin(&path).map_err(KernelError::pin("pin", &path))?;
    Ok(())
}

fn load_cgroup(
    ebpf: &mut Ebpf,
    name: &'static str,
    kernel: &str,
    dir: &Path,
    costs: &mut Vec<ProgramCost>,
) -> Result<(), KernelError> {
    let fail = |e: ProgramError| refused(name, kernel, &e);
    let Some(Program::CgroupSockAddr(program)) = ebpf.program_mut(name) else {
        return Err(KernelError::Program {
            program: name.into(),
            kernel: kernel.into(),
            reason: "not in the object".into(),
        });
    };
    let start = std::time::Instant::now();
    program.load().map_err(fail)?;
    costs.push(cost(name, start, program.info()));
    let path = dir.join("programs").join(name);
    program.pin(&path).map_err(KernelError::pin("pin", &path))?;
    Ok(())
}

fn cost(
    name: &str,
    start: std::time::Instant,
    info: Result<aya::programs::ProgramInfo, ProgramError>,
) -> ProgramCost {
    let verified = info
        .ok()
        .and_then(|i| i.verified_instruction_count())
        .unwrap_or(0);
    ProgramCost {
        name: name.into(),
        verified,
        time: start.elapsed(),
    }
}

/// Attaches the cgroup programs to the parent and pins the links, replacing
/// those of a parent that is gone.
///
/// # Errors
/// When one cannot be attached.
pub fn attach_cgroup(loaded: &mut Loaded, parent: &std::fs::File) -> Result<(), KernelError> {
    let kernel = kernel_release();
    for (name, program) in &mut loaded.cgroup {
        let fail = |e: ProgramError| refused(name, &kernel, &e);
        let path = loaded.dir.join("links").join(&**name);
        remove_file(&path)?;
        let id = program
            .attach(parent.as_fd(), CgroupAttachMode::Single)
            .map_err(fail)?;
        let link = program.take_link(id).map_err(fail)?;
        let link: FdLink = link
            .try_into()
            .map_err(|_| KernelError::pin("pin", &path)("the kernel has no cgroup links"))?;
        link.pin(&path).map_err(KernelError::pin("pin", &path))?;
    }
    Ok(())
}

/// Where the kernel's fields lie.
///
/// # Errors
/// When one is missing, or lies where the programs do not look.
pub fn read_offsets() -> Result<Offsets, KernelError> {
    let btf = Btf::vmlinux()?;
    let mut values = [0; Offsets::FIELDS.len()];
    for (value, (structure, field)) in values.iter_mut().zip(Offsets::FIELDS) {
        *value = btf.offset(structure, field)?;
    }
    let offsets = Offsets::from_array(values);
    let head = [
        ("d_flags", offsets.dentry_flags, 4),
        ("d_hash.pprev", offsets.dentry_hashed, 8),
        ("d_parent", offsets.dentry_parent, 8),
        ("d_name.len", offsets.dentry_name_len, 4),
        ("d_name.name", offsets.dentry_name, 8),
    ];
    for (field, offset, size) in head {
        if (offset + size) as usize > DENTRY_HEAD {
            return Err(KernelError::Layout {
                structure: "dentry",
                field,
                offset,
            });
        }
    }
    Ok(offsets)
}

/// The running kernel's release, for messages.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "?".into(),
        |u| u.release().to_string_lossy().into_owned(),
    )
}

fn mount_bpffs() -> Result<(), KernelError> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let path = Path::new(BPFFS);
    let stat = nix::sys::statfs::statfs(path)
        .map_err(|e| KernelError::io(format!("look at {BPFFS}"))(e.into()))?;
    if stat.filesystem_type().0 as i64 == BPF_FS_MAGIC {
        return Ok(());
    }
    nix::mount::mount(
        Some("bpf"),
        path,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|e| KernelError::io(format!("mount bpffs at {BPFFS}"))(e.into()))
}

fn make_dir(path: &Path) -> Result<(), KernelError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(KernelError::io(format!(
            "make the directory {}",
            path.display()
        )))
}

fn remove_file(path: &Path) -> Result<(), KernelError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove {}", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// Removes a directory of pins: detaches what only they held.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_tree(dir: &Path) -> Result<(), KernelError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove {}", dir.display()))(e))
        }
        _ => Ok(()),
    }
}

/// Two versions' programs would both judge, each knowing only its own
/// sandboxes: the other's tasks are in no sandbox of ours and would be denied.
/// A version without sandboxes is cleared away.
fn refuse_other_version(own: &Path) -> Result<(), KernelError> {
    let Ok(entries) = std::fs::read_dir(pin_root()) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path == own {
            continue;
        }
        let sandboxes = MapData::from_pin(path.join("maps/SANDBOXES"))
            .ok()
            .and_then(|d| Map::from_map_data(d).ok());
        if let Some(map) = &sandboxes {
            let entries =
                aya::maps::HashMap::<_, u64, guard_common::sandbox::SandboxEntry>::try_from(map);
            if entries.map_or(true, |m| m.keys().next().is_some()) {
                return Err(KernelError::OtherVersion { path });
            }
        }
        remove_tree(&path)?;
    }
    Ok(())
}
