//! What the process that resolves names may ask of the kernel once hostile bytes
//! come in. Anything else kills it, and the supervisor starts another one.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use crate::relay::seccomp::SeccompError;

/// `NETLINK_SOCK_DIAG` (include/uapi/linux/netlink.h).
const SOCK_DIAG: u64 = 4;

/// Calls without a condition.
const PLAIN: &[i64] = &[
    // sockets: those of sandboxes, of upstreams, of the supervisor
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // waiting
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // bytes; ioctl and openat below
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    // memory; mmap and mprotect below
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // clocks, chance, ends, also by a panic
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
];

fn arg(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, SeccompError> {
    Ok(SeccompCondition::new(
        index,
        SeccompCmpArgLen::Dword,
        op,
        value,
    )?)
}

fn program() -> Result<BpfProgram, SeccompError> {
    use SeccompCmpOp::{Eq, MaskedEq};
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    let executable = libc::PROT_EXEC as u64;
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let one =
        |conditions| -> Result<SeccompRule, SeccompError> { Ok(SeccompRule::new(conditions)?) };
    rules.insert(
        libc::SYS_mmap,
        vec![one(vec![
            arg(2, MaskedEq(executable), 0)?,
            arg(3, MaskedEq(anonymous), anonymous)?,
        ])?],
    );
    rules.insert(
        libc::SYS_mprotect,
        vec![one(vec![arg(2, MaskedEq(executable), 0)?])?],
    );
    rules.insert(
        libc::SYS_ioctl,
        vec![one(vec![arg(1, Eq, libc::FIONBIO)?])?],
    );
    // The host's resolv.conf and hosts are read again when they change.
    let writes = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
    rules.insert(
        libc::SYS_openat,
        vec![one(vec![arg(2, MaskedEq(writes), 0)?])?],
    );
    rules.insert(
        libc::SYS_socket,
        vec![
            one(vec![arg(0, Eq, libc::AF_INET as u64)?])?,
            one(vec![arg(0, Eq, libc::AF_INET6 as u64)?])?,
            one(vec![
                arg(0, Eq, libc::AF_NETLINK as u64)?,
                arg(2, Eq, SOCK_DIAG)?,
            ])?,
        ],
    );
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// Puts the filter on the process, which has one thread, for good.
///
/// # Errors
/// [`SeccompError`].
pub(super) fn install() -> Result<(), SeccompError> {
    apply_filter(&program()?)?;
    Ok(())
}
