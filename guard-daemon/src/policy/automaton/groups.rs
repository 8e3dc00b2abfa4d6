//! What patterns contribute, and which patterns contribute the same.

use std::collections::BTreeMap;

use guard_common::table::{FileAccess, Output};

use crate::policy::glob::Pattern;
use crate::policy::lists::{Kind, List};

/// Rule sets by access.
pub(crate) type Sets = [u64; FileAccess::COUNT];

/// Patterns with one and the same contribution.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub(crate) kind: Kind,
    pub(crate) sets: Sets,
    pub(crate) positive: Vec<&'a Pattern>,
    /// Paths that one of these matches are not in the group.
    pub(crate) negative: Vec<&'a Pattern>,
}

impl Group<'_> {
    pub(crate) fn add_to(&self, output: &mut Output) {
        for (masks, sets) in output.by_access.iter_mut().zip(self.sets) {
            match self.kind {
                Kind::Allow => masks.allow |= sets,
                Kind::Approve => masks.approve |= sets,
                Kind::Deny => masks.deny |= sets,
            }
        }
    }

    /// Whether an output says already, of every path that it holds for, all
    /// that this group could add to its verdict.
    pub(crate) fn is_covered_by(&self, output: &Output) -> bool {
        output.by_access.iter().zip(self.sets).all(|(masks, sets)| {
            let stricter = match self.kind {
                Kind::Allow => masks.allow | masks.approve | masks.deny,
                Kind::Approve => masks.approve | masks.deny,
                Kind::Deny => masks.deny,
            };
            sets & !stricter == 0
        })
    }
}

/// The same verdicts for every choice of rule sets, in one form only: where a
/// set denies, whether it also approves or allows makes no difference, and
/// where it approves, whether it also allows ([`guard_common::matcher::decide`]).
pub(crate) fn canonical(mut output: Output) -> Output {
    for masks in &mut output.by_access {
        masks.approve &= !masks.deny;
        masks.allow &= !(masks.deny | masks.approve);
    }
    output
}

fn sets_of(list: &List) -> Sets {
    FileAccess::ALL.map(|access| {
        if list.access & access.bit() != 0 {
            list.sets
        } else {
            0
        }
    })
}

/// Sorts the patterns of all lists by what they contribute.
pub(crate) fn group(lists: &[List]) -> Vec<Group<'_>> {
    // Lists with ! rules stay whole: their rules are about each other.
    type Whole<'a> = (Kind, Vec<&'a Pattern>, Vec<&'a Pattern>);
    let mut whole: BTreeMap<Whole<'_>, Sets> = BTreeMap::new();
    let mut single: BTreeMap<(Kind, &Pattern), Sets> = BTreeMap::new();
    let add = |all: &mut Sets, sets: Sets| {
        for (all, sets) in all.iter_mut().zip(sets) {
            *all |= sets;
        }
    };
    for list in lists {
        let patterns = |negated: bool| {
            let rules = list.rules.iter().filter(move |r| r.negated == negated);
            rules.flat_map(|rule| &rule.patterns)
        };
        if patterns(true).next().is_some() {
            let mut positive: Vec<_> = patterns(false).collect();
            let mut negative: Vec<_> = patterns(true).collect();
            positive.sort();
            negative.sort();
            let sets = whole.entry((list.kind, positive, negative)).or_default();
            add(sets, sets_of(list));
        } else {
            for pattern in patterns(false) {
                add(
                    single.entry((list.kind, pattern)).or_default(),
                    sets_of(list),
                );
            }
        }
    }
    let mut by_contribution: BTreeMap<(Kind, Sets), Vec<&Pattern>> = BTreeMap::new();
    for ((kind, pattern), sets) in single {
        by_contribution
            .entry((kind, sets))
            .or_default()
            .push(pattern);
    }
    let single = by_contribution
        .into_iter()
        .map(|((kind, sets), positive)| Group {
            kind,
            sets,
            positive,
            negative: Vec::new(),
        });
    let whole = whole
        .into_iter()
        .map(|((kind, positive, negative), sets)| Group {
            kind,
            sets,
            positive,
            negative,
        });
    // A group without positive patterns holds nothing.
    single
        .chain(whole)
        .filter(|group| !group.positive.is_empty())
        .collect()
}
