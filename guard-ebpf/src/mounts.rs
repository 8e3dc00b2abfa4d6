//! Which mount leads to an inode, for hooks that are not told.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::bpf_loop;

use crate::kernel::{Object, Zero, copy, current, fact, load, offset, read};
use crate::subject::Subject;

/// Mounts of one filesystem that are looked at, those of other namespaces
/// included: each service of a host may have copies of all.
const MAX_MOUNTS: u32 = 1024;
/// Directories above a file that are looked at.
const MAX_DEPTH: u32 = 512;

#[repr(C)]
struct Search {
    dentry: u64,
    namespace: u64,
    /// The list's head, or 0 where mounts are chained.
    head: u64,
    /// The next link, or the next mount where they are chained.
    next: u64,
    /// The mount that is looked at, and its root.
    mount: u64,
    root: u64,
    at: u64,
    found: u64,
}

/// A `struct vfsmount` of the task's namespace through which it reaches a
/// dentry; null when there is none.
///
/// If there are several, the first: the task could go that way too, so what
/// the rules say of that path holds.
#[inline(always)]
pub fn find_mount(subject: &Subject, dentry: Object) -> Object {
    let mut out = MaybeUninit::<u64>::uninit();
    search(dentry, subject.zero.plus(0), out.as_mut_ptr());
    // SAFETY: `search` has written it.
    let found = unsafe { out.assume_init() };
    if found == 0 {
        return core::ptr::null();
    }
    (found + offset!(mount_mnt)) as Object
}

#[inline(never)]
extern "C" fn search(dentry: Object, zero: u64, out: *mut u64) -> u64 {
    let zero = Zero::again(zero);
    let sb = load!(dentry, dentry_sb) as u64;
    let first = sb + offset!(sb_mounts);
    let chained = fact!(MountsChained) != 0;
    let namespace = load!(load!(current(), task_nsproxy), nsproxy_mnt_ns as u64);
    let mut search = Search {
        dentry: dentry as u64,
        namespace,
        head: if chained { zero.plus(0) } else { first },
        next: read::<u64>(first).unwrap_or(0),
        mount: zero.plus(0),
        root: zero.plus(0),
        at: zero.plus(0),
        found: zero.plus(0),
    };
    // SAFETY: the callback takes exactly this context; `out` is the caller's.
    unsafe {
        bpf_loop(
            MAX_MOUNTS,
            next_mount as *mut c_void,
            (&raw mut search).cast::<c_void>(),
            0,
        );
        out.write(search.found);
    }
    0
}

/// Looks at one mount. 1: it is the one, or there are no more.
#[inline(never)]
extern "C" fn next_mount(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `search`.
    let search = unsafe { &mut *context.cast::<Search>() };
    let link = search.next;
    if link == search.head || link == 0 {
        return 1;
    }
    let mount = if fact!(MountsChained) != 0 {
        link
    } else {
        link - offset!(mount_instance)
    };
    let (Some(next), Some(namespace), Some(root)) = (
        copy!(mount, mount_instance as u64),
        copy!(mount, mount_ns as u64),
        copy!(mount, mount_root as u64),
    ) else {
        return 1;
    };
    search.next = next;
    if namespace != search.namespace {
        return 0;
    }
    search.mount = mount;
    search.root = root;
    search.at = search.dentry;
    // SAFETY: the callback takes exactly this context.
    unsafe { bpf_loop(MAX_DEPTH, is_below as *mut c_void, context, 0) };
    (search.found != 0) as u64
}

/// Goes up one directory. 1: the mount's root was found, or there is none above.
#[inline(never)]
extern "C" fn is_below(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: `next_mount` hands its own context on.
    let search = unsafe { &mut *context.cast::<Search>() };
    if search.at == search.root {
        search.found = search.mount;
        return 1;
    }
    let Some(parent) = copy!(search.at, dentry_parent as u64) else {
        return 1;
    };
    if parent == search.at {
        return 1;
    }
    search.at = parent;
    0
}
