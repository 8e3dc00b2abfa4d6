//! Memory shared with the kernel: mmapped BPF arrays.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// A shared, writable mapping of a BPF array map. Other parties (programs,
/// relays) read and write it at the same time: it is only ever accessed by
/// volatile reads and writes of whole words.
#[derive(Debug)]
pub struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every
// access is a volatile word access that tolerates concurrent writers.
unsafe impl Send for SharedMapping {}

impl SharedMapping {
    /// Maps the first `len` bytes of a map made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new(fd: BorrowedFd<'_>, len: usize) -> std::io::Result<Self> {
        let size = std::num::NonZeroUsize::new(len)
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        let prot = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing else refers to it.
        let start = unsafe {
            nix::sys::mman::mmap(
                None,
                size,
                prot,
                nix::sys::mman::MapFlags::MAP_SHARED,
                fd,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped (never).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes bytes; `at` and the length must be multiples of 8 and inside.
    /// Returns false, and writes nothing, otherwise.
    #[must_use]
    pub fn write(&self, at: usize, bytes: &[u8]) -> bool {
        let inside = at
            .checked_add(bytes.len())
            .is_some_and(|end| end <= self.len);
        if !inside || !at.is_multiple_of(8) || !bytes.len().is_multiple_of(8) {
            return false;
        }
        for (n, chunk) in bytes.chunks_exact(8).enumerate() {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            // SAFETY: inside the mapping (checked above) and aligned.
            unsafe {
                self.start
                    .add(at + 8 * n)
                    .cast::<u64>()
                    .write_volatile(u64::from_ne_bytes(word));
            }
        }
        true
    }

    /// Reads bytes; `None` unless `at` and `len` are multiples of 8 and inside.
    #[must_use]
    pub fn read(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !at.is_multiple_of(8) || !len.is_multiple_of(8) {
            return None;
        }
        let mut out = Vec::with_capacity(len);
        for n in 0..len / 8 {
            // SAFETY: inside the mapping (checked above) and aligned.
            let word = unsafe { self.start.add(at + 8 * n).cast::<u64>().read_volatile() };
            out.extend_from_slice(&word.to_ne_bytes());
        }
        Some(out)
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nobody else's.
        let _ = unsafe { nix::sys::mman::munmap(self.start.cast(), self.len) };
    }
}
