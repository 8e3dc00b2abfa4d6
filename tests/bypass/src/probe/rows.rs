//! Runs commands one after the other and tells how each ended: a line of JSON on
//! stderr for each, behind a mark.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::Seen;
use crate::attack::{At, Failure, nothing};

/// Bytes of output that are told.
const TOLD: usize = 2000;

/// A command to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// Its row.
    pub name: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Seconds that it may take.
    pub limit: u64,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Its row.
    pub name: String,
    /// Exit status; `None` when a signal or the limit ended it.
    pub status: Option<i32>,
    /// The end of what it wrote, stdout and stderr together.
    pub output: String,
    /// Nanoseconds since the epoch when it began.
    pub begun: u64,
    /// The same when it ended.
    pub ended: u64,
}

const MARK: &str = "row-done ";

impl Done {
    /// Reads a line; `None` when it is another.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(MARK)?).ok()
    }
}

fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Runs all that a file names.
pub(crate) fn run(file: &Path) -> Seen {
    let text = std::fs::read_to_string(file).at("read the rows")?;
    let commands: Vec<Command> =
        serde_json::from_str(&text).map_err(|error| nothing(&format!("rows: {error}")))?;
    for command in &commands {
        let done = one(command)?;
        let line = serde_json::to_string(&done).map_err(|error| nothing(&error.to_string()))?;
        // One write for each line: others write there too.
        let line = format!("{MARK}{line}\n");
        std::io::stderr().write_all(line.as_bytes()).at("tell")?;
    }
    Ok(format!("{} rows", commands.len()))
}

fn one(command: &Command) -> Result<Done, Failure> {
    let begun = now();
    let (mut from, to) = std::io::pipe().at("pipe")?;
    let (program, arguments) = command
        .words
        .split_first()
        .ok_or_else(|| nothing("a program"))?;
    let mut running = std::process::Command::new(program);
    running.args(arguments).stdin(Stdio::null());
    running.stdout(to.try_clone().at("dup")?).stderr(to);
    let mut child = match running.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ok(Done {
                name: command.name.clone(),
                status: None,
                output: format!("could not start {program}: {error}"),
                begun,
                ended: now(),
            });
        }
    };
    // It holds the other end of the pipe.
    drop(running);
    let limit = Instant::now() + Duration::from_secs(command.limit);
    let mut output = Vec::new();
    loop {
        let mut ready = libc::pollfd {
            fd: from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, as the count says.
        let count = unsafe { libc::poll(&raw mut ready, 1, 200) };
        if count > 0 {
            let mut buffer = [0; 4096];
            match from.read(&mut buffer).at("read")? {
                0 => break,
                length => output.extend_from_slice(&buffer[..length]),
            }
        }
        if Instant::now() > limit {
            let _ = child.kill();
            output.extend_from_slice(b"\n(ended at its limit)");
            break;
        }
    }
    let status = child.wait().at("wait")?;
    let text = String::from_utf8_lossy(&output);
    let text = text.trim();
    let from = text.char_indices().rev().nth(TOLD).map_or(0, |(at, _)| at);
    Ok(Done {
        name: command.name.clone(),
        status: status.code(),
        output: text[from..].to_owned(),
        begun,
        ended: now(),
    })
}
