//! Judging a destination.

use guard_common::event::{Kind, NetPayload, Op, PAYLOAD_NET, Reason};
use guard_common::limits::MAX_NET_RULES;
use guard_common::matcher::{Table, Verdict, add_net_rule, decide};
use guard_common::names::{
    GRANT_SNI, Grant, Grants, MAX_GRANTS, NamedAddress, is_granted, is_resolvers,
};
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_common::table::AccessMasks;

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_loop;

use crate::dfa::ArenaTable;
use crate::emit::{Access, acquire_scratch, report};
use crate::kernel::bounded;
use crate::maps::{NAMED_ADDRESSES, SCRATCH};
use crate::subject::Subject;

/// The prefix of an IPv4-mapped address, low half, host order.
const MAPPED: u64 = 0xffff_0000_0000;

/// An IPv4 address (network order, as in `sin_addr`) as IPv4-mapped halves.
#[inline(always)]
pub fn mapped(address: u32) -> (u64, u64) {
    (0, MAPPED | u32::from_be(address) as u64)
}

/// Whether halves are an IPv4-mapped address.
#[inline(always)]
pub fn is_mapped(addr: (u64, u64)) -> bool {
    addr.0 == 0 && addr.1 >> 32 == MAPPED >> 32
}

/// Four words of an IPv6 address (network order) as halves in host order.
#[inline(always)]
pub fn halves(words: [u32; 4]) -> (u64, u64) {
    (
        (u32::from_be(words[0]) as u64) << 32 | u32::from_be(words[1]) as u64,
        (u32::from_be(words[2]) as u64) << 32 | u32::from_be(words[3]) as u64,
    )
}

/// An address and a port that are being judged, or a socket without. Handed to
/// functions that the verifier checks by themselves: what they need of the
/// stack is theirs alone.
#[repr(C)]
pub struct Destination {
    /// Halves in host order, IPv4 as IPv4-mapped.
    pub addr: (u64, u64),
    /// What the rules say.
    masks: AccessMasks,
    /// Host order.
    pub port: u16,
    /// `AF_*`.
    family: u16,
    /// `SOCK_*` without flags, 0 when not known.
    pub socket_type: u16,
    /// `IPPROTO_*` or the family's own.
    protocol: u16,
    /// Where in the table's head the list of address rules is named.
    list: u32,
    /// Number of the name that allows it, 0 for none.
    pub name: u32,
    /// 1: several names led there.
    shared: u32,
    /// Bits that the number of some live name has.
    some: u32,
    /// Bits that the numbers of all have.
    all: u32,
    /// Number of the first name that allows it where the server name is read.
    spliced: u32,
    /// What the name that allows it says.
    granted: u64,
}

/// Offsets in the head of a table: rules for connecting, for listening.
const CONNECTING: u32 = 36;
const LISTENING: u32 = 56;

/// What [`judged`] says beside a [`Verdict`]: allowed where the server name is read.
const SPLICED: u64 = 3;

impl Destination {
    /// What an operation names.
    #[inline(always)]
    pub fn new(
        subject: &Subject,
        family: u16,
        addr: (u64, u64),
        port: u16,
        socket_type: u16,
        protocol: u16,
    ) -> Self {
        let none = subject.zero.plus(0);
        Self {
            addr,
            masks: AccessMasks {
                allow: none,
                deny: none,
                approve: none,
            },
            port,
            family,
            socket_type,
            protocol,
            list: CONNECTING,
            name: none as u32,
            shared: none as u32,
            some: none as u32,
            all: none as u32,
            spliced: none as u32,
            granted: none,
        }
    }
}

/// What is to be done about a destination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is refused, and that was reported.
    Refused,
    /// It is allowed.
    Direct,
    /// It is allowed where the server name is read, and nothing was reported yet.
    Spliced,
}

/// Judges a destination, by the address rules and by the names that led there,
/// and reports what that came to; what is allowed, unless it is `silent`.
#[inline(always)]
pub fn judge_destination(
    subject: &Subject,
    op: Op,
    destination: &mut Destination,
    silent: bool,
) -> Way {
    let says = if is_resolvers(destination.addr, destination.port) {
        RESOLVERS
    } else {
        judged(subject, destination)
    };
    if says == SPLICED {
        return Way::Spliced;
    }
    if says == Verdict::Allow as u64 && (silent || !logs_allows(subject)) {
        return Way::Direct;
    }
    if settled(subject, op, destination, says) {
        Way::Refused
    } else {
        Way::Direct
    }
}

