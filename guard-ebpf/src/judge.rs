//! From a place in the file system to a verdict.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use guard_common::event::{EVENT_PATH_PARTIAL, EVENT_PROC_SELF, Reason};
use guard_common::limits::{MAX_STEPS, MAX_TRIES};
use guard_common::matcher::{Table, Verdict, decide, masks_of};
use guard_common::sandbox::{HardLink, SANDBOX_LINKS, SANDBOX_LOG_ALLOWS};
use guard_common::table::{AccessMasks, FileAccess};

use crate::dfa::{ArenaTable, Feeder};
use crate::directories::UNKNOWN;
use crate::emit::{self, Access, conclude};
use crate::fast::{attempt_fast, attempt_known};
use crate::kernel::{Object, bounded, cast, fact, load};
use crate::maps::HARD_LINKS;
use crate::subject::Subject;
use crate::walk::{self, NOWHERE, WALKING, Walk, mount_of, process_on};

/// What a hook knows of the place. Both may be null: then it has no path.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// `struct dentry`.
    pub dentry: Object,
    /// `struct vfsmount`.
    pub vfsmount: Object,
    /// `struct super_block`.
    pub sb: Object,
    /// `s_magic` of its filesystem.
    pub magic: u64,
}

impl Place {
    /// A place, with what is asked of it first.
    #[inline(always)]
    pub fn of(dentry: Object, vfsmount: Object) -> Self {
        let sb = load!(dentry, dentry_sb);
        let magic = load!(sb, sb_magic as u64);
        Self {
            dentry,
            vfsmount,
            sb,
            magic,
        }
    }

    /// Where an open file is. By its path, not by its inode: overlayfs opens
    /// the files below it with its own path and their inodes.
    #[inline(always)]
    pub fn of_file(file: Object) -> Self {
        Self::of(load!(file, file_dentry), load!(file, file_mnt))
    }
}

/// Filesystems that are the kernel's own controls: cgroup v1 and v2, bpffs,
/// tracefs, debugfs, securityfs, configfs, efivarfs (include/uapi/linux/magic.h).
const CONTROL_MAGICS: [u64; 8] = [
    0x0027_e0eb,
    0x6367_7270,
    0xcafe_4a11,
    0x7472_6163,
    0x6462_6720,
    0x7363_6673,
    0x6265_6570,
    0xde5e_81e4,
];

/// Judges a place for all kinds of access in `access.bits` and reports it.
/// True: refuse.
#[inline(always)]
pub fn judge_place(subject: &Subject, place: Place, access: &mut Access) -> bool {
    judge(&place, subject, access);
    conclude(subject, access)
}

/// What is being judged.
#[repr(C)]
struct Trial {
    place: *const Place,
    subject: *const Subject,
    access: *mut Access,
}

/// Walks and judges; what it finds is in `access`, which stays a denial by an
/// error in guard where it could not begin.
#[inline(always)]
pub fn judge(place: &Place, subject: &Subject, access: &mut Access) {
    record(subject, access);
    let came_to = attempt_first(place, subject, access);
    settled(place, subject, access, came_to);
}

/// As [`judge_place`], for operations that are many: looks first whether the
/// directory is known.
#[inline(always)]
pub fn judge_often(subject: &Subject, place: Place, access: &mut Access) -> bool {
    record(subject, access);
    let mut came_to = attempt_known(&place, subject, access);
    if came_to == ALLOWED {
        access.verdict = Verdict::Allow as u8;
        return conclude(subject, access);
    }
    if came_to == UNKNOWN {
        came_to = attempt_first(&place, subject, access);
    }
    settled(&place, subject, access, came_to);
    conclude(subject, access)
}

/// All that will be reported is recorded at once.
#[inline(always)]
fn record(subject: &Subject, access: &mut Access) {
    if subject.flags & SANDBOX_LOG_ALLOWS != 0 && access.scratch == NOWHERE {
        access.scratch = emit::acquire_scratch();
    }
}

