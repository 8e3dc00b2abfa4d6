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
