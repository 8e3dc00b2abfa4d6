//! Room for compiled policies. A table is written into free room and then
//! named by a sandbox's entry; it is never changed in place, and its room is
//! not used again until no program can still be reading it.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use guard_common::limits::{REGION_SIZE, REGIONS};
use sha2::{Digest, Sha256};

use super::error::KernelError;
use crate::sys::mapping::SharedMapping;

/// A table that lies in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Region.
    pub region: u32,
    /// Offset in the region.
    pub base: u32,
    /// Bytes.
    pub len: u32,
}

/// Tables start at multiples of this: two never share a cache line.
const ALIGN: u32 = 64;
/// How long freed room rests. A program that still read the old entry ends
/// within one run; none sleeps.
const REST: Duration = Duration::from_secs(2);

struct Used {
    len: u32,
    users: u32,
    digest: [u8; 32],
    freed: Option<Instant>,
}

/// The arena and what lies in it.
pub(super) struct Arena {
    memory: SharedMapping,
    used: BTreeMap<(u32, u32), Used>,
}

impl Arena {
    pub(super) fn new(map: BorrowedFd<'_>) -> Result<Self, KernelError> {
        let memory = SharedMapping::new(map, REGION_SIZE as usize * REGIONS as usize)
            .map_err(KernelError::io("map the arena into memory"))?;
        Ok(Self {
            memory,
            used: BTreeMap::new(),
        })
    }

    /// Writes a table, or finds the same bytes there already.
    pub(super) fn publish(&mut self, table: &[u8]) -> Result<Published, KernelError> {
        let len = u32::try_from(table.len())
            .ok()
            .filter(|len| *len <= REGION_SIZE && len % 8 == 0)
            .ok_or(KernelError::ArenaFull {
                wanted: u32::MAX,
                used: 0,
            })?;
        let digest: [u8; 32] = Sha256::digest(table).into();
        for (&(region, base), used) in &mut self.used {
            if used.digest == digest && used.len == len {
                used.users += 1;
                used.freed = None;
                return Ok(Published { region, base, len });
            }
        }
        let now = Instant::now();
        self.used
            .retain(|_, u| u.users > 0 || u.freed.is_none_or(|at| now < at + REST));
        let (region, base) = self.find(len).ok_or_else(|| KernelError::ArenaFull {
            wanted: len,
            used: self.used.values().map(|u| u64::from(u.len)).sum(),
        })?;
        if !self.memory.write(
            region as usize * REGION_SIZE as usize + base as usize,
            table,
        ) {
            return Err(KernelError::Map {
                map: "ARENA",
                reason: "a table lies outside".into(),
            });
        }
        self.used.insert(
            (region, base),
            Used {
                len,
                users: 1,
                digest,
                freed: None,
            },
        );
        Ok(Published { region, base, len })
    }

    /// First room that is large enough.
    fn find(&self, len: u32) -> Option<(u32, u32)> {
        (0..REGIONS).find_map(|region| {
            let mut at = 0;
            for (&(_, base), used) in self.used.range((region, 0)..=(region, u32::MAX)) {
                if base - at >= len {
                    return Some((region, at));
                }
                at = (base + used.len).next_multiple_of(ALIGN);
            }
            (REGION_SIZE.saturating_sub(at) >= len).then_some((region, at))
        })
    }

    /// Takes note of a table that a former supervisor published.
    pub(super) fn adopt(&mut self, region: u32, base: u32) -> Option<Published> {
        if let Some(used) = self.used.get_mut(&(region, base)) {
            used.users += 1;
            return Some(Published {
                region,
                base,
                len: used.len,
            });
        }
        let at = region as usize * REGION_SIZE as usize + base as usize;
        let head = self.memory.read(at, 48)?;
        let size = guard_common::matcher::header(&guard_common::matcher::SliceTable(&head)).size;
        let bytes = self.memory.read(at, size as usize)?;
        let digest = Sha256::digest(&bytes).into();
        self.used.insert(
            (region, base),
            Used {
                len: size,
                users: 1,
                digest,
                freed: None,
            },
        );
        Some(Published {
            region,
            base,
            len: size,
        })
    }

    /// One user less.
    pub(super) fn retire(&mut self, table: Published) {
        if let Some(used) = self.used.get_mut(&(table.region, table.base)) {
            used.users = used.users.saturating_sub(1);
            if used.users == 0 {
                used.freed = Some(Instant::now());
            }
        }
    }
}
