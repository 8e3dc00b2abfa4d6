//! The tools. Each does as told and says what came of it; a failure is a tool
//! error whose text has the system's words.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::{Value, json};

use crate::limits;
use crate::server::{Answer, Shared, write_raw};

/// Name, description, and the properties that are required (all strings or
/// numbers, said so in the description).
const TOOLS: &[(&str, &str, &[&str])] = &[
    (
        "read_file",
        "text of `path`, or `hex:` and its bytes where it is none",
        &["path"],
    ),
    ("write_file", "writes `text` to `path`", &["path", "text"]),
    ("connect", "TCP to `address` (ip:port)", &["address"]),
    ("send_datagram", "UDP to `address` (ip:port)", &["address"]),
    ("exec", "runs `command` (array)", &["command"]),
    ("sleep", "answers after `ms`", &["ms"]),
    ("echo", "answers `text`", &["text"]),
    (
        "fork_and_read_later",
        "answers at once; a process reads `path` after `ms` and writes what came of it to `out`",
        &["path", "ms", "out"],
    ),
    (
        "read_later",
        "answers at once; a thread reads `path` after `ms`",
        &["path", "ms"],
    ),
    ("env", "the environment, as an object", &[]),
    ("big", "answers `bytes` bytes of text", &["bytes"]),
    (
        "garbage",
        "writes `raw` to stdout as it is, then answers unless `silent`",
        &["raw"],
    ),
    ("stderr", "writes `text` to stderr", &["text"]),
    ("exit", "ends the server with `status`", &["status"]),
    ("crash", "ends the server by SIGABRT", &[]),
    ("silence", "never answers", &[]),
    (
        "read_when_n",
        "waits until `n` such calls are in flight, reads `path`, answers when all have read",
        &["path", "n"],
    ),
    (
        "system_call",
        "makes system call `number` with `arguments` (array), `times` over",
        &["number"],
    ),
    (
        "grow",
        "makes `path` (or `memfd`) `bytes` long: `how` is write, truncate or allocate",
        &["path", "bytes", "how"],
    ),
    ("allocate", "touches `bytes` of memory", &["bytes"]),
    ("fork_many", "makes `most` processes at once", &["most"]),
    ("rename", "renames `path` to `to`", &["path", "to"]),
    ("remove_directory", "removes `path`", &["path"]),
    ("task", "answers with a task that takes `ms`", &["ms"]),
];

/// For `tools/list`.
pub(crate) fn list() -> Vec<Value> {
    let tool = |(name, description, required): &(&str, &str, &[&str])| {
        let properties: serde_json::Map<String, Value> = required
            .iter()
            .map(|key| ((*key).to_owned(), json!({})))
            .collect();
        json!({"name": name, "description": description, "inputSchema":
            {"type": "object", "properties": properties, "required": required}})
    };
    TOOLS.iter().map(tool).collect()
}

