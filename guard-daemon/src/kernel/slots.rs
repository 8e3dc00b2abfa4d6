//! The pool of slots. Putting a page into the map costs 14 to 31 ms on
//! kernels before 7 (it waits for an RCU grace period), so pages are put in
//! ahead of need and used again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use guard_common::limits::{MAX_SANDBOXES, SLOT_SIZE};
use guard_common::sandbox::Slot;

use super::error::KernelError;
use crate::sys::mapping::SharedMapping;

/// A sandbox's slot: its index and the descriptor of its page's map, for the
/// relay to mmap (one page, shared, read and write, offset 0).
#[derive(Debug)]
pub struct SlotHandle {
    /// Index, also of the counters.
    pub index: u32,
    /// The one-page map.
    pub fd: OwnedFd,
}

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// Pages kept ready beyond those in use.
const AHEAD: usize = 4;

pub(super) struct Slots {
    /// To put pages in.
    map: ArrayOfMaps<MapData, Array<MapData, Slot>>,
    /// The same map, to get descriptors out.
    descriptors: ArrayOfMaps<MapData, MapData>,
    /// Pages in the map, by slot.
    pages: BTreeMap<u32, MapData>,
    in_use: BTreeSet<u32>,
}

/// Makes the map of slots and pins it, for the loader to find: the template
/// must be made as the pages are.
pub(super) fn create(path: &std::path::Path) -> Result<(), KernelError> {
    let map = crate::sys::bpf_map::array_of_arrays(MAX_SANDBOXES, SLOT_SIZE as u32, MMAPABLE)
        .map_err(KernelError::io("make the map of slots"))?;
    let map = MapData::from_fd(map).map_err(KernelError::map("SLOTS"))?;
    map.pin(path).map_err(KernelError::pin("pin", path))
}

impl Slots {
    pub(super) fn new(data: MapData, adopted: bool) -> Result<Self, KernelError> {
        let copy = data
            .fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(KernelError::io("copy a descriptor"))?;
        let copy = MapData::from_fd(copy).map_err(KernelError::map("SLOTS"))?;
        let descriptors =
            ArrayOfMaps::try_from(Map::ArrayOfMaps(copy)).map_err(KernelError::map("SLOTS"))?;
        let map =
            ArrayOfMaps::try_from(Map::ArrayOfMaps(data)).map_err(KernelError::map("SLOTS"))?;
        let mut pages = BTreeMap::new();
        if adopted {
            for index in 0..MAX_SANDBOXES {
                match descriptors.get(&index, 0) {
                    Ok(page) => {
                        pages.insert(index, page);
                    }
                    // Pages are put in from the lowest index on.
                    Err(_) => break,
                }
            }
        }
        Ok(Self {
            map,
            descriptors,
            pages,
            in_use: BTreeSet::new(),
        })
    }

    /// Puts one more page in if too few are ready. True when there is more to do.
    pub(super) fn fill_one(&mut self) -> Result<bool, KernelError> {
        let next = self.pages.len() as u32;
        if self.pages.len() >= self.in_use.len() + AHEAD || next >= MAX_SANDBOXES {
            return Ok(false);
        }
        let page = Array::create(1, MMAPABLE).map_err(KernelError::map("SLOTS"))?;
        self.map
            .set(next, &page, 0)
            .map_err(KernelError::map("SLOTS"))?;
        let page = self
            .descriptors
            .get(&next, 0)
            .map_err(KernelError::map("SLOTS"))?;
        self.pages.insert(next, page);
        Ok(true)
    }

    pub(super) fn allocate(&mut self) -> Result<SlotHandle, KernelError> {
        let ready = |slots: &Self| {
            slots
                .pages
                .keys()
                .copied()
                .find(|i| !slots.in_use.contains(i))
        };
        let index = match ready(self) {
            Some(index) => index,
            None => {
                self.fill_one()?;
                ready(self).ok_or(KernelError::NoSlot(MAX_SANDBOXES))?
            }
        };
        let fd = self.descriptor(index)?;
        self.in_use.insert(index);
        self.clear(index)?;
        Ok(SlotHandle { index, fd })
    }

    fn descriptor(&self, index: u32) -> Result<OwnedFd, KernelError> {
        let page = self
            .pages
            .get(&index)
            .ok_or(KernelError::NoSlot(MAX_SANDBOXES))?;
        page.fd()
            .as_fd()
            .try_clone_to_owned()
            .map_err(KernelError::io("copy a slot's descriptor"))
    }

    pub(super) fn adopt(&mut self, index: u32) {
        self.in_use.insert(index);
    }

    pub(super) fn release(&mut self, index: u32) {
        self.in_use.remove(&index);
    }

    /// No call in flight. `in_flight` is cleared with everything else; the
    /// programs take the background rules for any part of it.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), KernelError> {
        let fd = self.descriptor(index)?;
        let page =
            SharedMapping::new(fd.as_fd(), SLOT_SIZE).map_err(KernelError::io("map a slot"))?;
        if page.write(0, &[0; SLOT_SIZE]) {
            Ok(())
        } else {
            Err(KernelError::Map {
                map: "SLOTS",
                reason: "a page is too small".into(),
            })
        }
    }
}
