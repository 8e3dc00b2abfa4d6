//! The walk from a file to the root of its mount namespace, and the DFA that
//! reads the names on the way.
//!
//! Names are fed leaf first. The walk must end at the root mount of the
//! task's own mount namespace: what does not (detached trees, lazily
//! unmounted ones, files without a name) has no path to judge.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use guard_common::event::{Reason, SMALL_PATH};
use guard_common::limits::{MAX_COMPONENTS, MAX_NAME, MAX_PATH, REGION_SIZE};
use guard_common::matcher::{Table, step};
use guard_common::offsets::DENTRY_HEAD;

use crate::kernel::{Typed, Zero, bounded, current, offset, read, zero};

/// `DCACHE_OP_HASH` (include/linux/dcache.h): the filesystem hashes names its
/// own way, which is how case-folding directories do it.
const DCACHE_OP_HASH: u32 = 1;
/// `PROC_SUPER_MAGIC` (include/uapi/linux/magic.h).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// A table in the arena.
#[derive(Clone, Copy)]
pub struct ArenaTable {
    /// The region, whole.
    pub region: *const u8,
    /// Where the table starts.
    pub base: u32,
}

impl ArenaTable {
    /// The address of an offset, with a bound that the verifier sees.
    #[inline(always)]
    fn at(&self, offset: u32, size: u32) -> *const u8 {
        let index = (self.base.wrapping_add(offset)) & (REGION_SIZE - size);
        // SAFETY: below REGION_SIZE, rounded down to a multiple of `size`.
        unsafe { self.region.add(index as usize) }
    }
}

impl Table for ArenaTable {
    #[inline(always)]
    fn u8(&self, offset: u32) -> u8 {
        // SAFETY: `at` stays inside the region.
        unsafe { core::ptr::read_volatile(self.at(offset, 1)) }
    }
    #[inline(always)]
    fn u16(&self, offset: u32) -> u16 {
        // SAFETY: `at` stays inside the region and is aligned.
        unsafe { core::ptr::read_volatile(self.at(offset, 2).cast()) }
    }
    #[inline(always)]
    fn u32(&self, offset: u32) -> u32 {
        // SAFETY: as for u16.
        unsafe { core::ptr::read_volatile(self.at(offset, 4).cast()) }
    }
    #[inline(always)]
    fn u64(&self, offset: u32) -> u64 {
        // SAFETY: as for u16.
        unsafe { core::ptr::read_volatile(self.at(offset, 8).cast()) }
    }
}

/// Where a walk stands. Kernel addresses are numbers: after the first mount
/// crossing no pointer has a type any more.
#[repr(C)]
struct Position {
    dentry: u64,
    mount: u64,
    mount_root: u64,
    namespace: u64,
    /// 0, or the task's process id when the file is on procfs.
    proc_self: u32,
    /// [`Reason`] of the end, or [`WALKING`].
    status: u32,
    /// Bytes fed so far, separators included.
    len: u32,
    /// `self` was fed for the process's own number.
    fed_self: u32,
    zero: Zero,
}

/// The walk has not ended.
const WALKING: u32 = u32::MAX;

/// One component, found by [`advance`].
struct Component {
    name: u64,
    len: u32,
    is_self: bool,
}

impl Position {
    #[inline(always)]
    fn start(file: Typed, zero: Zero) -> Self {
        // SAFETY: these are pointer fields of struct file, task_struct and nsproxy.
        let (dentry, vfsmount, namespace) = unsafe {
            (
                file.pointer(offset!(file_dentry)),
                file.pointer(offset!(file_mnt)),
                current()
                    .pointer(offset!(task_nsproxy))
                    .pointer(offset!(nsproxy_mnt_ns))
                    .address(),
            )
        };
        // SAFETY: pointer fields of struct vfsmount and dentry.
        let (mount_root, sb) = unsafe {
            (
                vfsmount.pointer(offset!(vfsmount_root)).address(),
                dentry.pointer(offset!(dentry_sb)).address(),
            )
        };
        let magic = read::<u64>(sb + offset!(sb_magic) as u64).unwrap_or(0);
        let proc_self = if magic == PROC_SUPER_MAGIC {
            (bpf_get_current_pid_tgid() >> 32) as u32
        } else {
            zero.plus32(0)
        };
        Self {
            dentry: dentry.address(),
            mount: vfsmount.address() - offset!(mount_mnt) as u64,
            mount_root,
            namespace,
            proc_self,
            status: zero.plus32(WALKING),
            len: zero.plus32(0),
            fed_self: zero.plus32(0),
            zero,
        }
    }

