//! The calls that the filter does not simply allow.
//!
//! Allowed on purpose, since they open nothing by themselves:
//! `name_to_handle_at` (a handle is of use to `open_by_handle_at` only),
//! `pidfd_open` and `pidfd_send_signal` (runtimes wait for their children so;
//! signals are judged by the kernel programs), `seccomp` and `landlock_*` (a
//! server may narrow itself further; a stricter answer of its own filter wins),
//! `memfd_create` (code in memory is denied by the kernel programs), `statmount`,
//! `listmount`, `adjtimex` (they read; setting the clock needs a capability).

use super::program::Assembler;
use super::program::Label;

/// A call that is not simply allowed.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) check: Check,
}

/// When it is refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// Always.
    Always,
    /// It seems to be absent, so that libraries fall back.
    Absent,
    /// When the argument has any of these bits.
    AnyBit(u32, u32),
    /// When the argument is one of these.
    OneOf(u32, &'static [u32]),
    /// When the argument is none of these.
    NoneOf(u32, &'static [u32]),
    /// A socket of another family than unix, IPv4, IPv6, and netlink but ROUTE.
    Socket,
    /// A command that changes files or directories where no kernel program
    /// looks, types on a terminal, or has others signalled.
    Ioctl,
    /// Setting limits of another process.
    OtherLimits,
}

impl Check {
    /// The argument that decides.
    pub(super) const fn argument(self) -> Option<usize> {
        match self {
            Self::Always | Self::Absent => None,
            Self::AnyBit(n, _) | Self::OneOf(n, _) | Self::NoneOf(n, _) => Some(n as usize),
            Self::Socket | Self::OtherLimits => Some(0),
            Self::Ioctl => Some(1),
        }
    }

    /// Goes to `refuse` or falls through to what allows.
    pub(super) fn assemble(self, asm: &mut Assembler, refuse: Label) {
        let allow = asm.label();
        match self {
            Self::Always | Self::Absent => asm.jump(refuse),
            Self::AnyBit(argument, mask) => {
                asm.load_low(argument);
                asm.if_any_bit(mask, refuse);
            }
            Self::OneOf(argument, values) => {
                asm.load_low(argument);
                for value in values {
                    asm.if_equal(*value, refuse);
                }
            }
            Self::NoneOf(argument, values) => {
                asm.load_low(argument);
                for value in values {
                    asm.if_equal(*value, allow);
                }
                asm.jump(refuse);
            }
            Self::Socket => {
                asm.load_low(0);
                for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
                    asm.if_equal(family.cast_unsigned(), allow);
                }
                asm.unless_equal(libc::AF_NETLINK.cast_unsigned(), refuse);
                asm.load_low(2);
                asm.unless_equal(libc::NETLINK_ROUTE.cast_unsigned(), refuse);
            }
            Self::Ioctl => {
                let files = asm.label();
                asm.load_low(1);
                for command in TERMINAL_COMMANDS.iter().chain(OWNER_COMMANDS) {
                    asm.if_equal(*command, refuse);
                }
                asm.and(0xff00);
                for group in FILE_GROUPS {
                    asm.if_equal(u32::from(*group) << 8, files);
                }
                asm.jump(allow);
                asm.place(files);
                asm.load_low(1);
                for command in FILE_COMMANDS_ALLOWED {
                    asm.if_equal(*command, allow);
                }
                asm.jump(refuse);
            }
            Self::OtherLimits => {
                asm.load_low(0);
                asm.if_equal(0, allow);
                asm.load_low(2);
                asm.unless_equal(0, refuse);
                asm.load_high(2);
                asm.unless_equal(0, refuse);
            }
        }
        asm.place(allow);
    }
}

/// All namespaces (include/uapi/linux/sched.h) but that of time, whose bit is
/// part of `clone`'s signal.
const NAMESPACES: u32 = 0x7e02_0000;
const TIME_NAMESPACE: u32 = 0x80;

/// Input for whoever reads the terminal, the console's own commands, the
/// console's output, and line disciplines (include/uapi/asm-generic/ioctls.h:
/// `TIOCSTI`, `TIOCLINUX`, `TIOCCONS`, `TIOCSETD`).
const TERMINAL_COMMANDS: &[u32] = &[0x5412, 0x541c, 0x541d, 0x5423];

/// `F_SETOWN`, `F_SETOWN_EX` (include/uapi/asm-generic/fcntl.h): whom the
/// kernel signals for a descriptor, with `F_SETSIG` by any signal, and without
/// asking about who made it so.
const OWNERS: &[u32] = &[8, 15];
/// The same: `FIOSETOWN`, `SIOCSPGRP` (include/uapi/asm-generic/sockios.h).
const OWNER_COMMANDS: &[u32] = &[0x8901, 0x8902];

/// Groups of commands with which file systems change files without a hook
/// (flags, versions, encryption, verity, extents, snapshots, subvolumes): `f`
/// of ext2 and its heirs, fsverity and fscrypt, `v` of ext2, `X` of XFS and
/// the generic ones, 0x94 of btrfs and the generic ones.
const FILE_GROUPS: &[u8] = &[b'f', b'v', b'X', 0x94];

