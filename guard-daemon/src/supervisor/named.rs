//! Addresses that names led one sandbox to: what the kernel was told of them.
//! Pure: who writes the kernel's map, and the names to disk, is the caller.

use std::collections::{BTreeMap, HashMap};

use guard_common::names::{Grant, Grants, MAX_GRANTS};

use crate::policy::names::{Name, NameGrant};

/// Addresses that one sandbox can have at once; the one that was used the
/// longest time ago goes first.
pub const MAX_ADDRESSES: usize = 8192;
/// Names that one sandbox can be given addresses for in its life: each keeps its
/// number, which events carry.
pub const MAX_NAMES: usize = 1 << 20;

/// A bit that a grant's number has beside the number itself.
pub const SNI: u32 = guard_common::names::GRANT_SNI;

/// One sandbox's names and addresses.
#[derive(Debug, Default)]
pub struct Named {
    /// A name's number is its place here, from 1.
    names: Vec<Name>,
    numbers: HashMap<Name, u32>,
    addresses: BTreeMap<u128, Grants>,
}

impl Named {
    /// What an earlier supervisor has left: names in the order of their numbers,
    /// and what the kernel knows.
    #[must_use]
    pub fn adopt(names: Vec<Name>, addresses: impl Iterator<Item = (u128, Grants)>) -> Self {
        let numbered = (1..).zip(&names).map(|(n, name)| (name.clone(), n));
        Self {
            numbers: numbered.collect(),
            names,
            addresses: addresses.collect(),
        }
    }

