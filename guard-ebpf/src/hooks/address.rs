//! Judging a destination.

use guard_common::event::{Kind, NetPayload, Op, Reason};
use guard_common::limits::MAX_NET_RULES;
use guard_common::matcher::{Table, Verdict, add_net_rule, decide};
use guard_common::sandbox::SANDBOX_LOG_ALLOWS;
use guard_common::table::AccessMasks;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;

use crate::dfa::ArenaTable;
use crate::emit::{Access, conclude, with_net};
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
    }
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
    // SAFETY: bpf_loop hands back the context of `judge_destination`.
    let scan = unsafe { &mut *context.cast::<Scan>() };
    let index = index as u32;
    if index >= scan.net_len || index >= MAX_NET_RULES {
        return 1;
    }
    let (table, net_rules, addr, port) = (scan.table, scan.net_rules, scan.addr, scan.port);
    add_net_rule(&table, net_rules, index, addr, port, &mut scan.masks);
    0
}

/// Judges and reports a destination. True: refuse.
#[inline(always)]
pub fn judge_destination(
    subject: &Subject,
    op: Op,
    addr: (u64, u64),
    net: NetPayload,
    silent_allow: bool,
) -> bool {
    let table = ArenaTable::of(subject);
    let rules = (table.u32(36), table.u32(40));
    judge_by(subject, op, rules, addr, net, silent_allow)
}

/// Judges and reports where others could reach the sandbox. True: refuse.
#[inline(always)]
pub fn judge_listening(subject: &Subject, op: Op, addr: (u64, u64), net: NetPayload) -> bool {
    let table = ArenaTable::of(subject);
    let rules = (table.u32(56), table.u32(60));
    judge_by(subject, op, rules, addr, net, false)
}

/// By the address rules at an offset of the table, and their number.
#[inline(always)]
fn judge_by(
    subject: &Subject,
    op: Op,
    rules: (u32, u32),
    addr: (u64, u64),
    net: NetPayload,
    silent_allow: bool,
) -> bool {
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.silent_allow = silent_allow as u8;
    let mut scan = Scan {
        table: ArenaTable::of(subject),
        net_rules: rules.0,
        net_len: rules.1,
        addr,
        port: net.port,
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
    access.masks = scan.masks;
    let verdict = decide(scan.masks, subject.active);
    let reason = if verdict == Verdict::Approve {
        Reason::ApprovalUnavailable
    } else {
        Reason::Rule
    };
    access.verdict = verdict as u8;
    access.reason = reason as u8;
    let reported = subject.flags & SANDBOX_LOG_ALLOWS != 0 && !silent_allow;
    if access.verdict == Verdict::Allow as u8 && !reported {
        return false;
    }
    with_net(&mut access, &net);
    conclude(subject, &access)
}

/// Reports what no rule can grant. True: refuse.
#[inline(always)]
pub fn refuse_socket(subject: &Subject, op: Op, reason: Reason, net: NetPayload) -> bool {
    let mut access = Access::unjudged(Kind::Network, op, 0);
    access.reason = reason as u8;
    with_net(&mut access, &net);
    conclude(subject, &access)
}
