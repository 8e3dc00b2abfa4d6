//! Which environment variables a server gets.

use std::collections::BTreeSet;

/// The environment that is left, and what was taken out.
#[derive(Debug, PartialEq, Eq)]
pub struct Filtered {
    /// `NAME=value`, bytes.
    pub kept: Vec<Vec<u8>>,
    /// Names that were removed, sorted. Never values.
    pub removed: Vec<Vec<u8>>,
}

/// Keeps what `allow` names; `set` replaces or adds variables whatever `allow`
/// says. An entry without `=`, or without a name, is removed.
#[must_use]
pub fn filter(env: &[Vec<u8>], allow: &BTreeSet<String>, set: &[(&str, Vec<u8>)]) -> Filtered {
    let mut kept: Vec<Vec<u8>> = set
        .iter()
        .map(|(name, value)| [name.as_bytes(), b"=", value].concat())
        .collect();
    let mut removed = Vec::new();
    for entry in env {
        let name = entry.split(|b| *b == b'=').next().unwrap_or_default();
        if set.iter().any(|(n, _)| n.as_bytes() == name) {
            continue;
        }
        let has_value = name.len() < entry.len() && !name.is_empty();
        if has_value && std::str::from_utf8(name).is_ok_and(|name| allow.contains(name)) {
            kept.push(entry.clone());
        } else {
            removed.push(name.to_vec());
        }
    }
    removed.sort();
    removed.dedup();
    Filtered { kept, removed }
}

/// The value of a variable.
#[must_use]
pub fn get<'a>(env: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    env.iter()
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(list: &[&str]) -> Vec<Vec<u8>> {
        list.iter().map(|e| e.as_bytes().to_vec()).collect()
    }

    #[test]
    fn only_what_is_allowed_stays() {
        let given = env(&[
            "PATH=/bin",
            "LC_ALL=C",
            "AWS_SECRET_ACCESS_KEY=x",
            "PATHS=/y",
            "TMPDIR=/tmp",
            "NOVALUE",
            "=odd",
            "LD_PRELOAD=/evil.so",
        ]);
        let set = [("TMPDIR", b"/private".to_vec())];
        let allow = ["PATH", "LC_ALL"].map(str::to_owned).into();
        let filtered = filter(&given, &allow, &set);
        assert_eq!(
            filtered.kept,
            env(&["TMPDIR=/private", "PATH=/bin", "LC_ALL=C"])
        );
        assert_eq!(
            filtered.removed,
            env(&[
                "",
                "AWS_SECRET_ACCESS_KEY",
                "LD_PRELOAD",
                "NOVALUE",
                "PATHS"
            ])
        );
    }

    #[test]
    fn values_may_hold_anything() {
        let given = vec![b"PATH=/a=b:\xff".to_vec()];
        let filtered = filter(&given, &["PATH".to_owned()].into(), &[]);
        assert_eq!(filtered.kept, given);
        assert_eq!(get(&given, "PATH"), Some(&b"/a=b:\xff"[..]));
        assert_eq!(get(&given, "PAT"), None);
    }
}
