//! What the kernel side knows of names: addresses that names led to, and where
//! a sandbox's questions for names go. Only the resolver of the daemon fills it.

use crate::table::AccessMasks;

/// Names, each with a range of ports, that one address can be known by in a
/// sandbox. The resolver gives the place of the one that expires first to another.
pub const MAX_GRANTS: usize = 6;

/// Entries of the map `NAMED_ADDRESSES`, for all sandboxes together.
pub const MAX_NAMED_ADDRESSES: u32 = 1 << 17;

/// The port that questions for names go to (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;

/// First two bytes of the addresses that resolvers listen on: 127.83.0.0/16, the
/// slot's number in the others.
pub const RESOLVER_NET: u32 = 0x7f53_0000;
/// Mask of [`RESOLVER_NET`].
pub const RESOLVER_MASK: u32 = 0xffff_0000;
/// Ports of \[::1\] that resolvers and splices listen on, both ends included:
/// above those that Linux gives to clients (`net.ipv4.ip_local_port_range`).
pub const RESOLVER_PORTS6: (u16, u16) = (64_000, 65_023);

/// Set in [`Grant::name`] where the name asks for TLS with a server name
/// (`sni = "require"`): what only such grants allow goes to the splice.
pub const GRANT_SNI: u32 = 1 << 31;

/// Connections to the splice that are known for each slot, a power of two.
pub const SPLICES_OF_SLOT: usize = 128;

/// Key of the map `NAMED_ADDRESSES`: an address that a name led to, for one sandbox.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedAddress {
    /// The sandbox's number, which no other has had in this boot: what is left
    /// over is nobody's.
    pub sandbox: u64,
    /// The address, high 64 bits, host order; IPv4 as IPv4-mapped.
    pub addr_hi: u64,
    /// Low 64 bits.
    pub addr_lo: u64,
}

/// What the rules for one name say of an address that it led to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// What they say, by rule sets.
    pub masks: AccessMasks,
    /// `CLOCK_BOOTTIME`, nanoseconds: it holds before that time. 0: no grant.
    pub expires: u64,
    /// The name's number, which the resolver knows, and [`GRANT_SNI`]. Never 0,
    /// nor that bit alone.
    pub name: u32,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
}

/// Value of the map `NAMED_ADDRESSES`. Written whole by the resolver; programs
/// write `used`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The key that it stands under. An element of the map that is given up is
    /// used for another key at once: who still reads it sees that by this.
    pub of: NamedAddress,
    /// When it was last connected to (`CLOCK_BOOTTIME`, nanoseconds).
    pub used: u64,
    /// The grants. None stands behind an empty one.
    pub grants: [Grant; MAX_GRANTS],
}

/// Element of the map `RESOLVERS`, by slot: where the sandbox's questions go, and
/// its streams whose server name is to be read. All zero where it has neither.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// IPv4 address in [`RESOLVER_NET`], host order.
    pub addr: u32,
    /// Port there.
    pub port: u16,
    /// Port on \[::1\]; 0: none.
    pub port6: u16,
    /// Port of the splice at `addr`; 0: none.
    pub splice: u16,
    /// Its port on \[::1\]; 0: none.
    pub splice6: u16,
    /// Always zero.
    pub reserved: u32,
}

/// Value of the map `ORIGINS`, kept with a socket: where its last question was
/// sent to before it was sent to the resolver, or its connection to the splice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// First eight bytes of the address, network order; IPv4 as IPv4-mapped.
    pub addr_hi: u64,
    /// The others.
    pub addr_lo: u64,
    /// Port, network order.
    pub port: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Where a connection was to go that went to the splice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// The socket's cookie (`bpf_get_socket_cookie`, `SO_COOKIE`), which no
    /// other has in this boot; 0: nothing, [`SPLICE_BUSY`]: being written.
    pub cookie: u64,
    /// The sandbox's number.
    pub sandbox: u64,
    /// The address, high 64 bits, host order; IPv4 as IPv4-mapped.
    pub addr_hi: u64,
    /// Low 64 bits.
    pub addr_lo: u64,
    /// Port, host order.
    pub port: u32,
    /// Number of the name that led there, without [`GRANT_SNI`].
    pub name: u32,
}

/// No socket's cookie: the element is being written.
pub const SPLICE_BUSY: u64 = u64::MAX;

/// Connections of one sandbox that went to the splice (memory `SPLICES`): how
/// many, then the last of them, each a [`Splice`], number *n* in place *n* modulo
/// [`SPLICES_OF_SLOT`]. Not by cookie: of sockets that connect at once, on
/// several processors, the last digits are often the same.
pub type Splices = [u64; 1 + SPLICES_OF_SLOT * size_of::<Splice>() / 8];

const _: () = assert!(size_of::<NamedAddress>() == 24 && size_of::<Grant>() == 40);
const _: () = assert!(size_of::<Resolver>() == 16 && size_of::<Splice>() == 40);
const _: () = assert!(size_of::<Origin>() == 24);
const _: () = assert!(SPLICES_OF_SLOT.is_power_of_two());
const _: () = assert!(size_of::<Grants>() == 24 + 8 + 40 * MAX_GRANTS);

