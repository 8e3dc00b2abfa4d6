//! Room for compiled policies. A table is written into free room and then
//! named by a sandbox's entry; it is never changed in place, and its room is
//! not used again until no program can still be reading it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::Map;
use guard_common::limits::{ARENA_SIZE, MAX_TABLE};
use guard_common::table::ROW_UNIT;
use sha2::{Digest, Sha256};

use super::error::KernelError;
use super::memory;
use crate::sys::mapping::SharedMapping;

/// A table that lies in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// Offset in the arena.
    pub base: u32,
    /// Bytes.
    pub len: u32,
}

/// Tables start at multiples of this: two never share a cache line, and no
/// row lies in two.
const ALIGN: u32 = ROW_UNIT;
/// The last base that a table may have: the programs refuse one that could
/// lead out of the arena.
const LAST_BASE: u32 = ARENA_SIZE - MAX_TABLE - 8192;
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
    used: BTreeMap<u32, Used>,
}

impl Arena {
    pub(super) fn new(data: &Map) -> Result<Self, KernelError> {
        Ok(Self {
            memory: memory::map(data, "ARENA", ARENA_SIZE as usize)?,
            used: BTreeMap::new(),
        })
    }

    /// Writes a table, or finds the same bytes there already.
    pub(super) fn publish(&mut self, table: &[u8]) -> Result<Published, KernelError> {
        let len = u32::try_from(table.len())
            .ok()
            .filter(|len| *len <= MAX_TABLE && len % 8 == 0)
            .ok_or(KernelError::ArenaFull {
                wanted: u32::MAX,
                used: 0,
            })?;
        let digest: [u8; 32] = Sha256::digest(table).into();
        for (&base, used) in &mut self.used {
            if used.digest == digest && used.len == len {
                used.users += 1;
                used.freed = None;
                return Ok(Published { base, len });
            }
        }
        let now = Instant::now();
        self.used
            .retain(|_, u| u.users > 0 || u.freed.is_none_or(|at| now < at + REST));
        let base = self.find(len).ok_or_else(|| KernelError::ArenaFull {
            wanted: len,
            used: self.used.values().map(|u| u64::from(u.len)).sum(),
        })?;
        if !self.memory.write(base as usize, table) {
            return Err(KernelError::Map {
                map: "ARENA",
                reason: "a table lies outside".into(),
            });
        }
        self.used.insert(
            base,
            Used {
                len,
                users: 1,
                digest,
                freed: None,
            },
        );
        Ok(Published { base, len })
    }

    /// First room that is large enough.
    fn find(&self, len: u32) -> Option<u32> {
        let mut at = 0;
        for (&base, used) in &self.used {
            if base - at >= len {
                return Some(at);
            }
            at = (base + used.len).next_multiple_of(ALIGN);
        }
        (at <= LAST_BASE).then_some(at)
    }

    /// Takes note of a table that a former supervisor published.
    pub(super) fn adopt(&mut self, base: u32) -> Option<Published> {
        if let Some(used) = self.used.get_mut(&base) {
            used.users += 1;
            return Some(Published {
                base,
                len: used.len,
            });
        }
        let at = base as usize;
        let head = self
            .memory
            .read(at, size_of::<guard_common::table::TableHeader>())?;
        let size = guard_common::matcher::header(&guard_common::matcher::SliceTable(&head)).size;
        let bytes = self.memory.read(at, size as usize)?;
        let digest = Sha256::digest(&bytes).into();
        self.used.insert(
            base,
            Used {
                len: size,
                users: 1,
                digest,
                freed: None,
            },
        );
        Some(Published { base, len: size })
    }

    /// One user less.
    pub(super) fn retire(&mut self, table: Published) {
        if let Some(used) = self.used.get_mut(&table.base) {
            used.users = used.users.saturating_sub(1);
            if used.users == 0 {
                used.freed = Some(Instant::now());
            }
        }
    }
}
