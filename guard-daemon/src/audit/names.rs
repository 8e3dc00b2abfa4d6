//! From what the resolver's process tells to audit events.

use super::AuditEvent;
use super::clock::from_nanos;
use super::enrich::word;
use super::event::{
    Attribution, Body, Dns, Mode, Network, Op, RuleRef, SandboxRef, Verdict, readable,
};
use super::words::Reason;
use crate::net::wire::{Asked, Outcome, SpliceRefusal, Spliced};
use crate::policy::names::Name;

/// The event of a question. `call`: what was in flight when it was heard of.
#[must_use]
pub fn from_question(
    asked: &Asked,
    call: Attribution,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let body = Body::Dns(Dns::Query {
        name: asked.name.clone(),
        record: asked.record.clone(),
        tcp: asked.tcp,
        outcome: asked.outcome,
        chain: asked.chain.iter().map(|n| n.as_str().to_owned()).collect(),
        addresses: asked.addresses.clone(),
        ttl: asked.ttl,
        cached: asked.cached,
    });
    let rule = asked.rule.clone().map(|(id, text)| RuleRef { id, text });
    let reason = reason(asked.outcome, rule.is_some());
    AuditEvent {
        call: Some(call),
        verdict: Some(verdict(asked.outcome)),
        mode: Some(Mode::Enforce),
        rule,
        reason,
        ..AuditEvent::new(
            from_nanos(asked.time.into()),
            boot,
            Some(sandbox.clone()),
            body,
        )
    }
}

/// What the policy says of a question. That a name does not exist, or that
/// nobody answers, is not the policy's doing.
const fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Answered | Outcome::Nothing | Outcome::NoUpstream => Verdict::Allow,
        Outcome::Refused
        | Outcome::Private
        | Outcome::Limited
        | Outcome::NotOpened
        | Outcome::Malformed => Verdict::Deny,
    }
}

fn reason(outcome: Outcome, rule: bool) -> Option<Reason> {
    match outcome {
        Outcome::Answered | Outcome::Nothing => None,
        Outcome::Refused => (!rule).then_some(Reason::NoRule),
        Outcome::Private => Some(Reason::PrivateAddress),
        Outcome::Limited => Some(Reason::QueryLimit),
        Outcome::NoUpstream => Some(Reason::NoUpstream),
        Outcome::NotOpened => Some(Reason::NotOpened),
        Outcome::Malformed => Some(Reason::Question),
    }
}

/// The event of a connection whose server name was looked at. `name`: what the
/// address was opened for.
#[must_use]
pub fn from_splice(
    spliced: &Spliced,
    name: Option<&Name>,
    call: Attribution,
    boot: &str,
    sandbox: &SandboxRef,
) -> AuditEvent {
    let to = spliced.to;
    let body = Body::Network(Network {
        op: Op::Tls,
        family: word(if to.is_ipv4() { "inet" } else { "inet6" }),
        address: Some(to.ip()),
        port: Some(to.port()),
        path: None,
        path_escaped: false,
        path_partial: false,
        socket_type: Some(word("stream")),
        protocol: None,
        name: name.map(|name| name.as_str().to_owned()),
        shared: false,
        sni: spliced.sni.as_ref().map(|sni| readable(sni.as_bytes()).0),
        kseq: None,
    });
    AuditEvent {
        call: Some(call),
        verdict: Some(match spliced.refused {
            None => Verdict::Allow,
            Some(_) => Verdict::Deny,
        }),
        mode: Some(Mode::Enforce),
        reason: spliced.refused.map(|refused| match refused {
            SpliceRefusal::Name => Reason::ServerName,
            SpliceRefusal::Busy => Reason::Limit,
            _ => Reason::NoServerName,
        }),
        ..AuditEvent::new(
            from_nanos(spliced.time.into()),
            boot,
            Some(sandbox.clone()),
            body,
        )
    }
}