#[inline(always)]
fn attempt_first(place: &Place, subject: &Subject, access: &mut Access) -> u64 {
    if fact!(RenameLock) != 0 {
        attempt_fast(place, subject, access)
    } else {
        carefully(place, subject, access)
    }
}

/// Settles what an attempt came to, and makes further ones where it must.
#[inline(always)]
fn settled(place: &Place, subject: &Subject, access: &mut Access, came_to: u64) {
    let mut trial = Trial {
        place,
        subject,
        access,
    };
    if conclude_trial(&trial, came_to) == 0 {
        // SAFETY: the callback takes exactly this context.
        unsafe {
            bpf_loop(
                MAX_TRIES,
                again as *mut c_void,
                (&raw mut trial).cast::<c_void>(),
                0,
            );
        }
    }
}

/// Once more, carefully.
#[inline(never)]
extern "C" fn again(_: u64, context: *mut c_void) -> u64 {
    // SAFETY: bpf_loop hands back the context of `judge`.
    let trial = unsafe { &*context.cast::<Trial>() };
    let came_to = carefully(trial.place, trial.subject, trial.access);
    conclude_trial(trial, came_to)
}

#[inline(always)]
fn carefully(place: *const Place, subject: *const Subject, access: *mut Access) -> u64 {
    if fact!(MountType) != 0 {
        attempt_direct(place, subject, access)
    } else {
        attempt_copying(place, subject, access)
    }
}

/// Settles what a walk came to. 1: all is done.
#[inline(always)]
fn conclude_trial(trial: &Trial, came_to: u64) -> u64 {
    if came_to == RACED {
        return 0;
    }
    // SAFETY: on the stack of the caller of `judge`.
    let access = unsafe { &mut *trial.access };
    if came_to <= u32::MAX as u64 {
        // SAFETY: as above.
        let subject = unsafe { &*trial.subject };
        let ended = came_to << 8 | access.bits as u64;
        if is_plain(subject, access) && allowed_at(subject.base as u64, ended, subject.active) != 0
        {
            access.verdict = Verdict::Allow as u8;
            return 1;
        }
        settle(subject, access, came_to);
    }
    if access.verdict == Verdict::Allow as u8 || access.scratch != NOWHERE {
        return 1;
    }
    // Denied, and the path was not recorded: once more.
    access.scratch = emit::acquire_scratch();
    (access.scratch == NOWHERE) as u64
}

/// It is denied without asking the rules: `access.reason` says why.
pub const DECIDED: u64 = 1 << 32;
/// Names changed meanwhile.
pub const RACED: u64 = 1 << 33;
/// The rules allow it, and what is to be reported is in the access.
pub const ALLOWED: u64 = 1 << 34;

/// Walks once with typed pointers. Returns the DFA's state for the whole
/// path, if the walk saw one moment.
///
/// The verifier checks this function by itself, once, knowing nothing of what
/// the pointers lead to: it multiplies with nothing that a hook does.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn attempt_direct(
    place: *const Place,
    subject: *const Subject,
    access: *mut Access,
) -> u64 {
    if fact!(MountType) == 0 || place.is_null() || subject.is_null() || access.is_null() {
        return DECIDED;
    }
    // SAFETY: all are on the caller's stack.
    unsafe { attempt::<true>(&*place, &*subject, &mut *access) }
}

/// As [`attempt_direct`], for kernels that give addresses no type.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn attempt_copying(
    place: *const Place,
    subject: *const Subject,
    access: *mut Access,
) -> u64 {
    if fact!(MountType) != 0 || place.is_null() || subject.is_null() || access.is_null() {
        return DECIDED;
    }
    // SAFETY: as above.
    unsafe { attempt::<false>(&*place, &*subject, &mut *access) }
}

