//! The walk from a dentry to the root of its mount namespace.
//!
//! Names are fed to the DFA leaf first, eight bytes a step. The walk must end
//! at the root mount of the task's own mount namespace: what does not
//! (detached trees, lazily unmounted ones, files without a name) has no path
//! to judge. A second pass, without names, proves that the first one saw one
//! moment: each dentry's sequence count is as it was, and even.

use core::ffi::c_void;

use guard_common::event::Reason;
use guard_common::limits::{MAX_NAME, MAX_PATH};

use crate::dfa::{Feeder, word_of};
use crate::kernel::{
    Object, Zero, bounded, cast, copy, current, distance, fact, inline_word, load, offset, read,
    store64,
};
use crate::maps::SCRATCH;
use crate::memory::SPREAD;

/// `DCACHE_OP_HASH` (include/linux/dcache.h): the filesystem hashes names its
/// own way, which is how case-folding directories do it.
const DCACHE_OP_HASH: u32 = 1;
/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
pub const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `PIDTYPE_TGID` (include/linux/pid_types.h).
const PIDTYPE_TGID: u64 = 1;
/// What is fed for the process's own directory below `/proc`.
const SELF: u64 = u64::from_le_bytes(*b"self\0\0\0\0");

/// The walk has not ended.
pub const WALKING: u32 = u32::MAX;
/// Names are not recorded.
pub const NOWHERE: u32 = u32::MAX;

/// Where a walk stands. As small as can be: it lies on a stack of 512 bytes.
#[repr(C)]
pub struct Walk {
    /// `struct dentry`.
    pub dentry: Object,
    /// `struct mount`.
    pub mount: Object,
    /// Its root.
    mount_root: u64,
    /// The task's process (`struct pid`) while the walk is on procfs, or 0.
    pub process: u64,
    /// For the names.
    feeder: Feeder,
    /// Of dentries and their sequence counts, in order.
    pub sum: u64,
    /// See [`Zero`].
    zero: Zero,
    /// State of the DFA.
    pub state: u32,
    /// All sequence counts together: odd when one was.
    pub odd: u32,
    /// Bytes of the current name that were not fed, 0 between names.
    pub left: u32,
    /// Words of the current name that were fed.
    word: u32,
    /// Bytes so far, separators included.
    pub len: u32,
    /// [`Reason`] of the end, or [`WALKING`].
    pub status: u32,
    /// 1 when `self` was fed.
    pub fed_self: u32,
    /// Where names are recorded: index of a scratch record, or [`NOWHERE`].
    pub scratch: u32,
}

macro_rules! get {
    ($walk:ident, $object:expr, $field:ident as $ty:tt) => {
        if DIRECT {
            load!($object, $field as $ty)
        } else {
            match copy!($object, $field as $ty) {
                Some(value) => value,
                None => return $walk.end(Reason::ReadFailed),
            }
        }
    };
    ($walk:ident, $object:expr, $field:ident) => {
        if DIRECT {
            load!($object, $field)
        } else {
            match copy!($object, $field as u64) {
                Some(value) => value as Object,
                None => return $walk.end(Reason::ReadFailed),
            }
        }
    };
}

/// The `struct mount` that a `struct vfsmount` is part of.
#[inline(always)]
pub fn mount_of<const DIRECT: bool>(vfsmount: Object) -> Object {
    let address = vfsmount as u64 - offset!(mount_mnt);
    if DIRECT {
        cast(address, fact!(MountType))
    } else {
        address as Object
    }
}

/// The `struct dentry` that a mount starts at; what cannot be read is the
/// root of nothing.
#[inline(always)]
fn root_of<const DIRECT: bool>(mount: Object) -> u64 {
    if DIRECT {
        load!(mount, mount_root as u64)
    } else {
        copy!(mount, mount_root as u64).unwrap_or(0)
    }
}

/// Whether a mount starts at a dentry.
#[inline(always)]
pub fn is_root(dentry: Object, mount: Object) -> bool {
    root_of::<true>(mount) == dentry as u64
}

/// The task's process, when the filesystem is procfs, else 0.
#[inline(always)]
pub fn process_on(zero: Zero, magic: u64) -> u64 {
    if magic != PROC_SUPER_MAGIC {
        return zero.plus(0);
    }
    let signal = load!(current(), task_signal);
    read::<u64>(signal as u64 + offset!(signal_pids) + 8 * PIDTYPE_TGID).unwrap_or(zero.plus(0))
}

