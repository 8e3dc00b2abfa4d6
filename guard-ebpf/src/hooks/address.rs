//! Judging a destination.

use guard_common::event::{Kind, NetPayload, Op, Reason};
use guard_common::limits::MAX_NET_RULES;
use guard_common::matcher::{Table, Verdict, add_net_rule, decide};
use guard_common::names::{Grant, Grants, MAX_GRANTS, NamedAddress, is_granted, is_resolvers};
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_common::table::AccessMasks;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_loop;

use crate::dfa::ArenaTable;
use crate::emit::{Access, conclude, with_net};
use crate::kernel::bounded;
use crate::maps::NAMED_ADDRESSES;
use crate::subject::Subject;

/// The prefix of an IPv4-mapped address, low half, host order.
const MAPPED: u64 = 0xffff_0000_0000;

/// An IPv4 address (network order, as in `sin_addr`) as IPv4-mapped halves.
#[inline(always)]
pub fn mapped(address: u32) -> (u64, u64) {
    (0, MAPPED | u32::from_be(address) as u64)
}

/// Four words of an IPv6 address (network order) as halves in host order.
#[inline(always)]
pub fn halves(words: [u32; 4]) -> (u64, u64) {
    (
        (u32::from_be(words[0]) as u64) << 32 | u32::from_be(words[1]) as u64,
        (u32::from_be(words[2]) as u64) << 32 | u32::from_be(words[3]) as u64,
    )
}

/// The payload for a destination.
#[inline(always)]
pub fn payload(
    family: u16,
    addr: (u64, u64),
    port: u16,
    socket_type: u16,
    protocol: u16,
) -> NetPayload {
    let mut bytes = [0u8; 16];
    let (hi, lo) = (addr.0.to_be_bytes(), addr.1.to_be_bytes());
    let mut i = 0;
    while i < 8 {
        bytes[i] = hi[i];
        bytes[i + 8] = lo[i];
        i += 1;
    }
    NetPayload {
        addr: bytes,
        port,
        family,
        socket_type,
        protocol,
        name: 0,
        shared: 0,
    }
}

/// An address and a port that are being judged. Handed to functions that the
/// verifier checks by themselves: what they need of the stack is theirs alone.
#[repr(C)]
pub struct Destination {
    /// Halves in host order, IPv4 as IPv4-mapped.
    pub addr: (u64, u64),
    /// The sandbox's number.
    pub sandbox: u64,
    /// Rule sets in force.
    pub active: u64,
    /// What the rules say.
    pub masks: AccessMasks,
    /// Host order.
    pub port: u32,
    /// Where its table starts in the arena.
    pub base: u32,
    /// Where in the table's head the list of address rules is named.
    pub list: u32,
    /// The name that allows it, 0 for none.
    pub name: u32,
    /// 1: several names led there.
    pub shared: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Offsets in the head of a table: rules for connecting, for listening.
const CONNECTING: u32 = 36;
const LISTENING: u32 = 56;

impl Destination {
    #[inline(always)]
    fn new(subject: &Subject, addr: (u64, u64), port: u16, list: u32) -> Self {
        Self {
            addr,
            active: subject.active,
            masks: AccessMasks::default(),
            port: port as u32,
            sandbox: subject.sandbox,
            base: subject.base,
            list,
            name: 0,
            shared: 0,
            reserved: 0,
        }
    }
}

/// Judges and reports a destination: by the address rules, and by the names
/// that led there. True: refuse.
#[inline(always)]
pub fn judge_destination(
    subject: &Subject,
    op: Op,
    addr: (u64, u64),
    mut net: NetPayload,
    silent_allow: bool,
) -> bool {
    if is_resolvers(addr, net.port) {
        return refuse_socket(subject, op, Reason::ResolverRange, net);
    }
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.silent_allow = silent_allow as u8;
    let mut destination = Destination::new(subject, addr, net.port, CONNECTING);
    let mut verdict = by_rules(&mut destination);
    if verdict != Verdict::Allow as u64 && by_names(&mut destination) != 0 {
        verdict = Verdict::Allow as u64;
    }
    net.name = destination.name;
    net.shared = destination.shared;
    access.masks = destination.masks;
    settle(subject, &mut access, verdict, &net)
}

/// Judges and reports where others could reach the sandbox. True: refuse.
#[inline(always)]
pub fn judge_listening(subject: &Subject, op: Op, addr: (u64, u64), net: NetPayload) -> bool {
    if is_resolvers(addr, net.port) {
        return refuse_socket(subject, op, Reason::ResolverRange, net);
    }
    let mut access = Access::unjudged(Kind::Network, op, 0);
    let mut destination = Destination::new(subject, addr, net.port, LISTENING);
    let verdict = by_rules(&mut destination);
    access.masks = destination.masks;
    settle(subject, &mut access, verdict, &net)
}

#[repr(C)]
struct Scan {
    table: ArenaTable,
    net_rules: u32,
    net_len: u32,
    addr: (u64, u64),
    port: u16,
    masks: AccessMasks,
}

#[inline(never)]
extern "C" fn scan_rule(index: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `by_rules`.
    let scan = unsafe { &mut *context.cast::<Scan>() };
    let index = index as u32;
    if index >= scan.net_len || index >= MAX_NET_RULES {
        return 1;
    }
    let (table, net_rules, addr, port) = (scan.table, scan.net_rules, scan.addr, scan.port);
    add_net_rule(&table, net_rules, index, addr, port, &mut scan.masks);
    0
}

/// The [`Verdict`] of the address rules. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_rules(destination: *mut Destination) -> u64 {
    if destination.is_null() {
        return Verdict::Deny as u64;
    }
    // SAFETY: on the stack of a caller.
    let destination = unsafe { &mut *destination };
    let table = ArenaTable::at_base(destination.base);
    let list = bounded::<63>(destination.list as u64) as u32;
    let mut scan = Scan {
        table,
        net_rules: table.u32(list),
        net_len: table.u32(list + 4),
        addr: destination.addr,
        port: destination.port as u16,
        masks: AccessMasks::default(),
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_NET_RULES,
            scan_rule as *mut c_void,
            (&raw mut scan).cast::<c_void>(),
            0,
        );
    }
    destination.masks = scan.masks;
    decide(scan.masks, destination.active) as u64
}

