//! The rules for names of all rule sets, compiled.

use crate::policy::error::{PolicyError, PolicyErrors};
use crate::policy::names::{NameRule, NameRules, NameRulesError};
use crate::policy::resolve::Resolved;

/// Set *n* is `sets[n]`.
pub(super) fn of_sets(sets: &[&Resolved]) -> Result<NameRules, PolicyErrors> {
    let all = || {
        let numbered = sets.iter().enumerate();
        numbered.flat_map(|(index, set)| set.names.iter().map(move |rule| (index, rule)))
    };
    let rules = all().map(|(index, rule)| NameRule {
        sets: 1 << index,
        ..rule.value.clone()
    });
    NameRules::new(rules.collect()).map_err(|error| {
        let message = match all().nth(error.index()) {
            Some((_, rule)) => PolicyError::at(&rule.place, error.to_string()),
            None => PolicyError::nowhere(error.to_string()),
        };
        message.help(help(&error)).into()
    })
}

fn help(error: &NameRulesError) -> &'static str {
    match error {
        NameRulesError::TooMany(_) => "join names: *.example.com for every name below example.com",
        NameRulesError::TooManyGlobs(_) => "take the * for whole labels, or write the labels out",
        NameRulesError::TooManyRanges(_) => {
            "with this rule there are too many: join ports of the same names to a range, such as \
             8000-8100"
        }
        NameRulesError::NotCanonical(_) => "this is a fault of guard, please report it",
    }
}
