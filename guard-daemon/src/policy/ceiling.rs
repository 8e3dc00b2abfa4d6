//! What can be told of a policy's rules without a table: directories below
//! which every path lies that its write rules could match, and files that its
//! deny rules name.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::table::FileAccess;

use super::glob::{Component, Pattern, Token};
use super::lists::{Kind, List};

/// The literal beginnings of all patterns that allow writing, absolute, none
/// of them below another.
pub(super) fn write_roots(lists: &[List]) -> Vec<Vec<u8>> {
    let all: BTreeSet<Vec<u8>> = lists
        .iter()
        .filter(|list| list.kind == Kind::Allow && list.access & FileAccess::Write.bit() != 0)
        .flat_map(|list| &list.rules)
        .filter(|rule| !rule.negated)
        .flat_map(|rule| &rule.patterns)
        .map(literal_beginning)
        .collect();
    let is_below = |path: &[u8], root: &[u8]| {
        root == b"/"
            || path
                .strip_prefix(root)
                .is_some_and(|rest| rest.starts_with(b"/"))
    };
    all.iter()
        .filter(|path| !all.iter().any(|root| root != *path && is_below(path, root)))
        .cloned()
        .collect()
}

/// Single paths that lists of denials hold, and what they deny there.
pub(super) fn denied_files(lists: &[List]) -> BTreeMap<Vec<u8>, u8> {
    let mut files = BTreeMap::new();
    for list in lists.iter().filter(|list| list.kind == Kind::Deny) {
        for rule in list.rules.iter().filter(|rule| !rule.negated) {
            for path in rule.patterns.iter().filter_map(literal) {
                // A negated rule may take it out again.
                if list.find(&path).is_some() {
                    *files.entry(path).or_default() |= list.access;
                }
            }
        }
    }
    files
}

/// A component that is one name.
fn name(component: &Component) -> Option<Vec<u8>> {
    match component {
        Component::AnyDepth => None,
        Component::Name(tokens) => tokens
            .iter()
            .map(|token| match token {
                Token::Byte(byte) => Some(*byte),
                Token::Class(_) | Token::Star => None,
            })
            .collect(),
    }
}

fn path_of(names: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let path: Vec<u8> = names
        .flat_map(|name| [b"/".to_vec(), name].concat())
        .collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

/// The path of a pattern that matches nothing else.
fn literal(pattern: &Pattern) -> Option<Vec<u8>> {
    let names: Option<Vec<_>> = pattern.components.iter().map(name).collect();
    Some(path_of(names?.into_iter()))
}

/// The path up to the first component that could be more than one name.
fn literal_beginning(pattern: &Pattern) -> Vec<u8> {
    path_of(pattern.components.iter().map_while(name))
}

#[cfg(test)]
mod tests {
    use crate::policy::{CompiledPolicy, Document, Lookup, ResolveContext, compile, resolve};

    fn policy(text: &str) -> CompiledPolicy {
        let document = Document::parse(text.as_bytes(), "test").unwrap();
        let includes = Lookup::built_in();
        let context = ResolveContext {
            home: Some("/home/u".into()),
            cwd: "/srv/[x]".into(),
            tmp: "/tmp/g".into(),
            args: vec![],
            set: vec![],
            includes: &includes,
            launch: None,
            own: Vec::new(),
        };
        compile(&resolve(&document, &context).unwrap()).unwrap()
    }

    fn roots(write: &str, tail: &str) -> Vec<String> {
        let policy = policy(&format!("version = 1\n[files]\nwrite = [{write}]\n{tail}"));
        let text = |root: &Vec<u8>| String::from_utf8(root.clone()).unwrap();
        policy.write_roots().iter().map(text).collect()
    }

    #[test]
    fn roots_are_what_is_literal_of_a_rule() {
        for (write, expected) in [
            (r#""/srv/project/**""#, &["/srv/project"][..]),
            (r#""/srv/a*/x", "/var/log/[ab]/**""#, &["/srv", "/var/log"]),
            (
                r#""/dev/{null,zero}", "${tmp}/**""#,
                &["/dev/null", "/dev/zero", "/tmp/g"],
            ),
            // A variable's value is literal, whatever it holds.
            (r#""${cwd}/**""#, &["/srv/[x]"]),
            (r#""/**/cache/*", "/srv/**""#, &["/"]),
            // What lies below another root is not said twice, a neighbour is.
            (
                r#""/srv/a/b/**", "/srv/a/**", "/srv/ab""#,
                &["/srv/a", "/srv/ab"],
            ),
            // What is taken out of the list again does not make it larger.
            (r#""/srv/a/**", "!/etc/**""#, &["/srv/a"]),
            ("", &[]),
        ] {
            assert_eq!(roots(write, ""), expected, "{write}");
        }
    }

    #[test]
    fn other_lists_do_not_count() {
        let tail = "read = [\"/etc/**\"]\nexec = [\"/usr/**\"]\ndeny = [\"/srv/x\"]\n\
            approve = [\"/srv/y\"]\n";
        assert_eq!(roots("\"/srv/a\"", tail), ["/srv/a"]);
    }

    #[test]
    fn denied_files_are_those_that_a_rule_names() {
        let policy = policy(
            "version = 1\n[files]\nread = [\"/srv/**\"]\n\
             deny = [\"/srv/{a,b}\", \"/srv/c*\", \"/srv/d/**\", \"!/srv/b\", \"${tmp}/x\"]\n",
        );
        let expected = [(b"/srv/a".to_vec(), 15), (b"/tmp/g/x".to_vec(), 15)];
        assert_eq!(policy.denied_files(), expected.into());
    }
}
