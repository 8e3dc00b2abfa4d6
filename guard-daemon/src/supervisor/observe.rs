//! From kernel events to audit events: the process, the rule, the call.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt as _;

use guard_common::event::{EVENT_PROC_SELF, Event, NetPayload, Object, Op, Reason};
use guard_common::table::FileAccess;

use super::session::Session;
use crate::audit::clock::Clock;
use crate::audit::enrich::Known;
use crate::audit::event::{Attribution, CallInfo, RuleRef};
use crate::audit::{AuditEvent, Ruling, from_kernel};
use crate::policy::names::Name;
use crate::policy::{CompiledPolicy, Decision};

/// What a process runs now.
#[must_use]
pub fn program_of(pid: u32) -> Option<Vec<u8>> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.into_os_string().into_vec())
}

/// Whether the record of every call of an event is here.
#[must_use]
pub fn calls_known(session: &Session, event: &Event) -> bool {
    event.calls.iter().all(|n| session.calls.contains_key(n))
}

/// What the process of an event runs: asked of the kernel while the process is
/// there, else as it was seen last.
pub fn program(session: &mut Session, event: &Event) -> Option<Vec<u8>> {
    let pid = event.header.pid;
    if let Some(path) = program_of(pid) {
        session.note_program(pid, &path);
        return Some(path);
    }
    let known = session.programs.get(&pid).cloned();
    if let (Op::Exec, Object::Path(path)) = (event.op, &event.object) {
        session.note_program(pid, path);
    }
    known
}

/// The audit event.
#[must_use]
pub fn judged(session: &Session, event: &Event, exe: Option<&[u8]>, boot: &str) -> AuditEvent {
    let found = session
        .policy
        .as_deref()
        .filter(|_| event.header.generation == session.name.generation)
        .and_then(|policy| rule(policy, event, name_of(session, event).as_ref()));
    let name = name_of(session, event);
    let known = Known {
        boot,
        name: name.as_ref().map(Name::as_str),
        clock: Clock::now().unwrap_or(Clock::with_offset(0)),
        sandbox: &session.name,
        exe,
        rule: match &found {
            None => Ruling::Unknown,
            Some(None) => Ruling::NoRule,
            Some(Some(rule)) => Ruling::Rule(rule),
        },
    };
    from_kernel(event, &|number| session.calls.get(&number).cloned(), &known)
}

/// The rule that decided, from the same table; `Some(None)` when the table
/// agrees and no rule did. `None` when the kernel had another reason, or when
/// the table now says something else.
#[must_use]
pub fn rule(
    policy: &CompiledPolicy,
    event: &Event,
    name: Option<&Name>,
) -> Option<Option<RuleRef>> {
    if !matches!(event.reason, Reason::Rule | Reason::ApprovalUnavailable) {
        return None;
    }
    let active = event.header.active;
    let same = |decision: Decision| {
        (decision.verdict == event.verdict).then(|| {
            decision.rule.map(|rule| RuleRef {
                id: rule.id,
                text: rule.text,
            })
        })
    };
    match &event.object {
        Object::Path(path) => {
            let path = as_judged(path, event.header.flags);
            let all: Vec<Option<RuleRef>> = FileAccess::ALL
                .into_iter()
                .filter(|access| event.header.access & access.bit() != 0)
                .filter_map(|access| same(policy.explain_path(&path, access, active)))
                .collect();
            let named = all.iter().position(Option::is_some).unwrap_or(0);
            all.into_iter().nth(named)
        }
        // A name allows it: the address rules do not.
        Object::Net(net) if net.name != 0 => same(policy.explain_name(name?, net.port, active)),
        Object::Net(NetPayload { addr, port, .. })
            if matches!(event.op, Op::Connect | Op::Send) =>
        {
            same(policy.explain_net(u128::from_be_bytes(*addr), *port, active))
        }
        Object::Net(NetPayload { addr, port, .. }) if matches!(event.op, Op::Bind | Op::Listen) => {
            same(policy.explain_listen(u128::from_be_bytes(*addr), *port, active))
        }
        Object::Abstract(name) if event.op != Op::Bind => {
            same(policy.explain_abstract(name, active))
        }
        Object::Net(_) | Object::Abstract(_) | Object::Target(_) => None,
    }
}

/// The name that an address was allowed for.
fn name_of(session: &Session, event: &Event) -> Option<Name> {
    match &event.object {
        Object::Net(net) => session.named.name(net.name).cloned(),
        _ => None,
    }
}

/// The label of what is looked at after it happened, now. A thread of the
/// server can have ended one request and begun the next in between, so that
/// the only one in flight now is no proof: it is never `sole`.
#[must_use]
pub fn afterwards(session: &Session) -> Attribution {
    label(session, session.calls_in_flight())
}

/// [`afterwards`], with the calls that were in flight then.
#[must_use]
pub fn label(session: &Session, candidates: &BTreeSet<u64>) -> Attribution {
    let known = |number: &u64| {
        let known = session.calls.get(number).cloned();
        known.unwrap_or_else(|| CallInfo::unknown(*number))
    };
    match candidates.is_empty() {
        true => Attribution::None,
        false => Attribution::Ambiguous(candidates.iter().map(known).collect()),
    }
}

