//! Processes of the host outside of every sandbox: services that find names for
//! others, and one that hands a connected socket to whoever meets it.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::{Seen, lab};
use crate::attack::{At, Failure};
use crate::sys::{Memory, call};

/// Serves until it is killed.
pub(crate) fn run(meet: &Path) -> Seen {
    for path in lab::NAME_SERVICES {
        let path = Path::new(path);
        let directory = path.parent().unwrap_or(path);
        std::fs::create_dir_all(directory).at("make a directory")?;
        let listener = UnixListener::bind(path).at("bind")?;
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(path, open).at("chmod")?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = (&stream).write_all(lab::NAME_SERVICE_SAYS.as_bytes());
            }
        });
    }
    loop {
        if let Ok(stream) = UnixStream::connect(meet) {
            let connected = TcpStream::connect(lab::UNTOLD).at("connect")?;
            // Who meets it may be gone by then.
            let _ = hand_over(stream, &connected.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn hand_over(stream: UnixStream, socket: &OwnedFd) -> Result<(), Failure> {
    let byte = [0_u8];
    let mut vector = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    // struct cmsghdr: length, level and type; then the descriptor.
    let rights = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
    let mut control = [20_u64, rights, socket.as_raw_fd() as u64];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let (stream, flags) = (OwnedFd::from(stream), libc::MSG_NOSIGNAL);
    call!(
        "sendmsg",
        libc::SYS_sendmsg,
        stream,
        Memory::of(&message),
        flags
    )?;
    // The receiver needs the socket until it has read.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}
