//! What an event is about: the members between `process` and `verdict`.

use serde::{Deserialize, Serialize};

use super::super::words::{Digest, Word};
use super::is_false;
use crate::net::wire::Outcome;
use crate::wire::{Enforcement, Outcome as CallOutcome};

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    /// A request and what became of it.
    Call(Call),
    /// A file was opened or changed.
    File(FileAccess),
    /// A program was executed or mapped as code.
    Exec(FileAccess),
    /// A socket was made or used.
    Network(Network),
    /// A name was asked for.
    Dns(Dns),
    /// An attempt to reach out of the sandbox.
    Escape(Escape),
    /// A policy was put in force.
    Policy(Policy),
    /// A sandbox was started or has ended.
    Sandbox(Sandbox),
    /// The stream is not as the protocol says.
    Protocol(Protocol),
    /// Evidence is missing.
    Loss(Loss),
    /// Something that an operator should look at.
    Alert(Alert),
}

/// Body of `call`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Call {
    /// The request is about to be forwarded (verdict `allow`) or was refused.
    Start {
        /// The JSON-RPC id as it was written.
        id: String,
        /// Number in the session, from 1.
        number: u64,
        /// The call whose result asked for more input (`input_required`),
        /// which this one repeats with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        continues: Option<u64>,
        /// JSON-RPC method.
        method: String,
        /// The tool, of a `tools/call`.
        tool: Option<String>,
        /// The arguments as JSON text, or a prefix of it.
        arguments: Option<String>,
        /// Whether `arguments` was cut to its bound.
        arguments_cut: bool,
        /// Digest of the arguments, whole.
        args_hash: Option<Digest>,
        /// Number of the relay's record.
        rseq: u64,
    },
    /// Its response was read, or it was given up.
    End {
        /// The JSON-RPC id; `None` when no start was recorded.
        id: Option<String>,
        /// Number in the session.
        number: u64,
        /// JSON-RPC method; `None` when no start was recorded.
        method: Option<String>,
        /// The tool, of a `tools/call`.
        tool: Option<String>,
        /// Digest of the arguments, whole.
        args_hash: Option<Digest>,
        /// What became of it.
        outcome: CallOutcome,
        /// Bytes of the response line, without its end.
        result_bytes: u64,
        /// Digest of the response line.
        result_hash: Option<Digest>,
        /// From the request's last byte read to the response's.
        duration_ns: u64,
        /// Number of the relay's record.
        rseq: u64,
    },
}

/// Body of `file` and `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccess {
    /// The operation, by the hook that saw it.
    pub op: Op,
    /// What was asked.
    pub access: Vec<Access>,
    /// The path as the kernel sees it.
    pub path: String,
    /// `path` is not UTF-8: `\` and other bytes are written as `\xHH`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_escaped: bool,
    /// `path` is not whole, see the reason.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_partial: bool,
    /// The process's own number below `/proc` was judged as `self`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proc_self: bool,
    /// Sequence number in this sandbox and ring.
    pub kseq: u64,
}

/// Body of `network`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The operation, by the hook that saw it.
    pub op: Op,
    /// `inet`, `inet6`, `unix`, …, or `af-N`.
    pub family: Word,
    /// Destination; `None` where a socket was made.
    pub address: Option<std::net::IpAddr>,
    /// Destination port.
    pub port: Option<u16>,
    /// Of a unix socket: its path, or `@` and its abstract name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `path` is not UTF-8: `\` and other bytes are written as `\xHH`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_escaped: bool,
    /// `path` is not whole, see the reason.
    #[serde(default, skip_serializing_if = "is_false")]
    pub path_partial: bool,
    /// `stream`, `dgram`, `raw`, …, or `type-N`; `None` when not known.
    pub socket_type: Option<Word>,
    /// `IPPROTO_*` or the family's own; `None` where a unix socket is named.
    pub protocol: Option<u16>,
    /// The name through which the address is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other names led to the same address: which of them was meant is not known.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
    /// The server name that the program's ClientHello asked for, escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Sequence number in this sandbox and ring; `None` when the kernel programs
    /// did not see it.
    pub kseq: Option<u64>,
}

/// Body of `dns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Dns {
    /// A question to guard's resolver, and what became of it.
    Query {
        /// The name as it was asked for, escaped ([`crate::wire::escape`]).
        name: String,
        /// Record type: `A`, `AAAA`, …, or `TYPE65280` (RFC 3597, 5).
        record: String,
        /// Whether it came over TCP.
        tcp: bool,
        /// What became of it.
        outcome: Outcome,
        /// The names that it led over, without the first.
        chain: Vec<String>,
        /// Addresses that were answered and are open now.
        addresses: Vec<std::net::IpAddr>,
        /// Seconds for which the answer holds.
        ttl: Option<u32>,
        /// Nobody was asked: it was known already.
        cached: bool,
    },
}

/// Body of `escape`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escape {
    /// The operation, by the hook or wall that saw it.
    pub op: EscapeOp,
    /// The process that was acted on; `None` for none.
    pub target: Option<u32>,
    /// What exactly: a signal, a command of bpf(2), a system call.
    pub detail: Option<String>,
    /// Sequence number in this sandbox and ring; `None` when the kernel
    /// programs did not see it.
    pub kseq: Option<u64>,
}

