//! Asks the kernel by trying: loads and attaches the smallest LSM program,
//! and mounts a file system where nobody sees it. For `guard doctor`.

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_LSM: u32 = 29;
const BPF_LSM_MAC: u32 = 27;

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    pad: u32,
}

#[repr(C)]
struct MapLookup {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

const _: () = assert!(size_of::<ProgLoad>() == 120);

/// An instruction: `struct bpf_insn` as one little-endian word on x86 and arm.
const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    (code as u64)
        | ((dst as u64) << 8)
        | ((src as u64) << 12)
        | ((off as u16 as u64) << 16)
        | ((imm as u32 as u64) << 32)
}

/// `r0 = 0; exit`.
const RETURN_ZERO: [u64; 2] = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];

/// Calls bpf(2). A result that is a descriptor is the caller's to own.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: attr is a repr(C) struct with the layout of this command's part
    // of union bpf_attr, valid for reads and writes of its size; the pointers
    // in it point to live buffers of the caller.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr).cast::<c_void>(),
            size_of::<T>(),
        )
    };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(mut attr: ProgLoad, insns: &[u64]) -> io::Result<OwnedFd> {
    attr.insns = insns.as_ptr() as u64;
    attr.insn_cnt = insns.len() as u32;
    attr.license = c"GPL".as_ptr() as u64;
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

/// Loads a program that is no LSM program.
///
/// # Errors
/// What the kernel says.
pub fn load_socket_filter() -> io::Result<()> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
        ..ProgLoad::default()
    };
    load(attr, &RETURN_ZERO).map(drop)
}

/// An attached LSM program that allows everything and notes that it ran.
/// Dropping it detaches it.
#[derive(Debug)]
pub struct LsmProbe {
    ran: OwnedFd,
    /// Holds the program attached.
    _link: OwnedFd,
}

/// Which step of the probe the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum LsmProbeError {
    /// Making its map.
    #[error("making a BPF map: {0}")]
    Map(io::Error),
    /// Loading it.
    #[error("loading an LSM program: {0}")]
    Load(io::Error),
    /// Attaching it.
    #[error("attaching an LSM program: {0}")]
    Attach(io::Error),
}

impl LsmProbe {
    /// Attaches to the hook whose function (`bpf_lsm_…`) has this type id in
    /// the kernel's BTF.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn attach(function: u32) -> Result<Self, LsmProbeError> {
        let mut map = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            ..MapCreate::default()
        };
        let ran = bpf_fd(BPF_MAP_CREATE, &mut map).map_err(LsmProbeError::Map)?;
        let attr = ProgLoad {
            prog_type: BPF_PROG_TYPE_LSM,
            expected_attach_type: BPF_LSM_MAC,
            attach_btf_id: function,
            ..ProgLoad::default()
        };
        // r1 = address of the map's value; *(u64 *)r1 = 1; return 0
        let program = [
            insn(0x18, 1, 2, 0, ran.as_raw_fd()),
            0,
            insn(0x7a, 1, 0, 0, 1),
            RETURN_ZERO[0],
            RETURN_ZERO[1],
        ];
        let link = attach(attr, &program)?;
        Ok(Self { ran, _link: link })
    }

    /// Whether the kernel has run it.
    ///
    /// # Errors
    /// When its map cannot be read.
    pub fn has_run(&self) -> io::Result<bool> {
        let (key, mut value) = (0u32, 0u64);
        let mut lookup = MapLookup {
            map_fd: self.ran.as_raw_fd() as u32,
            pad: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_LOOKUP_ELEM, &mut lookup)?;
        Ok(value != 0)
    }
}

/// Loads an LSM program and attaches it until the descriptor is closed.
fn attach(attr: ProgLoad, program: &[u64]) -> Result<OwnedFd, LsmProbeError> {
    let program = load(attr, program).map_err(LsmProbeError::Load)?;
    let mut open = RawTracepointOpen {
        name: 0,
        prog_fd: program.as_raw_fd() as u32,
        pad: 0,
    };
    bpf_fd(BPF_RAW_TRACEPOINT_OPEN, &mut open).map_err(LsmProbeError::Attach)
}

/// Attaches an LSM program that does nothing, to measure against, until the
/// descriptor is closed. `function` as in [`LsmProbe::attach`].
///
/// # Errors
/// The step that the kernel refused.
pub fn attach_empty(function: u32) -> Result<OwnedFd, LsmProbeError> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_LSM,
        expected_attach_type: BPF_LSM_MAC,
        attach_btf_id: function,
        ..ProgLoad::default()
    };
    attach(attr, &RETURN_ZERO)
}

/// Mounts a file system of this type for this process alone, at no place, and
/// returns its root (fsopen(2), 5.2). Closing it unmounts it.
///
/// # Errors
/// When the kernel has no such type, or the caller may not mount.
pub fn mount_detached(fs_type: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    let owned = |result: libc::c_long| match i32::try_from(result) {
        // SAFETY: fsopen and fsmount return a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: fs_type is NUL-terminated.
    let context =
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: CMD_CREATE takes no key, no value and no auxiliary number.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<c_void>(),
            0,
        )
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    // SAFETY: takes the context's descriptor and two integers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes as libc::c_uint,
        )
    })
}
