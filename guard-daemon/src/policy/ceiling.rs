//! Where a policy lets its server write at all: directories below which every
//! path lies that its write rules could match.

use std::collections::BTreeSet;

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

/// The path up to the first component that could be more than one name.
fn literal_beginning(pattern: &Pattern) -> Vec<u8> {
    let name = |component: &Component| match component {
        Component::AnyDepth => None,
        Component::Name(tokens) => tokens
            .iter()
            .map(|token| match token {
                Token::Byte(byte) => Some(*byte),
                Token::Class(_) | Token::Star => None,
            })
            .collect::<Option<Vec<u8>>>(),
    };
    let names = pattern.components.iter().map_while(name);
    let path: Vec<u8> = names
        .flat_map(|name| [b"/".to_vec(), name].concat())
        .collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Document, Lookup, ResolveContext, compile, resolve};

    fn roots(write: &str, tail: &str) -> Vec<String> {
        let text = format!("version = 1\n[files]\nwrite = [{write}]\n{tail}");
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
        };
        let policy = compile(&resolve(&document, &context).unwrap()).unwrap();
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
}
