//! A resolved policy to what is put in force. Only [`compile`] and
//! [`compile_sets`] make a [`CompiledPolicy`].

mod hash;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::automaton::{self, Addresses};
use super::ceiling;
use super::document::{AuditLog, AuditSettings, ProcessLimits, WhenFull};
use super::error::{Errors, PolicyError, PolicyErrors};
use super::examples::Example;
use super::lists::{Kind, List, Rule};
use super::names::NameRules;
use super::network::{AbstractRule, NetworkRule};
use super::resolve::Resolved;
use guard_common::limits::{MAX_NET_RULES, MAX_RULE_SETS};
use guard_common::table::{AccessMasks, NetRule};

/// Settings of a sandbox that follow from its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Report allowed accesses too (`audit.log = "all"`).
    pub log_allows: bool,
    /// A rule allows addresses or names, so datagram sockets are needed: questions
    /// for names are datagrams.
    pub datagram: bool,
    /// Deny what cannot be reported because a ring is full.
    pub ring_full_deny: bool,
}

/// A policy that can be put in force.
#[derive(Debug)]
pub struct CompiledPolicy {
    table: Vec<u8>,
    hash: String,
    rule_sets: u32,
    env: BTreeSet<String>,
    user: Option<String>,
    limits: ProcessLimits,
    max_write_size: Option<u64>,
    audit: AuditSettings,
    flags: Flags,
    names: NameRules,
    upstreams: Vec<SocketAddr>,
    pub(super) lists: Vec<List>,
    pub(super) network: Vec<NetworkRule>,
    pub(super) listen: Vec<NetworkRule>,
    pub(super) abstract_names: Vec<AbstractRule>,
}

impl CompiledPolicy {
    /// The table, in the format of `guard_common::table`.
    #[must_use]
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// `sha256:` and the digest of the resolved policy: every rule with its
    /// place in its list and its patterns, and every setting.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The rule sets that it has, one bit each.
    #[must_use]
    pub fn valid_sets(&self) -> u64 {
        u64::MAX >> (u64::BITS - self.rule_sets)
    }

    /// The rule sets in force outside of any call.
    #[must_use]
    pub fn background(&self) -> u64 {
        1
    }

    /// Settings for the kernel side.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Names of the environment variables that the server keeps.
    #[must_use]
    pub fn env_allow(&self) -> &BTreeSet<String> {
        &self.env
    }

    /// `process.user`.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// `[process]` memory, max_processes, cpu and io_uring.
    #[must_use]
    pub fn limits(&self) -> ProcessLimits {
        self.limits
    }

    /// `files.max_write_size`, bytes.
    #[must_use]
    pub fn max_write_size(&self) -> Option<u64> {
        self.max_write_size
    }

    /// Absolute paths below which every path lies that a write rule of any rule
    /// set could allow; none of them below another.
    #[must_use]
    pub fn write_roots(&self) -> Vec<Vec<u8>> {
        ceiling::write_roots(&self.lists)
    }

    /// Paths without wildcards that rules of any rule set deny, and the bits of
    /// the kinds of access that they deny.
    #[must_use]
    pub fn denied_files(&self) -> BTreeMap<Vec<u8>, u8> {
        ceiling::denied_files(&self.lists)
    }

    /// Abstract names of unix sockets that rules of any set name, and what they
    /// say.
    #[must_use]
    pub fn abstract_names(&self) -> BTreeMap<&[u8], AccessMasks> {
        let mut names = BTreeMap::<&[u8], AccessMasks>::new();
        for rule in &self.abstract_names {
            names.entry(&rule.name).or_default().allow |= rule.sets;
        }
        names
    }

    /// The rules for names.
    #[must_use]
    pub fn names(&self) -> &NameRules {
        &self.names
    }

    /// Servers to ask for names; empty: the host's.
    #[must_use]
    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// Networks that address rules of any set allow, for some port at least:
    /// address (IPv4 as IPv4-mapped) and length of the prefix, each once.
    #[must_use]
    pub fn networks(&self) -> Vec<(u128, u8)> {
        let allow = self.network.iter().filter(|rule| rule.kind == Kind::Allow);
        let networks: BTreeSet<_> = allow
            .map(|rule| (rule.network.addr, rule.network.prefix))
            .collect();
        networks.into_iter().collect()
    }

    /// `[audit]`.
    #[must_use]
    pub fn audit(&self) -> AuditSettings {
        self.audit
    }
}

/// Compiles a policy and runs its examples.
///
/// # Errors
/// When it is too large for a table, or an example does not hold.
pub fn compile(resolved: &Resolved) -> Result<CompiledPolicy, PolicyErrors> {
    compile_sets(std::slice::from_ref(&resolved))
}

/// Compiles several rule sets into one table: set *n* is `sets[n]`, set 0 is
/// the background, whose environment, user, audit settings and examples count.
///
/// # Errors
/// As [`compile`]; and when there is no set or there are too many.
pub fn compile_sets(sets: &[&Resolved]) -> Result<CompiledPolicy, PolicyErrors> {
    compile_within(sets, automaton::MAX_RAW_STATES)
}

