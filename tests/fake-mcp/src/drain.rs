//! The other end of a relay's two sockets, for the benchmark: reads and
//! acknowledges every record as the supervisor would, and forgets it.

use std::io;

use crate::launch::{address, checked};

/// Records after which the relay is told that they are written.
const TELL: u64 = 64;

/// Listens on both paths, takes one connection each, reads until the relay ends.
pub(crate) fn run(wire: &str, control: &str) -> io::Result<()> {
    let (wire, control) = (listen(wire)?, listen(control)?);
    let wire = accept(wire)?;
    let _control = accept(control)?;
    let mut packet = vec![0_u8; 256 << 10];
    let mut read = 0_u64;
    loop {
        // SAFETY: `packet` is valid for writing its whole length.
        let count = unsafe { libc::recv(wire, packet.as_mut_ptr().cast(), packet.len(), 0) };
        if count <= 0 {
            return Ok(());
        }
        read += 1;
        if read.is_multiple_of(TELL) {
            let note = format!("{{\"written\":{{\"through\":{read}}}}}");
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `note` is valid for reading its whole length. A relay that
            // does not read is told by the next one.
            unsafe { libc::send(wire, note.as_ptr().cast(), note.len(), flags) };
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
