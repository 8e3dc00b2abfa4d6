//! The slot as the relay's memory.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use guard_common::limits::{MAX_CALLS, SLOT_SIZE};
use guard_common::sandbox::Slot;

/// [`Slot`] with atomics for what the relay writes and the kernel reads.
#[repr(C)]
struct Shared {
    epoch: AtomicU64,
    active: AtomicU64,
    lease: AtomicU64,
    in_flight: AtomicU32,
    reserved: AtomicU32,
    calls: [AtomicU64; MAX_CALLS],
}

const _: () = {
    assert!(size_of::<Shared>() <= SLOT_SIZE);
    assert!(align_of::<Shared>() <= align_of::<Slot>());
    assert!(std::mem::offset_of!(Shared, epoch) == std::mem::offset_of!(Slot, epoch));
    assert!(std::mem::offset_of!(Shared, active) == std::mem::offset_of!(Slot, active));
    assert!(std::mem::offset_of!(Shared, lease) == std::mem::offset_of!(Slot, lease));
    assert!(std::mem::offset_of!(Shared, in_flight) == std::mem::offset_of!(Slot, in_flight));
    assert!(std::mem::offset_of!(Shared, calls) == std::mem::offset_of!(Slot, calls));
};

/// A mapped slot. Lives as long as the process, as its mapping does.
#[derive(Debug)]
pub struct SlotPage(NonNull<Shared>);

// SAFETY: it points to memory that is never unmapped and is only used through atomics.
unsafe impl Send for SlotPage {}
// SAFETY: as for Send.
unsafe impl Sync for SlotPage {}

impl SlotPage {
    /// Maps the page, shared, for reading and writing.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice; no memory
        // of ours is touched. The result is checked before use.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SLOT_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at address 0"))
    }

    fn shared(&self) -> &Shared {
        // SAFETY: page-aligned, at least as long as Shared (asserted above), never
        // unmapped, every bit pattern valid; other writers are kept out by the
        // caller, and atomics make a race with the kernel's reads defined.
        unsafe { self.0.as_ref() }
    }

    /// Publishes the calls in flight with their rule sets. One writer at a time
    /// (the caller's lock). The kernel sees the old state or the new, or an odd
    /// epoch. At most [`MAX_CALLS`] calls are taken; the ledger has no more.
    pub fn publish(&self, calls: impl Iterator<Item = u64>, active: u64, lease: u64) {
        let slot = self.shared();
        let epoch = slot.epoch.load(Ordering::Relaxed) | 1;
        slot.epoch.store(epoch, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut count = 0;
        for (place, call) in slot.calls.iter().zip(calls) {
            place.store(call, Ordering::Relaxed);
            count += 1;
        }
        slot.in_flight.store(count, Ordering::Relaxed);
        let active = if count == 0 { 0 } else { active };
        slot.active.store(active, Ordering::Relaxed);
        slot.lease.store(lease, Ordering::Relaxed);
        slot.epoch.store(epoch.wrapping_add(1), Ordering::Release);
    }

    /// Moves the lease on while calls are in flight. May race with
    /// [`Self::publish`]: a lease without calls means nothing.
    pub fn renew(&self, lease: u64) {
        let slot = self.shared();
        if slot.in_flight.load(Ordering::Relaxed) != 0 {
            slot.lease.store(lease, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    fn read(file: &std::fs::File, at: u64) -> u64 {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, at).unwrap();
        u64::from_ne_bytes(word)
    }

    #[test]
    fn what_is_published_is_where_the_kernel_reads_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SLOT_SIZE as u64).unwrap();
        let page = SlotPage::map(file.as_fd()).unwrap();
        page.renew(9);
        assert_eq!(read(&file, 16), 0, "no lease without calls");
        page.publish([7, 8].into_iter(), 0b10, 1000);
        assert_eq!(read(&file, 0), 2);
        assert_eq!(read(&file, 8), 0b10);
        assert_eq!(read(&file, 16), 1000);
        assert_eq!(read(&file, 24), 2);
        assert_eq!((read(&file, 32), read(&file, 40)), (7, 8));
        page.renew(2000);
        assert_eq!(read(&file, 16), 2000);
        page.publish([].into_iter(), 0b10, 3000);
        assert_eq!((read(&file, 0), read(&file, 8), read(&file, 24)), (4, 0, 0));
    }

    #[test]
    fn an_epoch_left_odd_by_a_dead_writer_ends_even() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SLOT_SIZE as u64).unwrap();
        file.write_all_at(&5_u64.to_ne_bytes(), 0).unwrap();
        SlotPage::map(file.as_fd())
            .unwrap()
            .publish([1].into_iter(), 1, 1);
        assert_eq!(read(&file, 0), 6);
    }
}