/// [`compile_sets`] with another bound on the automaton's states.
pub(super) fn compile_within(
    sets: &[&Resolved],
    max_states: usize,
) -> Result<CompiledPolicy, PolicyErrors> {
    let [main, ..] = sets else {
        return Err(PolicyError::nowhere("a policy without rule sets").into());
    };
    if sets.len() > MAX_RULE_SETS as usize {
        return Err(PolicyError::at(
            &main.start,
            format!("{} rule sets; at most {MAX_RULE_SETS} fit", sets.len()),
        )
        .into());
    }
    let mut lists = Vec::new();
    let mut network = Vec::new();
    let mut listen = Vec::new();
    let mut abstract_names = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let of_set = |rule: &NetworkRule| NetworkRule {
            sets: 1 << index,
            ..rule.clone()
        };
        network.extend(set.network.iter().map(of_set));
        listen.extend(set.listen.iter().map(of_set));
        abstract_names.extend(set.abstract_names.iter().map(|rule| AbstractRule {
            sets: 1 << index,
            ..rule.clone()
        }));
        lists.extend(set.lists.iter().map(|list| List {
            sets: 1 << index,
            ..list.clone()
        }));
    }
    let rule_sets = sets.len() as u32;
    let addresses = Addresses {
        network: net_rules(&network, main)?,
        listen: net_rules(&listen, main)?,
    };
    let table = automaton::table(&lists, &addresses, rule_sets, max_states).map_err(|error| {
        let fits =
            |lists: &[List]| automaton::table(lists, &addresses, rule_sets, max_states).is_ok();
        blame(&lists, &fits, error, main)
    })?;
    let hash = hash::hash(sets);
    let names = names::of_sets(sets)?;
    let policy = CompiledPolicy {
        table,
        hash,
        rule_sets,
        env: main.env.clone(),
        user: main.user.clone(),
        limits: main.limits,
        max_write_size: main.max_write_size,
        audit: main.audit,
        flags: Flags {
            log_allows: main.audit.log == AuditLog::All,
            datagram: !listen.is_empty()
                || !names.is_empty()
                || network.iter().any(|rule| rule.kind == Kind::Allow),
            ring_full_deny: main.audit.ring_full == WhenFull::Deny,
        },
        names,
        upstreams: main.upstreams.clone(),
        lists,
        network,
        listen,
        abstract_names,
    };
    run_examples(&policy, &main.examples)?;
    Ok(policy)
}

fn net_rules(rules: &[NetworkRule], main: &Resolved) -> Result<Vec<NetRule>, PolicyErrors> {
    let mut out: Vec<NetRule> = Vec::new();
    for rule in rules {
        let (addr, mask) = (rule.network.addr, rule.network.mask());
        let mut new = NetRule {
            addr_hi: (addr >> 64) as u64,
            addr_lo: addr as u64,
            mask_hi: (mask >> 64) as u64,
            mask_lo: mask as u64,
            port_first: rule.network.ports.0,
            port_last: rule.network.ports.1,
            ..NetRule::default()
        };
        let same = |old: &&mut NetRule| {
            (old.addr_hi, old.addr_lo, old.mask_hi, old.mask_lo)
                == (new.addr_hi, new.addr_lo, new.mask_hi, new.mask_lo)
                && (old.port_first, old.port_last) == (new.port_first, new.port_last)
        };
        let add = |masks: &mut AccessMasks| match rule.kind {
            Kind::Allow => masks.allow |= rule.sets,
            Kind::Approve => masks.approve |= rule.sets,
            Kind::Deny => masks.deny |= rule.sets,
        };
        match out.iter_mut().find(same) {
            Some(old) => add(&mut old.masks),
            None => {
                add(&mut new.masks);
                out.push(new);
            }
        }
    }
    if out.len() > MAX_NET_RULES as usize {
        return Err(PolicyError::at(
            &main.start,
            format!(
                "{} different address rules; at most {MAX_NET_RULES} fit",
                out.len()
            ),
        )
        .help("join networks: 10.1.0.0/16 for many addresses in it")
        .into());
    }
    Ok(out)
}

/// Finds the rule with which the policy became too large, by trying ever
/// longer beginnings of it.
fn blame(
    lists: &[List],
    fits: &dyn Fn(&[List]) -> bool,
    error: automaton::TooLarge,
    main: &Resolved,
) -> PolicyErrors {
    let beginning = |count: usize| -> Vec<List> {
        let mut left = count;
        let mut out = Vec::new();
        for list in lists {
            let rules: Vec<Rule> = list.rules.iter().take(left).cloned().collect();
            left -= rules.len();
            out.push(List {
                rules,
                ..list.clone()
            });
        }
        out
    };
    let all: Vec<&Rule> = lists.iter().flat_map(|list| &list.rules).collect();
    let (mut few, mut too_many) = (0, all.len());
    while too_many - few > 1 {
        let middle = few.midpoint(too_many);
        if fits(&beginning(middle)) {
            few = middle;
        } else {
            too_many = middle;
        }
    }
    let last = all.get(too_many.saturating_sub(1));
    let place = last
        .and_then(|rule| rule.place.as_ref())
        .unwrap_or(&main.start);
    let text = last.map_or("", |rule| rule.text.as_str());
    PolicyError::at(
        place,
        format!("the rules up to {text:?} are too many for one table: {error}"),
    )
    .help(
        "rules such as **/a/**/b multiply each other: name directories from the root, \
         or deny with a pattern that has no /",
    )
    .into()
}

fn run_examples(policy: &CompiledPolicy, examples: &[Example]) -> Result<(), PolicyErrors> {
    let mut errors = Errors::default();
    for example in examples {
        let decision = policy.explain(&example.access, policy.background());
        if decision.verdict == example.verdict {
            continue;
        }
        let name = |verdict| super::explain::verdict_name(verdict);
        let help = match decision.rule {
            Some(rule) => format!("{} decides: {:?}", rule.id, rule.text),
            None => "no rule allows it".to_owned(),
        };
        errors.push(
            PolicyError::at(
                &example.place,
                format!(
                    "the example {:?} expects {}, the policy says {}",
                    example.text,
                    name(example.verdict),
                    name(decision.verdict)
                ),
            )
            .help(help),
        );
    }
    errors.finish(())
}
