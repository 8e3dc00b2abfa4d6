//! One event of every form that the code writes, for tests.

use guard_common::event::{
    EVENT_LEASE_EXPIRED, EVENT_PATH_PARTIAL, EscapePayload, Event, EventHeader, Kind, NetPayload,
    Object, Op as KernelOp, Reason as KernelReason,
};
use guard_common::matcher::Verdict as KernelVerdict;
use guard_common::table::FileAccess as TableAccess;

use super::clock::Clock;
use super::enrich::{
    Known, Ruling, attribute, call_info, from_call_end, from_call_start, from_kernel,
    from_refused_syscall,
};
use super::event::{
    AuditEvent, Body, CallInfo, Loss, Policy, Process, Ring, RuleRef, Sandbox, SandboxRef, Wall,
};
use super::names::{from_question, from_splice};
use super::words::{Digest, Reason};
use crate::net::wire::{Asked, Outcome as Outcomes, SpliceRefusal, Spliced};
use crate::policy::names::Name;
use crate::wire::{CallEnd, CallStart, Enforcement, Outcome, ProtocolNote};

/// Numbers of the calls that [`lookup`] knows.
pub(crate) const CALLS: [u64; 2] = [3, 4];

pub(crate) fn sandbox() -> SandboxRef {
    SandboxRef {
        id: "fs-1".into(),
        server: "filesystem".into(),
        policy: "filesystem".into(),
        policy_hash: Digest::of(b"policy"),
        generation: 3,
    }
}

pub(crate) fn call_start() -> CallStart {
    CallStart {
        call: 3,
        continues: None,
        id: "3".into(),
        method: "tools/call".into(),
        tool: Some("read_text_file".into()),
        arguments: Some("{\"path\":\"/srv/project/.env\"}".into()),
        arguments_cut: false,
        args_hash: Some(Digest::of(b"{}").as_str().to_owned()),
        time: 1_763_672_400_000_000_000,
    }
}

pub(crate) fn lookup(number: u64) -> Option<CallInfo> {
    CALLS.contains(&number).then(|| CallInfo {
        number,
        id: Some(number.to_string()),
        ..call_info(&call_start())
    })
}

static RULE: std::sync::LazyLock<RuleRef> = std::sync::LazyLock::new(|| RuleRef {
    id: "files.deny[0]".into(),
    text: "*.env".into(),
});
static SANDBOX: std::sync::LazyLock<SandboxRef> = std::sync::LazyLock::new(sandbox);

pub(crate) fn known() -> Known<'static> {
    Known {
        boot: "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        clock: Clock::with_offset(1_763_672_400_000_000_000),
        sandbox: &SANDBOX,
        exe: Some(b"/usr/bin/node"),
        rule: Ruling::Rule(&RULE),
        name: None,
    }
}

pub(crate) fn raw(kind: Kind, op: KernelOp, path: &[u8]) -> Event {
    Event {
        header: EventHeader {
            kseq: 977,
            time: 123_456_789,
            pid: 4242,
            tid: 4242,
            ppid: 4200,
            uid: 1000,
            in_flight: 1,
            access: TableAccess::Read.bit(),
            ..EventHeader::default()
        },
        kind,
        op,
        verdict: KernelVerdict::Deny,
        reason: KernelReason::Rule,
        calls: vec![3],
        object: Object::Path(path.to_vec()),
    }
}

const FILE_OPS: [KernelOp; 16] = [
    KernelOp::Open,
    KernelOp::Create,
    KernelOp::Mkdir,
    KernelOp::Rmdir,
    KernelOp::Mknod,
    KernelOp::Unlink,
    KernelOp::Symlink,
    KernelOp::Link,
    KernelOp::Rename,
    KernelOp::Truncate,
    KernelOp::Chmod,
    KernelOp::Chown,
    KernelOp::Xattr,
    KernelOp::Times,
    KernelOp::Watch,
    KernelOp::Receive,
];

const ESCAPES: [KernelOp; 13] = [
    KernelOp::Ptrace,
    KernelOp::Signal,
    KernelOp::Mount,
    KernelOp::Chroot,
    KernelOp::UserNamespace,
    KernelOp::Bpf,
    KernelOp::Perf,
    KernelOp::Module,
    KernelOp::Key,
    KernelOp::Ipc,
    KernelOp::Scheduler,
    KernelOp::KernelLog,
    KernelOp::IoUring,
];

const REASONS: [KernelReason; 26] = [
    KernelReason::ApprovalUnavailable,
    KernelReason::ReadFailed,
    KernelReason::TooDeep,
    KernelReason::TooLong,
    KernelReason::Detached,
    KernelReason::Deleted,
    KernelReason::CaseFold,
    KernelReason::UnknownSandbox,
    KernelReason::SocketFamily,
    KernelReason::AddressForm,
    KernelReason::RingFull,
    KernelReason::Internal,
    KernelReason::Raced,
    KernelReason::NoFile,
    KernelReason::Escape,
    KernelReason::OutsideSandbox,
    KernelReason::CgroupFilesystem,
    KernelReason::MoreRights,
    KernelReason::HardLink,
    KernelReason::DeviceFile,
    KernelReason::UnixSocket,
    KernelReason::NoRule,
    KernelReason::TooLarge,
    KernelReason::Resolver,
    KernelReason::ResolverRange,
    KernelReason::SniRequired,
];

