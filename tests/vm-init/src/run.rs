//! Runs the command and waits for it as the first process must: every orphan is reaped.

use crate::orders::Orders;
use crate::ports::Ports;
use crate::sys;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long output is waited for after the command has ended, since a process that it left
/// behind may hold the pipes open for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the ordered command and returns its exit status, 128 + N for signal N.
pub(crate) fn command(orders: &Orders, ports: &Ports) -> Result<i32> {
    let Some((program, arguments)) = orders.command.split_first() else {
        return Ok(0);
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    environment(&mut command, &orders.directory);
    command.process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let mut err = ports.err.try_clone()?;
            writeln!(
                err,
                "vm-init: could not start {}: {error}",
                program.to_string_lossy()
            )?;
            return Ok(if error.kind() == std::io::ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    let pumps = [
        pump(
            child.stdout.take().context("no standard output")?,
            ports.out.try_clone()?,
        ),
        pump(
            child.stderr.take().context("no standard error")?,
            ports.err.try_clone()?,
        ),
    ];
    let status = reap(Pid::from_raw(i32::try_from(child.id())?))?;
    let ended = Instant::now();
    while pumps.iter().any(|pump| !pump.is_finished()) && ended.elapsed() < DRAIN {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(status)
}

/// Runs an interactive shell on the console.
pub(crate) fn shell() -> Result<i32> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ttyS0")
        .context("no /dev/ttyS0")?;
    let mut command = Command::new("/bin/bash");
    command
        .arg("-l")
        .stdin(console.try_clone()?)
        .stdout(console.try_clone()?)
        .stderr(console);
    environment(&mut command, "/root");
    sys::own_terminal(&mut command);
    let child = command.spawn().context("could not start /bin/bash")?;
    reap(Pid::from_raw(i32::try_from(child.id())?))
}

fn environment(command: &mut Command, directory: &str) {
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("LANG", "C.UTF-8")
        .env("TERM", "linux")
        .current_dir(directory);
}

fn pump(mut from: impl Read + Send + 'static, mut to: File) -> JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = from.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..length])?;
        }
    })
}

/// Waits for `wanted`, and for whatever else ends meanwhile.
fn reap(wanted: Pid) -> Result<i32> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == wanted => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == wanted => {
                return Ok(128 + signal as i32);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("could not wait for the command"),
        }
    }
}
