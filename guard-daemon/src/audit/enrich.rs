//! From kernel events and relay records to audit events. Pure: what a number
//! stands for is asked of the caller.

use guard_common::event::{
    EVENT_LEASE_EXPIRED, EVENT_NOT_APPLIED, EVENT_PATH_PARTIAL, EVENT_PROC_SELF, EVENT_TORN, Event,
    Kind, NetPayload, Object,
};
use guard_common::matcher::Verdict as KernelVerdict;
use guard_common::table::FileAccess as TableAccess;

use super::clock::{Clock, from_nanos};
use super::event::{
    Access, Alert, Attribution, AuditEvent, Body, Call, CallInfo, Escape, EscapeOp, FileAccess,
    Loss, Mode, Network, Op, Process, Protocol, RuleRef, SandboxRef, Side, Verdict, readable,
};
use super::loss::Gap;
use super::operations::{escape, op_of};
use super::words::{Digest, Reason, Word};
use crate::wire::{CallEnd, CallStart, ProtocolNote};

/// Bytes of text from a relay that an alert repeats.
const QUOTE: usize = 512;

/// What user space knows about an event besides what the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Id of the boot.
    pub boot: &'a str,
    /// Kernel time to wall time.
    pub clock: Clock,
    /// The sandbox, as it was in the event's policy generation.
    pub sandbox: &'a SandboxRef,
    /// What the process ran when the event was read, if it was still there.
    pub exe: Option<&'a [u8]>,
    /// The rule that decided.
    pub rule: Ruling<'a>,
    /// The name that an address was allowed for.
    pub name: Option<&'a str>,
}

/// Which rule decided, as far as user space can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling<'a> {
    /// It cannot: another reason decided, or the policy is not at hand.
    Unknown,
    /// None, so that the access is denied.
    NoRule,
    /// This one.
    Rule(&'a RuleRef),
}

/// The audit event of a kernel event. `calls` finds the record of a call
/// number; a number without a record stays in the event as a number.
///
/// A kernel event whose operation does not belong to its kind becomes an
/// alert: nothing that the kernel reports is dropped.
#[must_use]
pub fn from_kernel(
    event: &Event,
    calls: &dyn Fn(u64) -> Option<CallInfo>,
    known: &Known<'_>,
) -> AuditEvent {
    let header = &event.header;
    let time = known.clock.wall(header.time);
    let sandbox = Some(known.sandbox.clone());
    let Some(body) = body(event, known.name) else {
        let detail = format!(
            "operation {:?} in an event of kind {:?}, kseq {}",
            event.op, event.kind, header.kseq
        );
        return alert(time, known.boot, sandbox, Reason::KernelRecord, detail);
    };
    let exe = known.exe.map(readable);
    AuditEvent {
        time,
        boot: known.boot.to_owned(),
        sandbox,
        call: Some(attribute(event, calls)),
        process: Some(Process {
            pid: header.pid,
            tid: header.tid,
            ppid: header.ppid,
            uid: header.uid,
            exe_escaped: exe.as_ref().is_some_and(|(_, escaped)| *escaped),
            exe: exe.map(|(text, _)| text),
        }),
        body,
        // Nobody can be asked yet, so `approve` is a denial; its reason says so.
        verdict: Some(match event.verdict {
            KernelVerdict::Allow => Verdict::Allow,
            KernelVerdict::Approve | KernelVerdict::Deny => Verdict::Deny,
        }),
        mode: Some(if header.flags & EVENT_NOT_APPLIED == 0 {
            Mode::Enforce
        } else {
            Mode::Audit
        }),
        rule: match known.rule {
            Ruling::Rule(rule) => Some(rule.clone()),
            Ruling::Unknown | Ruling::NoRule => None,
        },
        reason: match (event.verdict, Reason::of_kernel(event.reason)) {
            (KernelVerdict::Approve, _) => Some(Reason::ApprovalUnavailable),
            (KernelVerdict::Deny, None) if known.rule == Ruling::NoRule => Some(Reason::NoRule),
            (_, reason) => reason,
        },
    }
}

/// The label of a kernel event. An expired lease says nothing about calls, so
/// it is none; numbers that may be torn are never certain.
#[must_use]
pub fn attribute(event: &Event, calls: &dyn Fn(u64) -> Option<CallInfo>) -> Attribution {
    let flags = event.header.flags;
    if flags & EVENT_LEASE_EXPIRED != 0 {
        return Attribution::None;
    }
    let look_up = |number: &u64| calls(*number).unwrap_or_else(|| CallInfo::unknown(*number));
    let torn = flags & EVENT_TORN != 0;
    match (torn, event.calls.as_slice()) {
        (false, []) => Attribution::None,
        (false, [only]) => Attribution::Sole(look_up(only)),
        (_, several) => Attribution::Ambiguous(several.iter().map(look_up).collect()),
    }
}

