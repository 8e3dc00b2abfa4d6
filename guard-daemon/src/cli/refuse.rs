//! Saying why nothing was started, also to clients that hide stderr: their
//! first request is answered with a JSON-RPC error that carries the reason.

use std::io::{self, IsTerminal as _, Read, Write};

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes of input that are looked through for a request.
const MAX_INPUT: u64 = 1 << 20;
/// Implementation-defined server error (JSON-RPC 2.0, section 5.1); MCP keeps
/// -32020 to -32099 for itself.
const CODE: i32 = -32000;
/// Whoever reads a stranger's input is nobody.
const NOBODY: u32 = 65534;

/// Prints the reason, answers the first request with it, and gives back `status`.
pub(super) fn refuse(status: u8, reason: &str) -> u8 {
    eprintln!("guard: {reason}");
    let stdin = io::stdin();
    if !stdin.is_terminal() && drop_root().is_ok() {
        // Nobody listens: the status still says it.
        let _ = answer(stdin.lock(), io::stdout(), reason);
    }
    status
}

/// Root never parses what a client sends.
fn drop_root() -> nix::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    method: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i32,
    message: &'a str,
}

/// Reads lines until one is a request (or a batch with one), answers it, and
/// stops. Anything else is passed over.
fn answer(input: impl Read, mut output: impl Write, reason: &str) -> io::Result<()> {
    let message = format!("guard refused to start this server: {reason}");
    let mut lines = io::BufReader::new(input.take(MAX_INPUT));
    let mut line = Vec::new();
    while io::BufRead::read_until(&mut lines, b'\n', &mut line)? > 0 {
        if let Some(text) = answer_to(&line, &message) {
            output.write_all(&text)?;
            return output.flush();
        }
        line.clear();
    }
    Ok(())
}

fn answer_to(line: &[u8], message: &str) -> Option<Vec<u8>> {
    let error = |id: &RawValue| -> Option<String> {
        serde_json::to_string(&Answer {
            jsonrpc: "2.0",
            id,
            error: Error {
                code: CODE,
                message,
            },
        })
        .ok()
    };
    let mut text = if let Ok(head) = serde_json::from_slice::<Head>(line) {
        error(&request_id(head)?)?
    } else {
        let batch: Vec<Head> = serde_json::from_slice(line).ok()?;
        let answers: Vec<String> = batch
            .into_iter()
            .filter_map(request_id)
            .filter_map(|id| error(&id))
            .collect();
        if answers.is_empty() {
            return None;
        }
        format!("[{}]", answers.join(","))
    };
    text.push('\n');
    Some(text.into_bytes())
}

/// The id of a request; notifications and responses have none or no method.
fn request_id(head: Head) -> Option<Box<RawValue>> {
    head.method?;
    let id = head.id?;
    let first = id.get().as_bytes().first().copied()?;
    (first == b'"' || first == b'-' || first.is_ascii_digit()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(input: &str) -> String {
        let mut output = Vec::new();
        answer(input.as_bytes(), &mut output, "no \"policy\"").unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn the_first_request_learns_the_reason() {
        let expected = |id: &str| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32000,\"message\":\
                 \"guard refused to start this server: no \\\"policy\\\"\"}}}}\n"
            )
        };
        for (input, id) in [
            (
                "{\"id\":1,\"method\":\"initialize\"}\n{\"id\":2,\"method\":\"x\"}\n",
                "1",
            ),
            (
                "{\"method\":\"note\"}\nnot json\n{\"id\":\"a\\u0062\",\"method\":\"x\"}",
                "\"a\\u0062\"",
            ),
            (
                "{\"id\":12345678901234567890.5,\"method\":\"x\"}\r\n",
                "12345678901234567890.5",
            ),
        ] {
            assert_eq!(answered(input), expected(id), "{input}");
        }
    }

    #[test]
    fn a_batch_is_answered_as_one() {
        let text = answered(
            "[{\"method\":\"n\"},{\"id\":1,\"method\":\"a\"},{\"id\":2,\"method\":\"b\"}]\n",
        );
        let values: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(values.len(), 2);
        assert_eq!(values[1]["id"], 2);
    }

    #[test]
    fn nothing_else_is_answered() {
        for input in [
            "",
            "\n",
            "{\"id\":1,\"result\":{}}\n",
            "{\"id\":null,\"method\":\"x\"}\n",
            "[]\n",
        ] {
            assert_eq!(answered(input), "", "{input}");
        }
        let long = format!("{}\n{{\"id\":1,\"method\":\"x\"}}\n", "x".repeat(1 << 20));
        assert_eq!(answered(&long), "", "the bound holds");
    }
}
