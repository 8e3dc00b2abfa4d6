//! Errors that guard writes to the client in the server's place.

use super::fault::Fault;

/// A JSON-RPC error as one line. `id` is JSON text; `None` is `null`.
#[must_use]
pub fn error(id: Option<&str>, code: i32, message: &str) -> Vec<u8> {
    let text = serde_json::Value::from(message);
    let id = id.unwrap_or("null");
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{text}}}}}\n"
    )
    .into_bytes()
}

/// The error for a message of the client that was not forwarded.
#[must_use]
pub fn refusal(id: Option<&str>, fault: Fault, detail: &str) -> Vec<u8> {
    let colon = if detail.is_empty() { "" } else { ": " };
    error(
        id,
        fault.code(),
        &format!("guard did not forward this: {fault}{colon}{detail}"),
    )
}

/// The error for a call whose response was withheld.
#[must_use]
pub fn withheld(id: &str, fault: Fault) -> Vec<u8> {
    error(
        Some(id),
        -32603,
        &format!("guard withheld the server's response: {fault}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_of_json() {
        for (id, wanted) in [
            (Some("\"a\\n\""), serde_json::json!("a\n")),
            (Some("7"), serde_json::json!(7)),
            (None, serde_json::Value::Null),
        ] {
            let line = refusal(id, Fault::TooLong, "limit \"16\" bytes\n");
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(value["id"], wanted);
            assert_eq!(value["error"]["code"], -32600);
            assert_eq!(value["jsonrpc"], "2.0");
        }
    }
}
