//! The kernel side as the supervisor sees it: loading, pinning, adopting,
//! publishing tables, slots and rings. The only module that uses aya.

mod arena;
pub mod btf;
mod canary;
mod error;
mod facts;
pub mod load;
mod memory;
mod slots;

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use guard_common::event::{DecodeError, Event, decode};
use guard_common::names::{Grants, NamedAddress, Resolver, Splice, Splices};
use guard_common::sandbox::{
    AbstractName, Config, Counters, Directories, HardLink, Memo, SandboxEntry,
};

use guard_common::table::AccessMasks;

use arena::Arena;
pub use arena::Published;
pub use error::KernelError;
use load::Loaded;
use memory::{Cells, PerSlot};
pub use slots::SlotHandle;
use slots::Slots;

/// Which ring an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Denials.
    Denials,
    /// Allowed accesses.
    Allows,
}

type Record = (Ring, Result<Event, DecodeError>);

/// The loaded (or adopted) programs and maps.
pub struct Kernel {
    loaded: Loaded,
    config: Array<MapData, Config>,
    sandboxes: HashMap<MapData, u64, SandboxEntry>,
    counters: Array<MapData, Counters>,
    cells: Cells,
    memo: PerSlot,
    directories: PerSlot,
    links: HashMap<MapData, HardLink, u32>,
    abstract_names: HashMap<MapData, AbstractName, AccessMasks>,
    named: HashMap<MapData, NamedAddress, Grants>,
    resolvers: Array<MapData, Resolver>,
    splices: PerSlot,
    denials: RingBuf<MapData>,
    allows: RingBuf<MapData>,
    arena: Arena,
    slots: Slots,
    /// Events taken from a ring by the self-test that were not its own.
    waiting: VecDeque<Record>,
    parent: Option<PathBuf>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("pins", &self.loaded.dir)
            .finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads, attaches and pins everything, or adopts what is pinned already.
    ///
    /// # Errors
    /// When the kernel cannot enforce, with what to change.
    pub fn load_or_adopt() -> Result<Self, KernelError> {
        let mut loaded = load::load_or_adopt()?;
        let mut take = |name: &'static str| -> Result<Map, KernelError> {
            loaded.maps.remove(name).ok_or(KernelError::Map {
                map: name,
                reason: "missing".into(),
            })
        };
        let arena = Arena::new(&take("ARENA")?)?;
        let config = Array::try_from(take("CONFIG")?).map_err(KernelError::map("CONFIG"))?;
        let sandboxes =
            HashMap::try_from(take("SANDBOXES")?).map_err(KernelError::map("SANDBOXES"))?;
        let counters = Array::try_from(take("COUNTERS")?).map_err(KernelError::map("COUNTERS"))?;
        let cells = Cells::new(&take("CELLS")?)?;
        let memo = PerSlot::new(&take("MEMO")?, "MEMO", size_of::<Memo>())?;
        let directories = PerSlot::new(
            &take("DIRECTORIES")?,
            "DIRECTORIES",
            size_of::<Directories>(),
        )?;
        let links =
            HashMap::try_from(take("HARD_LINKS")?).map_err(KernelError::map("HARD_LINKS"))?;
        let abstract_names = HashMap::try_from(take("ABSTRACT_NAMES")?)
            .map_err(KernelError::map("ABSTRACT_NAMES"))?;
        let named = HashMap::try_from(take("NAMED_ADDRESSES")?)
            .map_err(KernelError::map("NAMED_ADDRESSES"))?;
        let resolvers =
            Array::try_from(take("RESOLVERS")?).map_err(KernelError::map("RESOLVERS"))?;
        let splices = PerSlot::new(&take("SPLICES")?, "SPLICES", size_of::<Splices>())?;
        let denials = RingBuf::try_from(take("DENIALS")?).map_err(KernelError::map("DENIALS"))?;
        let allows = RingBuf::try_from(take("ALLOWS")?).map_err(KernelError::map("ALLOWS"))?;
        let Map::ArrayOfMaps(pages) = take("SLOTS")? else {
            return Err(KernelError::Map {
                map: "SLOTS",
                reason: "not an array of maps".into(),
            });
        };
        let mut kernel = Self {
            slots: Slots::new(pages, loaded.adopted)?,
            config,
            sandboxes,
            counters,
            cells,
            memo,
            directories,
            links,
            abstract_names,
            named,
            resolvers,
            splices,
            denials,
            allows,
            arena,
            waiting: VecDeque::new(),
            parent: None,
            loaded,
        };
        kernel.cells.clear();
        for (cgroup, entry) in kernel.sandboxes() {
            kernel.slots.adopt(entry.slot);
            kernel.arena.adopt(entry.base);
            kernel.cells.put(cgroup, &entry);
        }
        kernel.slots.fill_one()?;
        Ok(kernel)
    }

    /// Whether the programs were there already.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.loaded.adopted
    }

    /// What each program cost to load; empty after an adoption.
    #[must_use]
    pub fn costs(&self) -> &[load::ProgramCost] {
        &self.loaded.costs
    }

    /// Names the cgroup that all sandboxes live under, and attaches the
    /// address programs to it. Idempotent; call before each launch, since a
    /// parent that was removed and made again has a new id.
    ///
    /// # Errors
    /// When the map cannot be written or the programs cannot be attached.
    pub fn set_parent(&mut self, cgroup_dir: &Path) -> Result<(), KernelError> {
        let dir = std::fs::File::open(cgroup_dir).map_err(KernelError::io(format!(
            "open the cgroup {}",
            cgroup_dir.display()
        )))?;
        let id = dir
            .metadata()
            .map_err(KernelError::io("read a cgroup's id"))?
            .ino();
        let config = Config {
            parent_cgroup: id,
            parent_level: level(cgroup_dir)?,
            reserved: 0,
        };
        let current = self.config.get(&0, 0).map_err(KernelError::map("CONFIG"))?;
        if current != config {
            load::attach_cgroup(&mut self.loaded, &dir)?;
            self.config
                .set(0, config, 0)
                .map_err(KernelError::map("CONFIG"))?;
        }
        self.parent = Some(cgroup_dir.to_path_buf());
        Ok(())
    }

    /// Takes a fresh, zeroed slot.
    ///
    /// # Errors
    /// When [`guard_common::limits::MAX_SANDBOXES`] are in use.
    pub fn allocate_slot(&mut self) -> Result<SlotHandle, KernelError> {
        let handle = self.slots.allocate()?;
        self.counters
            .set(handle.index, Counters::default(), 0)
            .map_err(KernelError::map("COUNTERS"))?;
        // Of the sandbox that had the slot before.
        self.set_resolver(handle.index, Resolver::default())?;
        self.splices.clear(handle.index)?;
        self.memo.clear(handle.index)?;
        self.directories.clear(handle.index)?;
        Ok(handle)
    }

    /// Says that rules which name this file deny `bits` of it, by whatever name
    /// it is reached.
    ///
    /// # Errors
    /// When there are too many for all sandboxes together.
    pub fn name_file(&mut self, file: HardLink, bits: u8) -> Result<(), KernelError> {
        self.links
            .insert(file, u32::from(bits), 0)
            .map_err(KernelError::map("HARD_LINKS"))
    }

    /// Takes [`Self::name_file`] back.
    pub fn unname_file(&mut self, file: &HardLink) {
        if let Err(error) = self.links.remove(file) {
            tracing::debug!(?file, %error, "a file was not named");
        }
    }

    /// The files that were named for a slot.
    #[must_use]
    pub fn named_files(&self, slot: u32) -> Vec<HardLink> {
        let keys = self.links.keys().flatten();
        keys.filter(|file| file.slot == slot).collect()
    }

    /// Says what a sandbox's rules say of unix sockets with this abstract name.
    ///
    /// # Errors
    /// When there are too many for all sandboxes together.
    pub fn name_socket(
        &mut self,
        sandbox: u64,
        name: &[u8],
        masks: AccessMasks,
    ) -> Result<(), KernelError> {
        let key = AbstractName::new(sandbox, name).ok_or(KernelError::Map {
            map: "ABSTRACT_NAMES",
            reason: format!("a name of {} bytes", name.len()),
        })?;
        self.abstract_names
            .insert(key, masks, 0)
            .map_err(KernelError::map("ABSTRACT_NAMES"))
    }

    /// Says where a slot's questions for names go, and its streams whose server
    /// name is to be read; all zero: nowhere.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_resolver(&mut self, slot: u32, resolver: Resolver) -> Result<(), KernelError> {
        self.resolvers
            .set(slot, resolver, 0)
            .map_err(KernelError::map("RESOLVERS"))
    }

    /// Where the connection of a socket was to go that went to the splice of a
    /// slot; `None` when that is not known, or not any more.
    #[must_use]
    pub fn splice_origin(&self, slot: u32, cookie: u64) -> Option<Splice> {
        memory::splice(&self.splices, slot, cookie)
    }

    /// Says what names that led to an address allow there, in place of what was
    /// said before.
    ///
    /// # Errors
    /// When there are too many addresses for all sandboxes together.
    pub fn grant(&mut self, address: NamedAddress, grants: Grants) -> Result<(), KernelError> {
        self.put_grants(
            address,
            Grants {
                of: address,
                ..grants
            },
        )
    }

    /// [`Self::grant`] with grants that may be another address's, for tests.
    #[doc(hidden)]
    pub fn put_grants(&mut self, address: NamedAddress, grants: Grants) -> Result<(), KernelError> {
        self.named
            .insert(address, grants, 0)
            .map_err(KernelError::map("NAMED_ADDRESSES"))
    }

    /// Takes [`Self::grant`] back.
    pub fn ungrant(&mut self, address: &NamedAddress) {
        if let Err(error) = self.named.remove(address) {
            tracing::debug!(?address, %error, "an address was not granted");
        }
    }

    /// When an address was last connected to (`CLOCK_BOOTTIME`, nanoseconds).
    #[must_use]
    pub fn used(&self, address: &NamedAddress) -> Option<u64> {
        Some(self.named.get(address, 0).ok()?.used)
    }

    /// What is granted to a sandbox, by address (IPv4 as IPv4-mapped).
    pub fn granted(&self, sandbox: u64) -> impl Iterator<Item = (u128, Grants)> {
        let of = self.named.iter().flatten();
        of.filter(move |(key, _)| key.sandbox == sandbox)
            .map(|(key, grants)| {
                let addr = u128::from(key.addr_hi) << 64 | u128::from(key.addr_lo);
                (addr, grants)
            })
    }

    /// Gives back the room of what was named for a sandbox that is gone.
    pub fn forget_names(&mut self, sandbox: u64) {
        remove_all(&mut self.abstract_names, |key| key.sandbox == sandbox);
        remove_all(&mut self.named, |key| key.sandbox == sandbox);
    }

    /// Puts one more page into the pool of slots when few are ready: 14 to
    /// 31 ms on kernels before 7, so call it when nobody waits. True when
    /// there is more to do.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn fill_pool(&mut self) -> Result<bool, KernelError> {
        self.slots.fill_one()
    }

    /// Gives a slot back. Its relay must be gone: the page is used again.
    pub fn release_slot(&mut self, index: u32) {
        for file in self.named_files(index) {
            self.unname_file(&file);
        }
        self.slots.release(index);
    }

    /// Writes a table into free room of the arena. The same bytes are stored
    /// once and counted.
    ///
    /// # Errors
    /// When the arena is full.
    pub fn publish(&mut self, table: &[u8]) -> Result<Published, KernelError> {
        self.arena.publish(table)
    }

    /// Gives a table's room back when nobody else uses it.
    pub fn retire(&mut self, table: Published) {
        self.arena.retire(table);
    }

    /// Where the table of an adopted sandbox lies.
    #[must_use]
    pub fn table_of(&mut self, entry: &SandboxEntry) -> Option<Published> {
        let table = self.arena.adopt(entry.base)?;
        // Adoption counted this user already.
        self.arena.retire(table);
        Some(table)
    }

    /// Puts a sandbox in force: from here on its processes are judged by its
    /// table. Replaces a former entry whole.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn register(&mut self, cgroup_id: u64, entry: SandboxEntry) -> Result<(), KernelError> {
        self.sandboxes
            .insert(cgroup_id, entry, 0)
            .map_err(KernelError::map("SANDBOXES"))?;
        self.cells.put(cgroup_id, &entry);
        Ok(())
    }

    /// Forgets a sandbox. A process that is still in its cgroup is denied everything.
    pub fn unregister(&mut self, cgroup_id: u64) {
        self.cells.remove(cgroup_id);
        if let Err(error) = self.sandboxes.remove(&cgroup_id) {
            tracing::debug!(cgroup_id, %error, "a sandbox was not registered");
        }
    }

    /// Clears a slot: no call in flight, background rules.
    pub fn clear_slot(&mut self, index: u32) {
        if let Err(error) = self.slots.clear(index) {
            tracing::error!(index, %error, "a slot cannot be cleared; its lease ends by itself");
        }
    }

    /// Sandboxes that are registered (after adoption: those of the last supervisor).
    #[must_use]
    pub fn sandboxes(&self) -> Vec<(u64, SandboxEntry)> {
        self.sandboxes.iter().flatten().collect()
    }

    /// Counters of a slot.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self, slot: u32) -> Result<Counters, KernelError> {
        self.counters
            .get(&slot, 0)
            .map_err(KernelError::map("COUNTERS"))
    }

    /// Descriptors to poll for reading: when one is readable, [`Self::drain`].
    /// Allowed accesses wake nobody until many are waiting: drain them by a
    /// timer too.
    #[must_use]
    pub fn ring_fds(&self) -> [RawFd; 2] {
        [self.denials.as_raw_fd(), self.allows.as_raw_fd()]
    }

    /// Takes what is in both rings, denials first, at most `most` records. How
    /// many it took: when `most`, more may wait.
    pub fn drain(
        &mut self,
        most: usize,
        each: &mut dyn FnMut(Ring, Result<Event, DecodeError>),
    ) -> usize {
        let mut taken = self.waiting.len().min(most);
        for (ring, record) in self.waiting.drain(..taken) {
            each(ring, record);
        }
        while taken < most
            && let Some(record) = self.denials.next()
        {
            each(Ring::Denials, decode(&record));
            taken += 1;
        }
        while taken < most
            && let Some(record) = self.allows.next()
        {
            each(Ring::Allows, decode(&record));
            taken += 1;
        }
        taken
    }

    fn put_back(&mut self, records: Vec<Record>) {
        self.waiting.extend(records);
    }

    /// Opens a canary file from a probe in a cgroup of its own and requires
    /// the denial and its event. After [`Self::set_parent`].
    ///
    /// # Errors
    /// When the kernel did not deny, or said nothing.
    pub fn canary(&mut self) -> Result<(), KernelError> {
        let parent = self
            .parent
            .clone()
            .ok_or_else(|| KernelError::Canary("no parent cgroup was set".into()))?;
        canary::run(self, &parent)
    }

    /// Where things are pinned.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.loaded.dir.clone()
    }

    /// Detaches and unpins everything. Only without sandboxes.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn teardown(self) -> Result<(), KernelError> {
        let dir = self.loaded.dir.clone();
        drop(self);
        load::remove_tree(&dir)?;
        // Other versions' pins may be there: then the root stays.
        let _ = std::fs::remove_dir(load::pin_root());
        Ok(())
    }
}

/// Removes the entries with such keys. One that stays takes room, no more.
fn remove_all<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    such: impl Fn(&K) -> bool,
) {
    let keys: Vec<K> = map.keys().flatten().filter(such).collect();
    for key in keys {
        if let Err(error) = map.remove(&key) {
            tracing::debug!(%error, "an entry stays");
        }
    }
}

/// Level of a cgroup below the root of the hierarchy that this process sees
/// mounted, which is the initial one: guard refuses to run in a cgroup
/// namespace of its own.
fn level(dir: &Path) -> Result<u32, KernelError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(KernelError::io("read /proc/self/mountinfo"))?;
    for line in mounts.lines() {
        let mut sides = line.split(" - ");
        let (Some(left), Some(right)) = (sides.next(), sides.next()) else {
            continue;
        };
        if right.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        if let Ok(below) = dir.strip_prefix(point) {
            let above = Path::new(root).components().count() - 1;
            return Ok((above + below.components().count()) as u32);
        }
    }
    Err(KernelError::Canary(format!(
        "{} is not on a cgroup2 mount",
        dir.display()
    )))
}