/// The kernel fed `self` for a process's own number below `/proc`.
fn as_judged(path: &[u8], flags: u32) -> Vec<u8> {
    let Some(rest) = path
        .strip_prefix(b"/proc/")
        .filter(|_| flags & EVENT_PROC_SELF != 0)
    else {
        return path.to_vec();
    };
    let end = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
    [b"/proc/self", &rest[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::event::{EventHeader, Kind};
    use guard_common::matcher::Verdict;

    #[test]
    fn own_proc_entries_are_judged_as_self() {
        for (path, flags, expected) in [
            (
                &b"/proc/12/status"[..],
                EVENT_PROC_SELF,
                &b"/proc/self/status"[..],
            ),
            (b"/proc/12", EVENT_PROC_SELF, b"/proc/self"),
            (b"/proc/12/status", 0, b"/proc/12/status"),
            (b"/srv/12/status", EVENT_PROC_SELF, b"/srv/12/status"),
        ] {
            assert_eq!(as_judged(path, flags), expected);
        }
    }

    fn policy() -> CompiledPolicy {
        let text = b"version = 1\n[files]\nread = [\"/srv/**\"]\ndeny = [\"*.env\"]\n\
            [network]\nallow = [\"10.1.0.0/16:443\"]\n";
        let document = crate::policy::Document::parse(text, "test").unwrap();
        let includes = crate::policy::Lookup::built_in();
        let context = crate::policy::ResolveContext {
            home: None,
            cwd: "/srv".into(),
            tmp: "/tmp/x".into(),
            args: vec![],
            set: vec![],
            includes: &includes,
            launch: None,
            own: Vec::new(),
        };
        let resolved = crate::policy::resolve(&document, &context).unwrap();
        crate::policy::compile(&resolved).unwrap()
    }

    fn event(op: Op, verdict: Verdict, object: Object) -> Event {
        let header = EventHeader {
            active: 1,
            access: FileAccess::Read.bit(),
            ..EventHeader::default()
        };
        let kind = match object {
            Object::Path(_) => Kind::File,
            Object::Net(_) | Object::Abstract(_) => Kind::Network,
            Object::Target(_) => Kind::Escape,
        };
        Event {
            header,
            kind,
            op,
            verdict,
            reason: Reason::Rule,
            calls: vec![],
            object,
        }
    }

    #[test]
    fn the_rule_is_named_only_when_the_table_agrees() {
        let policy = policy();
        let path = |p: &str| Object::Path(p.as_bytes().to_vec());
        let named = |event: &Event| rule(&policy, event, None).flatten().map(|r| r.id);
        let denied = event(Op::Open, Verdict::Deny, path("/srv/.env"));
        assert_eq!(named(&denied).as_deref(), Some("files.deny[0]"));
        let allowed = event(Op::Open, Verdict::Allow, path("/srv/a"));
        assert_eq!(named(&allowed).as_deref(), Some("files.read[0]"));
        // No rule allows it, so none denied it either, and that is known.
        let shadow = event(Op::Open, Verdict::Deny, path("/etc/shadow"));
        assert_eq!(rule(&policy, &shadow, None), Some(None));
        // The table says otherwise: nothing is claimed.
        for contrary in [
            event(Op::Open, Verdict::Allow, path("/srv/.env")),
            event(Op::Open, Verdict::Deny, path("/srv/a")),
        ] {
            assert_eq!(rule(&policy, &contrary, None), None);
        }
        // A unix socket: allowed by its own list, denied as any path.
        let socket = |at: &str| {
            let mut event = event(Op::UnixConnect, Verdict::Deny, path(at));
            event.kind = Kind::Network;
            event.header.access = FileAccess::Connect.bit();
            event
        };
        assert_eq!(
            named(&socket("/srv/.env")).as_deref(),
            Some("files.deny[0]")
        );
        assert_eq!(rule(&policy, &socket("/srv/a"), None), Some(None));
        let raced = Event {
            reason: Reason::Raced,
            ..denied
        };
        assert_eq!(named(&raced), None);
    }

    #[test]
    fn the_rule_of_a_destination_is_named() {
        let policy = policy();
        let net = NetPayload {
            addr: std::net::Ipv4Addr::new(10, 1, 2, 3)
                .to_ipv6_mapped()
                .octets(),
            port: 443,
            family: libc::AF_INET as u16,
            ..NetPayload::default()
        };
        let connect = event(Op::Connect, Verdict::Allow, Object::Net(net));
        let named = rule(&policy, &connect, None).flatten().map(|r| r.id);
        assert_eq!(named.as_deref(), Some("network.allow[0]"));
        let socket = event(Op::Socket, Verdict::Allow, Object::Net(net));
        assert_eq!(rule(&policy, &socket, None), None);
    }

    #[test]
    fn what_is_in_flight_afterwards_is_no_proof() {
        let session = crate::supervisor::session::tests::session();
        let one = [7].into();
        let unknown = vec![CallInfo::unknown(7)];
        assert_eq!(label(&session, &one), Attribution::Ambiguous(unknown));
        assert_eq!(label(&session, &BTreeSet::new()), Attribution::None);
    }

    #[test]
    fn a_running_process_has_a_program() {
        let own = std::env::current_exe().unwrap().into_os_string().into_vec();
        assert_eq!(program_of(std::process::id()), Some(own));
        assert_eq!(program_of(0), None);
    }
}
