use super::*;
use crate::net::resolver::question::tests::packet;
use crate::net::resolver::question::{Asked, read};
use crate::net::resolver::tests::rules;
use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};

fn wire(name: &str) -> WireName {
    WireName::from_ascii(name).unwrap()
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(wire(name), ttl, data)
}

fn a(name: &str, address: &str) -> Record {
    record(name, 60, RData::A(A(address.parse().unwrap())))
}

fn aaaa(name: &str, address: &str) -> Record {
    record(name, 60, RData::AAAA(AAAA(address.parse().unwrap())))
}

fn cname(name: &str, to: &str) -> Record {
    record(name, 60, RData::CNAME(CNAME(wire(to))))
}

fn sifted(name: &str, record: RecordType, answers: &[Record]) -> Sifted {
    let rules = rules("allow = ['*.ok.test']\ndeny = ['*.bad.test']");
    sift(&wire(name), record, answers, &rules, 1, &[])
}

fn records(sifted: Sifted) -> Records {
    match sifted {
        Sifted::Records(records) => records,
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_belong_to_the_name_that_was_asked_for() {
    let answers = [
        cname("www.ok.test.", "cdn.else.test."),
        cname("cdn.else.test.", "edge.else.test."),
        a("edge.else.test.", "192.0.2.1"),
        a("edge.else.test.", "192.0.2.2"),
        // Not asked for: dropped.
        a("other.test.", "192.0.2.9"),
        a("www.ok.test.", "192.0.2.8"),
        aaaa("edge.else.test.", "2001:db8::1"),
    ];
    let found = records(sifted("www.ok.test.", RecordType::A, &answers));
    let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
    let chain: Vec<&str> = found.chain.iter().map(Name::as_str).collect();
    assert_eq!(chain, ["cdn.else.test", "edge.else.test"]);
    assert_eq!(found.records.len(), 4);
}

#[test]
fn the_case_of_names_makes_no_difference() {
    let answers = [
        cname("WWW.ok.TEST.", "Edge.Else.test."),
        a("edge.else.TEST.", "192.0.2.1"),
    ];
    assert_eq!(
        records(sifted("www.ok.test.", RecordType::A, &answers))
            .addresses
            .len(),
        1
    );
}

#[test]
fn a_chain_over_a_denied_name_is_refused_by_that_rule() {
    let answers = [
        cname("www.ok.test.", "x.bad.test."),
        a("x.bad.test.", "192.0.2.1"),
    ];
    match sifted("www.ok.test.", RecordType::A, &answers) {
        Sifted::Denied(name, rule) => {
            assert_eq!(name.as_str(), "x.bad.test");
            assert_eq!(
                (rule.id.as_str(), rule.text.as_str()),
                ("network.deny[0]", "*.bad.test")
            );
        }
        other => panic!("{other:?}"),
    }
    let rules = rules("allow = ['*.ok.test']\napprove = ['*.bad.test']");
    let name = wire("www.ok.test.");
    let approve = sift(&name, RecordType::A, &answers, &rules, 1, &[]);
    assert!(matches!(approve, Sifted::Denied(_, rule) if rule.id == "network.approve[0]"));
    // A question for the alias itself leads nowhere.
    let alias = records(sifted("www.ok.test.", RecordType::CNAME, &answers));
    assert_eq!((alias.records.len(), alias.chain.len()), (1, 0));
}

#[test]
fn chains_without_an_end_and_without_a_name_are_nothing() {
    let ring = [
        cname("a.ok.test.", "b.ok.test."),
        cname("b.ok.test.", "a.ok.test."),
    ];
    assert_eq!(sifted("a.ok.test.", RecordType::A, &ring), Sifted::Nothing);
    let mut odd = [cname("a.ok.test.", "b.test.")];
    let labels = [&b"with space"[..], b"test"];
    odd[0].data = RData::CNAME(CNAME(WireName::from_labels(labels).unwrap()));
    assert_eq!(sifted("a.ok.test.", RecordType::A, &odd), Sifted::Nothing);
    let dangling = [cname("a.ok.test.", "b.ok.test.")];
    assert_eq!(
        sifted("a.ok.test.", RecordType::A, &dangling),
        Sifted::Nothing
    );
    assert_eq!(sifted("a.ok.test.", RecordType::A, &[]), Sifted::Nothing);
    let long: Vec<Record> = (0..=MAX_CHAIN + 1)
        .map(|n| cname(&format!("n{n}.ok.test."), &format!("n{}.ok.test.", n + 1)))
        .collect();
    assert_eq!(sifted("n0.ok.test.", RecordType::A, &long), Sifted::Nothing);
}

#[test]
fn private_addresses_are_dropped_and_alone_are_a_refusal() {
    let both = [a("x.ok.test.", "10.0.0.1"), a("x.ok.test.", "192.0.2.1")];
    let kept = records(sifted("x.ok.test.", RecordType::A, &both));
    assert_eq!(kept.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(kept.records.len(), 1);
    for (record, answer) in [
        (RecordType::A, a("x.ok.test.", "169.254.169.254")),
        (RecordType::A, a("x.ok.test.", "127.0.0.1")),
        (RecordType::AAAA, aaaa("x.ok.test.", "::ffff:10.0.0.1")),
        (RecordType::AAAA, aaaa("x.ok.test.", "fe80::1")),
    ] {
        let sifted = sifted("x.ok.test.", record, &[answer]);
        assert!(
            matches!(sifted, Sifted::Private(ref all) if all.len() == 1),
            "{sifted:?}"
        );
    }
}

#[test]
fn a_network_that_the_policy_names_may_be_led_to() {
    let rules = rules("allow = ['*.ok.test']");
    let ten = std::net::Ipv4Addr::new(10, 0, 0, 0)
        .to_ipv6_mapped()
        .to_bits();
    let answers = [a("x.ok.test.", "10.0.0.1"), a("x.ok.test.", "10.1.0.1")];
    let name = wire("x.ok.test.");
    let kept = records(sift(
        &name,
        RecordType::A,
        &answers,
        &rules,
        1,
        &[(ten, 112)],
    ));
    assert_eq!(kept.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn hints_and_keys_that_hide_names_are_taken_out() {
    let params = vec![
        (
            SvcParamKey::Mandatory,
            SvcParamValue::Mandatory(hickory_proto::rr::rdata::svcb::Mandatory(vec![
                SvcParamKey::Ipv4Hint,
                SvcParamKey::Port,
            ])),
        ),
        (SvcParamKey::Port, SvcParamValue::Port(8443)),
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A("10.0.0.1".parse().unwrap())])),
        ),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3])),
        ),
        (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA("::1".parse().unwrap())])),
        ),
    ];
    let svcb = SVCB::new(1, wire("."), params);
    let answers = [record("x.ok.test.", 60, RData::HTTPS(HTTPS(svcb)))];
    let kept = records(sifted("x.ok.test.", RecordType::HTTPS, &answers));
    let RData::HTTPS(HTTPS(svcb)) = &kept.records[0].data else {
        panic!("{kept:?}");
    };
    let keys: Vec<&SvcParamKey> = svcb.svc_params.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&SvcParamKey::Mandatory, &SvcParamKey::Port]);
    let SvcParamValue::Mandatory(mandatory) = &svcb.svc_params[0].1 else {
        panic!("{svcb:?}");
    };
    assert_eq!(mandatory.0, [SvcParamKey::Port]);
}

