//! What the relay may still ask of the kernel once hostile bytes come in.
//! Anything else kills the process, which ends the session.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// Why the filter is not in place. The relay must not go on then.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The filter cannot be made (a processor that seccompiler does not know).
    #[error("seccomp filter for the relay: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("seccomp filter for the relay was refused: {0}")]
    Install(#[from] seccompiler::Error),
}

/// The descriptor of the server's pidfd, the only process it may signal.
const SERVER: u64 = 10;

/// Calls without a condition. Threads exist already, so none makes one.
const PLAIN: &[i64] = &[
    // moving bytes
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_ppoll,
    // locks, clocks, sleep; the last after a stop or a signal
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // memory; mmap and mprotect below
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // the server's end
    libc::SYS_waitid,
    // coming back to the supervisor; socket below
    libc::SYS_connect,
    libc::SYS_setsockopt,
    libc::SYS_close,
    // ends of threads and of the process, also by a panic
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_getrandom,
];

#[cfg(target_arch = "x86_64")]
const OLD_POLL: &[i64] = &[libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OLD_POLL: &[i64] = &[];

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
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN
        .iter()
        .chain(OLD_POLL)
        .map(|call| (*call, Vec::new()))
        .collect();
    let mut only = |call, conditions| -> Result<(), SeccompError> {
        rules.insert(call, vec![SeccompRule::new(conditions)?]);
        Ok(())
    };
    let executable = libc::PROT_EXEC as u64;
    let anonymous = libc::MAP_ANONYMOUS as u64;
    only(
        libc::SYS_mmap,
        vec![
            arg(2, MaskedEq(executable), 0)?,
            arg(3, MaskedEq(anonymous), anonymous)?,
        ],
    )?;
    only(libc::SYS_mprotect, vec![arg(2, MaskedEq(executable), 0)?])?;
    only(libc::SYS_socket, vec![arg(0, Eq, libc::AF_UNIX as u64)?])?;
    // The standard library asserts in debug builds that what it closes is open.
    only(libc::SYS_fcntl, vec![arg(1, Eq, libc::F_GETFD as u64)?])?;
    only(libc::SYS_pidfd_send_signal, vec![arg(0, Eq, SERVER)?])?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// Puts the filter on every thread of the process, for good.
///
/// # Errors
/// [`SeccompError`].
pub fn install() -> Result<(), SeccompError> {
    apply_filter_all_threads(&program()?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::install;

    const CHILD: &str = "GUARD_TEST_FORBIDDEN_CALL";

    /// Runs the test `name` of this binary again, where it plays `part`.
    fn again(name: &str, part: &str) -> ExitStatus {
        let module = module_path!().split_once("::").unwrap().1;
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::{name}")])
            .env(CHILD, part)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap()
    }

    #[test]
    fn a_forbidden_call_kills_the_process() {
        if let Ok(part) = std::env::var(CHILD) {
            install().unwrap();
            match part.as_str() {
                "open" => drop(std::fs::File::open("/")),
                "exec" => drop(Command::new("/bin/true").status()),
                "thread" => drop(std::thread::Builder::new().spawn(|| ())),
                "inet" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
                "kill" => drop(nix::sys::signal::kill(nix::unistd::getpid(), None)),
                "nothing" => {}
                other => panic!("{other}"),
            }
            // Not by a return: the harness would do forbidden things of its own.
            std::process::exit(42);
        }
        let name = "a_forbidden_call_kills_the_process";
        for part in ["open", "exec", "thread", "inet", "kill"] {
            assert_eq!(again(name, part).signal(), Some(libc::SIGSYS), "{part}");
        }
        assert_eq!(again(name, "nothing").code(), Some(42));
    }
}
