mod corpus;
mod naive;
mod names;
mod random;
mod shipped;

use std::path::PathBuf;

use guard_common::matcher::Verdict;
use guard_common::table::FileAccess;

use super::*;

pub(super) fn context(lookup: &Lookup) -> ResolveContext<'_> {
    ResolveContext {
        home: Some(PathBuf::from("/home/u")),
        cwd: PathBuf::from("/srv/project"),
        tmp: PathBuf::from("/tmp/guard-1"),
        args: vec!["server".into(), "/data".into()],
        set: vec![("dir".into(), "/set".into())],
        includes: lookup,
        launch: None,
        own: Vec::new(),
    }
}

pub(super) fn try_compile(text: &str) -> Result<CompiledPolicy, PolicyErrors> {
    let lookup = Lookup::built_in();
    let document = Document::parse(text.as_bytes(), "test.toml")?;
    compile(&resolve(&document, &context(&lookup))?)
}

#[track_caller]
pub(super) fn policy(text: &str) -> CompiledPolicy {
    try_compile(&format!("version = 1\n{text}")).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn says(policy: &CompiledPolicy, access: FileAccess, path: &str, verdict: Verdict, rule: &str) {
    let decision = policy.explain_path(path.as_bytes(), access, 1);
    let id = decision.rule.map_or(String::new(), |rule| rule.id);
    assert_eq!((decision.verdict, id.as_str()), (verdict, rule), "{path}");
}

use FileAccess::{Exec, Read, Write};
use Verdict::{Allow, Approve, Deny};

#[test]
fn strictest_rule_decides() {
    let p = policy(
        "[files]
        read = ['${cwd}/**', '${home}/.config/x', '${dir}/*', '${args.1}/**']
        write = ['/srv/project/out/**']
        exec = ['/usr/bin/git']
        deny = ['*.env', '!/srv/project/public/**', '/srv/project/out/private']
        approve = ['**/secrets/**']",
    );
    says(&p, Read, "/srv/project", Allow, "files.read[0]");
    says(&p, Read, "/srv/project/a/b", Allow, "files.read[0]");
    says(&p, Write, "/srv/project/a/b", Deny, "");
    says(&p, Write, "/srv/project/out/a", Allow, "files.write[0]");
    says(&p, Read, "/srv/project/x.env/a", Deny, "files.deny[0]");
    says(&p, Read, "/srv/project/public/.env", Allow, "files.read[0]");
    says(&p, Write, "/srv/project/out/private", Deny, "files.deny[2]");
    says(&p, Exec, "/usr/bin/git", Allow, "files.exec[0]");
    says(&p, Exec, "/usr/bin/gitk", Deny, "");
    says(
        &p,
        Read,
        "/srv/project/secrets",
        Approve,
        "files.approve[0]",
    );
    says(&p, Read, "/srv/project/secrets/.env", Deny, "files.deny[0]");
    says(&p, Read, "/home/u/.config/x", Allow, "files.read[1]");
    says(&p, Read, "/set/x", Allow, "files.read[2]");
    says(&p, Read, "/data/deep/er", Allow, "files.read[3]");
    says(&p, Read, "/", Deny, "");
}

#[test]
fn the_hash_is_of_what_the_policy_says() {
    let hash = |text: &str| policy(text).hash().to_owned();
    let plain = hash("[files]\nread = ['/srv/**']");
    assert_eq!(
        plain,
        hash("# Only a comment.\n[files]\nread = [\"/srv/**\"]")
    );
    for other in [
        "[files]\nread = ['/srv/*']",
        "[files]\nwrite = ['/srv/**']",
        "[files]\nread = ['/srv/**']\n[process]\nenv = []",
        "[files]\nread = ['/srv/**']\n[audit]\nring_full = 'deny'",
        "[files]\nread = ['/srv/**']\n[network]\ndeny = ['10.0.0.1']",
    ] {
        assert_ne!(plain, hash(other), "{other}");
    }
}

#[test]
fn settings_reach_the_compiled_policy() {
    let p = policy("");
    assert!(p.env_allow().contains("PATH") && !p.env_allow().contains("AWS_SECRET_ACCESS_KEY"));
    assert_eq!((p.user(), p.valid_sets(), p.background()), (None, 1, 1));
    assert!(p.flags().log_allows && !p.flags().datagram && !p.flags().ring_full_deny);
    let p = policy(
        "[process]\nuser = 'root'\nenv = ['A']
        [audit]\nlog = 'denials'\nring_full = 'deny'\ndisk_full = 'deny'\nretention = '2h'
        [network]\nallow = ['10.0.0.1:53']",
    );
    assert_eq!(p.env_allow().iter().collect::<Vec<_>>(), ["A"]);
    assert_eq!(p.user(), Some("root"));
    assert!(!p.flags().log_allows && p.flags().datagram && p.flags().ring_full_deny);
    assert_eq!(p.audit().disk_full, WhenFull::Deny);
    assert_eq!(p.audit().retention.unwrap().as_secs(), 7_200);
    assert!(
        !policy("[network]\ndeny = ['10.0.0.1']\napprove = ['10.0.0.2']")
            .flags()
            .datagram
    );
}

#[test]
fn sets_keep_their_own_rights() {
    let lookup = Lookup::built_in();
    let resolved = [
        "read = ['/a/**', '/b/**']",
        "read = ['/a/**']\ndeny = ['key']",
    ]
    .map(|files| {
        let text = format!("version = 1\n[files]\n{files}\n[network]\nallow = ['10.0.0.1:1']");
        let document = Document::parse(text.as_bytes(), "t.toml").unwrap();
        resolve(&document, &context(&lookup)).unwrap()
    });
    let p = compile_sets(&[&resolved[0], &resolved[1]]).unwrap();
    assert_eq!(p.valid_sets(), 0b11);
    let verdict = |path: &str, active| p.explain_path(path.as_bytes(), Read, active).verdict;
    assert_eq!(verdict("/a/x", 0b11), Allow);
    assert_eq!(verdict("/b/x", 0b01), Allow);
    assert_eq!(verdict("/b/x", 0b10), Deny);
    assert_eq!(verdict("/b/x", 0b11), Deny);
    assert_eq!(verdict("/a/key", 0b01), Allow);
    assert_eq!(verdict("/a/key", 0b11), Deny);
    assert_eq!(p.explain_net(0xffff_0a00_0001, 1, 0b11).verdict, Allow);
    assert_eq!(p.explain_net(0xffff_0a00_0001, 2, 0b11).verdict, Deny);
    let too_many = vec![&resolved[0]; 65];
    assert!(compile_sets(&too_many).is_err());
    assert!(compile_sets(&too_many[..64]).is_ok());
    assert!(compile_sets(&[]).is_err());
}

/// Each pair of directories that a path has passed must be remembered: these
/// patterns multiply.
#[test]
fn the_rule_that_made_it_too_large_is_named() {
    let rules: Vec<String> = (0..12).map(|n| format!("'/**/a{n}/**/b{n}/**'")).collect();
    let text = format!("version = 1\n[files]\nread = [\n{}\n]", rules.join(",\n"));
    let lookup = Lookup::built_in();
    let document = Document::parse(text.as_bytes(), "t.toml").unwrap();
    let resolved = resolve(&document, &context(&lookup)).unwrap();
    let error = compile::compile_within(&[&resolved], 2_000).unwrap_err();
    let error = error.iter().next().unwrap();
    let (_, line, _) = error.location().unwrap();
    // Some of the first few fit, and not all do.
    assert!((6..15).contains(&line), "{error}");
    let shown = error.to_string();
    assert!(
        shown.contains(rules[line - 4].trim_matches('\'')),
        "{shown}"
    );
    assert!(shown.contains("more than 2000 states"), "{shown}");
}

/// Rules as policies have them: directories, kinds of files, names to deny.
/// (What must be remembered from the leaf on multiplies with the names that
/// are denied anywhere: a thousand different *file* names beside a thousand
/// denied ones would not fit.)
fn thousand(quarter: usize) -> String {
    let mut rules: [Vec<String>; 3] = Default::default();
    for n in 0..quarter {
        rules[0].push(format!("'/srv/team{n}/project-{}/**'", n * 7));
        rules[0].push(format!("'/var/lib/app{n}/*.{{json,log}}'"));
        rules[1].push(format!("'/srv/team{n}/out/**/*.o'"));
        rules[2].push(format!("'*.secret{n}'"));
    }
    let [read, write, deny] = rules.map(|rules| rules.join(",\n"));
    format!(
        "version = 1\ninclude = ['base', 'node']\n[files]\nread = [{read}]\nwrite = [{write}]\ndeny = [{deny}]\n"
    )
}

/// Under a second in a release build. Unoptimised code gets a fifth of the
/// rules and much time: there, only a compiler that multiplies states fails.
#[test]
fn a_thousand_globs_compile_in_time() {
    let (quarter, bound) = if cfg!(debug_assertions) {
        (50, 60)
    } else {
        (250, 1)
    };
    let text = thousand(quarter);
    let begun = std::time::Instant::now();
    let policy = try_compile(&text).unwrap_or_else(|e| panic!("{e}"));
    let taken = begun.elapsed();
    assert!(taken < std::time::Duration::from_secs(bound), "{taken:?}");
    says(
        &policy,
        Read,
        "/srv/team7/project-49/x",
        Allow,
        "files.read[14]",
    );
    says(
        &policy,
        Write,
        "/srv/team49/out/a/b/c.o",
        Allow,
        "files.write[49]",
    );
    says(&policy, Write, "/srv/team49/out/a/b/c.a", Deny, "");
    says(
        &policy,
        Read,
        "/srv/team7/project-49/x.secret13/y",
        Deny,
        "files.deny[13]",
    );
}

#[test]
fn sockets_of_others_and_own_ports() {
    let p = policy(
        "[files]
        read = ['/run/**']
        deny = ['docker.sock']
        [network]
        unix = ['/run/{postgresql,docker}*/**', '/run/docker.sock', '@dbus-test']
        listen = ['127.0.0.1:8080', '[::1]:8000-8100']",
    );
    let says = |access: &str, verdict: Verdict, rule: &str| {
        let decision = p.explain(&parse_access(access).unwrap(), 1);
        let id = decision.rule.map_or(String::new(), |rule| rule.id);
        assert_eq!((decision.verdict, id.as_str()), (verdict, rule), "{access}");
    };
    says(
        "connect /run/postgresql/.s.PGSQL.5432",
        Allow,
        "network.unix[0]",
    );
    says("read /run/postgresql/.s.PGSQL.5432", Allow, "files.read[0]");
    says("write /run/postgresql/.s.PGSQL.5432", Deny, "");
    says("connect /run/docker.sock", Deny, "files.deny[0]");
    says("connect /run/other", Deny, "");
    says("connect @dbus-test", Allow, "network.unix[2]");
    says("connect @dbus-test2", Deny, "");
    says("listen 127.0.0.1:8080", Allow, "network.listen[0]");
    says("listen [::1]:8100", Allow, "network.listen[1]");
    says("listen 0.0.0.0:8080", Deny, "");
    says("connect 127.0.0.1:8080", Deny, "");
    assert!(p.flags().datagram);
}

#[test]
fn bad_sockets_are_named() {
    let long = format!("@{}", "n".repeat(108));
    for (key, rule, part) in [
        ("unix", "relative/path", "a relative path"),
        ("unix", "!/run/x", "no ! rules"),
        ("unix", "@", "is missing"),
        ("unix", "@a*", "taken as it is"),
        ("unix", "@${home}", "taken as it is"),
        ("unix", &long, "too long"),
        ("listen", "8080", "not an IP address"),
        ("listen", "127.0.0.1:0", "not a port"),
    ] {
        let text = format!("version = 1\n[network]\n{key} = ['{rule}']\n");
        let error = try_compile(&text).expect_err(rule).to_string();
        assert!(error.contains(part), "{rule}: {error}");
        assert!(error.contains("test.toml:3:"), "{error}");
    }
}
