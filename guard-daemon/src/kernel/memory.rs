//! Memory that is shared with the programs: arrays of one value, mapped here
//! and addressed there without a lookup.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use aya::maps::{Map, MapData};
use guard_common::limits::MAX_SANDBOXES;
use guard_common::names::{SPLICES_OF_SLOT, Splice};
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

    /// A word of a slot's.
    fn word(&self, slot: u32, at: usize) -> Option<u64> {
        let bytes = self.memory.read(slot as usize * self.size + at * 8, 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    }
}

/// Words of a [`Splice`].
const SPLICE_WORDS: usize = size_of::<Splice>() / 8;

/// Where a socket's connection was to go that went to the splice: the last one,
/// if it is among those that are known.
pub(super) fn splice(splices: &PerSlot, slot: u32, cookie: u64) -> Option<Splice> {
    let count = splices.word(slot, 0)? as usize;
    // The last first: a socket may have been connected before.
    let places = (1..=SPLICES_OF_SLOT).map(|back| count.wrapping_sub(back) % SPLICES_OF_SLOT);
    let mut found = places.filter_map(|place| {
        let at = 1 + place * SPLICE_WORDS;
        let word = |n: usize| splices.word(slot, at + n);
        if word(0)? != cookie {
            return None;
        }
        let (sandbox, addr_hi, addr_lo, last) = (word(1)?, word(2)?, word(3)?, word(4)?);
        fence(Ordering::SeqCst);
        let splice = Splice {
            cookie,
            sandbox,
            addr_hi,
            addr_lo,
            port: last as u32,
            name: (last >> 32) as u32,
        };
        // A program that writes there puts another mark first: while it is the
        // cookie, nobody has begun to.
        (word(0)? == cookie).then_some(splice)
    });
    found.next()
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
    use guard_common::names::{SPLICE_BUSY, Splices};

    /// Cgroups of one group.
    fn together(count: usize) -> Vec<u64> {
        let group = group_of(1);
        (1..)
            .filter(|id| group_of(*id) == group)
            .take(count)
            .collect()
    }

    fn shared(size: usize) -> SharedMapping {
        let file = nix::sys::memfd::memfd_create("memory", nix::sys::memfd::MFdFlags::empty());
        let file = std::fs::File::from(file.unwrap());
        file.set_len(size as u64).unwrap();
        SharedMapping::new(file.as_fd(), size).unwrap()
    }

    fn cells() -> Cells {
        Cells {
            memory: shared(CELLS * SIZE),
        }
    }

    /// Writes a slot's connection number `n` as the programs do.
    fn went(splices: &PerSlot, slot: usize, n: usize, words: [u64; SPLICE_WORDS]) {
        let start = slot * splices.size;
        let count = (n as u64 + 1).to_ne_bytes();
        assert!(splices.memory.write(start, &count));
        let at = start + 8 * (1 + n % SPLICES_OF_SLOT * SPLICE_WORDS);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert!(splices.memory.write(at, &bytes));
    }

    #[test]
    fn the_last_connection_of_a_socket_is_found_until_others_have_its_place() {
        let splices = PerSlot {
            memory: shared(2 * size_of::<Splices>()),
            name: "SPLICES",
            size: size_of::<Splices>(),
        };
        assert_eq!(splice(&splices, 1, 7), None);
        went(&splices, 1, 0, [7, 1, 2, 3, 9 << 32 | 443]);
        went(&splices, 1, 1, [SPLICE_BUSY, 1, 2, 3, 4]);
        went(&splices, 1, 2, [7, 1, 2, 4, 9 << 32 | 444]);
        let last = splice(&splices, 1, 7).unwrap();
        assert_eq!((last.cookie, last.sandbox), (7, 1));
        assert_eq!((last.addr_hi, last.addr_lo), (2, 4));
        assert_eq!((last.port, last.name), (444, 9));
        assert_eq!(
            (splice(&splices, 0, 7), splice(&splices, 1, 8)),
            (None, None)
        );
        went(&splices, 1, SPLICES_OF_SLOT + 2, [8, 1, 2, 5, 1]);
        assert_eq!(splice(&splices, 1, 7).unwrap().port, 443);
        went(&splices, 1, SPLICES_OF_SLOT, [9, 1, 2, 5, 1]);
        assert_eq!(splice(&splices, 1, 7), None);
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