#[inline(always)]
fn attempt<const DIRECT: bool>(place: &Place, subject: &Subject, access: &mut Access) -> u64 {
    let zero = subject.zero;
    let (dentry, mount) = (place.dentry, place.vfsmount);
    if dentry.is_null() || mount.is_null() {
        return DECIDED;
    }
    let Some(feeder) = Feeder::of(subject) else {
        return DECIDED;
    };
    let dentry = if DIRECT {
        cast(dentry as u64, fact!(DentryType))
    } else {
        dentry
    };
    let magic = place.magic;
    if access.bits & FileAccess::Write.bit() != 0 && is_control(magic) {
        access.forced = Reason::CgroupFilesystem as u8;
    }
    let mut walk = Walk::new::<DIRECT>(zero, dentry, mount_of::<DIRECT>(mount), feeder);
    walk.scratch = access.scratch;
    walk.process = process_on(zero, magic);
    run(&mut walk, walk::step::<DIRECT, true> as *mut c_void);
    let status = zero.plus32(walk.status);
    let came_to = finish(&walk, access, status);
    if zero.plus32(status) != Reason::Rule as u32 {
        return came_to;
    }
    let (sum, odd) = (walk.sum, walk.odd);
    walk.restart::<DIRECT>(dentry, mount_of::<DIRECT>(mount));
    run(&mut walk, walk::check::<DIRECT> as *mut c_void);
    if walk.sum != sum || odd & 1 != 0 || zero.plus32(walk.status) != Reason::Rule as u32 {
        access.reason = Reason::Raced as u8;
        return RACED;
    }
    came_to
}

/// What a walk has come to.
#[inline(always)]
pub fn finish(walk: &Walk, access: &mut Access, status: u32) -> u64 {
    let partial = (status != Reason::Rule as u32) as u32;
    access.payload_len = walk.len;
    access.flags = (walk.fed_self * EVENT_PROC_SELF | partial * EVENT_PATH_PARTIAL) as u16;
    access.reason = if status == WALKING {
        Reason::TooDeep as u8
    } else {
        status as u8
    };
    if partial != 0 {
        return DECIDED;
    }
    if access.forced != 0 {
        access.reason = access.forced;
        return DECIDED;
    }
    walk.state as u64
}

#[inline(always)]
pub fn run(walk: &mut Walk, step: *mut c_void) {
    // SAFETY: the callbacks take exactly this context.
    unsafe { bpf_loop(MAX_STEPS, step, (&raw mut *walk).cast::<c_void>(), 0) };
}

