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
use guard_common::limits::{ARENA_SIZE, MAX_SANDBOXES};
use guard_common::names::Splices;
use guard_common::sandbox::{CELLS, CONNECTS, Cell, Config, Connect, Directories, Memo};
use sha2::{Digest, Sha256};

use super::btf::Btf;
use super::error::KernelError;
use super::facts;

/// The compiled kernel programs, committed beside their source.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../guard-ebpf/guard.bpf.o");

/// bpffs, where systemd and most distributions mount it.
const BPFFS: &str = "/sys/fs/bpf";

/// A hook and its program.
struct Hook {
    /// The program.
    program: &'static str,
    /// The hook.
    hook: &'static str,
    /// The arguments that the hook has where this program fits; `None` where
    /// they are the same on all kernels.
    arguments: Option<usize>,
    /// Not on all kernels: what comes there passes another hook on the others.
    later: bool,
}

const fn hook(program: &'static str) -> Hook {
    Hook {
        program,
        hook: program,
        arguments: None,
        later: false,
    }
}

const fn later(program: &'static str) -> Hook {
    Hook {
        later: true,
        ..hook(program)
    }
}

const fn form(program: &'static str, hook: &'static str, arguments: usize) -> Hook {
    Hook {
        program,
        hook,
        arguments: Some(arguments),
        later: false,
    }
}

/// The LSM programs.
const HOOKS: &[Hook] = &[
    hook("file_open"),
    hook("file_receive"),
    hook("bprm_check_security"),
    hook("mmap_file"),
    hook("file_mprotect"),
    hook("path_mknod"),
    hook("path_mkdir"),
    hook("path_symlink"),
    hook("path_rmdir"),
    hook("path_unlink"),
    hook("path_link"),
    hook("path_rename"),
    hook("path_truncate"),
    later("file_truncate"),
    hook("path_chmod"),
    hook("path_chown"),
    hook("path_notify"),
    form("inode_setattr_2", "inode_setattr", 2),
    form("inode_setattr_3", "inode_setattr", 3),
    form("inode_setxattr_6", "inode_setxattr", 6),
    form("inode_removexattr_3", "inode_removexattr", 3),
    later("inode_set_acl"),
    later("inode_remove_acl"),
    later("inode_file_setattr"),
    hook("socket_create"),
    hook("socket_connect"),
    hook("socket_bind"),
    hook("socket_listen"),
    hook("unix_stream_connect"),
    hook("unix_may_send"),
    hook("ptrace_access_check"),
    hook("ptrace_traceme"),
    hook("task_kill"),
    hook("task_setscheduler"),
    hook("task_setnice"),
    hook("task_setioprio"),
    hook("task_setrlimit"),
    hook("task_movememory"),
    hook("sb_mount"),
    hook("sb_umount"),
    hook("sb_remount"),
    hook("sb_pivotroot"),
    hook("move_mount"),
    hook("path_chroot"),
    hook("userns_create"),
    form("bpf_3", "bpf", 3),
    form("bpf_4", "bpf", 4),
    form("perf_event_open_2", "perf_event_open", 2),
    form("perf_event_open_1", "perf_event_open", 1),
    hook("kernel_module_request"),
    hook("kernel_load_data"),
    hook("kernel_read_file"),
    hook("key_alloc"),
    hook("key_permission"),
    hook("syslog"),
    hook("uring_override_creds"),
    hook("uring_sqpoll"),
    hook("uring_cmd"),
];

/// The programs that fit the running kernel. Hooks of whose forms none fits
/// are a refusal.
fn fitting(btf: &Btf) -> Result<Vec<&'static Hook>, KernelError> {
    let mut fitting: Vec<&'static Hook> = Vec::new();
    for hook in HOOKS {
        let arguments = btf.arguments(&format!("bpf_lsm_{}", hook.hook));
        let fits = match (arguments, hook.arguments) {
            (Some(found), Some(wanted)) => found == wanted,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if fits {
            fitting.push(hook);
        }
    }
    match HOOKS
        .iter()
        .find(|h| !h.later && !fitting.iter().any(|f| f.hook == h.hook))
    {
        None => Ok(fitting),
        Some(missing) => Err(KernelError::Hook(missing.hook)),
    }
}