/// Does what the call says.
pub(crate) fn call(name: &str, arguments: &Value, shared: &Shared) -> Answer {
    let text = |key: &str| arguments[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| arguments[key].as_u64().unwrap_or_default();
    match name {
        "read_file" => told(read(&text("path"))),
        "write_file" => told(
            std::fs::write(text("path"), text("text"))
                .map(|()| "written".to_owned())
                .map_err(|error| format!("write {}: {error}", text("path"))),
        ),
        "connect" => told(
            TcpStream::connect(text("address"))
                .map(|_| "connected".to_owned())
                .map_err(|error| format!("connect {}: {error}", text("address"))),
        ),
        "send_datagram" => told(
            UdpSocket::bind("0.0.0.0:0")
                .and_then(|socket| socket.send_to(b"datagram", text("address")))
                .map(|_| "sent".to_owned())
                .map_err(|error| format!("send to {}: {error}", text("address"))),
        ),
        "exec" => told(exec(arguments)),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(number("ms")));
            told(Ok("slept".into()))
        }
        "echo" => told(Ok(text("text"))),
        "fork_and_read_later" => told(fork_and_read_later(
            &text("path"),
            number("ms"),
            &text("out"),
        )),
        "read_later" => {
            let (path, ms) = (text("path"), number("ms"));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(ms));
                let _ = read(&path);
            });
            told(Ok("later".into()))
        }
        "env" => Answer::Text(
            std::env::vars_os()
                .map(|(key, value)| {
                    (
                        key.to_string_lossy().into_owned(),
                        Value::from(value.to_string_lossy()),
                    )
                })
                .collect::<serde_json::Map<_, _>>()
                .pipe(|map| Value::Object(map).to_string()),
            false,
        ),
        "big" => told(Ok("x".repeat(usize::try_from(number("bytes")).unwrap_or(0)))),
        "garbage" => {
            write_raw(text("raw").as_bytes());
            match arguments["silent"] == true {
                true => Answer::Silence,
                false => told(Ok("written".into())),
            }
        }
        "stderr" => {
            let _ = std::io::stderr().write_all(text("text").as_bytes());
            told(Ok("written".into()))
        }
        "exit" => std::process::exit(i32::try_from(number("status")).unwrap_or(1)),
        "crash" => std::process::abort(),
        "silence" => Answer::Silence,
        "system_call" => told(limits::system_call(arguments)),
        "grow" => told(limits::grow(&text("path"), number("bytes"), &text("how"))),
        "allocate" => told(limits::allocate(number("bytes"))),
        "fork_many" => told(limits::fork_many(number("most"))),
        "rename" => told(
            std::fs::rename(text("path"), text("to"))
                .map(|()| "renamed".to_owned())
                .map_err(|error| format!("rename {}: {error}", text("path"))),
        ),
        "remove_directory" => told(
            std::fs::remove_dir(text("path"))
                .map(|()| "removed".to_owned())
                .map_err(|error| format!("remove {}: {error}", text("path"))),
        ),
        "read_when_n" => told(read_when_n(&text("path"), number("n"), shared)),
        _ => Answer::Error(-32602, format!("no tool {name}")),
    }
}

trait Pipe: Sized {
    fn pipe<T>(self, with: impl FnOnce(Self) -> T) -> T {
        with(self)
    }
}
impl<T> Pipe for T {}

fn told(what: Result<String, String>) -> Answer {
    match what {
        Ok(text) => Answer::Text(text, false),
        Err(text) => Answer::Text(text, true),
    }
}

fn read(path: &str) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("read {path}: {error}"))?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        other => {
            let bytes =
                other.map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            Ok(format!("hex:{hex}"))
        }
    }
}

fn exec(arguments: &Value) -> Result<String, String> {
    let words: Vec<&str> = arguments["command"]
        .as_array()
        .map(|words| words.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let (program, rest) = words.split_first().ok_or("no command")?;
    let done = Command::new(program)
        .args(rest)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| format!("exec {program}: {error}"))?;
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    Err(format!("{program}: {}: {output}{errors}", done.status))
}

fn fork_and_read_later(path: &str, ms: u64, out: &str) -> Result<String, String> {
    Command::new("/proc/self/exe")
        .args(["--read-later", path, &ms.to_string(), out])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map(|child| child.id().to_string())
        .map_err(|error| format!("start myself: {error}"))
}

/// The process of `fork_and_read_later`. Writes `ok` or the error to `out`.
pub(crate) fn read_later(path: &str, ms: &str, out: &str) -> std::io::Result<()> {
    std::thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
    let said = match read(path) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error,
    };
    std::fs::write(out, said)
}

fn read_when_n(path: &str, n: u64, shared: &Shared) -> Result<String, String> {
    let wait_for = |reached: &dyn Fn(&(u64, u64)) -> bool| {
        let barriers = shared
            .barriers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let deadline = Duration::from_secs(20);
        let held = shared
            .moved
            .wait_timeout_while(barriers, deadline, |barriers| {
                !barriers.get(path).is_some_and(reached)
            });
        match held {
            Ok((_, timeout)) if !timeout.timed_out() => Ok(()),
            _ => Err(format!("fewer than {n} calls of read_when_n came in 20 s")),
        }
    };
    let count = |came: u64, read: u64| {
        let mut barriers = shared
            .barriers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = barriers.entry(path.to_owned()).or_default();
        entry.0 += came;
        entry.1 += read;
        shared.moved.notify_all();
    };
    count(1, 0);
    wait_for(&|(came, _)| *came >= n)?;
    let text = read(path);
    count(0, 1);
    wait_for(&|(_, read)| *read >= n)?;
    text
}

/// Ignores a signal.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: SIG_IGN runs no code of ours; no handler is replaced.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
