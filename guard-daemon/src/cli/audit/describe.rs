//! An event in words, for people.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::audit::event::{
    Access, Alert, Attribution, AuditEvent, Body, Call, CallInfo, Dns, Escape, EscapeOp,
    FileAccess, Loss, Mode, Network, Op, Policy, Protocol, Ring, Sandbox, Side, Verdict,
};
use crate::audit::words::Reason;
use crate::net::wire::Outcome as Outcomes;
use crate::wire::{Enforcement, Outcome};

/// How a row looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Something was denied.
    Denied,
    /// Something that should be looked at.
    Warning,
    /// Of little interest.
    Dim,
}

/// An event as one row of a table. Not yet safe for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The day, as a heading.
    pub(super) day: String,
    pub(super) cells: [String; COLUMNS.len()],
    pub(super) tone: Tone,
}

/// The heads of the columns.
pub(super) const COLUMNS: [&str; 6] = ["TIME", "SERVER", "CALL", "WHAT", "VERDICT", "WHY"];

/// The row of an event.
pub(super) fn row(event: &AuditEvent, zone: &TimeZone) -> Row {
    let time = event.time.to_zoned(zone.clone());
    let tone = match (&event.body, event.verdict) {
        (Body::Loss(_) | Body::Alert(_), _) => Tone::Warning,
        (_, Some(Verdict::Deny)) => Tone::Denied,
        _ => Tone::Plain,
    };
    Row {
        day: time.strftime("%A, %Y-%m-%d").to_string(),
        cells: [
            time.strftime("%H:%M:%S").to_string(),
            event
                .sandbox
                .as_ref()
                .map_or_else(String::new, |s| s.server.clone()),
            call(event),
            what(&event.body),
            verdict(event),
            why(event),
        ],
        tone,
    }
}

/// When an access happened, never why: `during`.
fn call(event: &AuditEvent) -> String {
    match (&event.call, &event.body) {
        (Some(Attribution::Exact(call)), _) => format!("in {}", name(call)),
        (Some(Attribution::Sole(call)), _) => format!("during {}", name(call)),
        (Some(Attribution::Ambiguous(several)), _) if several.is_empty() => {
            "during calls that changed".to_owned()
        }
        (Some(Attribution::Ambiguous(several)), _) => {
            let names: Vec<String> = several.iter().map(name).collect();
            format!("during one of {}", names.join(", "))
        }
        (Some(Attribution::None), _) => "no call".to_owned(),
        (
            None,
            Body::Call(Call::Start {
                id, method, tool, ..
            }),
        ) => {
            format!("{} ({id})", tool.as_deref().unwrap_or(method))
        }
        (
            None,
            Body::Call(Call::End {
                id,
                number,
                method,
                tool,
                ..
            }),
        ) => {
            let name = tool.as_deref().or(method.as_deref()).unwrap_or("call");
            match id {
                Some(id) => format!("{name} ({id})"),
                None => format!("{name} (number {number})"),
            }
        }
        (None, _) => String::new(),
    }
}

/// A call by its tool, or by its method when it has none.
fn name(call: &CallInfo) -> String {
    let name = call.tool.as_deref().or(call.method.as_deref());
    match (name, &call.id) {
        (Some(name), Some(id)) => format!("{name} ({id})"),
        _ => format!("call number {} (no record)", call.number),
    }
}