#[repr(C)]
struct Look {
    now: u64,
    active: u64,
    rules: AccessMasks,
    grants: *const Grants,
    /// What the grant that allows it says.
    masks: AccessMasks,
    port: u32,
    /// Its name.
    name: u32,
    /// Bits that some live grant's name has, and such that all have.
    some: u32,
    all: u32,
}

#[inline(never)]
extern "C" fn look_at_grant(index: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `by_names`.
    let look = unsafe { &mut *context.cast::<Look>() };
    if index >= MAX_GRANTS as u64 {
        return 1;
    }
    // SAFETY: an element of a live map value.
    let grant = unsafe {
        (&raw const (*look.grants).grants)
            .cast::<Grant>()
            .add(index as usize)
            .read_volatile()
    };
    if grant.expires <= look.now {
        return 0;
    }
    look.some |= grant.name;
    look.all &= grant.name;
    let port = look.port as u16;
    if look.name == 0 && is_granted(look.rules, &grant, port, look.now, look.active) {
        look.name = grant.name;
        look.masks = grant.masks;
    }
    0
}

/// Whether a name that led to the address allows it. Checked by the verifier by
/// itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_names(destination: *mut Destination) -> u64 {
    if destination.is_null() {
        return 0;
    }
    // SAFETY: on the stack of a caller.
    let destination = unsafe { &mut *destination };
    let key = NamedAddress {
        sandbox: destination.sandbox,
        addr_hi: destination.addr.0,
        addr_lo: destination.addr.1,
    };
    let Some(grants) = NAMED_ADDRESSES.get_ptr_mut(&key) else {
        return 0;
    };
    let mut look = Look {
        // SAFETY: plain helper call.
        now: unsafe { bpf_ktime_get_boot_ns() },
        active: destination.active,
        rules: destination.masks,
        grants,
        masks: destination.masks,
        port: destination.port,
        // All zero, which the verifier must not know: kernels before 6.7 look
        // at the callback once, as if every turn began so.
        name: destination.name,
        some: destination.name,
        all: !destination.name,
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_GRANTS as u32,
            look_at_grant as *mut c_void,
            (&raw mut look).cast::<c_void>(),
            0,
        );
    }
    if look.name == 0 {
        return 0;
    }
    destination.masks.allow |= look.masks.allow;
    destination.name = look.name;
    destination.shared = (look.some != look.all) as u32;
    // SAFETY: a live map value; what others write there meanwhile is a time, too.
    unsafe { core::ptr::write_volatile(&raw mut (*grants).used, look.now) };
    1
}

/// Reports what a destination's rules say. True: refuse.
#[inline(always)]
fn settle(subject: &Subject, access: &mut Access, verdict: u64, net: &NetPayload) -> bool {
    access.verdict = verdict as u8;
    access.reason = Reason::Rule as u8;
    if verdict == Verdict::Approve as u64 {
        access.reason = Reason::ApprovalUnavailable as u8;
    }
    let reported = subject.flags & SANDBOX_LOG_ALLOWS != 0 && access.silent_allow == 0;
    if verdict == Verdict::Allow as u64 && !reported {
        return false;
    }
    with_net(access, net);
    conclude(subject, access)
}

/// Reports what is allowed for a reason that is no rule.
#[inline(always)]
pub fn allow_socket(subject: &Subject, op: Op, reason: Reason, net: &NetPayload) {
    if subject.flags & SANDBOX_LOG_ALLOWS != 0 {
        decided(subject, op, reason, Verdict::Allow, net);
    }
}

/// Reports what no rule can grant. True: refuse.
#[inline(always)]
pub fn refuse_socket(subject: &Subject, op: Op, reason: Reason, net: NetPayload) -> bool {
    decided(subject, op, reason, Verdict::Deny, &net)
}

#[inline(always)]
fn decided(subject: &Subject, op: Op, reason: Reason, verdict: Verdict, net: &NetPayload) -> bool {
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.reason = reason as u8;
    access.verdict = verdict as u8;
    with_net(&mut access, net);
    conclude(subject, &access)
}
