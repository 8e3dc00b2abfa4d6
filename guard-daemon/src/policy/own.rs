//! What is guard's own: out of a sandbox's reach, whatever its policy allows.

use std::path::{Path, PathBuf};

use guard_common::table::FileAccess;
use serde::{Deserialize, Serialize};

use super::glob::{Component, Pattern, Token};
use super::lists::{ALL_ACCESS, Kind, List, Rule};

/// What is guard's on every host. What is below `/run/guard/tmp` is the
/// sandboxes' own.
const STANDING: [(&str, Extent, Reach); 8] = [
    ("/etc/guard", Extent::All, Reach::NoWrite),
    ("/var/log/guard", Extent::All, Reach::NoWrite),
    ("/run/guard", Extent::Children, Reach::NoWrite),
    ("/run/guard/sandboxes", Extent::All, Reach::Nothing),
    ("/run/guard/guard.sock", Extent::Itself, Reach::Nothing),
    ("/run/guard/relay.sock", Extent::Itself, Reach::Nothing),
    ("/run/guard/lock", Extent::Itself, Reach::Nothing),
    ("/run/guard/supervisor.lock", Extent::Itself, Reach::Nothing),
];

/// What a sandbox may not do with something of guard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Change it.
    NoWrite,
    /// Use it at all.
    Nothing,
}

/// What belongs to a path of guard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// It alone.
    Itself,
    /// What is directly in it, too.
    Children,
    /// All that is below, too.
    All,
}

/// Something of guard's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Absolute, canonical.
    pub path: PathBuf,
    /// What belongs to it.
    pub extent: Extent,
    /// What is out of reach.
    pub reach: Reach,
}

impl Own {
    /// A file that a sandbox may not change.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            extent: Extent::Itself,
            reach: Reach::NoWrite,
        }
    }

    /// A directory in which a sandbox may not change anything.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self {
            extent: Extent::All,
            ..Self::file(path)
        }
    }
}

/// What is guard's own on every host.
#[must_use]
pub fn standing() -> Vec<Own> {
    STANDING
        .iter()
        .map(|(path, extent, reach)| Own {
            path: path.into(),
            extent: *extent,
            reach: *reach,
        })
        .collect()
}

/// The rules that keep it so: `guard[N]`.
pub(super) fn lists(own: &[Own]) -> Vec<List> {
    [
        (Reach::NoWrite, FileAccess::Write.bit()),
        (Reach::Nothing, ALL_ACCESS),
    ]
    .into_iter()
    .map(|(reach, access)| List {
        kind: Kind::Deny,
        access,
        sets: 1,
        rules: own
            .iter()
            .enumerate()
            .filter(|(_, own)| own.reach == reach)
            .map(|(index, own)| rule(index, own))
            .collect(),
    })
    .filter(|list| !list.rules.is_empty())
    .collect()
}

fn rule(index: usize, own: &Own) -> Rule {
    use std::os::unix::ffi::OsStrExt as _;
    let mut patterns = vec![Pattern::literal(own.path.as_os_str().as_bytes())];
    let shown = own.path.display();
    let mut text = format!("guard's own {shown}");
    let more = match own.extent {
        Extent::Itself => None,
        Extent::Children => Some((Component::Name(vec![Token::Star]), "/*")),
        Extent::All => Some((Component::AnyDepth, "/**")),
    };
    if let Some((component, shown)) = more {
        let mut below = Pattern::literal(own.path.as_os_str().as_bytes());
        below.components.push(component);
        patterns.push(below);
        text.push_str(shown);
    }
    Rule {
        id: format!("guard[{index}]"),
        text,
        negated: false,
        patterns,
        place: None,
    }
}

#[cfg(test)]
mod tests {
    use guard_common::matcher::Verdict;

    use super::*;
    use crate::policy::{Document, Lookup, ResolveContext, compile, resolve};

    #[test]
    fn no_policy_reaches_it() {
        let text = b"version = 1\n[files]\nread = [\"/**\"]\nwrite = [\"/**\"]\nexec = [\"/**\"]\n";
        let document = Document::parse(text, "test").unwrap();
        let includes = Lookup::built_in();
        let mut own = standing();
        own.push(Own::file(Path::new("/srv/p/policy.toml")));
        own.push(Own::directory(Path::new("/home/u/.config/guard")));
        let context = ResolveContext {
            home: None,
            cwd: "/srv".into(),
            tmp: "/run/guard/tmp/x".into(),
            args: vec![],
            set: vec![],
            includes: &includes,
            launch: None,
            own,
        };
        let policy = compile(&resolve(&document, &context).unwrap()).unwrap();
        let all = (true, true, true);
        for (path, (read, write, exec)) in [
            ("/srv/p/policy.toml", (true, false, true)),
            ("/srv/p/policy.toml2", all),
            ("/srv/p", all),
            ("/home/u/.config/guard", (true, false, true)),
            ("/home/u/.config/guard/policies/a.toml", (true, false, true)),
            ("/var/log/guard/audit.jsonl", (true, false, true)),
            ("/var/log/other", all),
            ("/run/guard", (true, false, true)),
            ("/run/guard/planted", (true, false, true)),
            ("/run/guard/relay.sock", (false, false, false)),
            ("/run/guard/sandboxes", (false, false, false)),
            ("/run/guard/sandboxes/1.json", (false, false, false)),
            ("/run/guard/tmp", (true, false, true)),
            ("/run/guard/tmp/x/file", all),
        ] {
            for (access, allowed) in [
                (FileAccess::Read, read),
                (FileAccess::Write, write),
                (FileAccess::Exec, exec),
            ] {
                let decision = policy.explain_path(path.as_bytes(), access, 1);
                let expected = if allowed {
                    Verdict::Allow
                } else {
                    Verdict::Deny
                };
                assert_eq!(decision.verdict, expected, "{access:?} {path}");
                let by_guard = decision.rule.is_some_and(|r| r.id.starts_with("guard["));
                assert_eq!(by_guard, !allowed, "{access:?} {path}");
            }
        }
    }
}