/// Everything that the resolver's process tells.
fn names() -> Vec<AuditEvent> {
    let name = |text: &str| Name::parse(text).unwrap();
    let label = || attribute(&raw(Kind::File, KernelOp::Open, b""), &lookup);
    let mut events = Vec::new();
    for outcome in [
        Outcomes::Answered,
        Outcomes::Nothing,
        Outcomes::Refused,
        Outcomes::Private,
        Outcomes::Limited,
        Outcomes::NoUpstream,
        Outcomes::NotOpened,
        Outcomes::Malformed,
    ] {
        for rule in [
            None,
            Some(("network.deny[0]".into(), "*.internal.*".into())),
        ] {
            let asked = Asked {
                sandbox: 7,
                time: 1_763_672_400_000_000_000,
                name: "Api.example.com".into(),
                record: "AAAA".into(),
                tcp: rule.is_some(),
                outcome,
                rule,
                chain: vec![name("cdn.example.net")],
                addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                ttl: Some(300),
                cached: false,
            };
            events.push(from_question(&asked, label(), known().boot, &sandbox()));
        }
    }
    for refused in [
        None,
        Some(SpliceRefusal::Name),
        Some(SpliceRefusal::Encrypted),
        Some(SpliceRefusal::Busy),
    ] {
        let spliced = Spliced {
            sandbox: 7,
            time: 1_763_672_400_000_000_000,
            to: "192.0.2.1:443".parse().unwrap(),
            sni: refused.map(|_| "other.example.com".into()),
            refused,
        };
        let opened = name("api.example.com");
        events.push(from_splice(
            &spliced,
            refused.map(|_| &opened),
            label(),
            known().boot,
            &sandbox(),
        ));
    }
    events
}

