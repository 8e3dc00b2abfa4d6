//! Which rule decides. The verdict comes from the compiled table, as in the
//! kernel; the rule from the lists.

use guard_common::matcher::{SliceTable, Verdict, decide};
use guard_common::table::{AccessMasks, FileAccess};

use super::compile::CompiledPolicy;
use super::examples::Access;
use super::lists::Kind;
use super::names::Name;
use super::network::NetworkRule;

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// `files.deny[0]`, `base:files.read[3]`, `launch[0]`, `network.allow[1]`.
    pub id: String,
    /// As the user wrote it.
    pub text: String,
}

/// A verdict and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What the table says.
    pub verdict: Verdict,
    /// The deciding rule; `None` where nothing allows the access.
    pub rule: Option<RuleRef>,
}

/// `allow`, `approve` or `deny`.
#[must_use]
pub fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Approve => "approve",
        Verdict::Deny => "deny",
    }
}

/// The kind of list that gives a verdict. `masks` tells a rule that denies
/// from no rule that allows.
pub(super) fn deciding(verdict: Verdict, masks: AccessMasks, active: u64) -> Option<Kind> {
    match verdict {
        Verdict::Allow => Some(Kind::Allow),
        Verdict::Approve => Some(Kind::Approve),
        Verdict::Deny if masks.deny & active != 0 => Some(Kind::Deny),
        Verdict::Deny => None,
    }
}

impl CompiledPolicy {
    /// Judges a file access under the rule sets `active`. The path is
    /// absolute, as the kernel sees it.
    #[must_use]
    pub fn explain_path(&self, path: &[u8], access: FileAccess, active: u64) -> Decision {
        let masks = SliceTable(self.table()).path_masks(path, access);
        let verdict = decide(masks, active);
        debug_assert_eq!(
            verdict,
            decide(self.masks_by_rules(path, access), active),
            "table and rules differ on {access:?} {:?}",
            String::from_utf8_lossy(path)
        );
        let rule = deciding(verdict, masks, active).and_then(|kind| {
            self.lists
                .iter()
                .filter(|list| list.kind == kind && list.sets & active != 0)
                .filter(|list| list.access & access.bit() != 0)
                .find_map(|list| list.find(path))
        });
        Decision {
            verdict,
            rule: rule.map(|rule| RuleRef {
                id: rule.id.clone(),
                text: rule.text.clone(),
            }),
        }
    }

    /// Judges an access under the rule sets `active`.
    #[must_use]
    pub fn explain(&self, access: &Access, active: u64) -> Decision {
        match access {
            Access::File(access, path) => self.explain_path(path, *access, active),
            Access::Connect(addr, port) => self.explain_net(*addr, *port, active),
            Access::Name(name, port) => self.explain_name(name, *port, active),
            Access::Listen(addr, port) => self.explain_listen(*addr, *port, active),
            Access::Abstract(name) => self.explain_abstract(name, active),
        }
    }

    /// Judges a destination under the rule sets `active`. IPv4 as IPv4-mapped.
    #[must_use]
    pub fn explain_net(&self, addr: u128, port: u16, active: u64) -> Decision {
        let masks = SliceTable(self.table()).net_masks(halves(addr), port);
        by_address(&self.network, masks, addr, port, active)
    }

    /// Judges connecting to a name under the rule sets `active`, by the rules for
    /// names alone: address rules may open what it leads to all the same.
    #[must_use]
    pub fn explain_name(&self, name: &Name, port: u16, active: u64) -> Decision {
        self.names().decide(name, port, active)
    }

    /// Judges being reached at an address and port of this host.
    #[must_use]
    pub fn explain_listen(&self, addr: u128, port: u16, active: u64) -> Decision {
        let masks = SliceTable(self.table()).listen_masks(halves(addr), port);
        by_address(&self.listen, masks, addr, port, active)
    }

    /// Judges connecting to a unix socket with this abstract name.
    #[must_use]
    pub fn explain_abstract(&self, name: &[u8], active: u64) -> Decision {
        let masks = self.abstract_names().get(name).copied().unwrap_or_default();
        let verdict = decide(masks, active);
        let rule = deciding(verdict, masks, active).and_then(|_| {
            self.abstract_names
                .iter()
                .find(|rule| rule.name == name && rule.sets & active != 0)
        });
        Decision {
            verdict,
            rule: rule.map(|rule| RuleRef {
                id: rule.id.clone(),
                text: rule.text.clone(),
            }),
        }
    }

    /// The masks as the lists give them, without the table.
    #[doc(hidden)]
    #[must_use]
    pub fn masks_by_rules(&self, path: &[u8], access: FileAccess) -> AccessMasks {
        let mut masks = AccessMasks::default();
        for list in &self.lists {
            if list.access & access.bit() == 0 || list.find(path).is_none() {
                continue;
            }
            match list.kind {
                Kind::Allow => masks.allow |= list.sets,
                Kind::Approve => masks.approve |= list.sets,
                Kind::Deny => masks.deny |= list.sets,
            }
        }
        masks
    }
}

fn halves(addr: u128) -> (u64, u64) {
    ((addr >> 64) as u64, addr as u64)
}

fn by_address(
    rules: &[NetworkRule],
    masks: AccessMasks,
    addr: u128,
    port: u16,
    active: u64,
) -> Decision {
    let verdict = decide(masks, active);
    let rule = deciding(verdict, masks, active).and_then(|kind| {
        rules
            .iter()
            .filter(|rule| rule.kind == kind && rule.sets & active != 0)
            .find(|rule| rule.network.contains(addr, port))
    });
    Decision {
        verdict,
        rule: rule.map(|rule| RuleRef {
            id: rule.id.clone(),
            text: rule.text.clone(),
        }),
    }
}
