//! The decisions, as pure functions: the same code runs in the kernel
//! programs, in `guard explain` and in the tests.

use crate::table::{
    AccessMasks, CLASS_MAP_OFFSET, FileAccess, NetRule, Output, ROW_SHIFT, TRANSITIONS_OFFSET,
    TableHeader,
};

/// What a policy says of an access. Strictest wins: deny, then approve, then
/// allow; no rule at all is deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Every rule set in force allows it.
    Allow = 0,
    /// Every rule set in force allows or wants approval, at least one the latter.
    Approve = 1,
    /// A set in force denies it, or one does not allow it.
    Deny = 2,
}

/// Judges masks against the rule sets in force. An empty `active` is never
/// published; it denies here all the same.
#[inline(always)]
#[must_use]
pub const fn decide(masks: AccessMasks, active: u64) -> Verdict {
    if active == 0 || masks.deny & active != 0 {
        Verdict::Deny
    } else if masks.approve & active != 0 {
        if (masks.allow | masks.approve) & active == active {
            Verdict::Approve
        } else {
            Verdict::Deny
        }
    } else if masks.allow & active == active {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

/// Reads from a table in whatever memory it lies. Offsets are the table's own.
/// Implementations return 0 for what lies outside; compiled tables never ask.
pub trait Table {
    /// One byte.
    fn u8(&self, offset: u32) -> u8;
    /// Two bytes, aligned.
    fn u16(&self, offset: u32) -> u16;
    /// Four bytes, aligned.
    fn u32(&self, offset: u32) -> u32;
    /// Eight bytes, aligned.
    fn u64(&self, offset: u32) -> u64;
}

/// One step of the DFA. `state` is a row's number, below
/// [`crate::table::MAX_ROW_UNITS`].
#[inline(always)]
pub fn step<T: Table>(table: &T, state: u32, byte: u8) -> u32 {
    let column = table.u16(CLASS_MAP_OFFSET + 2 * byte as u32) as u32;
    table.u16(TRANSITIONS_OFFSET + (state << ROW_SHIFT) + column) as u32
}

/// The masks of one kind of access at the state a path ended in. `outputs`
/// is [`TableHeader::outputs`].
#[inline(always)]
pub fn masks_at<T: Table>(table: &T, outputs: u32, state: u32, access: FileAccess) -> AccessMasks {
    masks_of(table, outputs, state, access as u32)
}

/// As [`masks_at`], with the number of a [`FileAccess`].
#[inline(always)]
pub fn masks_of<T: Table>(table: &T, outputs: u32, state: u32, access: u32) -> AccessMasks {
    let index = table.u16(TRANSITIONS_OFFSET + (state << ROW_SHIFT)) as u32;
    let at =
        outputs + index * size_of::<Output>() as u32 + access * size_of::<AccessMasks>() as u32;
    AccessMasks {
        allow: table.u64(at),
        deny: table.u64(at + 8),
        approve: table.u64(at + 16),
    }
}

/// Adds what address rule number `index` says of a destination to `masks`.
/// Ports in host order; addresses as two 64-bit halves in host order, IPv4
/// as IPv4-mapped.
#[inline(always)]
pub fn add_net_rule<T: Table>(
    table: &T,
    net_rules: u32,
    index: u32,
    addr: (u64, u64),
    port: u16,
    masks: &mut AccessMasks,
) {
    let at = net_rules + index * size_of::<NetRule>() as u32;
    let inside = (addr.0 & table.u64(at + 16)) == table.u64(at)
        && (addr.1 & table.u64(at + 24)) == table.u64(at + 8);
    if inside && port >= table.u16(at + 56) && port <= table.u16(at + 58) {
        masks.allow |= table.u64(at + 32);
        masks.deny |= table.u64(at + 40);
        masks.approve |= table.u64(at + 48);
    }
}

/// Reads the header. The caller has checked that the table is whole.
pub fn header<T: Table>(table: &T) -> TableHeader {
    TableHeader {
        magic: table.u32(0),
        abi: table.u32(4),
        size: table.u32(8),
        states: table.u32(12),
        stride: table.u32(16),
        start: table.u32(20),
        slash: table.u32(24),
        outputs: table.u32(28),
        outputs_len: table.u32(32),
        net_rules: table.u32(36),
        net_len: table.u32(40),
        rule_sets: table.u32(44),
        boundaries: table.u32(48),
        boundaries_len: table.u32(52),
        listen_rules: table.u32(56),
        listen_len: table.u32(60),
    }
}

/// A table in ordinary memory: the reference matcher.
#[derive(Clone, Copy, Debug)]
pub struct SliceTable<'a>(pub &'a [u8]);

macro_rules! read {
    ($self:ident, $offset:ident, $ty:ty) => {{
        let at = $offset as usize;
        match $self.0.get(at..at + size_of::<$ty>()) {
            Some(bytes) => {
                let mut array = [0u8; size_of::<$ty>()];
                array.copy_from_slice(bytes);
                <$ty>::from_ne_bytes(array)
            }
            None => 0,
        }
    }};
}

impl Table for SliceTable<'_> {
    fn u8(&self, offset: u32) -> u8 {
        read!(self, offset, u8)
    }
    fn u16(&self, offset: u32) -> u16 {
        read!(self, offset, u16)
    }
    fn u32(&self, offset: u32) -> u32 {
        read!(self, offset, u32)
    }
    fn u64(&self, offset: u32) -> u64 {
        read!(self, offset, u64)
    }
}

