//! The compiled rules against a matcher that does what the documentation says,
//! label by label and port by port.

use guard_common::matcher::{Verdict, decide};
use guard_common::names::MAX_GRANTS;
use guard_common::table::AccessMasks;

use super::super::arbitrary::Random;
use super::*;

/// Whether a label matches, by trying.
fn label_matches(glob: &[u8], label: &[u8]) -> bool {
    match glob {
        [] => label.is_empty(),
        [b'*', rest @ ..] => (0..=label.len()).any(|skip| label_matches(rest, &label[skip..])),
        [byte, rest @ ..] => label.first() == Some(byte) && label_matches(rest, &label[1..]),
    }
}

/// Whether a name matches, by trying: a `*` takes one label or more.
fn naive(pattern: &[String], name: &[&str]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [star, rest @ ..] if star == "*" => {
            (1..=name.len()).any(|taken| naive(rest, &name[taken..]))
        }
        [glob, rest @ ..] => {
            name.first()
                .is_some_and(|label| label_matches(glob.as_bytes(), label.as_bytes()))
                && naive(rest, &name[1..])
        }
    }
}

const LABELS: [&str; 7] = ["a", "b", "ab", "api", "api-1", "com", "internal"];
const GLOBS: [&str; 6] = ["a*", "*b", "api-*", "*a*", "a*b*", "i*l"];
const PORTS: [(u16, u16); 8] = [
    (0, 65535),
    (0, 65535),
    (443, 443),
    (80, 443),
    (444, 500),
    (400, 450),
    (65535, 65535),
    (0, 0),
];

fn pattern(random: &mut Random, kind: Kind) -> Vec<String> {
    let mut labels: Vec<String> = (0..=random.below(3))
        .map(|_| LABELS[random.below(LABELS.len())].to_owned())
        .collect();
    if kind == Kind::Allow {
        if random.below(2) == 0 {
            labels.insert(0, "*".into());
        }
        return labels;
    }
    for label in &mut labels {
        match random.below(6) {
            0 | 1 => *label = "*".into(),
            2 => *label = GLOBS[random.below(GLOBS.len())].into(),
            _ => {}
        }
    }
    labels
}

fn rules(random: &mut Random, sets: usize) -> Vec<NameRule> {
    const KINDS: [Kind; 5] = [
        Kind::Allow,
        Kind::Allow,
        Kind::Allow,
        Kind::Deny,
        Kind::Approve,
    ];
    (0..1 + random.below(7))
        .map(|index| {
            let kind = KINDS[random.below(KINDS.len())];
            NameRule {
                id: format!("{kind:?}[{index}]"),
                text: String::new(),
                kind,
                sets: 1 << random.below(sets),
                pattern: pattern(random, kind),
                ports: PORTS[random.below(PORTS.len())],
                sni: kind == Kind::Allow && random.below(2) == 0,
            }
        })
        .collect()
}

fn name(random: &mut Random) -> String {
    let labels: Vec<&str> = (0..1 + random.below(4))
        .map(|_| LABELS[random.below(LABELS.len())])
        .collect();
    labels.join(".")
}

/// What the rules say of a port, and whether it takes TLS alone.
fn at_port(rules: &[&NameRule], port: u16) -> (AccessMasks, bool) {
    let mut masks = AccessMasks::default();
    let (mut asks, mut opens) = (0, 0);
    for rule in rules {
        if port < rule.ports.0 || port > rule.ports.1 {
            continue;
        }
        match rule.kind {
            Kind::Deny => masks.deny |= rule.sets,
            Kind::Approve => masks.approve |= rule.sets,
            Kind::Allow => {
                masks.allow |= rule.sets;
                *(if rule.sni { &mut asks } else { &mut opens }) |= rule.sets;
            }
        }
    }
    let free = masks.allow & !masks.deny & !masks.approve;
    (masks, asks & !opens & free != 0)
}