fn body(event: &Event, name: Option<&str>) -> Option<Body> {
    let kseq = event.header.kseq;
    if let (Kind::Escape, Object::Target(target)) = (event.kind, &event.object) {
        return escape(event.op, target, kseq).map(Body::Escape);
    }
    let op = op_of(event.kind, event.op)?;
    match (event.kind, &event.object) {
        (Kind::File, Object::Path(path)) => Some(Body::File(file(event, op, path))),
        (Kind::Exec, Object::Path(path)) => Some(Body::Exec(file(event, op, path))),
        (Kind::Network, Object::Net(net)) => Some(Body::Network(network(kseq, op, net, name))),
        (Kind::Network, Object::Path(path)) => {
            let partial = event.header.flags & EVENT_PATH_PARTIAL != 0;
            Some(Body::Network(unix(kseq, op, path, partial)))
        }
        (Kind::Network, Object::Abstract(name)) => {
            let path = [b"@", name.as_slice()].concat();
            Some(Body::Network(unix(kseq, op, &path, false)))
        }
        _ => None,
    }
}

fn file(event: &Event, op: Op, path: &[u8]) -> FileAccess {
    let header = &event.header;
    let (path, path_escaped) = readable(path);
    let access = TableAccess::ALL
        .into_iter()
        .filter(|a| header.access & a.bit() != 0)
        .filter_map(|a| match a {
            TableAccess::Read => Some(Access::Read),
            TableAccess::Write => Some(Access::Write),
            TableAccess::Exec => Some(Access::Exec),
            // Reported as an event of the network.
            TableAccess::Connect => None,
        })
        .collect();
    FileAccess {
        op,
        access,
        path,
        path_escaped,
        path_partial: header.flags & EVENT_PATH_PARTIAL != 0,
        proc_self: header.flags & EVENT_PROC_SELF != 0,
        kseq: header.kseq,
    }
}

fn network(kseq: u64, op: Op, net: &NetPayload, name: Option<&str>) -> Network {
    let v6 = std::net::Ipv6Addr::from(net.addr);
    let address = match i32::from(net.family) {
        _ if op == Op::Socket => None,
        libc::AF_INET => v6.to_ipv4_mapped().map(std::net::IpAddr::V4),
        libc::AF_INET6 => Some(std::net::IpAddr::V6(v6)),
        _ => None,
    };
    Network {
        op,
        family: family(net.family),
        port: address.is_some().then_some(net.port),
        address,
        path: None,
        path_escaped: false,
        path_partial: false,
        socket_type: socket_type(net.socket_type),
        protocol: Some(net.protocol),
        name: name.map(str::to_owned),
        shared: net.shared != 0,
        sni: None,
        kseq: Some(kseq),
    }
}

/// A unix socket that has a name.
fn unix(kseq: u64, op: Op, path: &[u8], path_partial: bool) -> Network {
    let (path, path_escaped) = readable(path);
    Network {
        op,
        family: word("unix"),
        port: None,
        address: None,
        path: Some(path),
        path_escaped,
        path_partial,
        socket_type: None,
        protocol: None,
        name: None,
        shared: false,
        sni: None,
        kseq: Some(kseq),
    }
}

/// A word that is made of a fixed prefix and a number always fits.
pub(super) fn word(text: &str) -> Word {
    Word::new(text).unwrap_or_else(|_| Word::unknown())
}

fn family(family: u16) -> Word {
    word(match i32::from(family) {
        libc::AF_UNSPEC => "unspec",
        libc::AF_UNIX => "unix",
        libc::AF_INET => "inet",
        libc::AF_INET6 => "inet6",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packet",
        libc::AF_ALG => "alg",
        libc::AF_VSOCK => "vsock",
        other => return word(&format!("af-{other}")),
    })
}

fn socket_type(socket_type: u16) -> Option<Word> {
    Some(word(match i32::from(socket_type) {
        0 => return None,
        libc::SOCK_STREAM => "stream",
        libc::SOCK_DGRAM => "dgram",
        libc::SOCK_RAW => "raw",
        libc::SOCK_SEQPACKET => "seqpacket",
        other => return Some(word(&format!("type-{other}"))),
    }))
}

/// The event of a system call that the filter refused before the kernel
/// programs could see it: the second wall.
#[must_use]
pub fn from_refused_syscall(
    name: &str,
    process: Process,
    call: Attribution,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let body = Body::Escape(Escape {
        op: EscapeOp::Syscall,
        target: None,
        detail: Some(name.to_owned()),
        kseq: None,
    });
    AuditEvent {
        call: Some(call),
        process: Some(process),
        verdict: Some(Verdict::Deny),
        mode: Some(Mode::Enforce),
        ..AuditEvent::new(jiff::Timestamp::now(), boot, Some(sandbox.clone()), body)
    }
    .because(Reason::SecondWall)
}

/// An alert.
#[must_use]
pub fn alert(
    time: jiff::Timestamp,
    boot: &str,
    sandbox: Option<SandboxRef>,
    reason: Reason,
    detail: String,
) -> AuditEvent {
    AuditEvent::new(time, boot, sandbox, Body::Alert(Alert::Raised { detail })).because(reason)
}