/// Whether writing there is more than writing a file.
#[inline(always)]
pub fn is_control(magic: u64) -> bool {
    let mut i = 0;
    while i < CONTROL_MAGICS.len() {
        if magic == CONTROL_MAGICS[i] {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether nothing but the verdict matters if it is to allow: one kind of
/// access is asked for, and nothing is reported.
#[inline(always)]
fn is_plain(subject: &Subject, access: &Access) -> bool {
    subject.flags & SANDBOX_LOG_ALLOWS == 0 && is_single(access)
}

/// Whether one kind of access is asked for, and the rules alone decide.
#[inline(always)]
pub fn is_single(access: &Access) -> bool {
    access.bits & access.bits.wrapping_sub(1) == 0
        && access.want_verdicts | access.denied_link | access.floor == 0
}

/// What the rules say of one kind of access in the state that a whole path
/// ended in, and whether that allows it.
#[inline(always)]
pub fn allows(base: u32, bit: u8, state: u64, active: u64) -> (AccessMasks, bool) {
    let table = ArenaTable::at_base(base);
    // 1, 2 and 4 are numbers 0, 1 and 2.
    let kind = bounded::<3>(bit as u64 >> 1) as u32;
    let masks = masks_of(&table, table.u32(28), bounded::<0xffff>(state) as u32, kind);
    // As `decide`, which has no other way to say so. Other kinds of access are
    // not for this shorter way, and never allowed by it.
    let allowed = bit & 0b111 != 0
        && active != 0
        && (masks.deny | masks.approve) & active == 0
        && masks.allow & active == active;
    (masks, allowed)
}

/// As [`allows`], with the state and the bit in one number. Checked by the
/// verifier by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn allowed_at(base: u64, ended: u64, active: u64) -> u64 {
    allows(base as u32, ended as u8, ended >> 8, active).1 as u64
}

/// Takes the verdict from the state that a whole path ended in: the strictest
/// over the kinds of access that are asked for. Asking for nothing is denied.
/// Checked by the verifier by itself, as [`attempt_direct`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle(subject: *const Subject, access: *mut Access, state: u64) -> u64 {
    if subject.is_null() || access.is_null() {
        return 0;
    }
    // SAFETY: both are on the stack of a caller.
    let (subject, access) = unsafe { (&*subject, &mut *access) };
    let zero = subject.zero;
    let table = ArenaTable::of(subject);
    let outputs = table.u32(28);
    let bits = access.bits;
    let every = access.want_verdicts;
    let mut verdicts = zero.plus8(0);
    let mut gains = zero.plus8(0);
    let mut worst = zero.plus8(Verdict::Allow as u8);
    let mut kind = 0;
    while kind < FileAccess::COUNT as u32 {
        let bit = 1 << kind;
        if bits & bit != 0 || every != 0 {
            let masks = masks_of(&table, outputs, state as u32, kind);
            let verdict = zero.plus8(decide(masks, subject.active) as u8);
            verdicts = zero.plus8(verdicts | verdict << (2 * kind));
            // What is moved or linked there is judged so strictly where it is now.
            gains = zero.plus8(gains | (verdict < access.floor >> (2 * kind) & 3) as u8);
            // Without a stricter one, the masks of an allowed kind stand for the event.
            if bits & bit != 0 && zero.plus8(worst) <= zero.plus8(verdict) {
                access.masks = masks;
                worst = zero.plus8(verdict);
            }
        }
        kind += 1;
    }
    let mut reason = zero.plus8(Reason::Rule as u8);
    if bits == 0 {
        worst = zero.plus8(Verdict::Deny as u8);
    }
    if zero.plus8(worst) == Verdict::Approve as u8 {
        reason = zero.plus8(Reason::ApprovalUnavailable as u8);
    }
    if zero.plus8(worst) == Verdict::Allow as u8 {
        if zero.plus8(gains) != 0 {
            worst = zero.plus8(Verdict::Deny as u8);
            reason = zero.plus8(Reason::MoreRights as u8);
        } else if access.denied_link & bits != 0 {
            worst = zero.plus8(Verdict::Deny as u8);
            reason = zero.plus8(Reason::HardLink as u8);
        }
    }
    access.verdicts = verdicts;
    access.verdict = worst;
    access.reason = reason;
    0
}

/// Whether a dentry has lost its name, or never had one.
#[inline(always)]
pub fn is_nameless(dentry: Object) -> bool {
    load!(dentry, dentry_hashed as u64) == 0
}

/// What deny rules of the sandbox that name this file, by this or another
/// name, deny: access bits. Only files that have another name are looked up:
/// several links, or a mount that starts below the root of its filesystem.
#[inline(always)]
pub fn denied_by_links(subject: &Subject, place: &Place) -> u8 {
    if subject.flags & SANDBOX_LINKS == 0 {
        return 0;
    }
    let root = load!(place.sb, sb_root as u64);
    let elsewhere = load!(place.vfsmount, vfsmount_root as u64) != root;
    denied_by_inode(subject, place, elsewhere)
}

/// As [`denied_by_links`], where the mount is not known. A file with a single
/// link is looked up only with `always`.
#[inline(always)]
pub fn denied_by_inode(subject: &Subject, place: &Place, always: bool) -> u8 {
    let inode = load!(place.dentry, dentry_inode);
    if subject.flags & SANDBOX_LINKS == 0 || inode.is_null() {
        return 0;
    }
    if !always && load!(inode, inode_links as u32) < 2 {
        return 0;
    }
    let key = HardLink {
        slot: subject.slot,
        device: load!(place.sb, sb_dev as u32),
        inode: load!(inode, inode_number as u64),
    };
    // SAFETY: the entry is copied at once.
    unsafe { HARD_LINKS.get(&key) }.map_or(0, |bits| *bits as u8)
}