/// Every port at which something begins or ends, and those beside it.
fn ports() -> Vec<u16> {
    let ends = PORTS.iter().flat_map(|(first, last)| [*first, *last]);
    let mut ports: Vec<u16> = ends
        .flat_map(|port| [port.saturating_sub(1), port, port.saturating_add(1)])
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn check_grants(grants: &[NameGrant], matched: &[&NameRule], shown: &dyn Fn() -> String) {
    assert!(grants.len() <= MAX_GRANTS, "{}", shown());
    for pair in grants.windows(2) {
        assert!(pair[0].ports.1 < pair[1].ports.0, "{}", shown());
        let touch = pair[0].ports.1 + 1 == pair[1].ports.0;
        let same = (pair[0].masks, pair[0].sni) == (pair[1].masks, pair[1].sni);
        assert!(!(touch && same), "not joined: {}", shown());
    }
    for port in ports() {
        let (masks, sni) = at_port(matched, port);
        let free = masks.allow & !masks.deny & !masks.approve;
        let holds = |grant: &&NameGrant| (grant.ports.0..=grant.ports.1).contains(&port);
        let found = grants.iter().find(holds).map(|g| (g.masks, g.sni));
        let expected = (free != 0).then_some((masks, sni));
        assert_eq!(found, expected, "port {port}: {}", shown());
    }
}

fn check_judge(said: &NameVerdict, matched: &[&NameRule], active: u64, shown: &dyn Fn() -> String) {
    let by_port = || ports().into_iter().map(|port| at_port(matched, port).0);
    let allowed = by_port().any(|m| m.allow & !m.deny & !m.approve & active != 0);
    let approved = by_port().any(|m| m.approve & !m.deny & active != 0);
    let is = |rule: &RuleRef, kind: Kind| {
        let found = matched.iter().find(|other| other.id == rule.id);
        found.is_some_and(|found| found.kind == kind && found.sets & active != 0)
    };
    let right = match said {
        NameVerdict::Allow(rule) => allowed && is(rule, Kind::Allow),
        NameVerdict::Approve(rule) => !allowed && approved && is(rule, Kind::Approve),
        NameVerdict::Deny(rule) => {
            let denies = |rule: &&NameRule| rule.kind == Kind::Deny && rule.sets & active != 0;
            !allowed
                && !approved
                && rule.is_some() == matched.iter().copied().any(|rule| denies(&rule))
                && rule.as_ref().is_none_or(|rule| is(rule, Kind::Deny))
        }
    };
    assert!(right, "{said:?} under {active:b}: {}", shown());
}

/// GUARD_TEST_SEED repeats a failure, or tries others.
#[test]
fn the_trie_and_the_naive_matcher_agree() {
    let seed = std::env::var("GUARD_TEST_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut random = Random::new(seed);
    let (mut asked, mut matches, mut verdicts, mut refused) = (0, 0, [0; 3], 0);
    while asked < 1_000_000 {
        let sets = 1 + random.below(3);
        let rules = match NameRules::new(rules(&mut random, sets)) {
            Ok(rules) => rules,
            Err(NameRulesError::TooManyRanges(_)) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for _ in 0..2_000 {
            let name = Name::parse(&name(&mut random)).unwrap();
            let labels: Vec<&str> = name.labels().collect();
            let holds = |rule: &&NameRule| naive(&rule.pattern, &labels);
            let matched: Vec<&NameRule> = rules.0.rules.iter().filter(holds).collect();
            let shown = || format!("seed {seed}: {name} under {:#?}", rules.0.rules);
            assert_eq!(rules.matching(&name), matched, "{}", shown());
            asked += 1;
            matches += matched.len();
            if asked % 64 != 0 {
                continue;
            }
            check_grants(&rules.grants(&name), &matched, &shown);
            for active in 0..1u64 << sets {
                let said = rules.judge(&name, active);
                check_judge(&said, &matched, active, &shown);
                verdicts[match said {
                    NameVerdict::Allow(_) => 0,
                    NameVerdict::Approve(_) => 1,
                    NameVerdict::Deny(_) => 2,
                }] += 1;
                for port in [0, 80, 443, 444, 65535] {
                    let decision = rules.decide(&name, port, active);
                    let masks = at_port(&matched, port).0;
                    assert_eq!(decision.verdict, decide(masks, active), "{}", shown());
                    assert!(decision.rule.is_some() || decision.verdict == Verdict::Deny);
                }
            }
        }
    }
    // Each must have been met often, or nothing was tested.
    assert!(matches > 200_000, "{matches}");
    assert!(verdicts.iter().all(|n| *n > 2_000), "{verdicts:?}");
    assert!(refused < 200, "{refused}");
}

fn rule(kind: Kind, pattern: &str, ports: (u16, u16)) -> NameRule {
    NameRule {
        id: String::new(),
        text: format!("{pattern}:{}-{}", ports.0, ports.1),
        kind,
        sets: 1,
        pattern: pattern.split('.').map(str::to_owned).collect(),
        ports,
        sni: false,
    }
}

const ALL: (u16, u16) = (0, u16::MAX);

/// Ports for their own on different names, as many as one likes; on names that
/// are the same, or could be, only as many as the kernel keeps.
#[test]
fn ranges_are_counted_by_the_names_that_can_have_them() {
    use Kind::{Allow, Deny};
    let port = |n: u16| (1000 + 2 * n, 1000 + 2 * n);
    let many = |at: &dyn Fn(u16) -> String| -> Vec<NameRule> {
        (0..7).map(|n| rule(Allow, &at(n), port(n))).collect()
    };
    let apart = many(&|n| format!("a{n}.example"));
    assert!(NameRules::new(apart.clone()).is_ok());
    let below = many(&|n| format!("*.a{n}.example"));
    assert!(NameRules::new(below).is_ok());
    // A rule that all of these meet adds one range to each.
    let with = [apart, vec![rule(Allow, "*.example", (1, 1))]].concat();
    assert!(NameRules::new(with).is_ok());

    let same = many(&|_| "a.example".into());
    assert_eq!(NameRules::new(same), Err(NameRulesError::TooManyRanges(6)));
    let nested = many(&|n| format!("*.{}example", "a.".repeat(n.into())));
    assert_eq!(
        NameRules::new(nested),
        Err(NameRulesError::TooManyRanges(6))
    );

    // What is refused may cut a range, whichever way its pattern is written.
    let cut = |deny: &dyn Fn(u16) -> String| -> Vec<NameRule> {
        let deny = (0..3).map(|n| rule(Deny, &deny(n), port(n)));
        [rule(Allow, "*.example", ALL)]
            .into_iter()
            .chain(deny)
            .collect()
    };
    for deny in [
        &(|_| "*.example".to_owned()) as &dyn Fn(u16) -> String,
        &|n| format!("a{n}.*"),
        &|n| format!("a{n}-*.example"),
        &|n| format!("a{n}.example"),
    ] {
        let error = NameRules::new(cut(deny)).unwrap_err();
        assert_eq!(error, NameRulesError::TooManyRanges(3));
    }
    assert!(NameRules::new(cut(&|n| format!("a{n}.other"))).is_ok());
    // For a name that is written out it is known what is joined: four ranges.
    let mut exact = cut(&|_| "a.example".to_owned());
    exact[0] = rule(Allow, "a.example", ALL);
    let exact = NameRules::new(exact).unwrap();
    let name = Name::parse("a.example").unwrap();
    assert_eq!(exact.grants(&name).len(), 4);
}

#[test]
fn limits_name_the_rule() {
    let mut rules: Vec<NameRule> = (0..MAX_NAME_RULES)
        .map(|n| rule(Kind::Allow, &format!("n{n}.example"), ALL))
        .collect();
    assert!(NameRules::new(rules.clone()).is_ok());
    rules.push(rule(Kind::Deny, "x", ALL));
    let error = NameRules::new(rules).unwrap_err();
    assert_eq!(error, NameRulesError::TooMany(MAX_NAME_RULES));
    let globs = (0..=MAX_LABEL_GLOBS).map(|n| rule(Kind::Deny, &format!("a{n}-*.x"), ALL));
    let error = NameRules::new(globs.collect()).unwrap_err();
    assert_eq!(error, NameRulesError::TooManyGlobs(MAX_LABEL_GLOBS));
}

#[test]
fn the_rule_in_the_way_is_named() {
    let mut rules = [
        rule(Kind::Allow, "*.example", (443, 443)),
        rule(Kind::Deny, "a.example", (80, 80)),
        rule(Kind::Deny, "a.*", (443, 443)),
        rule(Kind::Approve, "b.example", ALL),
    ];
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.id = index.to_string();
    }
    let rules = NameRules::new(rules.to_vec()).unwrap();
    let says = |name: &str, active: u64| match rules.judge(&Name::parse(name).unwrap(), active) {
        NameVerdict::Allow(rule) => format!("allow {}", rule.id),
        NameVerdict::Approve(rule) => format!("approve {}", rule.id),
        NameVerdict::Deny(rule) => format!("deny {}", rule.map_or("".into(), |rule| rule.id)),
    };
    assert_eq!(says("c.example", 1), "allow 0");
    assert_eq!(says("a.example", 1), "deny 2");
    assert_eq!(says("b.example", 1), "approve 3");
    assert_eq!(says("a.other", 1), "deny 2");
    assert_eq!(says("example", 1), "deny ");
    assert_eq!(says("c.example", 0), "deny ");
    assert_eq!(says("c.example", 2), "deny ");
}

#[test]
fn a_message_is_the_rules_and_is_checked() {
    let rules = NameRules::new(vec![
        rule(Kind::Allow, "*.example", (443, 443)),
        rule(Kind::Deny, "api-*.*", ALL),
    ])
    .unwrap();
    let text = serde_json::to_string(&rules).unwrap();
    let read: NameRules = serde_json::from_str(&text).unwrap();
    assert_eq!(read, rules);
    let name = Name::parse("x.example").unwrap();
    assert_eq!(read.grants(&name), rules.grants(&name));
    assert_eq!(read.grants(&name).len(), 1);
    for (from, to) in [
        ("\"*\",\"example\"", "\"*\""),
        ("\"*\",\"example\"", "\"a\",\"*\""),
        ("\"example\"", "\"Example\""),
        ("\"api-*\"", "\"api-**\""),
        ("[443,443]", "[443,442]"),
        ("\"sets\":1", "\"sets\":0"),
        ("\"Deny\"", "\"Allow\""),
        ("\"sni\":false}]", "\"sni\":true}]"),
        ("\"sets\":1", "\"sets\":1,\"more\":1"),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        let changed = text.replace(from, to);
        assert!(
            serde_json::from_str::<NameRules>(&changed).is_err(),
            "{changed}"
        );
    }
}
