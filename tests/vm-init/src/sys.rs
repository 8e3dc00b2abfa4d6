//! The few system calls that need `unsafe`.

use anyhow::{Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Loads a kernel module from an uncompressed file.
pub(crate) fn load_module(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open for the whole call and the parameter string ends with NUL.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Sets the loopback interface's UP flag.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq of zero bytes is valid; its fields are plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result != 0 {
        bail!(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the command a session leader whose standard input is its controlling terminal.
pub(crate) fn own_terminal(command: &mut Command) {
    // SAFETY: between fork and exec only two system calls run, no allocation, no lock.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
}

/// Ends the machine. Returns only when the kernel refuses, which panics it: this is process 1.
pub(crate) fn power_off() {
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    eprintln!("vm-init: could not power off: {error}");
}