/// The event of a request that the relay forwards. `rseq`: its record's number.
///
/// A relay may be in its server's hands: a record with a digest that is none
/// becomes an alert that quotes it.
#[must_use]
pub fn from_call_start(
    record: &CallStart,
    rseq: u64,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let time = from_nanos(record.time.into());
    let Ok(args_hash) = digest(record.args_hash.as_deref()) else {
        return garbled(time, boot, sandbox, "args_hash", &record.args_hash);
    };
    let body = Body::Call(Call::Start {
        id: record.id.clone(),
        number: record.call,
        continues: record.continues,
        method: record.method.clone(),
        tool: record.tool.clone(),
        arguments: record.arguments.clone(),
        arguments_cut: record.arguments_cut,
        args_hash,
        rseq,
    });
    AuditEvent {
        verdict: Some(Verdict::Allow),
        mode: Some(Mode::Enforce),
        ..AuditEvent::new(time, boot, Some(sandbox.clone()), body)
    }
}

/// What the call table keeps of a record, for the events of its call.
#[must_use]
pub fn call_info(record: &CallStart) -> CallInfo {
    CallInfo {
        number: record.call,
        id: Some(record.id.clone()),
        tool: record.tool.clone(),
        method: Some(record.method.clone()),
        args_hash: digest(record.args_hash.as_deref()).unwrap_or(None),
    }
}

/// The event of a call's end. `call` is what the call table has of it.
#[must_use]
pub fn from_call_end(
    record: &CallEnd,
    rseq: u64,
    call: Option<&CallInfo>,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let time = from_nanos(record.time.into());
    let Ok(result_hash) = digest(record.result_hash.as_deref()) else {
        return garbled(time, boot, sandbox, "result_hash", &record.result_hash);
    };
    let Ok(args_hash) = digest(record.args_hash.as_deref()) else {
        return garbled(time, boot, sandbox, "args_hash", &record.args_hash);
    };
    let body = Body::Call(Call::End {
        args_hash: args_hash.or_else(|| call.and_then(|c| c.args_hash.clone())),
        id: call.and_then(|c| c.id.clone()),
        number: record.call,
        method: call.and_then(|c| c.method.clone()),
        tool: call.and_then(|c| c.tool.clone()),
        outcome: record.outcome,
        result_bytes: record.result_bytes,
        result_hash,
        duration_ns: record.duration,
        rseq,
    });
    AuditEvent::new(time, boot, Some(sandbox.clone()), body)
}

/// The event of a breach of the protocol. Refused bytes are a denial.
#[must_use]
pub fn from_protocol_note(
    note: &ProtocolNote,
    rseq: u64,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let time = from_nanos(note.time.into());
    let from = match note.from.as_str() {
        "client" => Side::Client,
        "server" => Side::Server,
        "relay" => Side::Relay,
        _ => return garbled(time, boot, sandbox, "from", &Some(note.from.clone())),
    };
    let Ok(word) = Word::new(&note.reason) else {
        return garbled(time, boot, sandbox, "reason", &Some(note.reason.clone()));
    };
    let body = Body::Protocol(Protocol::Breach {
        from,
        detail: note.detail.clone(),
        refused: note.refused,
        rseq,
    });
    AuditEvent {
        verdict: Some(if note.refused {
            Verdict::Deny
        } else {
            Verdict::Allow
        }),
        mode: Some(Mode::Enforce),
        ..AuditEvent::new(time, boot, Some(sandbox.clone()), body)
    }
    .because(Reason::Protocol(word))
}

/// The event of kernel events that never came. `ring_full`: the kernel's own
/// counters say that the ring was full since the last such event.
#[must_use]
pub fn from_gap(
    gap: &Gap,
    time: jiff::Timestamp,
    boot: &str,
    sandbox: Option<SandboxRef>,
    ring_full: bool,
) -> AuditEvent {
    let body = Body::Loss(Loss::Kernel {
        ring: gap.ring,
        first: gap.first,
        count: gap.count,
    });
    AuditEvent::new(time, boot, sandbox, body).because(if ring_full {
        Reason::RingFull
    } else {
        Reason::SequenceGap
    })
}

fn digest(text: Option<&str>) -> Result<Option<Digest>, super::words::NotADigest> {
    text.map(|t| Digest::try_from(t.to_owned())).transpose()
}

fn garbled(
    time: jiff::Timestamp,
    boot: &str,
    sandbox: &SandboxRef,
    field: &str,
    value: &Option<String>,
) -> AuditEvent {
    let value = value.as_deref().unwrap_or_default();
    let shown = &value.as_bytes()[..value.len().min(QUOTE)];
    let detail = format!(
        "relay record whose {field} has {} bytes that cannot be: {}{}",
        value.len(),
        crate::wire::escape(shown),
        if shown.len() < value.len() {
            " (cut)"
        } else {
            ""
        },
    );
    alert(
        time,
        boot,
        Some(sandbox.clone()),
        Reason::RelayRecord,
        detail,
    )
}

#[cfg(test)]
#[path = "enrich_tests.rs"]
mod tests;
