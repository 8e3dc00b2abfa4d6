//! Directories whose paths were fed to the end before.
//!
//! What lies above a directory leads the DFA from one state to another; that
//! is remembered, so that a path costs its last name and not its depth.
//!
//! It is sound for these reasons. A directory gets another path only by a
//! rename of it or of one above, or by a change of mounts: the counts of
//! `rename_lock` and `mount_lock` are those of the time when the walk was made.
//! That the directory is the same is told by its inode's number and generation,
//! as a file handle tells it, and by the dentry and the mount. It is done only
//! on filesystems that have generations and whose names nobody else changes
//! behind the kernel. An entry belongs to one sandbox and one policy.

use guard_common::event::Reason;
use guard_common::limits::{DIRECTORY_ENTRIES, MAX_PATH, MAX_SANDBOXES};
use guard_common::sandbox::{DIRECTORY_WORDS, Directories, Directory};

use crate::kernel::{Object, bounded, cast, current, distance, fact, load, store64};
use crate::maps::{DIRECTORIES, SCRATCH};
use crate::memory;
use crate::subject::Subject;
use crate::walk::{NOWHERE, Walk};

/// `s_magic` (include/uapi/linux/magic.h).
const EXT: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const XFS: u64 = 0x5846_5342;
const F2FS: u64 = 0xf2f5_2010;
const UNUSED_BITS: u32 = 64 - DIRECTORY_ENTRIES.trailing_zeros();
/// Set in a stamp while a name or a mount is being changed.
const CHANGING: u64 = 1 << 32 | 1;

/// How often names and mounts have changed so far.
#[inline(always)]
pub fn stamp() -> u64 {
    let count = |lock: u64| {
        let lock = cast(lock, fact!(SeqcountType));
        load!(lock, seqcount_sequence as u32) as u64
    };
    count(fact!(RenameLock)) << 32 | count(fact!(MountLock))
}

/// Whether nothing is being changed.
#[inline(always)]
pub fn is_quiet(stamp: u64) -> bool {
    stamp & CHANGING == 0
}

/// Whether directories of such a filesystem are remembered.
#[inline(always)]
pub fn is_local(magic: u64) -> bool {
    magic == EXT || magic == TMPFS || magic == XFS || magic == F2FS
}

/// A directory that a walk has come to, in some state: by what its entry is
/// found, and what the entry must hold. Addresses are distances from `origin`.
pub struct Key {
    dentry: u64,
    mount: u64,
    namespace: u64,
    inode: u64,
    generation: u64,
    stamp: u64,
    /// The entry's tag, without the state after.
    tag: u64,
    index: u64,
}

impl Key {
    /// Of a `struct dentry` and a `struct mount`.
    #[inline(always)]
    pub fn of(
        subject: &Subject,
        dentry: Object,
        mount: Object,
        origin: *const u8,
        state: u64,
        stamp: u64,
    ) -> Self {
        let inode = load!(dentry, dentry_inode);
        let number = load!(inode, inode_number as u64);
        let generation = load!(inode, inode_generation as u32) as u64;
        let namespace = load!(load!(current(), task_nsproxy), nsproxy_mnt_ns);
        let dentry = distance(dentry, origin);
        Self {
            dentry,
            mount: distance(mount, origin),
            namespace: distance(namespace, origin),
            inode: number,
            generation,
            stamp,
            tag: memory::tag(subject.generation) | state << 16,
            index: (dentry ^ state << 48).wrapping_mul(memory::SPREAD) >> UNUSED_BITS,
        }
    }

    /// The entry of a slot's sandbox.
    #[inline(always)]
    fn entry(&self, slot: u32) -> *mut Directory {
        let slot = bounded::<{ MAX_SANDBOXES as i32 - 1 }>(slot as u64);
        let index = bounded::<{ DIRECTORY_ENTRIES as i32 - 1 }>(self.index);
        // SAFETY: one of MAX_SANDBOXES, and one of its DIRECTORY_ENTRIES.
        unsafe {
            DIRECTORIES
                .start()
                .cast::<u8>()
                .add(slot as usize * size_of::<Directories>())
                .add(index as usize * size_of::<Directory>())
                .cast::<Directory>()
        }
    }

    /// As [`Self::look`], for a path that is to be recorded: what the entry has
    /// of it is put into the scratch record's payload from `at` on.
    #[inline(always)]
    pub fn look_and_record(&self, slot: u32, payload: *mut u8, at: u64) -> u64 {
        let found = self.look(slot);
        let entry = self.entry(slot);
        // SAFETY: as in `look`; the payload has room for a whole path from any
        // place on it, and for a word behind.
        unsafe {
            let tag = core::ptr::read_volatile(&raw const (*entry).tag);
            let recorded = core::ptr::read_volatile(&raw const (*entry).recorded);
            if found == UNKNOWN || recorded != found >> 16 {
                return UNKNOWN;
            }
            let mut word = 0;
            while word < DIRECTORY_WORDS {
                if recorded <= 8 * word as u64 {
                    break;
                }
                let text = (&raw const (*entry).text).cast::<u64>().add(word);
                let at = bounded::<{ MAX_PATH as i32 - 1 }>(at + 8 * word as u64);
                store64(payload.add(at as usize), core::ptr::read_volatile(text));
                word += 1;
            }
            // Another directory's entry may have the same tag.
            let dentry = core::ptr::read_volatile(&raw const (*entry).dentry);
            if core::ptr::read_volatile(&raw const (*entry).tag) != tag || dentry != self.dentry {
                return UNKNOWN;
            }
        }
        found
    }

