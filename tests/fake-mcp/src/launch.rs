//! Starts a relay the way guard's launcher does: the server as the relay's own
//! child, the descriptors 0 to 10 in their places. Sockets are named by the
//! path of a `SOCK_SEQPACKET` listener, slot and `cgroup.kill` by any file.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::RawFd;

pub(crate) fn checked(result: i64) -> io::Result<RawFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

fn c(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

/// Replaces this process by the relay. Returns only when that fails.
pub(crate) fn run(
    relay: &str,
    json: &str,
    sockets: [&str; 2],
    files: [&str; 2],
    command: &[&str],
) -> io::Result<()> {
    let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
    let server = spawn(command, [input.0, output.1, errors.1])?;
    // SAFETY: takes two integers.
    let pidfd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, server, 0) })?;
    let places = [
        0,
        1,
        2,
        input.1,
        output.0,
        errors.0,
        connect(sockets[0])?,
        connect(sockets[1])?,
        open(files[0])?,
        open(files[1])?,
        pidfd,
    ];
    // First all out of the way, then each to its place.
    let mut high = Vec::new();
    for fd in places {
        // SAFETY: takes integers.
        high.push(checked(
            unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64) }.into(),
        )?);
    }
    for (place, fd) in (0..).zip(high) {
        // SAFETY: takes integers; what was open there is one of ours.
        checked(unsafe { libc::dup2(fd, place) }.into())?;
    }
    let json = json.replace("\"server_pid\":0", &format!("\"server_pid\":{server}"));
    Err(exec(&[relay, "__relay", &json]))
}

fn pipe() -> io::Result<(RawFd, RawFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    Ok((ends[0], ends[1]))
}

fn open(path: &str) -> io::Result<RawFd> {
    let path = c(path)?;
    // SAFETY: `path` ends with NUL and lives through the call.
    checked(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }.into())
}

fn connect(path: &str) -> io::Result<RawFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: takes integers.
    let socket = checked(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())?;
    let (address, size) = address(path)?;
    // SAFETY: `address` is a whole sockaddr_un, `size` its size.
    let done = unsafe { libc::connect(socket, (&raw const address).cast(), size) };
    checked(done.into())
        .map_err(|error| io::Error::new(error.kind(), format!("connect {path}: {error}")))?;
    Ok(socket)
}

/// The address of a socket's path, and its size.
pub(crate) fn address(path: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: plain data for which zeros are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(io::Error::other(format!("{path}: too long for a socket")));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// Starts the server as a child of this process, and so of the relay.
fn spawn(command: &[&str], stdio: [RawFd; 3]) -> io::Result<i32> {
    // SAFETY: this process has one thread, so that the child may do anything.
    let child = checked(unsafe { libc::fork() }.into())?;
    if child != 0 {
        return Ok(child);
    }
    for (place, fd) in (0..).zip(stdio) {
        // SAFETY: takes integers; the child's own descriptors.
        unsafe { libc::dup2(fd, place) };
    }
    // SAFETY: the default action runs no code of ours. Rust ignores SIGPIPE,
    // and an ignored signal stays ignored through exec.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    eprintln!("fake-mcp: {}", exec(command));
    std::process::exit(127);
}

fn exec(command: &[&str]) -> io::Error {
    let Ok(words) = command
        .iter()
        .map(|word| c(word))
        .collect::<Result<Vec<_>, _>>()
    else {
        return io::Error::other("NUL in the command");
    };
    let Some(program) = words.first() else {
        return io::Error::other("no command");
    };
    let mut pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: strings that end with NUL, in an array that ends with null; both live on.
    unsafe { libc::execvp(program.as_ptr(), pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    io::Error::new(error.kind(), format!("{}: {error}", command.concat()))
}
