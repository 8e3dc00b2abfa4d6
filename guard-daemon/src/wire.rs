//! What the three processes of a session say to each other. Every message is
//! one JSON object in one packet of a `SOCK_SEQPACKET` unix socket, at most
//! [`MAX_PACKET`] bytes.

pub mod transport;

use serde::{Deserialize, Serialize};

use crate::mcp::digest::Digest;

/// Version of this protocol; both sides must agree.
pub const WIRE_VERSION: u32 = 1;
/// Bytes of the largest packet.
pub const MAX_PACKET: usize = 256 << 10;
/// Where the supervisor listens.
pub const SOCKET_PATH: &str = "/run/guard/guard.sock";

/// First packet on a connection to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a server. Answered by a [`RunReply`].
    Run(Box<RunRequest>),
    /// Which sandboxes are there? Answered by a [`StatusReply`].
    Status,
    /// Load policies anew. Answered by a [`ReloadReply`].
    Reload,
    /// A relay is back: the same bytes as [`RelayRecord::Hello`]. Answered by
    /// a [`RelayNote`]; from here on the connection is that relay's wire.
    #[serde(rename = "hello")]
    Relay {
        /// Sandbox number.
        sandbox: u64,
        /// Proves that it is that sandbox's relay.
        token: String,
        /// Records up to this number were acknowledged to it.
        written: u64,
    },
}

/// Answer to [`Request::Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusReply {
    /// Version of the supervisor's program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Whether the kernel side is loaded.
    pub kernel: bool,
    /// Live sandboxes, oldest first.
    pub sandboxes: Vec<SandboxStatus>,
}

/// One sandbox of a [`StatusReply`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// `--name`.
    pub server: String,
    /// The policy's name.
    pub policy: String,
    /// Who holds the policy.
    pub enforcement: Enforcement,
    /// User id that the server runs as.
    pub uid: u32,
    /// The server's process.
    pub pid: u32,
    /// Seconds since it was started.
    pub age: u64,
    /// Calls in flight, as far as records came.
    pub calls: usize,
    /// Taken over from an earlier supervisor.
    pub adopted: bool,
}

/// Answer to [`Request::Reload`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadReply {
    /// It was not done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Client → supervisor. Descriptors travel with it, in this order: the