impl Walk {
    /// A walk that has not begun, at a `struct dentry` that was come by
    /// through a `struct mount`.
    #[inline(always)]
    pub fn new<const DIRECT: bool>(
        zero: Zero,
        dentry: Object,
        mount: Object,
        feeder: Feeder,
    ) -> Self {
        Self {
            dentry,
            mount,
            mount_root: root_of::<DIRECT>(mount),
            process: zero.plus(0),
            state: zero.plus(feeder.start()) as u32,
            feeder,
            sum: zero.plus(0),
            zero,
            odd: zero.plus32(0),
            left: zero.plus32(0),
            word: zero.plus32(0),
            len: zero.plus32(0),
            status: zero.plus32(WALKING),
            fed_self: zero.plus32(0),
            scratch: zero.plus32(NOWHERE),
        }
    }

    /// Back to the start, without feeding.
    #[inline(always)]
    pub fn restart<const DIRECT: bool>(&mut self, dentry: Object, mount: Object) {
        let zero = self.zero;
        self.dentry = dentry;
        self.mount = mount;
        self.mount_root = root_of::<DIRECT>(mount);
        self.sum = zero.plus(0);
        self.odd = zero.plus32(0);
        self.status = zero.plus32(WALKING);
    }

    /// What addresses are told from.
    #[inline(always)]
    pub fn origin(&self) -> *const u8 {
        self.feeder.table
    }

    #[inline(always)]
    fn end(&mut self, reason: Reason) -> u64 {
        self.status = self.zero.plus32(reason as u32);
        1
    }

    /// Takes note of a dentry that the walk goes through.
    #[inline(always)]
    fn note<const DIRECT: bool>(&mut self, dentry: Object) -> u64 {
        let seq = get!(self, dentry, dentry_seq as u32);
        self.odd |= seq;
        let place = if DIRECT {
            distance(dentry, self.feeder.table)
        } else {
            dentry as u64
        };
        self.sum = ((self.sum ^ place).wrapping_add(seq as u64)).wrapping_mul(SPREAD);
        0
    }

    /// Goes from the root of a mount to the place it is mounted on.
    #[inline(always)]
    fn cross<const DIRECT: bool>(&mut self) -> u64 {
        let mount = self.mount;
        let parent = get!(self, mount, mount_parent);
        if parent == mount {
            let namespace = get!(self, mount, mount_ns as u64);
            let own = load!(load!(current(), task_nsproxy), nsproxy_mnt_ns as u64);
            return self.end(if namespace == own && own != 0 {
                Reason::Rule
            } else {
                Reason::Detached
            });
        }
        self.dentry = get!(self, mount, mount_mountpoint);
        self.mount_root = get!(self, parent, mount_root as u64);
        self.mount = parent;
        0
    }

    /// Whether a dentry is the task's own directory right below the root of procfs.
    #[inline(always)]
    fn is_own<const DIRECT: bool>(&mut self, dentry: Object) -> bool {
        let (inode, root) = if DIRECT {
            let parent = load!(dentry, dentry_parent);
            let above = load!(parent, dentry_parent);
            (load!(dentry, dentry_inode as u64), above == parent)
        } else {
            let parent = copy!(dentry, dentry_parent as u64).unwrap_or(0);
            let above = copy!(parent, dentry_parent as u64);
            let inode = copy!(dentry, dentry_inode as u64).unwrap_or(0);
            (inode, above == Some(parent))
        };
        let pid = inode - offset!(proc_inode_inode);
        root && copy!(pid, proc_inode_pid as u64) == Some(self.process)
    }

    /// Eight bytes of the current name, from its `word`th word on.
    #[inline(always)]
    fn name<const DIRECT: bool>(&self, dentry: Object, word: u32) -> Option<u64> {
        if DIRECT {
            let name = load!(dentry, dentry_name as u64);
            if name == dentry as u64 + offset!(dentry_inline) {
                // Further ones are copied: each would be a path to verify.
                if word == 0 {
                    return Some(inline_word::<0>(dentry));
                }
                if word == 1 {
                    return Some(inline_word::<1>(dentry));
                }
            }
            return read(name + 8 * word as u64);
        }
        read(copy!(dentry, dentry_name as u64)? + 8 * word as u64)
    }
}

