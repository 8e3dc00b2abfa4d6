//! Signal dispositions that Rust's runtime or our own start-up changed.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Lets a signal pass without effect, in this process and in what it executes.
///
/// # Errors
/// As sigaction(2).
pub fn ignore(which: Signal) -> nix::Result<()> {
    // SAFETY: ignoring runs no code of ours.
    unsafe { signal(which, SigHandler::SigIgn) }.map(drop)
}

/// Every signal as a fresh program expects it: default action, none blocked.
/// Rust ignores `SIGPIPE`, and ignored signals are inherited through exec.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset() -> nix::Result<()> {
    for each in Signal::iterator() {
        if matches!(each, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of ours.
        unsafe { signal(each, SigHandler::SigDfl) }?;
    }
    // The C library keeps the first two real-time signals to itself, and so does this.
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: as above; the number is a signal's.
        if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(nix::errno::Errno::last());
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