/// server's stdin, stdout, stderr as the MCP client gave them, and one end of
/// the control socket ([`ControlMessage`], [`ControlReply`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// [`WIRE_VERSION`].
    pub version: u32,
    /// `--policy`: a name or an absolute file; absent: `default`.
    pub policy: Option<String>,
    /// `--name`.
    pub name: Option<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--set KEY=VALUE`.
    pub set: Vec<(String, String)>,
    /// `--audit-only`.
    pub audit_only: bool,
    /// `--enforcement`.
    pub enforcement: Enforcement,
    /// `--audit-file`, absolute.
    pub audit_file: Option<String>,
    /// The command and its arguments, each escaped by [`crate::wire::escape`].
    pub command: Vec<String>,
    /// Working directory, escaped.
    pub cwd: String,
    /// Environment as `NAME=value`, escaped.
    pub env: Vec<String>,
    /// File mode creation mask.
    pub umask: u32,
    /// The user who called sudo (`SUDO_UID`, `SUDO_GID`), if any.
    pub sudo: Option<(u32, u32)>,
}

/// Who holds the policy's file and network rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// The kernel; where that cannot be had, nothing starts.
    Kernel,
    /// Nobody: only the JSON-RPC stream is read. Explicit and logged.
    GatewayOnly,
}

/// Supervisor → client, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunReply {
    /// The server was started; from here on the control socket speaks.
    Started {
        /// Sandbox id.
        sandbox: String,
        /// For stderr: names of removed environment variables and the like.
        notes: Vec<String>,
    },
    /// It was not.
    Refused {
        /// 125, 126 or 127.
        status: u8,
        /// What failed, on what, and what to do.
        reason: String,
    },
}

/// Client → relay, over the control socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlMessage {
    /// Pass this signal on to the server.
    Signal(i32),
}

/// Relay → client, over the control socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlReply {
    /// The server ended with this status.
    Exited(u8),
    /// The server was ended by this signal.
    Signalled(i32),
}

/// Relay → supervisor: one packet, but for [`RelayRecord::Hello`], which comes
/// bare. The relay numbers its records from 1 without a gap, over all
/// connections of its session, and keeps each until it was acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbered {
    /// The record's number.
    pub seq: u64,
    /// The record.
    pub record: RelayRecord,
}

/// Supervisor → relay, on the same socket, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RelayNote {
    /// What all records up to this number say is in the trail.
    Written {
        /// The number.
        through: u64,
    },
}

/// Relay → supervisor. A call's record is sent **before** its slot is written,
/// which is before its bytes leave: when a kernel event names a call, its
/// record is already in the socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RelayRecord {
    /// First packet of a relay that reconnects after a restart of the supervisor.
    Hello {
        /// Sandbox number.
        sandbox: u64,
        /// Proves that it is that sandbox's relay.
        token: String,
        /// Records up to this number were acknowledged to it. Those after it
        /// follow, also such as were sent before.
        written: u64,
    },
    /// A request is about to be forwarded.
    CallStart(CallStart),
    /// Its response was read, or it was given up.
    CallEnd(CallEnd),
    /// Something in the stream that is not as the protocol says.
    Protocol(ProtocolNote),
    /// Records that were lost because the supervisor was away too long.
    Lost {
        /// How many.
        records: u64,
    },
    /// The server process ended; the relay ends after this.
    ServerExit {
        /// Exit status, or `None` when a signal ended it.
        status: Option<u8>,
        /// The signal.
        signal: Option<i32>,
    },
}

/// A request that is forwarded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "CallStartPacket")]
pub struct CallStart {
    /// Number of the call in this session, from 1: what the slot and kernel events carry.
    pub call: u64,
    /// The call whose result asked for more input (`input_required`), which
    /// this one repeats with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continues: Option<u64>,
    /// The JSON-RPC id as it was written (`3`, `"3"`).
    pub id: String,
    /// JSON-RPC method.
    pub method: String,
    /// `params.name` of `tools/call`.
    pub tool: Option<String>,
    /// The arguments as JSON text, or a prefix of it.
    pub arguments: Option<String>,
    /// Whether `arguments` was cut to its bound.
    pub arguments_cut: bool,
    /// `sha256:` and the digest of the arguments' bytes, whole. On the wire it
    /// is there only when they were cut: the relay's hot path has no time for
    /// it, so that whoever reads the packet computes it from whole arguments.
    pub args_hash: Option<String>,
    /// Wall clock, nanoseconds since the epoch.
    pub time: u64,
}

/// [`CallStart`] as it is in a packet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallStartPacket {
    call: u64,
    #[serde(default)]
    continues: Option<u64>,
    id: String,
    method: String,
    tool: Option<String>,
    arguments: Option<String>,
    arguments_cut: bool,
    #[serde(default)]
    args_hash: Option<String>,
    time: u64,
}

impl From<CallStartPacket> for CallStart {
    fn from(packet: CallStartPacket) -> Self {
        let whole = packet.arguments.as_ref().filter(|_| !packet.arguments_cut);
        let computed = whole.map(|text| Digest::of(text.as_bytes()).to_string());
        Self {
            call: packet.call,
            continues: packet.continues,
            id: packet.id,
            method: packet.method,
            tool: packet.tool,
            args_hash: computed.or(packet.args_hash),
            arguments: packet.arguments,
            arguments_cut: packet.arguments_cut,
            time: packet.time,
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallEnd {
    /// [`CallStart::call`].
    pub call: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// [`CallStart::args_hash`], where it was not made when the call began:
    /// the arguments were long, and the request did not wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_hash: Option<String>,
    /// Bytes of the response line, without its end.
    pub result_bytes: u64,
    /// `sha256:` and the digest of the response line.
    pub result_hash: Option<String>,
    /// Nanoseconds from the request's last byte read to the response's.
    pub duration: u64,
    /// Wall clock, nanoseconds since the epoch.
    pub time: u64,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A result.
    Result,
    /// A result with `isError: true`.
    ToolError,
    /// A JSON-RPC error.
    ProtocolError,
    /// Cancelled, and no response within the time that keeps it a candidate.
    Cancelled,
    /// The session ended first.
    Abandoned,
}

/// A breach of the protocol by one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolNote {
    /// `client` or `server`: who wrote it.
    pub from: String,
    /// A short fixed word: `not-json`, `duplicate-key`, `too-long`, `batch`, …
    pub reason: String,
    /// More, bounded.
    pub detail: String,
    /// Whether the bytes were withheld from the other side.
    pub refused: bool,
    /// Wall clock, nanoseconds since the epoch.
    pub time: u64,
}

/// Makes bytes text without loss: UTF-8 without control characters stays,
/// any other byte and `\` become `\xHH`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The inverse of [`escape`]. `None` when the text is none that it makes.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let (code, tail) = tail.split_at_checked(3)?;
        let hex = code.strip_prefix(b"x")?;
        out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = tail;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_arguments_get_their_digest_and_cut_ones_keep_theirs() {
        let packet = |cut, hash: &str| {
            format!(
                "{{\"call\":1,\"id\":\"1\",\"method\":\"m\",\"tool\":null,\"arguments\":\"abc\",\
                 \"arguments_cut\":{cut},\"args_hash\":{hash},\"time\":0}}"
            )
        };
        let read = |text: String| serde_json::from_str::<CallStart>(&text).unwrap().args_hash;
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(read(packet(false, "null")).as_deref(), Some(abc));
        assert_eq!(read(packet(false, "\"lie\"")).as_deref(), Some(abc));
        assert_eq!(read(packet(true, "\"theirs\"")).as_deref(), Some("theirs"));
        assert!(serde_json::from_str::<CallStart>(&packet(true, "null,\"x\":1")).is_err());
    }

    #[test]
    fn a_relays_hello_is_a_request() {
        let hello = RelayRecord::Hello {
            sandbox: 7,
            token: "t".into(),
            written: 9,
        };
        let text = serde_json::to_string(&hello).unwrap();
        let request: Request = serde_json::from_str(&text).unwrap();
        assert!(
            matches!(request, Request::Relay { sandbox: 7, ref token, written: 9 } if token == "t"),
            "{request:?}"
        );
    }

    #[test]
    fn escape_loses_nothing() {
        for bytes in [
            &b"/srv/a b"[..],
            b"/x/\xff\xfe",
            b"a\\x41",
            "naïve\n".as_bytes(),
            b"\0",
        ] {
            assert_eq!(unescape(&escape(bytes)).as_deref(), Some(bytes));
        }
    }
}
