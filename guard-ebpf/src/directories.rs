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

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use guard_common::event::Reason;
use guard_common::limits::{DIRECTORY_ENTRIES, MAX_PATH};
use guard_common::sandbox::Directory;

use crate::kernel::{bounded, cast, current, distance, fact, load};
use crate::maps::DIRECTORIES;
use crate::subject::Subject;
use crate::walk::Walk;

/// `s_magic` (include/uapi/linux/magic.h).
const EXT: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const BTRFS: u64 = 0x9123_683e;
const XFS: u64 = 0x5846_5342;
const F2FS: u64 = 0xf2f5_2010;
/// An entry's tag: the valid bit, 31 bits of generation, the state before, the
/// state after.
const VALID: u64 = 1 << 63;
/// A tag while the entry is being written.
const BUSY: u64 = 1;
/// As in [`crate::dfa`].
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
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
    magic == EXT || magic == TMPFS || magic == BTRFS || magic == XFS || magic == F2FS
}

/// Looks up the directory that a walk has come to. If its path was fed to the
/// end before, so is the walk's; else an entry may be this program's to fill
/// in, with [`remember`] or [`forget`]. A function of its own, for its frame.
#[inline(never)]
pub extern "C" fn find(subject: *const Subject, walk: *mut Walk, stamp: u64) -> *mut Directory {
    // SAFETY: both are on the stack of a caller.
    let (subject, walk) = unsafe { (&*subject, &mut *walk) };
    let zero = subject.zero;
    let Some(all) = DIRECTORIES.get_ptr_mut(subject.slot) else {
        return core::ptr::null_mut();
    };
    let origin = walk.origin();
    let inode = load!(walk.dentry, dentry_inode);
    let number = load!(inode, inode_number as u64);
    let generation = load!(inode, inode_generation as u32) as u64;
    let namespace = load!(load!(current(), task_nsproxy), nsproxy_mnt_ns);
    let namespace = distance(namespace, origin);
    let dentry = distance(walk.dentry, origin);
    let mount = distance(walk.mount, origin);
    let state = walk.state as u64;
    let want = tag(subject, state);
    let index = (dentry ^ state << 48).wrapping_mul(SPREAD) >> UNUSED_BITS;
    let index = bounded::<{ DIRECTORY_ENTRIES as i32 - 1 }>(index);
    // SAFETY: an entry of the sandbox's, which is only ever accessed by whole words.
    unsafe {
        let entry = all
            .cast::<u8>()
            .add((index << 6) as usize)
            .cast::<Directory>();
        macro_rules! get {
            ($field:ident) => {
                core::ptr::read_volatile(&raw const (*entry).$field)
            };
        }
        let found = get!(tag);
        let kept = get!(generation);
        let differs = (get!(dentry) ^ dentry)
            | (get!(mount) ^ mount)
            | (get!(namespace) ^ namespace)
            | (get!(inode) ^ number)
            | (get!(stamp) ^ stamp)
            | ((kept ^ generation) & 0xffff_ffff);
        if differs == 0 && (found ^ want) < 1 << 16 && found == get!(tag) {
            walk.state = found as u32 & 0xffff;
            walk.len += (kept >> 32) as u32;
            walk.status = zero.plus32(if zero.plus32(walk.len) > MAX_PATH as u32 {
                Reason::TooLong as u32
            } else {
                Reason::Rule as u32
            });
            return core::ptr::null_mut();
        }
        // No generation: nothing that tells the directory from a former one.
        if generation == 0 || found == BUSY {
            return core::ptr::null_mut();
        }
        let (_, taken) = atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*entry).tag,
            found,
            BUSY,
        );
        if !taken {
            return core::ptr::null_mut();
        }
        macro_rules! set {
            ($($field:ident = $value:expr;)*) => {
                $(core::ptr::write_volatile(&raw mut (*entry).$field, $value);)*
            };
        }
        set! {
            dentry = dentry;
            mount = mount;
            namespace = namespace;
            inode = number;
            // What lies before is taken off when the end is known.
            generation = generation | (walk.len as u64) << 32;
            stamp = stamp;
            reserved = want;
        }
        entry
    }
}

#[inline(always)]
fn tag(subject: &Subject, state: u64) -> u64 {
    VALID | (subject.generation as u64 & 0x7fff_ffff) << 32 | state << 16
}

/// Fills in what the path from the directory on came to, at the walk's end.
#[inline(always)]
pub fn remember(entry: *mut Directory, walk: &Walk) {
    // SAFETY: an entry that `find` has taken.
    unsafe {
        let before = core::ptr::read_volatile(&raw const (*entry).generation);
        let len = (walk.len as u64).wrapping_sub(before >> 32);
        let generation = before & 0xffff_ffff | len << 32;
        core::ptr::write_volatile(&raw mut (*entry).generation, generation);
        let tag = core::ptr::read_volatile(&raw const (*entry).reserved) | walk.state as u64;
        core::ptr::write_volatile(&raw mut (*entry).tag, tag);
    }
}

/// Gives an entry back.
#[inline(always)]
pub fn forget(entry: *mut Directory) {
    // SAFETY: as in `remember`.
    unsafe { core::ptr::write_volatile(&raw mut (*entry).tag, 0) };
}