impl SliceTable<'_> {
    /// Runs the DFA over an absolute path (`/a/b`, no `.`, `..` or empty
    /// components) and returns the state it ends in.
    #[must_use]
    pub fn run(&self, path: &[u8]) -> u32 {
        self.run_from(header(self).start, path)
    }

    /// As [`Self::run`], from another state: what came before it lies below.
    #[must_use]
    pub fn run_from(&self, mut state: u32, path: &[u8]) -> u32 {
        for component in path.split(|b| *b == b'/').rev().filter(|c| !c.is_empty()) {
            for byte in component.iter().chain(b"/") {
                state = step(self, state, *byte);
            }
        }
        state
    }

    /// What the policy's rule sets say of one access to a path.
    #[must_use]
    pub fn path_masks(&self, path: &[u8], access: FileAccess) -> AccessMasks {
        let head = header(self);
        masks_at(self, head.outputs, self.run(path), access)
    }

    /// Whether something below a directory would be judged less strictly if
    /// the directory was called `new` instead of `old`. The directory itself
    /// is not considered.
    ///
    /// What is below is fed first, so that it has led to one of the boundaries
    /// when the directory's name comes; each of them is compared.
    #[must_use]
    pub fn move_gains(&self, old: &[u8], new: &[u8], active: u64) -> bool {
        let head = header(self);
        (0..head.boundaries_len).any(|i| {
            let from = u32::from(self.u16(head.boundaries + 2 * i));
            let verdict = |path, access| {
                let masks = masks_at(self, head.outputs, self.run_from(from, path), access);
                decide(masks, active)
            };
            FileAccess::ALL
                .into_iter()
                .any(|access| verdict(new, access) < verdict(old, access))
        })
    }

    /// What the policy's rule sets say of a destination.
    #[must_use]
    pub fn net_masks(&self, addr: (u64, u64), port: u16) -> AccessMasks {
        let head = header(self);
        self.masks_by(head.net_rules, head.net_len, addr, port)
    }

    /// What they say of being reached at an address and port of this host.
    #[must_use]
    pub fn listen_masks(&self, addr: (u64, u64), port: u16) -> AccessMasks {
        let head = header(self);
        self.masks_by(head.listen_rules, head.listen_len, addr, port)
    }

    fn masks_by(&self, rules: u32, len: u32, addr: (u64, u64), port: u16) -> AccessMasks {
        let mut masks = AccessMasks::default();
        for index in 0..len {
            add_net_rule(self, rules, index, addr, port, &mut masks);
        }
        masks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn masks(allow: u64, deny: u64, approve: u64) -> AccessMasks {
        AccessMasks {
            allow,
            deny,
            approve,
        }
    }

    #[test]
    fn strictest_wins() {
        assert_eq!(decide(masks(1, 0, 0), 1), Verdict::Allow);
        assert_eq!(decide(masks(1, 1, 0), 1), Verdict::Deny);
        assert_eq!(decide(masks(1, 0, 1), 1), Verdict::Approve);
        assert_eq!(decide(masks(1, 1, 1), 1), Verdict::Deny);
        assert_eq!(decide(masks(0, 0, 1), 1), Verdict::Approve);
        assert_eq!(decide(masks(0, 0, 0), 1), Verdict::Deny);
    }

    #[test]
    fn every_set_in_force_must_allow() {
        assert_eq!(decide(masks(0b01, 0, 0), 0b11), Verdict::Deny);
        assert_eq!(decide(masks(0b11, 0, 0), 0b11), Verdict::Allow);
        assert_eq!(decide(masks(0b11, 0b100, 0), 0b11), Verdict::Allow);
        assert_eq!(decide(masks(0b01, 0, 0b10), 0b11), Verdict::Approve);
        assert_eq!(decide(masks(0, 0, 0b10), 0b11), Verdict::Deny);
    }

    #[test]
    fn nothing_in_force_is_deny() {
        assert_eq!(decide(masks(u64::MAX, 0, 0), 0), Verdict::Deny);
    }
}