    /// Where the path from the directory on leads, if that was fed to the end
    /// before: the state, and above it the bytes. Else [`UNKNOWN`].
    #[inline(always)]
    pub fn look(&self, slot: u32) -> u64 {
        let entry = self.entry(slot);
        macro_rules! get {
            ($field:ident) => {
                // SAFETY: a live entry, which is only ever accessed by whole words.
                unsafe { core::ptr::read_volatile(&raw const (*entry).$field) }
            };
        }
        let found = get!(tag);
        let kept = get!(generation);
        let differs = (get!(dentry) ^ self.dentry)
            | (get!(mount) ^ self.mount)
            | (get!(namespace) ^ self.namespace)
            | (get!(inode) ^ self.inode)
            | (get!(stamp) ^ self.stamp)
            | ((kept ^ self.generation) & 0xffff_ffff);
        if differs == 0 && memory::is(found, self.tag) && found == get!(tag) {
            kept >> 32 << 16 | found & 0xffff
        } else {
            UNKNOWN
        }
    }

    /// Takes the entry, to be filled in with [`remember`] or given back with
    /// [`forget`]. Null when it is not to be had.
    #[inline(always)]
    fn take(&self, slot: u32, len: u32) -> *mut Directory {
        let entry = self.entry(slot);
        macro_rules! set {
            ($($field:ident = $value:expr;)*) => {
                $(core::ptr::write_volatile(&raw mut (*entry).$field, $value);)*
            };
        }
        // SAFETY: as in `look`.
        unsafe {
            let found = core::ptr::read_volatile(&raw const (*entry).tag);
            // No generation: nothing that tells the directory from a former one.
            if self.generation == 0 || !memory::take(&raw mut (*entry).tag, found) {
                return core::ptr::null_mut();
            }
            set! {
                dentry = self.dentry;
                mount = self.mount;
                namespace = self.namespace;
                inode = self.inode;
                // What lies before is taken off when the end is known.
                generation = self.generation | (len as u64) << 32;
                stamp = self.stamp;
                reserved = self.tag;
            }
        }
        entry
    }
}

/// Nothing is known of a directory.
pub const UNKNOWN: u64 = u64::MAX;

/// Looks up the directory that a walk has come to. If its path was fed to the
/// end before, so is the walk's; else an entry may be this program's to fill
/// in. What is recorded must be walked to the end. A function of its own, for
/// its frame.
#[inline(never)]
pub extern "C" fn find(subject: *const Subject, walk: *mut Walk, stamp: u64) -> *mut Directory {
    // SAFETY: both are on the stack of a caller.
    let (subject, walk) = unsafe { (&*subject, &mut *walk) };
    let state = walk.state as u64;
    let key = Key::of(
        subject,
        walk.dentry,
        walk.mount,
        walk.origin(),
        state,
        stamp,
    );
    let found = if walk.scratch == NOWHERE {
        key.look(subject.slot)
    } else {
        UNKNOWN
    };
    if found == UNKNOWN {
        return key.take(subject.slot, walk.len);
    }
    let zero = subject.zero;
    walk.state = found as u32 & 0xffff;
    walk.len += (found >> 16) as u32;
    walk.status = zero.plus32(if zero.plus32(walk.len) > MAX_PATH as u32 {
        Reason::TooLong as u32
    } else {
        Reason::Rule as u32
    });
    core::ptr::null_mut()
}

/// Fills in what the path from the directory on came to, at the walk's end.
#[inline(always)]
pub fn remember(entry: *mut Directory, walk: &Walk) {
    // SAFETY: an entry that `find` has taken.
    unsafe {
        let before = core::ptr::read_volatile(&raw const (*entry).generation);
        let len = (walk.len as u64).wrapping_sub(before >> 32);
        let recorded = if walk.scratch == NOWHERE {
            0
        } else {
            keep_text(entry, walk.scratch as u64, before >> 32, len)
        };
        core::ptr::write_volatile(&raw mut (*entry).recorded, recorded);
        let generation = before & 0xffff_ffff | len << 32;
        core::ptr::write_volatile(&raw mut (*entry).generation, generation);
        let tag = core::ptr::read_volatile(&raw const (*entry).reserved) | walk.state as u64;
        core::ptr::write_volatile(&raw mut (*entry).tag, tag);
    }
}

/// Keeps `len` bytes of what was recorded, from `at` on. Returns how many it
/// kept: all, or none where they are too many.
///
/// # Safety
/// `entry` is one that `find` has taken.
#[inline(always)]
unsafe fn keep_text(entry: *mut Directory, scratch: u64, at: u64, len: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(scratch as u32) else {
        return 0;
    };
    if len > 8 * DIRECTORY_WORDS as u64 {
        return 0;
    }
    // SAFETY: by contract, and as in `look_and_record`.
    unsafe {
        let payload = (&raw const (*scratch).payload).cast::<u8>();
        let mut word = 0;
        while word < DIRECTORY_WORDS {
            let at = bounded::<{ MAX_PATH as i32 - 1 }>(at + 8 * word as u64);
            let bytes = payload.add(at as usize).cast::<u64>().read_unaligned();
            let text = (&raw mut (*entry).text).cast::<u64>().add(word);
            core::ptr::write_volatile(text, bytes);
            word += 1;
        }
    }
    len
}

/// Gives an entry back.
#[inline(always)]
pub fn forget(entry: *mut Directory) {
    // SAFETY: as in `remember`.
    unsafe { core::ptr::write_volatile(&raw mut (*entry).tag, 0) };
}
