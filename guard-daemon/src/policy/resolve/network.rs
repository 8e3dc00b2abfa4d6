//! `[network]` of a document.

use guard_common::table::FileAccess;

use super::Resolver;
use crate::policy::document::{DestinationText, NETWORK_LISTS, NetworkSection, Sni};
use crate::policy::error::Spanned;
use crate::policy::lists::{Kind, List, Rule};
use crate::policy::names::NameRule;
use crate::policy::network::{self, AbstractRule, Destination, NetworkRule};
use crate::policy::unix::{self, UnixRule};
use crate::policy::{syntax, variables};

impl Resolver<'_> {
    pub(super) fn network(&mut self, section: &NetworkSection, prefix: &str, include: bool) {
        for (list, key) in section.lists.iter().zip(NETWORK_LISTS) {
            for (index, rule) in list.iter().enumerate() {
                let id = format!("{prefix}network.{key}[{index}]");
                self.destination(rule, key, id, section.sni);
            }
        }
        for (index, text) in section.listen.iter().enumerate() {
            match network::listen(text) {
                Ok(network) => self.resolved.listen.push(NetworkRule {
                    id: format!("{prefix}network.listen[{index}]"),
                    text: text.value.clone(),
                    kind: Kind::Allow,
                    sets: 1,
                    network,
                }),
                Err(error) => self.errors.push(error),
            }
        }
        self.unix_list(&section.unix, prefix, include);
    }

    fn destination(&mut self, rule: &DestinationText, key: &str, id: String, sni: Sni) {
        let kind = match key {
            "allow" => Kind::Allow,
            "deny" => Kind::Deny,
            _ => Kind::Approve,
        };
        let text = rule.text.value.clone();
        match network::destination(rule, syntax::list_kind(key)) {
            Ok(Destination::Network(network)) => self.resolved.network.push(NetworkRule {
                id,
                text,
                kind,
                sets: 1,
                network,
            }),
            Ok(Destination::Names(pattern, ports)) => self.resolved.names.push(Spanned {
                value: NameRule {
                    id,
                    text,
                    kind,
                    sets: 1,
                    pattern,
                    ports,
                    sni: kind == Kind::Allow && rule.sni.unwrap_or(sni) == Sni::Require,
                },
                place: rule.text.place.clone(),
            }),
            Err(error) => self.errors.push(error),
        }
    }

    fn unix_list(&mut self, texts: &[Spanned<String>], prefix: &str, include: bool) {
        let lookup = |name: &str| variables::values(self.context, include, name);
        let mut rules = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let id = format!("{prefix}network.unix[{index}]");
            match unix::parse(text, &lookup) {
                Ok(UnixRule::Paths(patterns)) => rules.push(Rule {
                    id,
                    text: text.value.clone(),
                    negated: false,
                    patterns,
                    place: Some(text.place.clone()),
                }),
                Ok(UnixRule::Abstract(name)) => self.resolved.abstract_names.push(AbstractRule {
                    id,
                    text: text.value.clone(),
                    sets: 1,
                    name,
                }),
                Err(error) => self.errors.push(error),
            }
        }
        if !rules.is_empty() {
            self.resolved.lists.push(List {
                kind: Kind::Allow,
                access: FileAccess::Connect.bit(),
                sets: 1,
                rules,
            });
        }
    }
}