    #[inline(always)]
    fn end(&mut self, reason: Reason) -> Option<Component> {
        self.status = self.zero.plus32(reason as u32);
        None
    }

    /// Crosses mounts up from here, or takes the name of this dentry and
    /// moves to its parent. `None` without an end in `status`: a mount was
    /// crossed, go on.
    ///
    /// # Safety
    /// `base` has room for `DENTRY_HEAD` bytes, aligned to 8.
    #[inline(always)]
    unsafe fn advance<const PROC: bool>(&mut self, base: *mut u8) -> Option<Component> {
        if self.dentry == self.mount_root {
            return self.cross();
        }
        // One read for all fields of a dentry: each costs as much as all.
        // SAFETY: `base` has that room; the helper checks the address.
        let failed = unsafe {
            bpf_probe_read_kernel(
                base.cast::<c_void>(),
                DENTRY_HEAD as u32,
                self.dentry as *const c_void,
            )
        };
        if failed != 0 {
            return self.end(Reason::ReadFailed);
        }
        // SAFETY: the loader refuses offsets that do not lie in the head.
        let (flags, hashed, parent, len, name) = unsafe {
            (
                core::ptr::read_volatile(base.add(offset!(dentry_flags)).cast::<u32>()),
                core::ptr::read_volatile(base.add(offset!(dentry_hashed)).cast::<u64>()),
                core::ptr::read_volatile(base.add(offset!(dentry_parent)).cast::<u64>()),
                core::ptr::read_volatile(base.add(offset!(dentry_name_len)).cast::<u32>()),
                core::ptr::read_volatile(base.add(offset!(dentry_name)).cast::<u64>()),
            )
        };
        if flags & DCACHE_OP_HASH != 0 && self.len != 0 {
            // The flag speaks of the names below a dentry: the leaf's own does not matter.
            return self.end(Reason::CaseFold);
        }
        if parent == self.dentry {
            // The root of a filesystem, but not of the mount we came by.
            return self.end(Reason::Detached);
        }
        if hashed == 0 && self.len == 0 {
            return self.end(Reason::Deleted);
        }
        if len == 0 || len > MAX_NAME as u32 {
            return self.end(Reason::ReadFailed);
        }
        self.len += len + 1;
        if self.len > MAX_PATH as u32 {
            return self.end(Reason::TooLong);
        }
        let is_self = PROC
            && self.proc_self != 0
            && self.below_proc_root(parent)
            && self.is_own_number(name, len);
        if is_self {
            self.fed_self = self.zero.plus32(1);
        }
        self.dentry = parent;
        Some(Component { name, len, is_self })
    }

    /// Goes from the root of a mount to the place it is mounted on.
    #[inline(always)]
    fn cross(&mut self) -> Option<Component> {
        match read::<u32>(self.dentry + offset!(dentry_flags) as u64) {
            None => return self.end(Reason::ReadFailed),
            Some(flags) if flags & DCACHE_OP_HASH != 0 && self.len != 0 => {
                return self.end(Reason::CaseFold);
            }
            Some(_) => {}
        }
        let Some(parent) = read::<u64>(self.mount + offset!(mount_parent) as u64) else {
            return self.end(Reason::ReadFailed);
        };
        if parent == self.mount {
            let namespace = read::<u64>(self.mount + offset!(mount_ns) as u64);
            let at_root = namespace == Some(self.namespace) && self.namespace != 0;
            return self.end(if at_root {
                Reason::Rule
            } else {
                Reason::Detached
            });
        }
        let Some(mountpoint) = read::<u64>(self.mount + offset!(mount_mountpoint) as u64) else {
            return self.end(Reason::ReadFailed);
        };
        let Some(root) = read::<u64>(parent + (offset!(mount_mnt) + offset!(vfsmount_root)) as u64)
        else {
            return self.end(Reason::ReadFailed);
        };
        self.mount = parent;
        self.dentry = mountpoint;
        self.mount_root = root;
        self.proc_self = self.zero.plus32(0);
        None
    }