/// Judges and reports where others could reach the sandbox. True: refuse.
#[inline(always)]
pub fn judge_listening(subject: &Subject, op: Op, destination: &mut Destination) -> bool {
    destination.list = LISTENING;
    let says = if is_resolvers(destination.addr, destination.port) {
        RESOLVERS
    } else {
        judged(subject, destination)
    };
    if says == Verdict::Allow as u64 && !logs_allows(subject) {
        return false;
    }
    settled(subject, op, destination, says)
}

/// In place of what [`judged`] says: it belongs to resolvers.
const RESOLVERS: u64 = 4;

/// Reports what rules or names say. True: refuse.
#[inline(always)]
fn settled(subject: &Subject, op: Op, destination: &Destination, says: u64) -> bool {
    let mut verdict = says;
    let mut reason = Reason::Rule as u64;
    if says == Verdict::Approve as u64 {
        reason = Reason::ApprovalUnavailable as u64;
    }
    if says == RESOLVERS {
        reason = Reason::ResolverRange as u64;
        verdict = Verdict::Deny as u64;
    }
    tell(subject, destination, op as u64, verdict << 8 | reason) != 0
}

/// Whether allowed accesses are reported.
#[inline(always)]
pub fn logs_allows(subject: &Subject) -> bool {
    subject.flags & SANDBOX_LOG_ALLOWS != 0
}

/// Reports what is allowed for a reason. True: refuse, since it cannot be reported.
#[inline(always)]
pub fn allow_socket(subject: &Subject, op: Op, reason: Reason, destination: &Destination) -> bool {
    logs_allows(subject)
        && tell(
            subject,
            destination,
            op as u64,
            (Verdict::Allow as u64) << 8 | reason as u64,
        ) != 0
}

/// Reports what is refused for a reason. True: refuse.
#[inline(always)]
pub fn refuse_socket(subject: &Subject, op: Op, reason: Reason, destination: &Destination) -> bool {
    let why = (Verdict::Deny as u64) << 8 | reason as u64;
    tell(subject, destination, op as u64, why) != 0
}

/// Reports a destination: the [`Op`], and the [`Verdict`] above the [`Reason`].
/// 1: it is to be refused. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell(
    subject: *const Subject,
    destination: *const Destination,
    op: u64,
    why: u64,
) -> u64 {
    if subject.is_null() || destination.is_null() {
        return 1;
    }
    // SAFETY: both are on the stack of a caller.
    let (subject, to) = unsafe { (&*subject, &*destination) };
    let mut access = Access::unjudged(Kind::Network, Op::Connect, 0);
    access.op = op as u8;
    access.verdict = (why >> 8) as u8;
    access.reason = why as u8;
    access.masks = to.masks;
    access.payload_kind = PAYLOAD_NET;
    access.scratch = acquire_scratch();
    if let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) {
        // SAFETY: a live map value, whose payload has more room. Written in
        // place: the stack has no room for a copy.
        unsafe {
            let net = (&raw mut (*scratch).payload).cast::<NetPayload>();
            let addr = (&raw mut (*net).addr).cast::<u64>();
            addr.write_volatile(to.addr.0.to_be());
            addr.add(1).write_volatile(to.addr.1.to_be());
            (&raw mut (*net).port).write_volatile(to.port);
            (&raw mut (*net).family).write_volatile(to.family);
            (&raw mut (*net).socket_type).write_volatile(to.socket_type);
            (&raw mut (*net).protocol).write_volatile(to.protocol);
            (&raw mut (*net).name).write_volatile(to.name);
            (&raw mut (*net).shared).write_volatile(to.shared);
        }
        access.payload_len = size_of::<NetPayload>() as u32;
    }
    report(subject, &raw const access)
}

#[repr(C)]
struct Scan {
    table: ArenaTable,
    net_rules: u32,
    addr: (u64, u64),
    port: u16,
    masks: AccessMasks,
}

#[inline(never)]
extern "C" fn scan_rule(index: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `by_rules`.
    let scan = unsafe { &mut *context.cast::<Scan>() };
    let (table, net_rules, addr, port) = (scan.table, scan.net_rules, scan.addr, scan.port);
    let index = bounded::<{ MAX_NET_RULES as i32 - 1 }>(index) as u32;
    add_net_rule(&table, net_rules, index, addr, port, &mut scan.masks);
    0
}

