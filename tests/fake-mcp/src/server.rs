//! The server: each call on its own thread, so that several can be in flight.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tools;

/// What the calls share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Calls of `read_when_n` by path: how many came, how many have read.
    pub(crate) barriers: Mutex<BTreeMap<String, (u64, u64)>>,
    /// Somebody changed `barriers`.
    pub(crate) moved: Condvar,
    /// When each task is done.
    tasks: Mutex<BTreeMap<String, Instant>>,
}

/// What a call answers.
pub(crate) enum Answer {
    /// A result of one text; `true`: it is an error of the tool.
    Text(String, bool),
    /// Any result.
    Result(Value),
    /// A JSON-RPC error.
    Error(i64, String),
    /// None, ever.
    Silence,
}

/// Runs until the end of input.
pub(crate) fn run(flags: &[&str]) -> io::Result<()> {
    let has = |flag| flags.contains(&flag);
    if has("--ignore-term") {
        tools::ignore(libc::SIGTERM);
    }
    if has("--leave-child") {
        // It keeps the pipes open when this process has ended.
        std::process::Command::new("/bin/sleep")
            .arg("600")
            .spawn()?;
    }
    let shared = Arc::new(Shared::default());
    let mut calls = Vec::new();
    for line in io::stdin().lock().split(b'\n') {
        let line = line?;
        let Ok(message) = serde_json::from_slice::<Value>(&line) else {
            if !line.iter().all(u8::is_ascii_whitespace) {
                write_line(&json!({"jsonrpc": "2.0", "id": null,
                    "error": {"code": -32700, "message": "not JSON"}}));
            }
            continue;
        };
        let shared = Arc::clone(&shared);
        calls.push(std::thread::spawn(move || {
            let answer = match &message {
                Value::Array(batch) => {
                    let answers: Vec<Value> =
                        batch.iter().filter_map(|m| respond(m, &shared)).collect();
                    (!answers.is_empty()).then_some(Value::Array(answers))
                }
                single => respond(single, &shared),
            };
            if let Some(answer) = answer {
                write_line(&answer);
            }
        }));
        calls.retain(|call| !call.is_finished());
    }
    if has("--ignore-eof") {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    for call in calls {
        let _ = call.join();
    }
    Ok(())
}

/// Writes a line at once.
pub(crate) fn write_line(value: &Value) {
    write_raw(format!("{value}\n").as_bytes());
}

/// Writes bytes at once. A reader that is gone ends the process.
pub(crate) fn write_raw(bytes: &[u8]) {
    let mut output = io::stdout().lock();
    if output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .is_err()
    {
        std::process::exit(3);
    }
}

fn respond(message: &Value, shared: &Shared) -> Option<Value> {
    let id = message.get("id")?;
    let method = message.get("method")?.as_str()?;
    let body = match answer(method, &message["params"], shared) {
        Answer::Text(text, error) => json!({
            "content": [{"type": "text", "text": text}], "isError": error}),
        Answer::Result(result) => result,
        Answer::Error(code, message) => {
            return Some(json!({"jsonrpc": "2.0", "id": id,
                "error": {"code": code, "message": message}}));
        }
        Answer::Silence => return None,
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": body}))
}

fn answer(method: &str, params: &Value, shared: &Shared) -> Answer {
    match method {
        "initialize" => Answer::Result(json!({
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "fake-mcp", "version": env!("CARGO_PKG_VERSION")}})),
        "ping" => Answer::Result(json!({})),
        "tools/list" => Answer::Result(json!({"tools": tools::list()})),
        "tools/call" => match params["name"].as_str() {
            Some("task") => Answer::Result(start_task(&params["arguments"], shared)),
            Some(name) => tools::call(name, &params["arguments"], shared),
            None => Answer::Error(-32602, "no name".into()),
        },
        "tasks/get" | "tasks/cancel" | "tasks/result" => task(method, params, shared),
        _ => Answer::Error(-32601, format!("no method {method}")),
    }
}

/// `task {ms}`: work that goes on after the answer, for so long.
fn start_task(arguments: &Value, shared: &Shared) -> Value {
    let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
    let id = format!("task-{}", tasks.len() + 1);
    let ms = arguments["ms"].as_u64().unwrap_or(0);
    tasks.insert(id.clone(), Instant::now() + Duration::from_millis(ms));
    json!({"task": describe(&id, "working")})
}

fn describe(id: &str, status: &str) -> Value {
    json!({"taskId": id, "status": status, "ttl": null,
        "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z"})
}

fn task(method: &str, params: &Value, shared: &Shared) -> Answer {
    let id = params["taskId"].as_str().unwrap_or_default();
    let done = {
        let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if method == "tasks/cancel" {
            tasks.insert(id.to_owned(), Instant::now());
        }
        tasks.get(id).copied()
    };
    let Some(done) = done else {
        return Answer::Error(-32602, format!("no task {id}"));
    };
    let left = done.saturating_duration_since(Instant::now());
    match method {
        "tasks/result" => {
            std::thread::sleep(left);
            Answer::Text("the task's result".into(), false)
        }
        "tasks/cancel" => Answer::Result(describe(id, "cancelled")),
        _ if left.is_zero() => Answer::Result(describe(id, "completed")),
        _ => Answer::Result(describe(id, "working")),
    }
}
