//! What a hostile server tries against limits and system call filters.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use serde_json::Value;

fn last(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// Makes a system call with integers, `times` over; the last result counts.
pub(crate) fn system_call(arguments: &Value) -> Result<String, String> {
    let number = arguments["number"].as_i64().ok_or("no number")?;
    let argument = |n: usize| arguments["arguments"][n].as_u64().unwrap_or(0);
    let mut result = 0;
    for _ in 0..arguments["times"].as_u64().unwrap_or(1) {
        // SAFETY: what becomes of this process is the caller's wish; a bad pointer is the kernel's
        // to refuse.
        result = unsafe { libc::syscall(number, argument(0), argument(1), argument(2), 0, 0, 0) };
    }
    match result {
        -1 => Err(last("system call")),
        n => Ok(n.to_string()),
    }
}

/// Makes a file larger: a path, or `memfd`.
pub(crate) fn grow(path: &str, bytes: u64, how: &str) -> Result<String, String> {
    let mut file = if path == "memfd" {
        // SAFETY: a NUL-terminated name; the descriptor is new and ours.
        let fd = unsafe { libc::memfd_create(c"grown".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(last("memfd_create"));
        }
        // SAFETY: as above.
        unsafe { File::from_raw_fd(fd) }
    } else {
        let made = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path);
        made.map_err(|e| format!("open {path}: {e}"))?
    };
    let done = match how {
        "truncate" => file.set_len(bytes),
        "allocate" => {
            let length = i64::try_from(bytes).map_err(|e| e.to_string())?;
            // SAFETY: integers only.
            match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
        _ => (0..bytes.div_ceil(4096)).try_for_each(|n| {
            let left = bytes - n * 4096;
            file.write_all(&[b'x'; 4096][..usize::try_from(left.min(4096)).unwrap_or(4096)])
        }),
    };
    let size = file.metadata().map_or(0, |m| m.len());
    match done {
        Ok(()) => Ok(size.to_string()),
        Err(error) => Err(format!("{how}: {error}; it has {size} bytes")),
    }
}

/// Touches so much memory.
pub(crate) fn allocate(bytes: u64) -> Result<String, String> {
    let bytes = usize::try_from(bytes).map_err(|e| e.to_string())?;
    let memory = vec![1_u8; bytes];
    let sum: u64 = memory.iter().step_by(4096).map(|b| u64::from(*b)).sum();
    Ok(sum.to_string())
}

/// Makes processes until it cannot make more, or `most` are there; ends them.
pub(crate) fn fork_many(most: u64) -> Result<String, String> {
    let mut made = Vec::new();
    let mut refused = None;
    for _ in 0..most {
        // SAFETY: the child only waits to be killed.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: takes nothing.
                unsafe { libc::pause() };
            },
            pid if pid > 0 => made.push(pid),
            _ => {
                refused = Some(last("fork"));
                break;
            }
        }
    }
    for pid in &made {
        // SAFETY: our own children; the status is not wanted.
        unsafe {
            libc::kill(*pid, libc::SIGKILL);
            libc::waitpid(*pid, std::ptr::null_mut(), 0);
        }
    }
    match refused {
        None => Ok(made.len().to_string()),
        Some(error) => Err(format!("{error}; made {}", made.len())),
    }
}