/// What [`judged`] comes to by the address rules: a [`Verdict`].
#[inline(always)]
fn by_rules(subject: &Subject, destination: &mut Destination) -> u64 {
    let table = ArenaTable::of(subject);
    let list = bounded::<63>(destination.list as u64) as u32;
    let rules = table.u32(list + 4);
    if rules == 0 {
        // Nothing is called for nothing, and the masks are zero.
        return Verdict::Deny as u64;
    }
    let mut scan = Scan {
        table,
        net_rules: table.u32(list),
        addr: destination.addr,
        port: destination.port,
        masks: destination.masks,
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            if rules < MAX_NET_RULES {
                rules
            } else {
                MAX_NET_RULES
            },
            scan_rule as *mut c_void,
            (&raw mut scan).cast::<c_void>(),
            0,
        );
    }
    destination.masks = scan.masks;
    decide(scan.masks, subject.active) as u64
}

/// What address rules and names say of a destination: a [`Verdict`] or
/// [`SPLICED`]. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judged(subject: *const Subject, destination: *mut Destination) -> u64 {
    if subject.is_null() || destination.is_null() {
        return Verdict::Deny as u64;
    }
    // SAFETY: both are on the stack of a caller.
    let (subject, destination) = unsafe { (&*subject, &mut *destination) };
    let says = by_rules(subject, destination);
    if says == Verdict::Allow as u64 || destination.list != CONNECTING {
        return says;
    }
    by_names(subject, destination, says)
}

/// Whether an element of the map is still this key's, after it was read: one that
/// was given up meanwhile is another key's by now, and may be another sandbox's.
/// User space writes an element's key before its grants.
#[inline(always)]
fn is_still(grants: *const Grants, key: &NamedAddress) -> bool {
    // SAFETY: no instruction. What was read before stays before.
    unsafe { asm!("", options(nostack)) };
    // SAFETY: a live map value.
    let of = unsafe { (&raw const (*grants).of).read_volatile() };
    (of.sandbox ^ key.sandbox) | (of.addr_hi ^ key.addr_hi) | (of.addr_lo ^ key.addr_lo) == 0
}

/// What [`judged`] comes to by the names that led to an address which the rules
/// alone do not allow.
#[inline(always)]
fn by_names(subject: &Subject, destination: &mut Destination, says: u64) -> u64 {
    let key = NamedAddress {
        sandbox: subject.sandbox,
        addr_hi: destination.addr.0,
        addr_lo: destination.addr.1,
    };
    let Some(grants) = NAMED_ADDRESSES.get_ptr_mut(&key) else {
        return says;
    };
    // SAFETY: plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (rules, port, active) = (destination.masks, destination.port, subject.active);
    let every = logs_allows(subject);
    // Bits that the number of some live name has, and such that all have. In
    // memory that the verifier takes for any numbers.
    destination.some = 0;
    destination.all = u32::MAX;
    let mut n = 0;
    while n < MAX_GRANTS {
        // SAFETY: an element of a live map value. The map's values are replaced, not changed.
        let grant = unsafe { &*(&raw const (*grants).grants).cast::<Grant>().add(n) };
        n += 1;
        if grant.expires == 0 {
            break;
        }
        if grant.expires <= now {
            continue;
        }
        let number = grant.name & !GRANT_SNI;
        if every {
            destination.some |= number;
            destination.all &= number;
        }
        if !is_granted(rules, grant, port, now, active) {
            continue;
        }
        // What needs no server name goes before what does.
        let direct = grant.name == number;
        if direct && !every {
            // The others say only whether the address is shared, which is reported.
            if !is_still(grants, &key) {
                return says;
            }
            destination.name = number;
            destination.masks.allow |= grant.masks.allow;
            // SAFETY: a live map value; what others write there meanwhile is a time, too.
            unsafe { core::ptr::write_volatile(&raw mut (*grants).used, now) };
            return Verdict::Allow as u64;
        }
        if direct && destination.name == 0 {
            destination.name = number;
            destination.granted = grant.masks.allow;
        } else if destination.name | destination.spliced == 0 {
            destination.spliced = number;
            destination.granted = grant.masks.allow;
        }
    }
    if destination.name | destination.spliced == 0 || !is_still(grants, &key) {
        destination.name = 0;
        return says;
    }
    destination.masks.allow |= destination.granted;
    destination.shared = (every && destination.some != destination.all) as u32;
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*grants).used, now) };
    if destination.name == 0 {
        destination.name = destination.spliced;
        return SPLICED;
    }
    Verdict::Allow as u64
}