    /// Whether a dentry is the root of the filesystem that the walk is in.
    #[inline(always)]
    fn below_proc_root(&self, dentry: u64) -> bool {
        read::<u64>(dentry + offset!(dentry_parent) as u64) == Some(dentry)
    }

    /// Whether a name is the task's own process id in decimal.
    #[inline(always)]
    fn is_own_number(&self, name: u64, len: u32) -> bool {
        let Some(digits) = read::<[u8; 8]>(name) else {
            return false;
        };
        let mut number = 0u32;
        // pid_max is at most 2^22: seven digits.
        if len > 7 {
            return false;
        }
        let mut i = 0;
        while i < 7 {
            if i < len as usize {
                let digit = digits[i].wrapping_sub(b'0');
                if digit > 9 {
                    return false;
                }
                number = number * 10 + digit as u32;
            }
            i += 1;
        }
        number == self.proc_self
    }
}

/// Where a judged path ended.
pub struct Judged {
    /// State of the DFA.
    pub state: u32,
    /// Number of [`Reason::Rule`] when the walk came to the root, else of why it did not.
    pub reason: u32,
    /// Bytes of the path, leaf first, one separator a component.
    pub len: u32,
    /// `self` was fed.
    pub fed_self: bool,
}

#[repr(C)]
struct JudgeWalk {
    position: Position,
    table: ArenaTable,
    classes: u32,
    state: u32,
    /// What is left of the name that is being fed.
    name: u64,
    name_left: u32,
}

/// Walks and judges.
#[inline(always)]
pub fn judge(file: Typed, table: ArenaTable, classes: u32, start: u32, zero: Zero) -> Judged {
    let mut walk = JudgeWalk {
        position: Position::start(file, zero),
        table,
        classes,
        state: start,
        name: zero.plus(0),
        name_left: zero.plus32(0),
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            2 * MAX_COMPONENTS,
            judge_component as *mut c_void,
            (&raw mut walk).cast::<c_void>(),
            0,
        );
    }
    Judged {
        state: walk.state,
        reason: ended(&walk.position),
        len: walk.position.len,
        fed_self: walk.position.fed_self != 0,
    }
}

/// The walk's end as the number of a [`Reason`]. One that never ended was too deep.
#[inline(always)]
fn ended(position: &Position) -> u32 {
    if position.status == WALKING {
        position.zero.plus32(Reason::TooDeep as u32)
    } else {
        position.status
    }
}

#[inline(never)]
extern "C" fn judge_component(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `judge`.
    let walk = unsafe { &mut *context.cast::<JudgeWalk>() };
    let mut head = MaybeUninit::<[u64; DENTRY_HEAD / 8]>::uninit();
    // SAFETY: `head` has that size.
    let component = unsafe { walk.position.advance::<true>(head.as_mut_ptr().cast()) };
    let Some(component) = component else {
        return (walk.position.status != WALKING) as u64;
    };
    if component.is_self {
        let mut state = walk.state;
        for byte in *b"self/" {
            state = step(&walk.table, walk.classes, state, byte);
        }
        walk.state = state;
        return 0;
    }
    walk.name = component.name;
    walk.name_left = component.len;
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            (MAX_NAME as u32).div_ceil(CHUNK as u32),
            judge_chunk as *mut c_void,
            context,
            0,
        );
    }
    if walk.name_left != 0 {
        walk.position.status = walk.position.zero.plus32(Reason::ReadFailed as u32);
        return 1;
    }
    walk.state = step(&walk.table, walk.classes, walk.state, b'/');
    0
}

/// Bytes of a name that are read at once.
const CHUNK: usize = 64;

