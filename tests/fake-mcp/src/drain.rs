//! The other end of a relay's two sockets, for the benchmark: reads every
//! record as the supervisor would, and forgets it.

use std::io;

use crate::launch::{address, checked};

/// Listens on both paths, takes one connection each, reads until the relay ends.
pub(crate) fn run(wire: &str, control: &str) -> io::Result<()> {
    let (wire, control) = (listen(wire)?, listen(control)?);
    let wire = accept(wire)?;
    let _control = accept(control)?;
    let mut packet = vec![0_u8; 256 << 10];
    loop {
        // SAFETY: `packet` is valid for writing its whole length.
        let count = unsafe { libc::recv(wire, packet.as_mut_ptr().cast(), packet.len(), 0) };
        if count <= 0 {
            return Ok(());
        }
    }
}

fn listen(path: &str) -> io::Result<i32> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: takes integers.
    let socket = checked(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())?;
    let (address, size) = address(path)?;
    // SAFETY: `address` is a whole sockaddr_un, `size` its size.
    checked(unsafe { libc::bind(socket, (&raw const address).cast(), size) }.into())?;
    // SAFETY: takes integers.
    checked(unsafe { libc::listen(socket, 1) }.into())?;
    Ok(socket)
}

fn accept(listener: i32) -> io::Result<i32> {
    // SAFETY: no address is asked for.
    checked(unsafe { libc::accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) }.into())
}
