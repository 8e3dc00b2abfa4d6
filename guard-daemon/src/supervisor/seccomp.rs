//! The server's system call filter, the second wall: whole interfaces that no
//! MCP server needs are kept away from the kernel's own checks.
//!
//! What is refused is not answered by the filter itself: it goes to the
//! supervisor (`SECCOMP_RET_USER_NOTIF`), which answers `EPERM` and writes an
//! event ([`super::second_wall`]). Without a supervisor the kernel answers
//! `ENOSYS`.
//!
//! Cost: what is allowed whatever its arguments are is decided without reading
//! them, so that the kernel answers from its bitmap of such calls
//! (`seccomp_cache_check_allow`, kernel/seccomp.c) and never runs the program:
//! open, close, read, write and their like stay as cheap as with any filter.

mod program;
mod refused;
#[cfg(test)]
mod tests;

use libc::sock_filter;

use program::{Assembler, Label};
use refused::{Check, Entry};

/// Why the filter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not one of the architectures whose calls are known.
    #[error("no system call filter for this architecture: x86-64 and aarch64 have one")]
    Architecture,
    /// The program does not fit the kernel's limit.
    #[error("the system call filter has {0} instructions, at most 4096 are possible")]
    TooLong(usize),
}

/// `AUDIT_ARCH_*` (include/uapi/linux/audit.h) of this architecture.
#[cfg(target_arch = "x86_64")]
const NATIVE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const NATIVE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: Option<u32> = None;

/// `BPF_MAXINSNS` (include/uapi/linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// Numbers from here on are x32's, or no call's (`__X32_SYSCALL_BIT`).
const OTHER_ABI: u32 = 0x4000_0000;

/// The last call that was looked at when the list of refused ones was made
/// (`file_setattr`, Linux 6.17). Later ones seem absent, as they are on every
/// kernel before theirs.
const LAST_KNOWN: u32 = 469;

/// Makes the filter. `io_uring` is the policy's word on io_uring.
///
/// # Errors
/// On an architecture without one.
pub fn filter(io_uring: bool) -> Result<Vec<sock_filter>, FilterError> {
    let native = NATIVE.ok_or(FilterError::Architecture)?;
    let mut asm = Assembler::default();
    let refuse = asm.label();
    let absent = asm.label();

    asm.load_arch();
    asm.unless_equal(native, refuse);
    asm.load_number();
    asm.if_at_least(OTHER_ABI, refuse);
    asm.if_at_least(LAST_KNOWN + 1, absent);

    let mut entries: Vec<Entry> = refused::entries(io_uring).collect();
    entries.sort_by_key(|entry| entry.number);
    let targets: Vec<(u32, Label)> = entries
        .iter()
        .map(|entry| {
            let label = match entry.check {
                Check::Always => refuse,
                Check::Absent => absent,
                _ => asm.label(),
            };
            (entry.number, label)
        })
        .collect();
    search(&mut asm, &targets);
    for (entry, (_, label)) in entries.iter().zip(&targets) {
        if !matches!(entry.check, Check::Always | Check::Absent) {
            asm.place(*label);
            entry.check.assemble(&mut asm, refuse);
            asm.allow();
        }
    }
    asm.place(refuse);
    asm.notify();
    asm.place(absent);
    asm.error(libc::ENOSYS);
    let program = asm.finish();
    match program.len() {
        len @ ..=MAX_INSTRUCTIONS if len > 0 => Ok(program),
        len => Err(FilterError::TooLong(len)),
    }
}

/// Binary search for the number in the accumulator; allows what is not there.
fn search(asm: &mut Assembler, targets: &[(u32, Label)]) {
    if targets.len() <= 3 {
        for (number, target) in targets {
            asm.if_equal(*number, *target);
        }
        asm.allow();
        return;
    }
    let (low, high) = targets.split_at(targets.len() / 2);
    let upper = asm.label();
    asm.if_at_least(high[0].0, upper);
    search(asm, low);
    asm.place(upper);
    search(asm, high);
}

/// What a refused call is, for the trail: its name, where it is known, and the
/// argument that it was refused for.
#[must_use]
pub fn describe(call: &libc::seccomp_data) -> (String, Option<u64>) {
    let number = call.nr.cast_unsigned();
    if Some(call.arch) != NATIVE {
        let abi = match call.arch {
            0x4000_0003 => "i386",
            0x4000_0028 => "arm",
            _ => "other-abi",
        };
        return (format!("{abi}-{number}"), None);
    }
    if number >= OTHER_ABI {
        return (format!("x32-{}", number & !OTHER_ABI), None);
    }
    match refused::entries(false).find(|entry| entry.number == number) {
        Some(entry) => {
            let argument = entry.check.argument();
            let value = argument.and_then(|n| call.args.get(n).copied());
            (entry.name.to_owned(), value)
        }
        None => (format!("number-{number}"), None),
    }
}
