use std::net::SocketAddr;

use guard_common::matcher::Verdict;

use super::super::names::{Name, NameVerdict};
use super::super::*;
use super::{context, policy, try_compile};

use Verdict::{Allow, Approve, Deny};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[track_caller]
fn says(policy: &CompiledPolicy, access: &str, verdict: Verdict, rule: &str) {
    let decision = policy.explain(&parse_access(access).unwrap(), 1);
    let id = decision.rule.map_or(String::new(), |rule| rule.id);
    assert_eq!((decision.verdict, id.as_str()), (verdict, rule), "{access}");
}

#[test]
fn strictest_rule_decides_for_names_too() {
    let p = policy(
        "[network]
        allow = ['*.example.com:443', '10.0.0.0/8:443', 'db.example.com:5432']
        deny = ['internal.*', '*.internal.*', '10.1.0.0/16']
        approve = ['pay.example.com']",
    );
    says(&p, "connect a.example.com:443", Allow, "network.allow[0]");
    says(&p, "connect db.example.com:5432", Allow, "network.allow[2]");
    says(&p, "connect a.example.com:80", Deny, "");
    says(&p, "connect example.com:443", Deny, "");
    says(
        &p,
        "connect a.internal.example.com:443",
        Deny,
        "network.deny[1]",
    );
    says(
        &p,
        "connect internal.example.com:443",
        Deny,
        "network.deny[0]",
    );
    says(
        &p,
        "connect pay.example.com:443",
        Approve,
        "network.approve[0]",
    );
    // Indexes count names and addresses together, as they were written.
    says(&p, "connect 10.0.0.1:443", Allow, "network.allow[1]");
    says(&p, "connect 10.1.0.1:443", Deny, "network.deny[2]");
    assert_eq!(p.names().count(), 5);
    assert!(matches!(
        p.names().judge(&name("a.example.com"), 1),
        NameVerdict::Allow(_)
    ));
}

#[test]
fn what_a_policy_says_of_names_is_told() {
    let p = policy("[network]\nallow = ['10.0.0.1']");
    assert!(p.names().is_empty() && p.upstreams().is_empty());
    assert_eq!(p.networks(), [(0xffff_0a00_0001, 128)]);
    let p = policy(
        "[network]
        allow = ['a.example', '10.0.0.0/8:1', '10.0.0.0/8:2', '2001:db8::/32']
        deny = ['192.168.0.0/16', 'b.example']
        upstreams = ['9.9.9.9', '[2620:fe::fe]:5353']",
    );
    assert!(p.flags().datagram);
    let networks = [(0xffff_0a00_0000, 104), (0x2001_0db8 << 96, 32)];
    assert_eq!(p.networks(), networks);
    let upstreams: [SocketAddr; 2] =
        ["9.9.9.9:53", "[2620:fe::fe]:5353"].map(|text| text.parse().unwrap());
    assert_eq!(p.upstreams(), upstreams);
    assert!(policy("[network]\nallow = ['a.example']").flags().datagram);
    // What cannot be allowed is not asked for.
    let p = policy("[network]\ndeny = ['*']\napprove = ['a.example']");
    assert!(p.names().is_empty() && !p.flags().datagram);
}

#[test]
fn the_hash_is_of_names_too() {
    let hash = |text: &str| policy(&format!("[network]\n{text}")).hash().to_owned();
    let all = [
        "allow = ['a.example']",
        "allow = ['b.example']",
        "allow = ['*.a.example']",
        "allow = ['a.example:443']",
        "allow = [{ name = 'a.example', sni = 'require' }]",
        "deny = ['a.example']",
        "approve = ['a.example']",
        "allow = ['a.example']\nupstreams = ['9.9.9.9']",
    ];
    let hashes: std::collections::BTreeSet<String> = all.iter().map(|text| hash(text)).collect();
    assert_eq!(hashes.len(), all.len());
    // In whichever way it is said.
    assert_eq!(
        hash("allow = ['a.example']\nsni = 'require'"),
        hash("allow = [{ name = 'a.example', sni = 'require' }]")
    );
    assert_eq!(
        hash(all[0]),
        hash("allow = [{ name = 'a.example' }]\nsni = 'off'")
    );
}

