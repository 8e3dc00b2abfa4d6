use super::super::samples::{CALLS, known, lookup, raw};
use super::*;
use guard_common::event::{Op as KernelOp, Reason as KernelReason};

#[test]
fn labels_never_say_more_than_is_known() {
    let call = |n: u64| lookup(n).unwrap();
    let table: &[(&[u64], u32, Attribution)] = &[
        (&[], 0, Attribution::None),
        (&[3], 0, Attribution::Sole(call(3))),
        (&[3, 4], 0, Attribution::Ambiguous(vec![call(3), call(4)])),
        (&[3], EVENT_TORN, Attribution::Ambiguous(vec![call(3)])),
        (&[], EVENT_TORN, Attribution::Ambiguous(vec![])),
        (&[3], EVENT_LEASE_EXPIRED, Attribution::None),
        (&[3, 4], EVENT_LEASE_EXPIRED | EVENT_TORN, Attribution::None),
        (&[99], 0, Attribution::Sole(CallInfo::unknown(99))),
    ];
    for (calls, flags, expected) in table {
        let mut event = raw(Kind::File, KernelOp::Open, b"/a");
        event.calls = calls.to_vec();
        event.header.in_flight = calls.len() as u32;
        event.header.flags = *flags;
        assert_eq!(attribute(&event, &lookup), *expected, "{calls:?} {flags}");
    }
    assert!(CALLS.contains(&3) && CALLS.contains(&4) && !CALLS.contains(&99));
}

#[test]
fn approve_is_a_denial_until_somebody_can_be_asked() {
    let mut event = raw(Kind::File, KernelOp::Open, b"/a");
    event.verdict = KernelVerdict::Approve;
    let audit = from_kernel(&event, &lookup, &known());
    assert_eq!(audit.verdict, Some(Verdict::Deny));
    assert_eq!(audit.reason, Some(Reason::ApprovalUnavailable));
}

#[test]
fn what_was_not_applied_says_so() {
    let mut event = raw(Kind::File, KernelOp::Open, b"/a");
    event.header.flags = EVENT_NOT_APPLIED;
    event.reason = KernelReason::Rule;
    let audit = from_kernel(&event, &lookup, &known());
    assert_eq!((audit.mode, audit.reason), (Some(Mode::Audit), None));
}

#[test]
fn paths_lose_nothing() {
    for (bytes, text, escaped) in [
        (&b"/srv/\xff"[..], "/srv/\\xff", true),
        (b"/srv/\\xff", "/srv/\\xff", false),
        (b"/a\nb", "/a\nb", false),
    ] {
        let audit = from_kernel(&raw(Kind::File, KernelOp::Open, bytes), &lookup, &known());
        let Body::File(file) = audit.body else {
            panic!("not a file event")
        };
        assert_eq!((file.path.as_str(), file.path_escaped), (text, escaped));
    }
}

#[test]
fn an_operation_that_does_not_fit_is_an_alert_not_dropped() {
    let audit = from_kernel(
        &raw(Kind::File, KernelOp::Connect, b"/a"),
        &lookup,
        &known(),
    );
    assert!(matches!(audit.body, Body::Alert(_)));
    assert_eq!(audit.reason, Some(Reason::KernelRecord));
}

#[test]
fn addresses_are_written_in_their_family() {
    let mut net = NetPayload {
        addr: std::net::Ipv4Addr::new(10, 1, 2, 3)
            .to_ipv6_mapped()
            .octets(),
        port: 443,
        family: libc::AF_INET as u16,
        socket_type: libc::SOCK_STREAM as u16,
        protocol: 6,
        ..NetPayload::default()
    };
    let said = |op, net: &NetPayload| {
        let n = network(0, op, net, None);
        (
            n.family.to_string(),
            n.address.map(|a| a.to_string()),
            n.port,
        )
    };
    let some = |s: &str| Some(s.to_owned());
    let v4 = said(Op::Connect, &net);
    assert_eq!(v4, ("inet".into(), some("10.1.2.3"), Some(443)));
    assert_eq!(said(Op::Socket, &net), ("inet".into(), None, None));
    net.family = libc::AF_INET6 as u16;
    let mapped = said(Op::Send, &net);
    assert_eq!(mapped, ("inet6".into(), some("::ffff:10.1.2.3"), Some(443)));
    net.family = 4;
    assert_eq!(said(Op::Connect, &net), ("af-4".into(), None, None));
}

#[test]
fn unix_sockets_are_named_by_path_or_abstract_name() {
    let said = |op, object| {
        let mut event = raw(Kind::Network, op, b"");
        event.object = object;
        match from_kernel(&event, &lookup, &known()).body {
            Body::Network(n) => (n.family.to_string(), n.path.unwrap(), n.protocol),
            other => panic!("{other:?}"),
        }
    };
    let path = Object::Path(b"/run/docker.sock".to_vec());
    assert_eq!(
        said(KernelOp::UnixConnect, path),
        ("unix".into(), "/run/docker.sock".into(), None)
    );
    let name = Object::Abstract(b"bus\0x".to_vec());
    assert_eq!(said(KernelOp::UnixSend, name).1, "@bus\0x");
}

#[test]
fn only_what_is_known_to_have_no_rule_says_so() {
    let reason = |verdict, kernel, rule| {
        let mut event = raw(Kind::File, KernelOp::Open, b"/a");
        (event.verdict, event.reason) = (verdict, kernel);
        let known = Known { rule, ..known() };
        from_kernel(&event, &lookup, &known).reason
    };
    use KernelVerdict::{Allow, Deny};
    let rule = KernelReason::Rule;
    assert_eq!(reason(Deny, rule, Ruling::NoRule), Some(Reason::NoRule));
    assert_eq!(reason(Deny, rule, Ruling::Unknown), None);
    assert_eq!(reason(Allow, rule, Ruling::NoRule), None);
    let raced = reason(Deny, KernelReason::Raced, Ruling::NoRule);
    assert_eq!(raced, Some(Reason::Raced));
}

#[test]
fn a_relay_cannot_break_the_form_of_the_trail() {
    let mut start = super::super::samples::call_start();
    start.args_hash = Some("sha256:\u{1b}[2J".into());
    let audit = from_call_start(&start, 1, "b", &super::super::samples::sandbox());
    assert_eq!(audit.reason, Some(Reason::RelayRecord));
    let note = ProtocolNote {
        from: "server".into(),
        reason: "NOT A WORD".into(),
        detail: String::new(),
        refused: true,
        time: 0,
    };
    let audit = from_protocol_note(&note, 1, "b", &super::super::samples::sandbox());
    assert_eq!(audit.reason, Some(Reason::RelayRecord));
}