/// Feeds the next bytes of a name, whole words at a time: what lies behind
/// its end is zero, and byte 0 changes no state.
#[inline(never)]
extern "C" fn judge_chunk(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: `judge_component` hands its own context on.
    let walk = unsafe { &mut *context.cast::<JudgeWalk>() };
    let left = walk.name_left;
    let zero_word = walk.position.zero;
    let size = if left > CHUNK as u32 {
        zero_word.plus32(CHUNK as u32)
    } else {
        left
    };
    let size = bounded::<{ 2 * CHUNK as i32 - 1 }>(size as u64) as u32;
    if size > CHUNK as u32 {
        return 1;
    }
    let mut chunk = MaybeUninit::<[u64; CHUNK / 8]>::uninit();
    let words = chunk.as_mut_ptr().cast::<u64>();
    // SAFETY: `chunk` has that many words.
    let failed = unsafe {
        zero::<{ CHUNK / 8 }>(words);
        bpf_probe_read_kernel(words.cast::<c_void>(), size, walk.name as *const c_void)
    };
    if failed != 0 {
        return 1;
    }
    let (table, classes) = (walk.table, walk.classes);
    let mut state = walk.state;
    let mut word = 0;
    while word < CHUNK / 8 && 8 * (word as u32) < size {
        // SAFETY: one of the chunk's words.
        let mut bytes = unsafe { core::ptr::read_volatile(words.add(word)) };
        let mut i = 0;
        while i < 8 {
            state = step(&table, classes, state, bytes as u8);
            bytes >>= 8;
            i += 1;
        }
        word += 1;
    }
    walk.state = state;
    walk.name += CHUNK as u64;
    walk.name_left = left - size;
    (walk.name_left == 0) as u64
}

#[repr(C)]
struct RecordWalk {
    position: Position,
    out: *mut u8,
    written: u32,
}

/// Walks once more and writes the names, leaf first, each followed by `/`,
/// into `out`, which has `ROOM` bytes and `MAX_NAME + 1` of slack behind them.
/// Returns the bytes written and whether the path is whole.
#[inline(always)]
pub fn record<const ROOM: usize>(file: Typed, out: *mut u8, zero: Zero) -> (u32, bool) {
    let mut walk = RecordWalk {
        position: Position::start(file, zero),
        out,
        written: zero.plus32(0),
    };
    let callback = if ROOM > SMALL_PATH {
        record_large
    } else {
        record_small
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            2 * MAX_COMPONENTS,
            callback as *mut c_void,
            (&raw mut walk).cast::<c_void>(),
            0,
        );
    }
    (walk.written, walk.position.status == Reason::Rule as u32)
}

#[inline(never)]
extern "C" fn record_small(_: u64, context: *mut c_void) -> u64 {
    record_component::<SMALL_PATH, { SMALL_PATH as i32 - 1 }>(context)
}

#[inline(never)]
extern "C" fn record_large(_: u64, context: *mut c_void) -> u64 {
    record_component::<MAX_PATH, { MAX_PATH as i32 - 1 }>(context)
}

#[inline(always)]
fn record_component<const ROOM: usize, const MASK: i32>(context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `record`.
    let walk = unsafe { &mut *context.cast::<RecordWalk>() };
    let mut head = MaybeUninit::<[u64; DENTRY_HEAD / 8]>::uninit();
    // SAFETY: `head` has that size.
    let component = unsafe { walk.position.advance::<false>(head.as_mut_ptr().cast()) };
    let Some(component) = component else {
        return (walk.position.status != WALKING) as u64;
    };
    let len = bounded::<{ MAX_NAME as i32 }>(component.len as u64);
    let at = walk.written as u64;
    if at + len >= ROOM as u64 {
        walk.position.status = walk.position.zero.plus32(Reason::TooLong as u32);
        return 1;
    }
    let at = bounded::<MASK>(at);
    // SAFETY: below ROOM, with MAX_NAME + 1 bytes of slack behind it.
    let failed = unsafe {
        bpf_probe_read_kernel(
            walk.out.add(at as usize).cast::<c_void>(),
            len as u32,
            component.name as *const c_void,
        )
    };
    if failed != 0 {
        walk.position.status = walk.position.zero.plus32(Reason::ReadFailed as u32);
        return 1;
    }
    // SAFETY: `at` is below ROOM and `len` at most MAX_NAME: inside the slack.
    unsafe { core::ptr::write_volatile(walk.out.add((at + len) as usize), b'/') };
    walk.written = (at + len) as u32 + 1;
    0
}