/// Every kind, operation, label, and optional member.
pub(crate) fn all() -> Vec<AuditEvent> {
    let s = || Some(sandbox());
    let t = super::clock::from_nanos(1_763_672_400_000_000_001);
    let bare = |sandbox, body| AuditEvent::new(t, known().boot, sandbox, body);
    let kernel = |event: &Event| from_kernel(event, &lookup, &known());
    let mut events = vec![
        kernel(&raw(Kind::File, KernelOp::Open, b"/srv/project/.env")),
        kernel(&raw(Kind::Exec, KernelOp::Exec, b"/usr/bin/\xff")),
        kernel(&raw(Kind::Exec, KernelOp::MapExec, b"/lib/a.so")),
        kernel(&raw(Kind::Exec, KernelOp::Open, b"/srv/tool")),
        kernel(&raw(Kind::Network, KernelOp::Exec, b"/alert")),
    ];
    for calls in [&[][..], &[3, 4], &[99]] {
        let mut event = raw(Kind::File, KernelOp::Open, b"/a");
        event.calls = calls.to_vec();
        event.header.flags = !EVENT_LEASE_EXPIRED;
        event.header.access = 7;
        event.verdict = KernelVerdict::Approve;
        events.push(kernel(&event));
    }
    for op in [KernelOp::Socket, KernelOp::Connect, KernelOp::Send] {
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_VSOCK, 44] {
            let mut event = raw(Kind::Network, op, b"");
            event.reason = KernelReason::SocketFamily;
            event.object = Object::Net(NetPayload {
                addr: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
                port: 53,
                family: family as u16,
                socket_type: (family % 5) as u16,
                protocol: 17,
                ..NetPayload::default()
            });
            events.push(kernel(&event));
        }
    }
    for shared in [0, 1] {
        let mut event = raw(Kind::Network, KernelOp::Connect, b"");
        event.verdict = KernelVerdict::Allow;
        event.object = Object::Net(NetPayload {
            addr: std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(),
            port: 443,
            family: libc::AF_INET as u16,
            name: 1,
            shared,
            ..NetPayload::default()
        });
        let name = Some("api.example.com");
        let known = Known { name, ..known() };
        events.push(from_kernel(&event, &lookup, &known));
    }
    events.extend(names());
    for op in FILE_OPS {
        events.push(kernel(&raw(Kind::File, op, b"/srv/a")));
    }
    events.push(kernel(&raw(
        Kind::Exec,
        KernelOp::ProtectExec,
        b"/lib/a.so",
    )));
    for op in [
        KernelOp::Bind,
        KernelOp::Listen,
        KernelOp::UnixConnect,
        KernelOp::UnixSend,
    ] {
        for object in [
            Object::Path(b"/run/\xff".to_vec()),
            Object::Abstract(b"name\0with a zero".to_vec()),
            Object::Net(NetPayload {
                family: libc::AF_UNIX as u16,
                ..NetPayload::default()
            }),
        ] {
            let mut event = raw(Kind::Network, op, b"");
            event.reason = KernelReason::UnixSocket;
            event.header.flags = EVENT_PATH_PARTIAL;
            event.object = object;
            events.push(kernel(&event));
        }
    }
    for op in ESCAPES {
        for (pid, detail) in [(0, 0), (1, 9)] {
            let mut event = raw(Kind::Escape, op, b"");
            event.reason = KernelReason::Escape;
            event.object = Object::Target(EscapePayload { pid, detail });
            events.push(kernel(&event));
        }
    }
    for reason in REASONS {
        let mut event = raw(Kind::File, KernelOp::Open, b"/a");
        event.reason = reason;
        events.push(kernel(&event));
    }
    let open = raw(Kind::File, KernelOp::Open, b"/a");
    let no_rule = Known {
        rule: Ruling::NoRule,
        ..known()
    };
    events.push(from_kernel(&open, &lookup, &no_rule));
    let refused = kernel(&open);
    events.push(from_refused_syscall(
        "io_uring_setup",
        refused.process.unwrap(),
        refused.call.unwrap(),
        known().boot,
        &sandbox(),
    ));
    let start = call_start();
    let bare_start = CallStart {
        continues: Some(2),
        tool: None,
        arguments: None,
        args_hash: None,
        ..start.clone()
    };
    events.push(from_call_start(&start, 11, known().boot, &sandbox()));
    events.push(from_call_start(&bare_start, 12, known().boot, &sandbox()));
    for outcome in [
        Outcome::Result,
        Outcome::ToolError,
        Outcome::ProtocolError,
        Outcome::Cancelled,
        Outcome::Abandoned,
    ] {
        let end = CallEnd {
            args_hash: None,
            call: 3,
            outcome,
            result_bytes: 12,
            result_hash: Some(Digest::of(b"r").as_str().to_owned()),
            duration: 1_000,
            time: 1_763_672_400_000_000_002,
        };
        let call = (outcome != Outcome::Abandoned).then(|| call_info(&start));
        events.push(from_call_end(
            &end,
            13,
            call.as_ref(),
            known().boot,
            &sandbox(),
        ));
    }
    for (from, refused) in [
        ("client", true),
        ("server", false),
        ("relay", true),
        ("?", true),
    ] {
        let note = ProtocolNote {
            from: from.into(),
            reason: "duplicate-key".into(),
            detail: "path".into(),
            refused,
            time: 0,
        };
        events.push(super::from_protocol_note(
            &note,
            14,
            known().boot,
            &sandbox(),
        ));
    }
    let all = [
        Wall::KernelPrograms,
        Wall::Seccomp,
        Wall::Landlock,
        Wall::Limits,
    ];
    for (enforcement, audit_only, walls) in [
        (Enforcement::Kernel, false, all.to_vec()),
        (Enforcement::Kernel, true, vec![Wall::KernelPrograms]),
        (Enforcement::GatewayOnly, false, vec![]),
    ] {
        let body = Body::Sandbox(Sandbox::Start {
            command: vec!["node".into(), "server.js".into()],
            uid: 1000,
            gid: 1000,
            env_removed: vec!["AWS_SECRET_ACCESS_KEY".into()],
            enforcement,
            audit_only,
            walls,
        });
        events.push(bare(s(), body));
    }
    for (status, signal) in [(Some(0), None), (None, Some(9)), (None, None)] {
        events.push(bare(s(), Body::Sandbox(Sandbox::Stop { status, signal })));
    }
    let loaded = bare(
        s(),
        Body::Policy(Policy::Loaded {
            name: "filesystem".into(),
            source: "/etc/guard/policies/filesystem.toml".into(),
            policy_hash: Digest::of(b"policy"),
            generation: 3,
        }),
    );
    events.push(loaded.clone());
    events.push(loaded.because(Reason::Adopted));
    for (loss, reason) in [
        (
            Loss::Kernel {
                ring: Ring::Allows,
                first: 5,
                count: 2,
            },
            Reason::SequenceGap,
        ),
        (Loss::Relay { count: 4, rseq: 15 }, Reason::RelayBuffer),
        (Loss::Relay { count: 4, rseq: 19 }, Reason::SequenceGap),
        (Loss::Unwritten { count: 9 }, Reason::WriteFailed),
        (
            Loss::Torn {
                bytes: 3,
                fragment_hash: Digest::of(b"abc"),
            },
            Reason::TornLine,
        ),
    ] {
        events.push(bare(s(), Body::Loss(loss)).because(reason));
    }
    let mut gone = kernel(&raw(Kind::File, KernelOp::Open, b"/a"));
    gone.process = gone.process.map(|p| Process { exe: None, ..p });
    gone.rule = None;
    events.push(gone);
    events
}
