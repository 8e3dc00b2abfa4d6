//! Connects that lsm/socket_connect has just allowed: connect4 and connect6 are
//! asked about the same one right after, and need not judge it again.
//!
//! An entry holds the socket and the destination, whole, and is used up by the
//! program that finds it. One that is older than a tick of the kernel's clock is
//! not used, so that what has changed since (the policy, the rule sets in force,
//! a name that expired) comes as late as for a task that was interrupted between
//! the two programs, and not later. Where the socket was freed and another lies
//! there, or another task has it, the verdict is the same: whoever got it could
//! have connected the socket itself.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_jiffies64;
use guard_common::sandbox::{CONNECTS as KEPT, Connect};

use crate::kernel::{Object, distance};
use crate::maps::CONNECTS;
use crate::memory::{SPREAD, take};

/// Bits of a hash that do not number an entry.
const UNUSED_BITS: u32 = 64 - KEPT.trailing_zeros();

/// Words of an entry.
const SOCKET: usize = 0;
const ADDR_HI: usize = 1;
const ADDR_LO: usize = 2;
const PORT: usize = 3;
const TICK: usize = 4;

/// Where an object lies, as a number that is none that marks an entry.
#[inline(always)]
fn number(object: Object) -> u64 {
    distance(object, CONNECTS.start().cast_const().cast())
}

/// The entry of a socket.
#[inline(always)]
fn entry_of(socket: u64) -> *mut u64 {
    let index = socket.wrapping_mul(SPREAD) >> UNUSED_BITS;
    // SAFETY: the hash has as many bits as number the entries.
    unsafe {
        CONNECTS
            .start()
            .cast::<Connect>()
            .add(index as usize)
            .cast()
    }
}

/// Remembers that a connect is allowed.
#[inline(always)]
pub fn allow(sk: Object, addr: (u64, u64), port: u16) {
    if sk.is_null() {
        return;
    }
    let socket = number(sk);
    let entry = entry_of(socket);
    // SAFETY: a live entry, taken before it is written and given back by its
    // tag. Stores are seen in order on x86-64.
    unsafe {
        if !take(entry, entry.add(SOCKET).read_volatile()) {
            return;
        }
        entry.add(ADDR_HI).write_volatile(addr.0);
        entry.add(ADDR_LO).write_volatile(addr.1);
        entry.add(PORT).write_volatile(port as u64);
        entry.add(TICK).write_volatile(bpf_jiffies64());
        entry.add(SOCKET).write_volatile(socket);
    }
}

/// Whether a socket's connect was allowed just now.
#[inline(always)]
pub fn is_allowed(ctx: *mut bpf_sock_addr, addr: (u64, u64), port: u16) -> bool {
    // SAFETY: the context outlives the program, and has a socket.
    let sk = unsafe { (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile() };
    if sk.is_null() {
        return false;
    }
    let socket = number(sk.cast_const().cast());
    let entry = entry_of(socket);
    // SAFETY: a live entry; whoever takes it has it alone.
    unsafe {
        if entry.add(SOCKET).read_volatile() != socket || !take(entry, socket) {
            return false;
        }
        let differs = entry.add(ADDR_HI).read_volatile() ^ addr.0
            | entry.add(ADDR_LO).read_volatile() ^ addr.1
            | entry.add(PORT).read_volatile() ^ port as u64;
        let age = bpf_jiffies64().wrapping_sub(entry.add(TICK).read_volatile());
        entry.add(SOCKET).write_volatile(0);
        differs == 0 && age <= 1
    }
}