/// Whether the address rules and one grant together allow a connection. A name
/// that wants approval gives none: its address is never told to anybody.
#[inline(always)]
#[must_use]
pub const fn is_granted(
    rules: AccessMasks,
    grant: &Grant,
    port: u16,
    now: u64,
    active: u64,
) -> bool {
    let refused = rules.deny | grant.masks.deny | rules.approve | grant.masks.approve;
    let missing = !(rules.allow | grant.masks.allow);
    // Fewer branches than `decide`: the verifier follows each of them.
    active != 0
        && (refused | missing) & active == 0
        && grant.expires > now
        && port >= grant.port_first
        && port <= grant.port_last
}

/// Whether a destination belongs to resolvers, whichever sandbox's: halves in
/// host order, IPv4 as IPv4-mapped.
#[inline(always)]
#[must_use]
pub const fn is_resolvers(addr: (u64, u64), port: u16) -> bool {
    let v4 = addr.0 == 0 && addr.1 >> 32 == 0xffff && addr.1 as u32 & RESOLVER_MASK == RESOLVER_NET;
    // ::1, and ::, which leads there.
    let v6 = addr.0 == 0 && addr.1 <= 1;
    v4 || v6 && port >= RESOLVER_PORTS6.0 && port <= RESOLVER_PORTS6.1
}

#[cfg(feature = "user")]
mod pod {
    use super::{Grants, NamedAddress, Origin, Resolver};
    // SAFETY: repr(C), integers only, no padding (sizes asserted above), every bit pattern valid.
    unsafe impl aya::Pod for NamedAddress {}
    // SAFETY: as for NamedAddress.
    unsafe impl aya::Pod for Grants {}
    // SAFETY: as for NamedAddress.
    unsafe impl aya::Pod for Resolver {}
    // SAFETY: as for NamedAddress.
    unsafe impl aya::Pod for Origin {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(allow: u64, deny: u64) -> Grant {
        Grant {
            masks: AccessMasks {
                allow,
                deny,
                approve: 0,
            },
            expires: 100,
            name: 1,
            port_first: 443,
            port_last: 444,
        }
    }

    fn rules(allow: u64, deny: u64) -> AccessMasks {
        AccessMasks {
            allow,
            deny,
            approve: 0,
        }
    }

    #[test]
    fn a_grant_holds_for_its_ports_until_it_expires() {
        let none = AccessMasks::default();
        let says = |port, now| is_granted(none, &grant(1, 0), port, now, 1);
        assert!(says(443, 99) && says(444, 99));
        assert!(!says(443, 100) && !says(442, 99) && !says(445, 99));
        assert!(!is_granted(none, &Grant::default(), 0, 0, 1));
        assert!(
            !is_granted(none, &grant(1, 0), 443, 0, 0),
            "nothing is in force"
        );
    }

    #[test]
    fn a_refusal_of_either_wins_and_every_set_must_allow() {
        let says = |rules, grant, active| is_granted(rules, &grant, 443, 0, active);
        assert!(!says(rules(0, 1), grant(1, 0), 1));
        assert!(!says(rules(1, 0), grant(0, 1), 1));
        assert!(!says(rules(0, 0), grant(1, 0), 0b11));
        assert!(says(rules(0b10, 0), grant(1, 0), 0b11));
        let approve = AccessMasks {
            approve: 1,
            ..AccessMasks::default()
        };
        assert!(!says(approve, grant(1, 0), 1));
    }

    /// As the general decision says, of rules and grant together.
    #[test]
    fn it_is_what_all_masks_together_allow() {
        use crate::matcher::{Verdict, decide};
        for bits in 0..1u64 << 12 {
            let part = |at: u64| bits >> at & 3;
            let of = |at| AccessMasks {
                allow: part(at),
                deny: part(at + 2),
                approve: part(at + 4),
            };
            let (rules, masks) = (of(0), of(6));
            let grant = Grant {
                masks,
                ..grant(0, 0)
            };
            let both = AccessMasks {
                allow: rules.allow | masks.allow,
                deny: rules.deny | masks.deny,
                approve: rules.approve | masks.approve,
            };
            for active in 0..4 {
                let expected = decide(both, active) == Verdict::Allow;
                assert_eq!(is_granted(rules, &grant, 443, 0, active), expected);
            }
        }
    }

    #[test]
    fn what_belongs_to_resolvers() {
        let v4 = |a: u32| (0, 0xffff_0000_0000 | u64::from(a));
        assert!(is_resolvers(v4(0x7f53_0001), 53) && is_resolvers(v4(0x7f53_01ff), 80));
        assert!(!is_resolvers(v4(0x7f00_0001), 53) && !is_resolvers((0, 0x7f53_0001), 53));
        assert!(is_resolvers((0, 1), 64_000) && is_resolvers((0, 0), 65_023));
        assert!(!is_resolvers((0, 1), 65_024) && !is_resolvers((0, 2), 64_000));
        assert!(!is_resolvers((1, 1), 64_000) && !is_resolvers((0, 1), 53));
    }
}