fn what(body: &Body) -> String {
    match body {
        Body::File(f) => file(f),
        Body::Exec(f) => match f.op {
            Op::MapExec => format!("map as code {}", path(f)),
            Op::ProtectExec => format!("make memory code: {}", path(f)),
            _ => format!("execute {}", path(f)),
        },
        Body::Network(n) => network(n),
        Body::Dns(dns) => question(dns),
        Body::Escape(e) => escape(e),
        Body::Call(Call::Start {
            arguments,
            arguments_cut,
            ..
        }) => {
            let cut = if *arguments_cut { " (cut)" } else { "" };
            format!(
                "request {}{cut}",
                arguments.as_deref().unwrap_or("without arguments")
            )
        }
        Body::Call(Call::End {
            outcome,
            result_bytes,
            duration_ns,
            ..
        }) => {
            let took = Duration::from_nanos(*duration_ns);
            match outcome {
                Outcome::Result => format!("result, {result_bytes} bytes, {took:.1?}"),
                Outcome::ToolError => format!("tool error, {result_bytes} bytes, {took:.1?}"),
                Outcome::ProtocolError => {
                    format!("protocol error, {result_bytes} bytes, {took:.1?}")
                }
                Outcome::Cancelled => format!("cancelled, never answered, {took:.1?}"),
                Outcome::Abandoned => format!("the session ended first, {took:.1?}"),
            }
        }
        Body::Policy(Policy::Loaded {
            name, generation, ..
        }) => {
            format!("policy {name} in force, generation {generation}")
        }
        Body::Sandbox(Sandbox::Start {
            command,
            uid,
            env_removed,
            enforcement,
            audit_only,
            ..
        }) => {
            let unenforced = match (enforcement, audit_only) {
                (Enforcement::GatewayOnly, _) => ", NOT ENFORCED BY THE KERNEL",
                (Enforcement::Kernel, true) => ", AUDIT ONLY: NOTHING IS DENIED",
                (Enforcement::Kernel, false) => "",
            };
            let removed = match env_removed.len() {
                0 => String::new(),
                n => format!(", {n} environment variables removed"),
            };
            format!(
                "start as uid {uid}: {}{removed}{unenforced}",
                command.join(" ")
            )
        }
        Body::Sandbox(Sandbox::Stop { status, signal }) => match (status, signal) {
            (Some(status), _) => format!("ended with status {status}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        Body::Protocol(Protocol::Breach {
            from,
            detail,
            refused,
            rseq: _,
        }) => {
            let from = match from {
                Side::Client => "client",
                Side::Server => "server",
                Side::Relay => "relay",
            };
            let done = if *refused { "withheld" } else { "passed on" };
            format!("bad message of the {from}, {done}: {detail}")
        }
        Body::Loss(loss) => lost(loss),
        Body::Alert(Alert::Raised { detail }) => detail.clone(),
    }
}

fn lost(loss: &Loss) -> String {
    match loss {
        Loss::Kernel { ring, first, count } => {
            let ring = match ring {
                Ring::Denials => "denials",
                Ring::Allows => "allowed accesses",
            };
            format!("LOST: {count} kernel events ({ring}, from kseq {first})")
        }
        Loss::Relay { count, .. } => format!("LOST: {count} records of calls"),
        Loss::Unwritten { count } => format!("LOST: {count} events that could not be written"),
        Loss::Torn { bytes, .. } => {
            format!("LOST: the end of a line of which {bytes} bytes were written")
        }
    }
}

fn file(file: &FileAccess) -> String {
    let verb = match file.op {
        Op::Create => "create",
        Op::Mkdir => "make directory",
        Op::Rmdir => "remove directory",
        Op::Mknod => "make special file",
        Op::Unlink => "delete",
        Op::Symlink => "make symbolic link",
        Op::Link => "link",
        Op::Rename => "rename",
        Op::Truncate => "truncate",
        Op::Chmod => "change the mode of",
        Op::Chown => "change the owner of",
        Op::Xattr => "change attributes of",
        Op::Times => "set the times of",
        Op::Watch => "watch",
        Op::Receive => "receive the open file",
        _ => return format!("{} {}", access(&file.access), path(file)),
    };
    format!("{verb} {}", path(file))
}

fn access(access: &[Access]) -> String {
    if access.is_empty() {
        return "open".to_owned();
    }
    let words: Vec<&str> = access
        .iter()
        .map(|a| match a {
            Access::Read => "read",
            Access::Write => "write",
            Access::Exec => "execute",
        })
        .collect();
    words.join("+")
}

fn path(file: &FileAccess) -> String {
    let partial = if file.path_partial {
        " (the part that is known)"
    } else {
        ""
    };
    format!("{}{partial}", file.path)
}