#[test]
fn times_have_a_floor_and_a_ceiling_and_go_by_the_shortest() {
    let ttl = |ttls: [u32; 2]| {
        let mut answers = [a("x.ok.test.", "192.0.2.1"), a("x.ok.test.", "192.0.2.2")];
        answers[0].ttl = ttls[0];
        answers[1].ttl = ttls[1];
        let kept = records(sifted("x.ok.test.", RecordType::A, &answers));
        assert!(kept.records.iter().all(|r| r.ttl == kept.ttl));
        kept.ttl
    };
    assert_eq!(ttl([0, 300]), MIN_TTL);
    assert_eq!(ttl([60, 300]), 60);
    assert_eq!(ttl([90_000, u32::MAX]), MAX_TTL);
}

#[test]
fn no_more_addresses_are_told_than_are_opened() {
    let answers: Vec<Record> = (0..100)
        .map(|n| a("x.ok.test.", &format!("192.0.2.{n}")))
        .collect();
    let kept = records(sifted("x.ok.test.", RecordType::A, &answers));
    assert_eq!(
        (kept.addresses.len(), kept.records.len()),
        (MAX_ADDRESSES, MAX_ADDRESSES)
    );
}

fn question(edns: Option<u16>) -> Question {
    match read(&packet("X.ok.test.", RecordType::TXT, edns)) {
        Asked::Question(question) => *question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_say_why_to_those_who_can_read_it() {
    let rule = RuleRef {
        id: "network.deny[0]".into(),
        text: "*.bad.test".into(),
    };
    let why = rule_words(Some(&rule));
    let answer = refused(&question(Some(1232)), &why);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let expected = "guard: network.deny[0] \"*.bad.test\"".to_owned();
    assert_eq!(words(&answer), Some((15, expected.clone())));
    // As bytes, too.
    let again = Message::from_vec(&answer.to_vec().unwrap()).unwrap();
    assert_eq!(words(&again), Some((15, expected)));
    assert_eq!(words(&refused(&question(None), &why)), None);
    assert_eq!(
        words(&limited(&question(Some(512)), "x")),
        Some((18, "x".into()))
    );
    assert_eq!(
        words(&failed(&question(Some(512)), "x")),
        Some((22, "x".into()))
    );
}

#[test]
fn what_does_not_fit_is_asked_for_over_tcp() {
    let text = RData::TXT(TXT::new(vec!["t".repeat(200)]));
    let many: Vec<Record> = (0..8)
        .map(|_| record("x.ok.test.", 60, text.clone()))
        .collect();
    let question = question(Some(1232));
    let answer = positive(&question, &many, 0);
    let short = bytes(&answer, Some(question.size)).unwrap();
    assert!(short.len() <= 1232);
    let short = Message::from_vec(&short).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = Message::from_vec(&bytes(&answer, None).unwrap()).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (8, false));
    // The case of the question comes back.
    assert_eq!(whole.answers[0].name.to_ascii(), "X.ok.test.");
}
