//! What the rules that match a name say together.

use guard_common::matcher::{Verdict, decide};
use guard_common::table::AccessMasks;

use super::super::explain::{Decision, deciding};
use super::super::lists::Kind;
use super::{Name, NameGrant, NameRule, NameRules, NameVerdict};

/// What rules say of one port, by rule sets.
pub(super) fn masks_at(rules: &[&NameRule], port: u16) -> AccessMasks {
    let mut masks = AccessMasks::default();
    for rule in rules.iter().filter(|rule| rule.covers(port)) {
        match rule.kind {
            Kind::Allow => masks.allow |= rule.sets,
            Kind::Approve => masks.approve |= rule.sets,
            Kind::Deny => masks.deny |= rule.sets,
        }
    }
    masks
}

/// Sets that allow, with nothing in the way.
fn free(masks: AccessMasks) -> u64 {
    masks.allow & !(masks.deny | masks.approve)
}

/// Where ranges of ports begin or have just ended, in order, each once.
fn cuts<'a>(rules: impl Iterator<Item = &'a &'a NameRule>) -> Vec<u32> {
    let mut cuts: Vec<u32> = rules
        .flat_map(|rule| [u32::from(rule.ports.0), u32::from(rule.ports.1) + 1])
        .collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The elementary ranges that rules allow: within each, every rule says the same
/// of all ports.
pub(super) fn allowed_ranges<'a>(
    rules: &'a [&'a NameRule],
) -> impl Iterator<Item = (u16, u16)> + 'a {
    let allows = |port: u16| {
        let mut allow = rules.iter().filter(|rule| rule.kind == Kind::Allow);
        allow.any(|rule| rule.covers(port))
    };
    let cuts = cuts(rules.iter());
    let ranges: Vec<(u16, u16)> = cuts
        .windows(2)
        // The last cut is 65536 at most, so both ends are ports.
        .filter_map(|pair| Some((pair[0].try_into().ok()?, (pair[1] - 1).try_into().ok()?)))
        .collect();
    ranges.into_iter().filter(move |range| allows(range.0))
}

/// Whether a range takes TLS alone. In one rule set, a rule that allows the range
/// without a server name opens it, whatever other rules ask for. Between rule
/// sets the stricter one counts: the kernel's grant is one for all of them.
fn needs_sni(rules: &[&NameRule], port: u16, free: u64) -> bool {
    let allow = || {
        let covers = |rule: &&&NameRule| rule.kind == Kind::Allow && rule.covers(port);
        rules.iter().filter(covers)
    };
    let plain = allow()
        .filter(|rule| !rule.sni)
        .fold(0, |sets, rule| sets | rule.sets);
    free & !plain != 0
}

/// The ranges in which some set is free, joined where they say the same.
fn open_ranges(rules: &[&NameRule]) -> Vec<NameGrant> {
    let mut out: Vec<NameGrant> = Vec::new();
    for ports in allowed_ranges(rules) {
        let masks = masks_at(rules, ports.0);
        let free = free(masks);
        if free == 0 {
            continue;
        }
        let sni = needs_sni(rules, ports.0, free);
        match out.last_mut() {
            Some(last)
                if u32::from(last.ports.1) + 1 == u32::from(ports.0)
                    && (last.masks, last.sni) == (masks, sni) =>
            {
                last.ports.1 = ports.1;
            }
            _ => out.push(NameGrant { ports, masks, sni }),
        }
    }
    out
}

/// Whether a rule holds for some port, in some set, for which no rule denies.
fn stands(rule: &NameRule, deny: &[&NameRule], active: u64) -> bool {
    let starts = cuts(deny.iter())
        .into_iter()
        .filter_map(|cut| cut.try_into().ok());
    let mut starts = starts
        .chain([rule.ports.0])
        .filter(|port| rule.covers(*port));
    starts.any(|port| rule.sets & active & !masks_at(deny, port).deny != 0)
}

impl NameRules {
    /// Whether a name may be asked for under the rule sets `active`: asking is
    /// allowed where connecting is, to one port at least, in one of the sets at
    /// least. A question has no port.
    #[must_use]
    pub fn judge(&self, name: &Name, active: u64) -> NameVerdict {
        let mut rules = self.matching(name);
        rules.retain(|rule| rule.sets & active != 0);
        let of = |kind: Kind| {
            let rules = rules.iter().copied().filter(|rule| rule.kind == kind);
            rules.collect::<Vec<_>>()
        };
        let open = open_ranges(&rules);
        let opens = |rule: &&NameRule| {
            open.iter().any(|grant| {
                rule.sets & free(grant.masks) & active != 0 && rule.covers(grant.ports.0)
            })
        };
        let (allow, approve, deny) = (of(Kind::Allow), of(Kind::Approve), of(Kind::Deny));
        if let Some(rule) = allow.iter().copied().find(opens) {
            return NameVerdict::Allow(rule.to_ref());
        }
        if let Some(rule) = approve.iter().find(|rule| stands(rule, &deny, active)) {
            return NameVerdict::Approve(rule.to_ref());
        }
        // The one that is in the way of something, before one for other ports.
        let in_the_way = |rule: &&&NameRule| {
            allow.iter().chain(&approve).any(|other| {
                other.sets & rule.sets & active != 0
                    && other.ports.0 <= rule.ports.1
                    && rule.ports.0 <= other.ports.1
            })
        };
        let rule = deny.iter().find(in_the_way).or(deny.first());
        NameVerdict::Deny(rule.map(|rule| rule.to_ref()))
    }

    /// Bytes at the end of a name that a rule which allows it spells out: all of
    /// them by a rule without a wildcard. The rest is whoever asks free to choose.
    /// `None`: no rule allows it.
    #[must_use]
    pub(crate) fn spelled_out(&self, name: &Name, active: u64) -> Option<usize> {
        let rules = self.matching(name).into_iter();
        let allow = rules.filter(|r| r.kind == Kind::Allow && r.sets & active != 0);
        let bytes = allow.map(|rule| match rule.pattern.split_first() {
            // With a dot between labels.
            Some((first, rest)) if first == "*" => {
                rest.iter().map(|label| label.len() + 1).sum::<usize>()
                    - usize::from(!rest.is_empty())
            }
            _ => name.as_str().len(),
        });
        bytes.max()
    }

    /// The ports for which a name is open, at most
    /// [`guard_common::names::MAX_GRANTS`] ranges that do not overlap, in order.
    /// A range in which every set that allows also denies or wants approval is
    /// not open. `sni`: in each set, all rules that allow the range must ask for
    /// it; where only some of the sets do, it is asked for in all.
    #[must_use]
    pub fn grants(&self, name: &Name) -> Vec<NameGrant> {
        open_ranges(&self.matching(name))
    }

    /// Judges connecting to a name under the rule sets `active`, by the rules for
    /// names alone.
    #[must_use]
    pub fn decide(&self, name: &Name, port: u16, active: u64) -> Decision {
        let rules = self.matching(name);
        let masks = masks_at(&rules, port);
        let verdict = decide(masks, active);
        let rule = deciding(verdict, masks, active).and_then(|kind| {
            rules
                .iter()
                .find(|rule| rule.kind == kind && rule.sets & active != 0 && rule.covers(port))
        });
        debug_assert!(verdict != Verdict::Allow || rule.is_some());
        Decision {
            verdict,
            rule: rule.map(|rule| rule.to_ref()),
        }
    }
}