/// Of these, what only reads, and what needs the target open for writing
/// (include/uapi/linux/{fs,fiemap,fsverity,fscrypt}.h).
const FILE_COMMANDS_ALLOWED: &[u32] = &[
    0x8008_6601, // FS_IOC_GETFLAGS
    0x8004_6601, // FS_IOC32_GETFLAGS
    0x8008_7601, // FS_IOC_GETVERSION
    0x8004_7601, // FS_IOC32_GETVERSION
    0xc020_660b, // FS_IOC_FIEMAP
    0x801c_581f, // FS_IOC_FSGETXATTR
    0xc004_6686, // FS_IOC_MEASURE_VERITY
    0xc028_6687, // FS_IOC_READ_VERITY_METADATA
    0x400c_6615, // FS_IOC_GET_ENCRYPTION_POLICY
    0xc009_6616, // FS_IOC_GET_ENCRYPTION_POLICY_EX
    0xc080_661a, // FS_IOC_GET_ENCRYPTION_KEY_STATUS
    0x8010_661b, // FS_IOC_GET_ENCRYPTION_NONCE
    0x8100_9431, // FS_IOC_GETFSLABEL
    0x4004_9409, // FICLONE
    0x4020_940d, // FICLONERANGE
    0xc018_9436, // FIDEDUPERANGE
];

/// `PR_SET_MM` (include/uapi/linux/prctl.h): what `/proc/PID/exe` shows could
/// be changed with it.
const PR_SET_MM: u32 = 35;

/// The personality of every program, and the question which one it is.
const PERSONALITIES: &[u32] = &[0, u32::MAX];

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), libc::$name)),*]
    };
}

/// Refused whatever their arguments are.
const ALWAYS: &[(&str, libc::c_long)] = calls![
    // Mounts, roots and namespaces: other paths to the same files.
    SYS_mount,
    SYS_umount2,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_pivot_root,
    SYS_chroot,
    SYS_open_by_handle_at,
    SYS_setns,
    // Other processes' memory, descriptors and pages.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_pidfd_getfd,
    SYS_kcmp,
    SYS_migrate_pages,
    SYS_move_pages,
    // Maps memory anew with rights of its own; before 6.12 no hook saw it.
    SYS_remap_file_pages,
    // Keys of the user's session.
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    // The kernel itself.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_syslog,
    // The host.
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_vhangup,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
];

/// Refused where only this architecture has them.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[(&str, libc::c_long)] =
    calls![SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_uselib,];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[(&str, libc::c_long)] = &[];

/// Newer than the C library's list; the numbers are the same everywhere
/// (scripts/syscall.tbl): `open_tree_attr` (6.15), `file_setattr` (6.17: the
/// call that does what `FS_IOC_FSSETXATTR` does).
const ALWAYS_NEW: &[(&str, libc::c_long)] =
    &[("SYS_open_tree_attr", 467), ("SYS_file_setattr", 469)];

/// Runs file and network operations on threads with their own identity.
const IO_URING: &[(&str, libc::c_long)] = calls![
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register
];

/// Refused for some arguments.
const SOMETIMES: &[(&str, libc::c_long, Check)] = &[
    // Its flags lie in memory, where a filter cannot see them.
    ("SYS_clone3", libc::SYS_clone3, Check::Absent),
    // A user namespace gives every capability inside it, and with it the others.
    ("SYS_clone", libc::SYS_clone, Check::AnyBit(0, NAMESPACES)),
    (
        "SYS_unshare",
        libc::SYS_unshare,
        Check::AnyBit(0, NAMESPACES | TIME_NAMESPACE),
    ),
    ("SYS_socket", libc::SYS_socket, Check::Socket),
    (
        "SYS_socketpair",
        libc::SYS_socketpair,
        Check::NoneOf(0, &[libc::AF_UNIX as u32]),
    ),
    ("SYS_ioctl", libc::SYS_ioctl, Check::Ioctl),
    ("SYS_fcntl", libc::SYS_fcntl, Check::OneOf(1, OWNERS)),
    ("SYS_prctl", libc::SYS_prctl, Check::OneOf(0, &[PR_SET_MM])),
    // READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE and other systems' ways.
    (
        "SYS_personality",
        libc::SYS_personality,
        Check::NoneOf(0, PERSONALITIES),
    ),
    ("SYS_prlimit64", libc::SYS_prlimit64, Check::OtherLimits),
];

/// All of them, each number once.
pub(super) fn entries(io_uring: bool) -> impl Iterator<Item = Entry> {
    let ring = if io_uring { &[][..] } else { IO_URING };
    let mut always: Vec<(&'static str, libc::c_long)> =
        [ALWAYS, ALWAYS_HERE, ALWAYS_NEW, ring].concat();
    always.sort_by_key(|(_, number)| *number);
    always.dedup_by_key(|(_, number)| *number);
    let always = always
        .into_iter()
        .map(|(name, number)| (name, number, Check::Always));
    always
        .chain(SOMETIMES.iter().copied())
        .filter_map(|(name, number, check)| {
            Some(Entry {
                name: name.strip_prefix("SYS_").unwrap_or(name),
                number: u32::try_from(number).ok()?,
                check,
            })
        })
}
