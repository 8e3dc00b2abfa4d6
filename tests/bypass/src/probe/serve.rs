//! The steps as an MCP server (JSON-RPC over stdio, a message a line), so that a
//! client can ask for them while it is watched whether it stays connected.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Seen, step, target, told};
use crate::attack::{At, Failure, nothing};

/// Answers until its input ends. Tools: `step` runs one, `open` keeps a TCP
/// connection, `echo` uses it.
pub(crate) fn run() -> Seen {
    let mut kept: Option<TcpStream> = None;
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line.at("read")?)
            .map_err(|error| nothing(&format!("JSON: {error}")))?;
        let Some(id) = message.get("id") else {
            continue;
        };
        let result = match message["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "bypass-probe", "version": "0"},
            }),
            Some("tools/call") => {
                let (status, text) = told(&call(&message["params"], &mut kept));
                json!({"content": [{"type": "text", "text": text}], "isError": status != 0})
            }
            _ => json!({"tools": []}),
        };
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": result});
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}").at("write")?;
        output.flush().at("write")?;
    }
    // Nothing but messages goes to a client.
    std::process::exit(0)
}

fn call(params: &Value, kept: &mut Option<TcpStream>) -> Seen {
    let words = params["arguments"]["words"].as_array();
    let words: Vec<&str> = words
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match (params["name"].as_str(), &words[..]) {
        (Some("step"), words) => {
            step(words).unwrap_or_else(|| Err(Failure::Untried(format!("no step {words:?}"))))
        }
        (Some("open"), [to]) => {
            let stream = TcpStream::connect(target::find(to)?).at("connect")?;
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .at("a timeout")?;
            *kept = Some(stream);
            Ok("open".to_owned())
        }
        (Some("echo"), []) => {
            let stream = kept.as_mut().ok_or_else(|| nothing("a connection"))?;
            stream.write_all(b"still here").at("write")?;
            let mut bytes = [0; 10];
            stream.read_exact(&mut bytes).at("read")?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => Err(Failure::Untried(format!("no such tool: {params}"))),
    }
}
