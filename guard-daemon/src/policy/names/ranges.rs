//! No name may be open in more ranges of ports than the kernel keeps for an
//! address: told of the rules, before there is a name.

use guard_common::names::MAX_GRANTS;

use super::super::lists::Kind;
use super::matcher::glob_matches;
use super::verdict::allowed_ranges;
use super::{NameRule, NameRules, NameRulesError, pattern};

/// A label that no rule but a `*` matches.
const NO_LABEL: &str = "\0";

impl NameRules {
    /// Every name that is allowed is a name that some rule allows by itself, or
    /// lies below one that a `*.` rule allows all names below, the deepest of
    /// them. So it is enough to look at the names of the first kind, and at each
    /// `*.` rule with the rules that other names below it could match as well. Of
    /// these, deny and approve rules are counted whenever they could: there may
    /// be no name for which all of them do.
    pub(super) fn check_ranges(&self) -> Result<(), NameRulesError> {
        let rules = &self.0.rules;
        // A rule for all ports cuts no range in two.
        let whole = (0, u16::MAX);
        let cutting: Vec<&NameRule> = rules
            .iter()
            .filter(|rule| rule.kind != Kind::Allow && rule.ports != whole)
            .collect();
        let mut seen = std::collections::HashSet::new();
        for rule in rules.iter().filter(|rule| rule.kind == Kind::Allow) {
            if !seen.insert(&rule.pattern) {
                continue;
            }
            let together = match rule.pattern.split_first() {
                Some((first, suffix)) if first == "*" => {
                    let labels = suffix.iter().rev().map(String::as_str);
                    let mut rules = self.by_labels(labels.chain([NO_LABEL]));
                    rules.retain(|rule| rule.kind == Kind::Allow);
                    let meets = |other: &&&NameRule| may_end_in(&other.pattern, suffix);
                    rules.extend(cutting.iter().filter(meets));
                    rules
                }
                _ => match pattern::exact(&rule.pattern) {
                    Some(name) if self.grants(&name).len() <= MAX_GRANTS => continue,
                    Some(name) => self.matching(&name),
                    None => continue,
                },
            };
            if allowed_ranges(&together).count() > MAX_GRANTS {
                return Err(NameRulesError::TooManyRanges(self.one_too_many(together)));
            }
        }
        Ok(())
    }

    /// The index of the rule with which there are too many ranges: more rules
    /// never make fewer.
    fn one_too_many(&self, mut together: Vec<&NameRule>) -> usize {
        // They lie in one list: where they lie is their order.
        together.sort_by_key(|rule| std::ptr::from_ref(*rule));
        let counts: Vec<usize> = (1..=together.len()).collect();
        let fits = |count: &usize| allowed_ranges(&together[..*count]).count() <= MAX_GRANTS;
        let last = together.get(counts.partition_point(fits));
        let found = last.and_then(|last| {
            let mut rules = self.0.rules.iter();
            rules.position(|rule| std::ptr::eq(rule, *last))
        });
        found.unwrap_or(0)
    }
}

/// Whether a pattern could match a name below `suffix`. Says yes in doubt.
fn may_end_in(pattern: &[String], suffix: &[String]) -> bool {
    let (mut pattern, mut suffix) = (pattern.iter().rev(), suffix.iter().rev());
    loop {
        match (pattern.next(), suffix.next()) {
            (Some(_), None) => return true,
            (None, _) => return false,
            (Some(label), Some(_)) if label == "*" => return true,
            (Some(label), Some(literal)) => {
                if !glob_matches(label.as_bytes(), literal.as_bytes()) {
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_patterns_reach_below() {
        let labels = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        for (pattern, suffix, expected) in [
            ("a.example.com", "example.com", true),
            ("example.com", "example.com", false),
            ("com", "example.com", false),
            ("*.com", "example.com", true),
            ("api.*", "example.com", true),
            ("*", "example.com", true),
            ("a.ex*.com", "example.com", true),
            ("a.x*.com", "example.com", false),
            ("ex*.com", "example.com", false),
            ("a.other.com", "example.com", false),
        ] {
            let said = may_end_in(&labels(pattern), &labels(suffix));
            assert_eq!(said, expected, "{pattern} below {suffix}");
        }
    }
}
