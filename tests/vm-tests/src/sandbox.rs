//! A sandbox made by hand, without a supervisor: for tests of the kernel side.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use guard_common::event::Event;
use guard_common::limits::SLOT_SIZE;
use guard_common::sandbox::SandboxEntry;
use guard_daemon::kernel::{Kernel, Published, Ring, SlotHandle};
use guard_daemon::sys::mapping::SharedMapping;

use crate::child;

/// Where the guest mounts cgroup2.
const PARENT: &str = "/sys/fs/cgroup/guard";

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A registered sandbox.
pub struct Sandbox {
    dir: PathBuf,
    /// The cgroup's id.
    pub cgroup: u64,
    /// Its entry as registered.
    pub entry: SandboxEntry,
    table: Published,
    slot: SlotHandle,
    page: SharedMapping,
}

/// The parent cgroup, made and in force.
pub fn parent(kernel: &mut Kernel) -> &'static Path {
    let parent = Path::new(PARENT);
    std::fs::create_dir_all(parent).expect("make the parent cgroup");
    kernel.set_parent(parent).expect("set the parent");
    parent
}

impl Sandbox {
    /// Registers a sandbox under a compiled table.
    pub fn new(
        kernel: &mut Kernel,
        table: &[u8],
        background: u64,
        valid_sets: u64,
        flags: u32,
    ) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent(kernel).join(format!("test-{number}"));
        std::fs::create_dir_all(&dir).expect("make a cgroup");
        let cgroup = dir.metadata().expect("stat a cgroup").ino();
        let table = kernel.publish(table).expect("publish");
        let slot = kernel.allocate_slot().expect("a slot");
        let page = SharedMapping::new(slot.fd.as_fd(), SLOT_SIZE).expect("map the slot");
        let entry = SandboxEntry {
            sandbox: number,
            background,
            valid_sets,
            base: table.base,
            slot: slot.index,
            generation: 1,
            flags,
            reserved: 0,
            reserved2: 0,
        };
        kernel.register(cgroup, entry).expect("register");
        Self {
            dir,
            cgroup,
            entry,
            table,
            slot,
            page,
        }
    }

    /// Starts `work` in a child inside.
    pub fn start(&self, work: impl FnOnce() -> Vec<i32>) -> child::Child {
        let dir = std::fs::File::open(&self.dir).expect("open the cgroup");
        child::spawn(dir.as_fd(), None, work)
    }

    /// Runs `work` in a child inside and returns what it returned.
    pub fn run(&self, work: impl FnOnce() -> Vec<i32>) -> Vec<i32> {
        self.start(work).results()
    }

    /// Writes a word of the slot, as a relay does.
    pub fn store(&self, at: usize, value: u64) {
        assert!(self.page.write(at, &value.to_ne_bytes()), "a slot offset");
    }

    /// Ends it.
    pub fn end(self, kernel: &mut Kernel) {
        kernel.unregister(self.cgroup);
        kernel.release_slot(self.slot.index);
        kernel.forget_names(self.entry.sandbox);
        kernel.retire(self.table);
        std::fs::remove_dir(&self.dir).expect("remove the cgroup");
    }

    /// Takes this sandbox's events out of the rings.
    pub fn events(&self, kernel: &mut Kernel) -> Vec<(Ring, Event)> {
        let mut events = Vec::new();
        kernel.drain(usize::MAX, &mut |ring, event| {
            let event = event.expect("a record that decodes");
            if event.header.sandbox == self.entry.sandbox {
                events.push((ring, event));
            }
        });
        events
    }
}
