//! Capabilities: giving them up, all or all but one.

use std::io;

/// `CAP_KILL` (include/uapi/linux/capability.h).
pub const CAP_KILL: u32 = 5;
/// `CAP_SETPCAP`.
const CAP_SETPCAP: u32 = 8;
/// Numbers above this were never given out.
const LAST_POSSIBLE: u32 = 63;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, a, b, 0_u64, 0_u64) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn bit(capability: Option<u32>) -> u64 {
    capability.map_or(0, |c| 1 << c)
}

/// Sets permitted, effective and inheritable to exactly `keep`.
fn set(keep: u64) -> io::Result<()> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let half = |word: u64| Data {
        effective: word as u32,
        permitted: word as u32,
        inheritable: word as u32,
    };
    let data = [half(keep & 0xffff_ffff), half(keep >> 32)];
    // SAFETY: capset(2) version 3 reads one header and two data words, which live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// First half, while still privileged: empties the bounding set but for
/// `keep`, makes uid 0 mean nothing and locks that in.
/// Without `CAP_SETPCAP` there is nothing to give up, and nothing is done.
///
/// # Errors
/// When the kernel refuses.
pub fn limit(keep: Option<u32>) -> io::Result<()> {
    let has_setpcap = effective()? & bit(Some(CAP_SETPCAP)) != 0;
    if !has_setpcap {
        return Ok(());
    }
    for capability in 0..=LAST_POSSIBLE {
        if Some(capability) == keep {
            continue;
        }
        match prctl(libc::PR_CAPBSET_READ, capability.into(), 0) {
            Ok(1) => prctl(libc::PR_CAPBSET_DROP, capability.into(), 0)?,
            Ok(_) => continue,
            Err(_) => break, // above the kernel's last capability
        };
    }
    Ok(())
}

/// Locks `SECBIT_NOROOT`: an exec as uid 0 gains nothing. Needs `CAP_SETPCAP`;
/// without it nothing is done, since such a process has nothing to gain from.
///
/// # Errors
/// When the kernel refuses.
pub fn lock_no_root() -> io::Result<()> {
    if effective()? & bit(Some(CAP_SETPCAP)) == 0 {
        return Ok(());
    }
    // include/uapi/linux/securebits.h: NOROOT and its lock, NO_SETUID_FIXUP's lock,
    // KEEP_CAPS's lock is left open for the step that changes the uid.
    const NOROOT: u64 = 1 << 0;
    const NOROOT_LOCKED: u64 = 1 << 1;
    const NO_SETUID_FIXUP_LOCKED: u64 = 1 << 3;
    let held = prctl(libc::PR_GET_SECUREBITS, 0, 0)?;
    let bits = u64::from(held.unsigned_abs()) | NOROOT | NOROOT_LOCKED | NO_SETUID_FIXUP_LOCKED;
    prctl(libc::PR_SET_SECUREBITS, bits, 0)?;
    Ok(())
}

/// Second half, after the uid was changed: every set becomes `keep`, and
/// `keep` survives an exec (ambient).
///
/// # Errors
/// When the kernel refuses.
pub fn reduce_to(keep: Option<u32>) -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
        0,
    )?;
    set(bit(keep))?;
    if let Some(capability) = keep {
        prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as u64,
            capability.into(),
        )?;
    }
    Ok(())
}

/// The effective set, bit *n* for capability *n*.
///
/// # Errors
/// When the kernel refuses.
pub fn effective() -> io::Result<u64> {
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: capget(2) version 3 reads the header and fills two data words; both live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(data[0].effective) | u64::from(data[1].effective) << 32)
}
