//! guard's kernel programs: LSM hooks that judge files, code and sockets, and
//! cgroup programs that judge addresses.
//!
//! Every program passes on an earlier denial first, then asks whether the
//! task is in a sandbox at all, and is done if not. Inside a sandbox whatever
//! is not understood is denied, with a reason.
#![no_std]
#![no_main]
// `fetch_add` is not in the stable library for this target, the instruction is in the kernel's.
#![feature(core_intrinsics, asm_experimental_arch)]
#![allow(internal_features)]

mod dfa;
mod directories;
mod emit;
mod fast;
mod hooks;
mod judge;
mod kernel;
mod lately;
mod maps;
mod memory;
mod mounts;
mod moves;
mod subject;
mod walk;

/// The kernel asks for a GPL-compatible licence before it lends LSM helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No program can get here: the verifier would have to accept this loop.
    loop {}
}
