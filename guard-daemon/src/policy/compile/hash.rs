//! What a policy is known by.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::policy::error::Spanned;
use crate::policy::resolve::Resolved;

/// A canonical text of the resolved policy, hashed. Fields are separated by
/// bytes that no field holds.
pub(super) fn hash(sets: &[&Resolved]) -> String {
    let mut text = String::from("guard policy 1\n");
    for (index, set) in sets.iter().enumerate() {
        let _ = writeln!(text, "set {index}");
        for list in &set.lists {
            for rule in &list.rules {
                let _ = writeln!(
                    text,
                    "file {:?} {} {:?} {:?} {:?} {:?}",
                    list.kind, list.access, rule.id, rule.text, rule.negated, rule.patterns
                );
            }
        }
        for (what, rules) in [("network", &set.network), ("listen", &set.listen)] {
            for rule in rules {
                let _ = writeln!(
                    text,
                    "{what} {:?} {:?} {:?} {:?}",
                    rule.kind, rule.id, rule.text, rule.network
                );
            }
        }
        for Spanned { value: rule, .. } in &set.names {
            let _ = writeln!(
                text,
                "name {:?} {:?} {:?} {:?} {:?} {}",
                rule.kind, rule.id, rule.text, rule.pattern, rule.ports, rule.sni
            );
        }
        let _ = writeln!(text, "upstreams {:?}", set.upstreams);
        for rule in &set.abstract_names {
            let _ = writeln!(text, "unix {:?} {:?} {:?}", rule.id, rule.text, rule.name);
        }
        let _ = writeln!(
            text,
            "process {:?} {:?} {:?}\nwrite {:?}\naudit {:?}",
            set.env, set.user, set.limits, set.max_write_size, set.audit
        );
    }
    let digest = Sha256::digest(text.as_bytes());
    let mut out = String::from("sha256:");
    for byte in digest {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
