//! The kernel side as the supervisor sees it: loading, pinning, adopting,
//! publishing tables, slots and rings. The only module that uses aya.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use guard_common::event::{DecodeError, Event};
use guard_common::sandbox::{Counters, SandboxEntry};

/// Why the kernel side cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// (variants follow)
    #[error("{0}")]
    Other(String),
}

/// A sandbox's slot: its index and the descriptor of its page's map, for the
/// relay to mmap (one page, shared, read and write, offset 0).
#[derive(Debug)]
pub struct SlotHandle {
    /// Index, also of the counters.
    pub index: u32,
    /// The one-page map.
    pub fd: OwnedFd,
}

/// A table that lies in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Region.
    pub region: u32,
    /// Offset in the region.
    pub base: u32,
    /// Bytes.
    pub len: u32,
}

/// Which ring an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Denials.
    Denials,
    /// Allowed accesses.
    Allows,
}

/// The loaded (or adopted) programs and maps.
#[derive(Debug)]
pub struct Kernel {
    _private: (),
}

impl Kernel {
    /// Loads, attaches and pins everything, or adopts what is pinned already.
    ///
    /// # Errors
    /// When the kernel cannot enforce, with what to change.
    pub fn load_or_adopt() -> Result<Self, KernelError> {
        Err(KernelError::Other("not written yet".into()))
    }
    /// Whether the programs were there already.
    #[must_use]
    pub fn adopted(&self) -> bool {
        false
    }
    /// Names the cgroup that all sandboxes live under, and attaches the
    /// address programs to it. Idempotent; call before each launch, since a
    /// parent that was removed and made again has a new id.
    ///
    /// # Errors
    /// When the map cannot be written or the programs cannot be attached.
    pub fn set_parent(&mut self, _cgroup_dir: &std::path::Path) -> Result<(), KernelError> {
        Ok(())
    }
    /// Takes a fresh, zeroed slot.
    ///
    /// # Errors
    /// When [`guard_common::limits::MAX_SANDBOXES`] are in use.
    pub fn allocate_slot(&mut self) -> Result<SlotHandle, KernelError> {
        Err(KernelError::Other("not written yet".into()))
    }
    /// Gives a slot back once its sandbox is gone.
    pub fn release_slot(&mut self, _index: u32) {}
    /// Writes a table into free room of the arena. The same bytes are stored once and counted.
    ///
    /// # Errors
    /// When the arena is full.
    pub fn publish(&mut self, _table: &[u8]) -> Result<Published, KernelError> {
        Err(KernelError::Other("not written yet".into()))
    }
    /// Gives a table's room back when nobody else uses it.
    pub fn retire(&mut self, _table: Published) {}
    /// Puts a sandbox in force: from here on its processes are judged by its table.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn register(&mut self, _cgroup_id: u64, _entry: SandboxEntry) -> Result<(), KernelError> {
        Ok(())
    }
    /// Forgets a sandbox. A process that is still in its cgroup is denied everything.
    pub fn unregister(&mut self, _cgroup_id: u64) {}
    /// Clears a slot: no call in flight, background rules.
    pub fn clear_slot(&mut self, _index: u32) {}
    /// Sandboxes that are registered (after adoption: those of the last supervisor).
    #[must_use]
    pub fn sandboxes(&self) -> Vec<(u64, SandboxEntry)> {
        Vec::new()
    }
    /// Counters of a slot.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self, _slot: u32) -> Result<Counters, KernelError> {
        Ok(Counters::default())
    }
    /// Descriptors to poll for reading: when one is readable, [`Self::drain`].
    #[must_use]
    pub fn ring_fds(&self) -> [RawFd; 2] {
        [-1, -1]
    }
    /// Takes what is in both rings, denials first.
    pub fn drain(&mut self, _each: &mut dyn FnMut(Ring, Result<Event, DecodeError>)) {}
    /// Opens a canary file from a probe cgroup and requires the denial and its event.
    ///
    /// # Errors
    /// When the kernel did not deny, or said nothing.
    pub fn canary(&mut self) -> Result<(), KernelError> {
        Ok(())
    }
    /// Where things are pinned.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        PathBuf::new()
    }
    /// Detaches and unpins everything. Only without sandboxes.
    pub fn teardown(self) {}
}
