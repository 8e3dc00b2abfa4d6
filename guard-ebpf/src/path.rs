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
use crate::subject::Subject;

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
    /// 0, or the task's process id in decimal when the file is on procfs.
    own_name: u64,
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
        let own_name = if magic == PROC_SUPER_MAGIC {
            zero.plus(own_name())
        } else {
            zero.plus(0)
        };
        Self {
            dentry: dentry.address(),
            mount: vfsmount.address() - offset!(mount_mnt) as u64,
            mount_root,
            namespace,
            own_name,
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
        let is_self = PROC && self.own_name != 0 && self.is_own_name(name, len, parent);
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
        self.own_name = self.zero.plus(0);
        None
    }

    /// Whether a name is the task's own process id, right below the root of procfs.
    #[inline(always)]
    fn is_own_name(&self, name: u64, len: u32, parent: u64) -> bool {
        // pid_max is at most 2^22: seven digits. Without a loop: the verifier
        // would walk every number of digits at every component.
        let unused = (64 - 8 * len) & 63;
        len <= 7
            && read::<u64>(name).is_some_and(|word| (word << unused) >> unused == self.own_name)
            && read::<u64>(parent + offset!(dentry_parent) as u64) == Some(parent)
    }
}

/// The task's process id in decimal, first digit in the lowest byte.
#[inline(never)]
extern "C" fn own_name() -> u64 {
    let mut rest = bpf_get_current_pid_tgid() >> 32;
    let mut word = 0;
    let mut i = 0;
    while i < 7 {
        word = word << 8 | (u64::from(b'0') + rest % 10);
        rest /= 10;
        if rest == 0 {
            break;
        }
        i += 1;
    }
    word
}

/// Where a judged path ended.
#[repr(C)]
pub struct Judged {
    /// State of the DFA.
    pub state: u32,
    /// Number of [`Reason::Rule`] when the walk came to the root, else of why it did not.
    pub reason: u32,
    /// Bytes of the path, leaf first, one separator a component.
    pub len: u32,
    /// 1 when `self` was fed.
    pub fed_self: u32,
}

#[repr(C)]
struct JudgeWalk {
    position: Position,
    table: ArenaTable,
    classes: u32,
    state: u32,
    /// What is left of the name that is being fed.
    name: u64,
    name_left: u64,
}

/// Walks and judges. A function of its own, since the stack of one frame is
/// too small for the walk and the event.
#[inline(never)]
pub extern "C" fn judge(file: *const c_void, subject: *const Subject, out: *mut Judged) -> u64 {
    // SAFETY: both are on the caller's stack.
    let (subject, out) = unsafe { (&*subject, &mut *out) };
    let zero = subject.zero;
    let Some(table) = crate::hooks::table(subject) else {
        return 1;
    };
    let mut walk = JudgeWalk {
        position: Position::start(Typed(file), zero),
        table,
        classes: table.u32(16),
        state: table.u32(20),
        name: zero.plus(0),
        name_left: zero.plus(0),
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_COMPONENTS,
            judge_component as *mut c_void,
            (&raw mut walk).cast::<c_void>(),
            0,
        );
    }
    out.state = walk.state;
    out.reason = ended(&walk.position);
    out.len = walk.position.len;
    out.fed_self = walk.position.fed_self;
    0
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
    walk.name_left = component.len as u64;
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

/// Bytes of a name that are read and fed at once: mostly all.
const CHUNK: usize = 16;

/// Feeds the next bytes of a name, whole words at a time: what lies behind
/// its end is zero, and byte 0 changes no state.
#[inline(never)]
extern "C" fn judge_chunk(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: `judge_component` hands its own context on.
    let walk = unsafe { &mut *context.cast::<JudgeWalk>() };
    let left = walk.name_left;
    let mut chunk = MaybeUninit::<[u64; CHUNK / 8]>::uninit();
    let words = chunk.as_mut_ptr().cast::<u64>();
    // SAFETY: `chunk` has that many words; a size below CHUNK fits.
    let failed = unsafe {
        if left >= CHUNK as u64 {
            bpf_probe_read_kernel(
                words.cast::<c_void>(),
                CHUNK as u32,
                walk.name as *const c_void,
            )
        } else {
            zero::<{ CHUNK / 8 }>(words);
            let size = bounded::<{ CHUNK as i32 - 1 }>(left) as u32;
            bpf_probe_read_kernel(words.cast::<c_void>(), size, walk.name as *const c_void)
        }
    };
    if failed != 0 {
        return 1;
    }
    let (table, classes) = (walk.table, walk.classes);
    let mut state = walk.state;
    let mut word = 0;
    // All of the chunk, without a way out: each would be one more path to verify.
    while word < CHUNK / 8 {
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
    walk.name_left = if left > CHUNK as u64 {
        left - CHUNK as u64
    } else {
        walk.position.zero.plus(0)
    };
    (left <= CHUNK as u64) as u64
}

#[repr(C)]
struct RecordWalk {
    position: Position,
    out: *mut u8,
    written: u32,
}

/// Walks once more and writes the names, leaf first, each followed by `/`,
/// into `out`, which has `ROOM` bytes and `MAX_NAME + 1` of slack behind them.
/// Returns the bytes written, and [`WHOLE`] if that is the whole path.
#[inline(always)]
fn record<const ROOM: usize>(file: *const c_void, out: *mut u8, zero: u64) -> u64 {
    let zero = Zero::again(zero);
    let mut walk = RecordWalk {
        position: Position::start(Typed(file), zero),
        out,
        written: zero.plus32(0),
    };
    let callback = if ROOM > SMALL_PATH {
        record_large_component
    } else {
        record_small_component
    };
    // SAFETY: the callback takes exactly this context.
    unsafe {
        bpf_loop(
            MAX_COMPONENTS,
            callback as *mut c_void,
            (&raw mut walk).cast::<c_void>(),
            0,
        );
    }
    let whole = if walk.position.status == Reason::Rule as u32 {
        WHOLE
    } else {
        0
    };
    walk.written as u64 | whole
}

/// In the result of [`record_small`] and [`record_large`]: nothing is missing.
pub const WHOLE: u64 = 1 << 32;

/// Records a path into a [`guard_common::event::SmallEvent`].
#[inline(never)]
pub extern "C" fn record_small(file: *const c_void, out: *mut u8, zero: u64) -> u64 {
    record::<SMALL_PATH>(file, out, zero)
}

/// Records a path into a [`guard_common::event::LargeEvent`].
#[inline(never)]
pub extern "C" fn record_large(file: *const c_void, out: *mut u8, zero: u64) -> u64 {
    record::<MAX_PATH>(file, out, zero)
}

#[inline(never)]
extern "C" fn record_small_component(_: u64, context: *mut c_void) -> u64 {
    record_component::<SMALL_PATH, { SMALL_PATH as i32 - 1 }>(context)
}

#[inline(never)]
extern "C" fn record_large_component(_: u64, context: *mut c_void) -> u64 {
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
