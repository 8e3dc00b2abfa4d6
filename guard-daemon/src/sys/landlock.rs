//! Putting a Landlock ruleset in force. The `landlock` crate makes rulesets;
//! but the process that is restricted must open nothing and keeps one
//! descriptor, so this last step stands alone.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Restricts this thread and what it executes and forks, for good
/// (landlock_restrict_self(2)). Needs `no_new_privs`.
///
/// # Errors
/// As landlock_restrict_self(2): `E2BIG` with 16 rulesets in force already.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers only.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
