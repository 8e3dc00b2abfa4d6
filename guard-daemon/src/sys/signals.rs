//! Signal dispositions that Rust's runtime or our own start-up changed.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

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
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