#[test]
fn a_rule_that_says_it_itself_has_its_own_sni() {
    let sni = |text: &str, of: &str| {
        let p = policy(&format!("[network]\n{text}"));
        let grants = p.names().grants(&name(of));
        grants.iter().map(|grant| grant.sni).collect::<Vec<_>>()
    };
    let own = "allow = ['a.example', { name = 'b.example', sni = 'require' }, \
               { name = 'c.example', sni = 'off' }]\n";
    for (more, expected) in [
        ("", [false, true, false]),
        ("sni = 'off'", [false, true, false]),
        ("sni = 'require'", [true, true, false]),
    ] {
        let text = format!("{own}{more}");
        for (of, expected) in ["a.example", "b.example", "c.example"].iter().zip(expected) {
            assert_eq!(sni(&text, of), [expected], "{of}: {text}");
        }
    }
    // Denying takes no server name.
    assert_eq!(
        sni(
            "allow = ['a.example']\ndeny = ['x.example']\nsni = 'off'",
            "a.example"
        ),
        [false]
    );
    // All rules of the range must ask for it.
    let both = "allow = ['*.example', { name = 'a.example:443', sni = 'require' }]";
    assert_eq!(sni(both, "a.example"), [false]);
    let ports = "allow = ['*.example:1-443', { name = 'a.example:443-500', sni = 'require' }]";
    assert_eq!(sni(ports, "a.example"), [false, true]);
}

/// A set that asks for a server name is heard, whatever the others do.
#[test]
fn sets_keep_their_own_names() {
    let lookup = Lookup::built_in();
    let resolved = [
        "allow = ['*.example', 'b.other']",
        "allow = [{ name = '*.example:443', sni = 'require' }]\ndeny = ['b.example']",
    ]
    .map(|network| {
        let text = format!("version = 1\n[network]\n{network}\n");
        let document = Document::parse(text.as_bytes(), "t.toml").unwrap();
        resolve(&document, &context(&lookup)).unwrap()
    });
    let p = compile_sets(&[&resolved[0], &resolved[1]]).unwrap();
    let verdict = |of: &str, port, active| p.explain_name(&name(of), port, active).verdict;
    assert_eq!(verdict("a.example", 443, 0b11), Allow);
    assert_eq!(verdict("a.example", 80, 0b01), Allow);
    assert_eq!(verdict("a.example", 80, 0b11), Deny);
    assert_eq!(verdict("b.example", 443, 0b01), Allow);
    assert_eq!(verdict("b.example", 443, 0b11), Deny);
    let ranges = |of: &str| {
        let grants = p.names().grants(&name(of));
        let tell = |grant: &names::NameGrant| {
            (grant.ports, grant.masks.allow, grant.masks.deny, grant.sni)
        };
        grants.iter().map(tell).collect::<Vec<_>>()
    };
    assert_eq!(
        ranges("a.example"),
        [
            ((0, 442), 0b01, 0, false),
            ((443, 443), 0b11, 0, true),
            ((444, 65535), 0b01, 0, false),
        ]
    );
    // The set that asks for it denies the name: it asks for nothing.
    assert_eq!(
        ranges("b.example"),
        [
            ((0, 442), 0b01, 0b10, false),
            ((443, 443), 0b11, 0b10, false),
            ((444, 65535), 0b01, 0b10, false),
        ]
    );
    assert_eq!(ranges("b.other"), [((0, 65535), 0b01, 0, false)]);
}

#[test]
fn includes_bring_names_and_leave_the_rest_to_policies() {
    let dir = tempfile::tempdir().unwrap();
    let include = dir.path().join("guard/policies/include");
    std::fs::create_dir_all(&include).unwrap();
    let lookup = || Lookup::for_user(Some(dir.path().as_os_str()), None);
    let compiled = |network: &str| {
        let text = format!("version = 1\n[network]\n{network}\n");
        std::fs::write(include.join("mine.toml"), text).unwrap();
        let lookup = lookup();
        let text = b"version = 1\ninclude = ['mine']\n[network]\nsni = 'require'\n";
        let document = Document::parse(text, "t.toml").unwrap();
        compile(&resolve(&document, &context(&lookup))?)
    };
    // What the policy says is for its own rules.
    let p = compiled("allow = ['a.example', { name = 'b.example', sni = 'require' }]").unwrap();
    let sni = |of: &str| p.names().grants(&name(of))[0].sni;
    assert!(!sni("a.example") && sni("b.example"));
    let rule = p.explain_name(&name("a.example"), 1, 1).rule.unwrap();
    assert_eq!(rule.id, "mine:network.allow[0]");
    for key in ["sni = 'require'", "upstreams = ['9.9.9.9']"] {
        let error = compiled(key).unwrap_err().to_string();
        assert!(error.contains("has no meaning in an include"), "{error}");
        assert!(error.contains("mine.toml:3:1"), "{error}");
    }
}

#[test]
fn too_many_names_have_a_place() {
    let rules: Vec<String> = (0..=names::MAX_NAME_RULES)
        .map(|n| format!("'n{n}.example'"))
        .collect();
    let text =
        |rules: &[String]| format!("version = 1\n[network]\ndeny = [\n{}]\n", rules.join(",\n"));
    assert!(try_compile(&text(&rules[1..])).is_ok());
    let error = try_compile(&text(&rules)).unwrap_err().to_string();
    assert!(
        error.contains("test.toml:4100:1: error: more than 4096 rules"),
        "{error}"
    );
}