/// One step: crosses a mount, or feeds up to eight bytes of a name. With `NOTE`
/// it takes note of what a second pass compares.
///
/// What is compared is a copy that the verifier cannot connect with the walk
/// ([`Zero`]): else it would remember of each value in which branch it was,
/// and walk the rest once for each combination.
#[inline(never)]
pub extern "C" fn step<const DIRECT: bool, const NOTE: bool>(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the walk.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let zero = walk.zero;
    let dentry = walk.dentry;
    let mut left = walk.left;
    let mut word = walk.word;
    // All ones for the task's own directory below /proc.
    let mut own = zero.plus(0);
    if zero.plus32(left) == 0 {
        let flags = get!(walk, dentry, dentry_flags as u32);
        if flags & DCACHE_OP_HASH != 0 && zero.plus32(walk.len) != 0 {
            // The flag speaks of the names below a dentry: the leaf's own does not matter.
            return walk.end(Reason::CaseFold);
        }
        if dentry as u64 == walk.mount_root {
            walk.process = zero.plus(0);
            return walk.cross::<DIRECT>();
        }
        left = get!(walk, dentry, dentry_name_len as u32);
        if zero.plus32(left).wrapping_sub(1) >= MAX_NAME as u32 {
            return walk.end(Reason::ReadFailed);
        }
        if NOTE && walk.note::<DIRECT>(dentry) != 0 {
            return 1;
        }
        let len = walk.len + left + 1;
        if zero.plus32(len) > MAX_PATH as u32 {
            return walk.end(Reason::TooLong);
        }
        walk.len = len;
        word = zero.plus32(0);
        if zero.plus(walk.process) != 0 {
            own = zero.plus(u64::from(walk.is_own::<DIRECT>(dentry)).wrapping_neg());
            walk.fed_self |= own as u32 & 1;
        }
    }
    let Some(bytes) = walk.name::<DIRECT>(dentry, zero.plus32(word)) else {
        return walk.end(Reason::ReadFailed);
    };
    let bytes = word_of(bytes, left as u64);
    if zero.plus32(walk.scratch) != NOWHERE {
        record_name(walk.scratch as u64, walk.len as u64, left as u64, bytes);
    }
    let fed = bytes ^ ((bytes ^ SELF) & own);
    let state = walk.feeder.word(walk.state as u64, fed);
    if zero.plus32(left) > 8 {
        walk.state = zero.plus32(state as u32);
        walk.left = left - 8;
        walk.word = word + 1;
        return 0;
    }
    walk.state = zero.plus32(walk.feeder.slash(state) as u32);
    walk.left = zero.plus32(0);
    let parent = get!(walk, dentry, dentry_parent);
    if parent == dentry {
        // The root of a filesystem, but not of the mount we came by.
        return walk.end(Reason::Detached);
    }
    walk.dentry = parent;
    0
}

/// Records the bytes of a name that are fed, of which `left` bytes are left
/// of a path that will have `len`, and the separator: what follows it in the
/// word is written over. Checked by the verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn record_name(scratch: u64, len: u64, left: u64, bytes: u64) -> u64 {
    if let Some(scratch) = SCRATCH.get_ptr_mut(scratch as u32) {
        // SAFETY: a live map value; below MAX_PATH, with room for a word behind it.
        unsafe {
            let payload = (&raw mut (*scratch).payload).cast::<u8>();
            let at = bounded::<{ MAX_PATH as i32 - 1 }>(len.wrapping_sub(left + 1));
            store64(payload.add(at as usize), bytes);
            if left <= 8 {
                let end = bounded::<{ MAX_PATH as i32 - 1 }>(len.wrapping_sub(1));
                store64(payload.add(end as usize), b'/' as u64);
            }
        }
    }
    0
}

/// One step of the second pass.
#[inline(never)]
pub extern "C" fn check<const DIRECT: bool>(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the walk.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let mut i = 0;
    while i < 2 {
        let dentry = walk.dentry;
        if dentry as u64 == walk.mount_root {
            if walk.cross::<DIRECT>() != 0 {
                return 1;
            }
        } else {
            if walk.note::<DIRECT>(dentry) != 0 {
                return 1;
            }
            walk.dentry = get!(walk, dentry, dentry_parent);
        }
        i += 1;
    }
    0
}