/// Programs on the parent cgroup.
pub const CGROUP_PROGRAMS: &[(&str, CgroupSockAddrAttachType)] = &[
    ("guard_connect4", CgroupSockAddrAttachType::Connect4),
    ("guard_connect6", CgroupSockAddrAttachType::Connect6),
    ("guard_sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    ("guard_sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
    ("guard_recvmsg4", CgroupSockAddrAttachType::UDPRecvMsg4),
    ("guard_recvmsg6", CgroupSockAddrAttachType::UDPRecvMsg6),
    ("guard_getpeer4", CgroupSockAddrAttachType::GetPeerName4),
    ("guard_getpeer6", CgroupSockAddrAttachType::GetPeerName6),
];

/// Memory that the programs address without a lookup: pins, the sections of
/// the object that they are made of, and bytes.
const MEMORY: &[(&str, &str, usize)] = &[
    ("CONFIG", ".bss.config", size_of::<Config>()),
    ("CELLS", ".bss.cells", CELLS * size_of::<Cell>()),
    ("ARENA", ".bss.arena", ARENA_SIZE as usize),
    (
        "MEMO",
        ".bss.memo",
        MAX_SANDBOXES as usize * size_of::<Memo>(),
    ),
    (
        "DIRECTORIES",
        ".bss.directories",
        MAX_SANDBOXES as usize * size_of::<Directories>(),
    ),
    (
        "SPLICES",
        ".bss.splices",
        MAX_SANDBOXES as usize * size_of::<Splices>(),
    ),
    ("CONNECTS", ".bss.connects", CONNECTS * size_of::<Connect>()),
];

/// Maps that outlive the supervisor.
pub const MAPS: &[&str] = &[
    "CONFIG",
    "CELLS",
    "SANDBOXES",
    "SLOTS",
    "ARENA",
    "MEMO",
    "DIRECTORIES",
    "SPLICES",
    "CONNECTS",
    "HARD_LINKS",
    "ABSTRACT_NAMES",
    "NAMED_ADDRESSES",
    "RESOLVERS",
    "ORIGINS",
    "COUNTERS",
    "SCRATCH",
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
    // Nothing runs under what could not be completed. Should it stay, the next
    // load removes it.
    load(&dir).inspect_err(|_| drop(clear()))
}

fn load(dir: &Path) -> Result<Loaded, KernelError> {
    let types = Btf::vmlinux()?;
    let hooks = fitting(&types)?;
    let object = facts::apply(OBJECT, &facts::read(&types)?)?;
    let kernel = kernel_release();
    let btf = aya::Btf::from_sys_fs().map_err(|e| KernelError::Map {
        map: "BTF",
        reason: e.to_string(),
    })?;
    for sub in ["maps", "links", "programs"] {
        make_dir(&dir.join(sub))?;
    }
    let pin = |name: &str| dir.join("maps").join(name);
    // What must be made in another way than the loader would: it takes what is pinned.
    super::slots::create(&pin("SLOTS"))?;
    for (name, _, size) in MEMORY {
        super::memory::create(name, *size, &pin(name))?;
    }
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .verifier_log_level(VerifierLogLevel::STATS)
        .map_pin_path("SLOTS", pin("SLOTS"));
    for (name, section, _) in MEMORY {
        loader.map_pin_path(section, pin(name));
    }
    let mut ebpf = loader
        .load(&object)
        .map_err(|e| KernelError::Load(Box::new(e)))?;
    let mut maps = BTreeMap::new();
    for name in MAPS {
        let section = MEMORY.iter().find(|(memory, ..)| memory == name);
        let map = section.map_or(*name, |(_, section, _)| section);
        let map = ebpf.take_map(map).ok_or(KernelError::Map {
            map: name,
            reason: "not in the object".into(),
        })?;
        if section.is_none() && *name != "SLOTS" {
            let path = pin(name);
            map.pin(&path).map_err(KernelError::pin("pin", &path))?;
        }
        maps.insert(*name, map);
    }
    let mut costs = Vec::new();
    for hook in hooks {
        load_lsm(&mut ebpf, hook, &btf, &kernel, dir, &mut costs)?;
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
        let path = there(dir.join("maps").join(name))?;
        let data = MapData::from_pin(&path).map_err(KernelError::pin("open", &path))?;
        maps.insert(
            *name,
            Map::from_map_data(data).map_err(KernelError::map(name))?,
        );
    }
    for hook in fitting(&Btf::vmlinux()?)? {
        let path = there(dir.join("links").join(hook.program))?;
        // Opened to see that it is a link; the pin keeps it attached.
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

/// A pin, if it is there.
fn there(path: PathBuf) -> Result<PathBuf, KernelError> {
    match path.try_exists() {
        Ok(false) => Err(KernelError::PinGone { path }),
        _ => Ok(path),
    }
}

/// Removes what is left of this version's pins, whatever is missing of them.
/// Only when no server runs under them.
///
/// # Errors
/// When one cannot be removed.
pub fn clear() -> Result<(), KernelError> {
    remove_tree(&pin_root().join(version()))?;
    // Other versions' pins may be there: then the root stays.
    let _ = std::fs::remove_dir(pin_root());
    Ok(())
}

fn open_cgroup_programs(dir: &Path) -> Result<Vec<(&'static str, CgroupSockAddr)>, KernelError> {
    CGROUP_PROGRAMS
        .iter()
        .map(|(name, attach)| {
            let path = there(dir.join("programs").join(name))?;
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
    hook: &'static Hook,
    btf: &aya::Btf,
    kernel: &str,
    dir: &Path,
    costs: &mut Vec<ProgramCost>,
) -> Result<(), KernelError> {
    let name = hook.program;
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
    program.load(hook.hook, btf).map_err(fail)?;
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
        let link: FdLink = link.try_into().map_err(|_| KernelError::Pin {
            action: "pin",
            path: path.clone(),
            reason: "the kernel has no cgroup links".into(),
        })?;
        link.pin(&path).map_err(KernelError::pin("pin", &path))?;
    }
    Ok(())
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