fn network(net: &Network) -> String {
    let kind = net.socket_type.as_ref().map_or("", |t| t.as_str());
    let verb = match net.op {
        Op::Socket => {
            let protocol = net.protocol.unwrap_or(0);
            return format!("make a socket: {} {kind} protocol {protocol}", net.family);
        }
        Op::Send | Op::UnixSend => "send to",
        Op::Bind => "bind to",
        Op::Listen => "listen on",
        Op::Tls => "TLS to",
        _ => "connect to",
    };
    let whom = match (&net.path, net.address) {
        (Some(path), _) if net.path_partial => format!("{path} (the part that is known)"),
        (Some(path), _) => path.clone(),
        (None, Some(address)) => {
            let port = net.port.unwrap_or(0);
            let address = std::net::SocketAddr::new(address, port);
            // Which of several names was meant is not known.
            let or = if net.shared {
                " or another name there"
            } else {
                ""
            };
            match (&net.name, &net.sni) {
                (_, Some(sni)) => format!("{sni}:{port}, at {address},"),
                (Some(name), None) => format!("{name}:{port}{or}, at {address},"),
                (None, None) => address.to_string(),
            }
        }
        (None, None) => format!("a socket ({})", net.family),
    };
    format!("{verb} {whom} {kind}").trim_end().to_owned()
}

fn question(dns: &Dns) -> String {
    let Dns::Query {
        name,
        record,
        outcome,
        chain,
        addresses,
        ..
    } = dns;
    let over = match chain.last() {
        Some(last) => format!(" over {last}"),
        None => String::new(),
    };
    let became = match (outcome, &addresses[..]) {
        (Outcomes::Answered, [first]) => format!(": {first}"),
        (Outcomes::Answered, [first, rest @ ..]) => format!(": {first} and {} more", rest.len()),
        (Outcomes::Nothing, _) => ": nothing there".to_owned(),
        (Outcomes::NoUpstream, _) => ": nobody answered".to_owned(),
        (Outcomes::Malformed, _) => return format!("a question that is none: {name}"),
        _ => String::new(),
    };
    format!("ask for {name} {record}{over}{became}")
}

fn escape(escape: &Escape) -> String {
    let what = match escape.op {
        EscapeOp::Ptrace => "look into a process",
        EscapeOp::Signal => "send a signal",
        EscapeOp::Mount => "change mounts",
        EscapeOp::Chroot => "change the root directory",
        EscapeOp::UserNamespace => "make a user namespace",
        EscapeOp::Bpf => "use bpf()",
        EscapeOp::Perf => "use perf_event_open()",
        EscapeOp::Module => "load code into the kernel",
        EscapeOp::Key => "use a key",
        EscapeOp::Ipc => "use a System V object",
        EscapeOp::Scheduler => "change the scheduling of a process",
        EscapeOp::KernelLog => "use the kernel's log",
        EscapeOp::IoUring => "use io_uring",
        EscapeOp::Syscall => "make a system call",
    };
    let detail = escape.detail.as_ref().map(|d| format!(": {d}"));
    let target = escape.target.map(|pid| format!(", process {pid}"));
    format!(
        "{what}{}{}",
        detail.unwrap_or_default(),
        target.unwrap_or_default()
    )
}

fn verdict(event: &AuditEvent) -> String {
    let verdict = match event.verdict {
        Some(Verdict::Allow) => "allow",
        Some(Verdict::Deny) => "DENY",
        None => return String::new(),
    };
    match event.mode {
        Some(Mode::Audit) => format!("{verdict} (not applied)"),
        _ => verdict.to_owned(),
    }
}

fn why(event: &AuditEvent) -> String {
    let rule = event.rule.as_ref().map(|r| format!("{} {}", r.id, r.text));
    let reason = event.reason.as_ref().map(|r| match r {
        Reason::NoRule => "no rule allows it".to_owned(),
        Reason::Escape => "no policy can allow it".to_owned(),
        Reason::SecondWall => "refused by the system call filter".to_owned(),
        other => reason(other),
    });
    match (rule, reason) {
        (Some(rule), Some(reason)) => format!("{rule}; {reason}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    }
}

/// The word of a reason, as it is in the trail.
fn reason(reason: &Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{reason:?}"),
    }
}
