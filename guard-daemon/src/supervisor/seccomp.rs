//! The server's system call filters: a default that no MCP server needs to
//! leave. The kernel side is the wall; this keeps whole interfaces away from it.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Why the filters cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not one of the architectures that seccompiler knows.
    #[error("no system call filter for this architecture: {0}")]
    Architecture(BackendError),
    /// An error in the rules.
    #[error("the system call filter cannot be compiled: {0}")]
    Compile(#[from] BackendError),
}

/// The two programs, to be installed in this order.
pub type Filters = [BpfProgram; 2];

/// Bit of x32 numbers on x86-64 (arch/x86/include/uapi/asm/unistd.h): another
/// name for the same call where the kernel has that ABI.
const X32: i64 = 0x4000_0000;

/// What is refused with EPERM, whatever its arguments.
const REFUSED: &[libc::c_long] = &[
    // Runs file and network operations on threads with their own identity.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other paths to the same files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    libc::SYS_setns,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Keys of the user's session.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
];

/// `clone3` must seem absent, so that libraries fall back to `clone`, whose
/// flags a filter can see.
const ABSENT: &[libc::c_long] = &[libc::SYS_clone3];

/// Makes both programs.
///
/// # Errors
/// On an architecture without filters.
pub fn filters() -> Result<Filters, FilterError> {
    let arch: TargetArch = std::env::consts::ARCH
        .try_into()
        .map_err(FilterError::Architecture)?;
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = always(REFUSED);
    // A user namespace gives every capability inside it.
    let new_user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    for number in [libc::SYS_unshare, libc::SYS_clone] {
        let condition = SeccompCondition::new(
            0,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(new_user),
            new_user,
        )?;
        for name in both_names(number) {
            refused.insert(name, vec![SeccompRule::new(vec![condition.clone()])?]);
        }
    }
    Ok([
        program(refused, libc::EPERM, arch)?,
        program(always(ABSENT), libc::ENOSYS, arch)?,
    ])
}

fn both_names(number: libc::c_long) -> [i64; 2] {
    [number, number | X32]
}

fn always(numbers: &[libc::c_long]) -> BTreeMap<i64, Vec<SeccompRule>> {
    numbers
        .iter()
        .flat_map(|n| both_names(*n))
        .map(|n| (n, Vec::new()))
        .collect()
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
    arch: TargetArch,
) -> Result<BpfProgram, FilterError> {
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        arch,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Installs the filters in a thread of its own (a filter is a thread's) and
    /// returns the errno of what `attempt` did.
    fn errno_of(attempt: fn() -> nix::errno::Errno) -> nix::errno::Errno {
        std::thread::spawn(move || {
            for filter in filters().unwrap() {
                seccompiler::apply_filter(&filter).unwrap();
            }
            attempt()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn mounts_and_user_namespaces_are_refused() {
        use nix::errno::Errno;
        let mount = || {
            let none: Option<&str> = None;
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some("/tmp"), "/", none, flags, none)
                .err()
                .unwrap_or(Errno::UnknownErrno)
        };
        assert_eq!(errno_of(mount), Errno::EPERM);
        let unshare = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)
                .err()
                .unwrap_or(Errno::UnknownErrno)
        };
        assert_eq!(errno_of(unshare), Errno::EPERM);
    }

    #[test]
    fn clone3_seems_absent() {
        // The standard library falls back, so a child can still be made.
        let status = std::thread::spawn(|| {
            for filter in filters().unwrap() {
                seccompiler::apply_filter(&filter).unwrap();
            }
            crate::sys::child::clone_errno()
        })
        .join()
        .unwrap();
        assert_eq!(status, nix::errno::Errno::ENOSYS);
    }
}
