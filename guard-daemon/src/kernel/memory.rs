//! Memory that is shared with the programs: arrays of one value, mapped here
//! and addressed there without a lookup.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use aya::maps::{Map, MapData};
use guard_common::limits::MAX_SANDBOXES;
use guard_common::sandbox::{CELLS, CELLS_OF_GROUP, Cell, SandboxEntry, group_of};

use super::error::KernelError;
use crate::sys::mapping::SharedMapping;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Makes the map and pins it, for the loader to find.
pub(super) fn create(name: &str, size: usize, path: &Path) -> Result<(), KernelError> {
    let map = crate::sys::bpf_map::array(name, size as u32, MMAPABLE)
        .map_err(KernelError::io(format!("make the map {name}")))?;
    let map = MapData::from_fd(map).map_err(KernelError::map("memory"))?;
    map.pin(path).map_err(KernelError::pin("pin", path))
}

/// Maps it.
pub(super) fn map(
    map: &Map,
    name: &'static str,
    size: usize,
) -> Result<SharedMapping, KernelError> {
    let Map::Array(data) = map else {
        return Err(KernelError::Map {
            map: name,
            reason: "not an array".into(),
        });
    };
    SharedMapping::new(data.fd().as_fd(), size)
        .map_err(KernelError::io(format!("map {name} into memory")))
}

/// Something for each slot.
pub(super) struct PerSlot {
    memory: SharedMapping,
    name: &'static str,
    size: usize,
}

impl PerSlot {
    pub(super) fn new(data: &Map, name: &'static str, size: usize) -> Result<Self, KernelError> {
        Ok(Self {
            memory: map(data, name, MAX_SANDBOXES as usize * size)?,
            name,
            size,
        })
    }

    /// Forgets what is there of a former sandbox.
    pub(super) fn clear(&self, slot: u32) -> Result<(), KernelError> {
        let zeros = vec![0; self.size];
        if self.memory.write(slot as usize * self.size, &zeros) {
            Ok(())
        } else {
            Err(KernelError::Map {
                map: self.name,
                reason: format!("no slot {slot}"),
            })
        }
    }
}

/// Where the programs find sandboxes fastest. What is not here, they find in
/// the map `SANDBOXES`, so that a place that is taken is no error.
pub(super) struct Cells {
    memory: SharedMapping,
}

const SIZE: usize = size_of::<Cell>();
const VERSION: usize = std::mem::offset_of!(Cell, version);
const CGROUP: usize = std::mem::offset_of!(Cell, cgroup);
const ENTRY: usize = std::mem::offset_of!(Cell, entry);

impl Cells {
    pub(super) fn new(data: &Map) -> Result<Self, KernelError> {
        map(data, "CELLS", CELLS * SIZE).map(|memory| Self { memory })
    }

    /// Clears all: a former supervisor may have died in the middle of a change.
    pub(super) fn clear(&self) {
        for index in 0..CELLS {
            self.write(index * SIZE, 0, &SandboxEntry::default());
        }
    }

    /// Puts a sandbox in, or another entry of it, if a cell of its group is free.
    pub(super) fn put(&self, cgroup: u64, entry: &SandboxEntry) {
        let at = self.find(cgroup, cgroup).or_else(|| self.find(cgroup, 0));
        if let Some(at) = at {
            self.write(at, cgroup, entry);
        }
    }

    /// Takes a sandbox out.
    pub(super) fn remove(&self, cgroup: u64) {
        if let Some(at) = self.find(cgroup, cgroup) {
            self.write(at, 0, &SandboxEntry::default());
        }
    }

    /// Where in the group of `cgroup` there is `wanted`.
    fn find(&self, cgroup: u64, wanted: u64) -> Option<usize> {
        let first = group_of(cgroup) as usize * CELLS_OF_GROUP;
        (first..first + CELLS_OF_GROUP)
            .map(|cell| cell * SIZE)
            .find(|at| self.word(at + CGROUP) == wanted)
    }

    /// As a sequence lock: who reads meanwhile sees an odd version, or another
    /// one afterwards.
    fn write(&self, at: usize, cgroup: u64, entry: &SandboxEntry) {
        let version = self.word(at + VERSION) | 1;
        let words = [
            entry.sandbox,
            entry.background,
            entry.valid_sets,
            u64::from(entry.base) | u64::from(entry.reserved) << 32,
            u64::from(entry.slot) | u64::from(entry.generation) << 32,
            u64::from(entry.flags) | u64::from(entry.reserved2) << 32,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.set(at + VERSION, version);
        fence(Ordering::SeqCst);
        self.set(at + CGROUP, cgroup);
        let written = self.memory.write(at + ENTRY, &bytes);
        debug_assert!(written, "a cell");
        fence(Ordering::SeqCst);
        self.set(at + VERSION, version.wrapping_add(1));
    }

    fn set(&self, at: usize, word: u64) {
        let written = self.memory.write(at, &word.to_ne_bytes());
        debug_assert!(written, "a cell");
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = self.memory.read(at, 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cgroups of one group.
    fn together(count: usize) -> Vec<u64> {
        let group = group_of(1);
        (1..)
            .filter(|id| group_of(*id) == group)
            .take(count)
            .collect()
    }

    fn cells() -> Cells {
        let file = nix::sys::memfd::memfd_create("cells", nix::sys::memfd::MFdFlags::empty());
        let file = std::fs::File::from(file.unwrap());
        file.set_len((CELLS * SIZE) as u64).unwrap();
        Cells {
            memory: SharedMapping::new(file.as_fd(), CELLS * SIZE).unwrap(),
        }
    }

    #[test]
    fn a_full_group_takes_no_more_and_forgets_nobody() {
        let cells = cells();
        let ids = together(CELLS_OF_GROUP + 1);
        let entry = |sandbox| SandboxEntry {
            sandbox,
            ..SandboxEntry::default()
        };
        for id in &ids {
            cells.put(*id, &entry(*id));
        }
        let (last, first) = ids.split_last().unwrap();
        for id in first {
            let at = cells.find(*id, *id).unwrap();
            assert_eq!(cells.word(at + ENTRY), *id);
            assert_eq!(cells.word(at + VERSION), 2);
        }
        assert_eq!(cells.find(*last, *last), None);
        cells.put(first[1], &entry(7));
        assert_eq!(
            cells.word(cells.find(first[1], first[1]).unwrap() + ENTRY),
            7
        );
        cells.remove(first[0]);
        assert_eq!(cells.find(first[0], first[0]), None);
        cells.put(*last, &entry(*last));
        assert!(cells.find(*last, *last).is_some());
    }

    #[test]
    fn what_was_being_written_is_cleared() {
        let cells = cells();
        let id = 5;
        cells.put(id, &SandboxEntry::default());
        let at = cells.find(id, id).unwrap();
        cells.set(at + VERSION, 3);
        cells.clear();
        assert_eq!(cells.find(id, id), None);
        assert!(cells.word(at + VERSION).is_multiple_of(2));
    }
}