/// Ways out of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EscapeOp {
    /// Another process traced, its memory or descriptors asked for.
    Ptrace,
    /// A signal to a process outside.
    Signal,
    /// Mounts changed.
    Mount,
    /// The root directory changed.
    Chroot,
    /// A user namespace made.
    UserNamespace,
    /// bpf(2).
    Bpf,
    /// perf_event_open(2).
    Perf,
    /// A kernel module or other code for the kernel loaded.
    Module,
    /// A key of somebody else used.
    Key,
    /// A System V object of somebody else used.
    Ipc,
    /// The scheduling of a process outside changed.
    Scheduler,
    /// The kernel's log read.
    KernelLog,
    /// io_uring's special commands.
    IoUring,
    /// A system call that seccomp refused.
    Syscall,
}

/// Operations that the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// A file was opened.
    Open,
    /// A program was executed.
    Exec,
    /// A file was mapped as code.
    MapExec,
    /// A socket was made.
    Socket,
    /// A socket was connected.
    Connect,
    /// A datagram was sent.
    Send,
    /// A regular file was made.
    Create,
    /// A directory was made.
    Mkdir,
    /// A directory was removed.
    Rmdir,
    /// A FIFO, socket or device was made.
    Mknod,
    /// A file was removed.
    Unlink,
    /// A symbolic link was made.
    Symlink,
    /// A file got another name.
    Link,
    /// A file was renamed; one event for each name.
    Rename,
    /// A file was cut or grown.
    Truncate,
    /// Its mode was changed.
    Chmod,
    /// Its owner was changed.
    Chown,
    /// An extended attribute or access control list was changed.
    Xattr,
    /// Its times were set.
    Times,
    /// It is watched (inotify, fanotify).
    Watch,
    /// A descriptor of it came over a unix socket.
    Receive,
    /// Memory of it was made executable.
    ProtectExec,
    /// A socket was bound to an address.
    Bind,
    /// A socket waits for connections.
    Listen,
    /// A unix socket was connected.
    UnixConnect,
    /// A datagram was sent to a unix socket.
    UnixSend,
    /// A connection went, or did not go, through guard's look at its server name.
    Tls,
}

/// What was asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Execute it.
    Exec,
}

/// Body of `policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Policy {
    /// Compiled and in force.
    Loaded {
        /// Its name.
        name: String,
        /// Where its text came from: a file, or `built-in NAME`.
        source: String,
        /// Digest of the policy as it was resolved.
        policy_hash: Digest,
        /// Counts the policies that the sandbox was under, from 1.
        generation: u32,
    },
}

/// Body of `sandbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Sandbox {
    /// The server is about to be executed.
    Start {
        /// The command and its arguments, escaped ([`crate::wire::escape`]).
        command: Vec<String>,
        /// User id that it runs as.
        uid: u32,
        /// Group id that it runs as.
        gid: u32,
        /// Names of environment variables that were removed, escaped.
        env_removed: Vec<String>,
        /// Who holds the policy.
        enforcement: Enforcement,
        /// `--audit-only`: everything is judged, nothing denied.
        audit_only: bool,
        /// What stands around the server.
        walls: Vec<Wall>,
    },
    /// The server has ended and its cgroup is empty.
    Stop {
        /// Exit status; `None` when a signal ended it or it is not known.
        status: Option<u8>,
        /// The signal.
        signal: Option<i32>,
    },
}

/// What keeps a server in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wall {
    /// The kernel programs that judge by the policy.
    KernelPrograms,
    /// The system call filter.
    Seccomp,
    /// A Landlock ruleset for what is written, made, moved and removed.
    Landlock,
    /// The policy's limits of resources.
    Limits,
}

/// Body of `protocol`; the common `reason` says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Protocol {
    /// A breach.
    Breach {
        /// Who wrote it.
        from: Side,
        /// More, bounded.
        detail: String,
        /// Whether the bytes were withheld from the other side.
        refused: bool,
        /// Number of the relay's record.
        rseq: u64,
    },
}

/// A side of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The MCP client.
    Client,
    /// The MCP server.
    Server,
    /// The relay itself.
    Relay,
}

/// Body of `loss`; the common `reason` says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Loss {
    /// Kernel events that never came.
    Kernel {
        /// Of which ring.
        ring: Ring,
        /// The first missing `kseq`.
        first: u64,
        /// How many in a row.
        count: u64,
    },
    /// Relay records that never came.
    Relay {
        /// How many.
        count: u64,
        /// Number of the relay's record that says so, or of the last that is
        /// missing.
        rseq: u64,
    },
    /// Events that could not be written.
    Unwritten {
        /// How many.
        count: u64,
    },
    /// A line that was not whole when the trail was opened. It was kept,
    /// before this line.
    Torn {
        /// Its bytes, without the end of line.
        bytes: u64,
        /// Their digest.
        fragment_hash: Digest,
    },
}

/// The two rings of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// Denials.
    Denials,
    /// Allowed accesses.
    Allows,
}

/// Body of `alert`; the common `reason` says what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Alert {
    /// It was noticed.
    Raised {
        /// More, bounded.
        detail: String,
    },
}