    /// The name with this number, whatever else the number's bits say.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&Name> {
        let index = (number & !SNI).checked_sub(1)?;
        self.names.get(index as usize)
    }

    /// The number of a name, and whether it is new; `None` when there are too many.
    pub fn number(&mut self, name: &Name) -> Option<(u32, bool)> {
        if let Some(number) = self.numbers.get(name) {
            return Some((*number, false));
        }
        if self.names.len() >= MAX_NAMES {
            return None;
        }
        self.names.push(name.clone());
        let number = self.names.len() as u32;
        self.numbers.insert(name.clone(), number);
        Some((number, true))
    }

    /// How many addresses there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    /// What is to be said of an address when the name with this number leads
    /// there until `expires`. Other names' grants stay while there is room; those
    /// that end first make it. Times are of `CLOCK_BOOTTIME`, nanoseconds.
    pub fn open(
        &mut self,
        addr: u128,
        number: u32,
        ranges: &[NameGrant],
        now: u64,
        expires: u64,
    ) -> Grants {
        let old = self.addresses.get(&addr).copied().unwrap_or_default();
        let (mut own, mut others): (Vec<Grant>, Vec<Grant>) = old
            .grants
            .into_iter()
            .filter(|grant| grant.expires > now)
            .partition(|grant| grant.name & !SNI == number);
        // Never sooner than an earlier answer said.
        let expires = own.iter().map(|g| g.expires).fold(expires, u64::max);
        own = ranges
            .iter()
            .take(MAX_GRANTS)
            .map(|range| Grant {
                masks: range.masks,
                expires,
                name: if range.sni { number | SNI } else { number },
                port_first: range.ports.0,
                port_last: range.ports.1,
            })
            .collect();
        others.sort_by_key(|grant| std::cmp::Reverse(grant.expires));
        others.truncate(MAX_GRANTS - own.len());
        let mut new = Grants {
            used: now,
            ..Grants::default()
        };
        for (place, grant) in new.grants.iter_mut().zip(own.into_iter().chain(others)) {
            *place = grant;
        }
        self.addresses.insert(addr, new);
        new
    }

    /// Forgets an address.
    pub fn close(&mut self, addr: u128) {
        self.addresses.remove(&addr);
    }

    /// Addresses of which every grant has ended.
    #[must_use]
    pub fn ended(&self, now: u64) -> Vec<u128> {
        let ended = |grants: &Grants| grants.grants.iter().all(|grant| grant.expires <= now);
        let of = self.addresses.iter().filter(|(_, grants)| ended(grants));
        of.map(|(addr, _)| *addr).collect()
    }

    /// The addresses that were used the longest time ago. `used` says when the
    /// kernel saw one used last.
    #[must_use]
    pub fn oldest(&self, count: usize, used: impl Fn(u128) -> Option<u64>) -> Vec<u128> {
        let last = |(addr, grants): (&u128, &Grants)| {
            let seen = used(*addr).unwrap_or(0);
            (seen.max(grants.used), *addr)
        };
        let mut all: Vec<(u64, u128)> = self.addresses.iter().map(last).collect();
        let count = count.min(all.len());
        if count < all.len() {
            all.select_nth_unstable(count);
        }
        all.truncate(count);
        all.into_iter().map(|(_, addr)| addr).collect()
    }

    /// The name through which an address and port are open now, and only with a
    /// server name.
    #[must_use]
    pub fn behind_server_name(&self, addr: u128, port: u16, now: u64) -> Option<&Name> {
        let grants = self.addresses.get(&addr)?;
        let open = grants.grants.iter().find(|grant| {
            grant.name & SNI != 0
                && grant.expires > now
                && (grant.port_first..=grant.port_last).contains(&port)
        })?;
        self.name(open.name)
    }

    /// A name that leads to an address.
    #[must_use]
    pub fn leading_to(&self, addr: u128) -> Option<&Name> {
        let grants = self.addresses.get(&addr)?;
        let any = grants.grants.iter().find(|grant| grant.name != 0)?;
        self.name(any.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guard_common::table::AccessMasks;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn range(first: u16, last: u16, sni: bool) -> NameGrant {
        NameGrant {
            ports: (first, last),
            masks: AccessMasks {
                allow: 1,
                ..AccessMasks::default()
            },
            sni,
        }
    }

    fn live(grants: &Grants) -> Vec<(u32, u16, u64)> {
        let live = grants.grants.iter().filter(|g| g.expires > 0);
        live.map(|g| (g.name, g.port_first, g.expires)).collect()
    }

    #[test]
    fn a_name_keeps_its_number() {
        let mut named = Named::default();
        assert_eq!(named.number(&name("a.test")), Some((1, true)));
        assert_eq!(named.number(&name("b.test")), Some((2, true)));
        assert_eq!(named.number(&name("a.test")), Some((1, false)));
        assert_eq!(named.name(2 | SNI), Some(&name("b.test")));
        assert_eq!((named.name(0), named.name(3)), (None, None));
        let again = Named::adopt(vec![name("a.test"), name("b.test")], std::iter::empty());
        assert_eq!(again.name(2), Some(&name("b.test")));
    }

    #[test]
    fn a_later_answer_never_ends_sooner() {
        let mut named = Named::default();
        named.open(9, 1, &[range(443, 443, false)], 10, 100);
        let grants = named.open(9, 1, &[range(443, 443, false)], 20, 50);
        assert_eq!(live(&grants), [(1, 443, 100)]);
        let grants = named.open(9, 1, &[range(443, 443, false)], 101, 150);
        assert_eq!(live(&grants), [(1, 443, 150)]);
    }

    #[test]
    fn several_names_share_an_address_while_there_is_room() {
        let mut named = Named::default();
        for number in 1..=MAX_GRANTS as u32 {
            named.open(
                9,
                number,
                &[range(443, 443, false)],
                10,
                100 + u64::from(number),
            );
        }
        let grants = named.open(9, 90, &[range(80, 80, true), range(443, 443, true)], 10, 50);
        let left = live(&grants);
        assert_eq!(left[..2], [(90 | SNI, 80, 50), (90 | SNI, 443, 50)]);
        // Those that end first made room.
        assert_eq!(
            left[2..],
            [(6, 443, 106), (5, 443, 105), (4, 443, 104), (3, 443, 103)]
        );
    }

    #[test]
    fn what_has_ended_and_what_is_old_is_found() {
        let mut named = Named::default();
        for (addr, used) in [(1, 30), (2, 10), (3, 20)] {
            named.open(addr, 1, &[range(443, 443, false)], used, used + 100);
        }
        assert_eq!(named.ended(115), [2]);
        assert_eq!(named.oldest(1, |_| None), [2]);
        // The kernel has seen it used since.
        assert_eq!(named.oldest(1, |addr| (addr == 2).then_some(99)), [3]);
        assert_eq!(named.oldest(9, |_| None).len(), 3);
        named.close(2);
        assert_eq!((named.count(), named.ended(115).len()), (2, 0));
    }

    #[test]
    fn only_a_grant_that_asks_for_it_goes_by_server_names() {
        let mut named = Named::default();
        let (number, _) = named.number(&name("a.test")).unwrap();
        named.open(
            7,
            number,
            &[range(443, 443, true), range(80, 80, false)],
            0,
            100,
        );
        let behind = |port, now| named.behind_server_name(7, port, now);
        assert_eq!(behind(443, 99), Some(&name("a.test")));
        assert_eq!((behind(80, 99), behind(443, 100)), (None, None));
        assert_eq!(named.behind_server_name(8, 443, 0), None);
    }
}
