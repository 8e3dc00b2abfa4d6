//! The fast walk: where the kernel's locks for names and mounts say that
//! nothing has changed, anywhere, during it. Then no second pass is needed, and
//! what was found of a directory before holds.

use core::ffi::c_void;

use guard_common::event::Reason;
use guard_common::limits::MAX_PATH;
use guard_common::sandbox::Directory;
use guard_common::table::FileAccess;

use crate::dfa::{Feeder, word_of};
use crate::directories::{self, Key, UNKNOWN};
use crate::emit::Access;
use crate::judge::{ALLOWED, DECIDED, Place, RACED, allows, finish, is_control, is_single, run};
use crate::kernel::{bounded, cast, fact, inline_word, load, offset, store64};
use crate::maps::SCRATCH;
use crate::subject::Subject;
use crate::walk::{self, NOWHERE, WALKING, Walk, mount_of, process_on};

/// Words of the longest name that [`known`] takes.
const WORDS: u32 = 4;
/// Steps of a leaf's name that is followed by a look at its directory.
const LEAF_STEPS: u32 = 3;

/// As [`crate::judge::attempt_direct`], for the first attempt. The next one is
/// a careful one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn attempt_fast(
    place: *const Place,
    subject: *const Subject,
    access: *mut Access,
) -> u64 {
    if fact!(RenameLock) == 0 || place.is_null() || subject.is_null() || access.is_null() {
        return DECIDED;
    }
    // SAFETY: all are on the stack of a caller.
    unsafe { walked(&*place, &*subject, &mut *access) }
}

/// An attempt before that one, for the operations that are many: it walks
/// nowhere, but knows or does not know the directory. May come to [`ALLOWED`],
/// and to [`UNKNOWN`]. A function of its own, which only few programs have to
/// have verified.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn attempt_known(
    place: *const Place,
    subject: *const Subject,
    access: *mut Access,
) -> u64 {
    if fact!(RenameLock) == 0 || place.is_null() || subject.is_null() || access.is_null() {
        return UNKNOWN;
    }
    // SAFETY: all are on the stack of a caller.
    let (place, subject, access) = unsafe { (&*place, &*subject, &mut *access) };
    if place.dentry.is_null()
        || place.vfsmount.is_null()
        || access.forced != 0
        || !directories::is_local(place.magic)
    {
        return UNKNOWN;
    }
    let Some(feeder) = Feeder::of(subject) else {
        return UNKNOWN;
    };
    let stamp = directories::stamp();
    if !directories::is_quiet(stamp) {
        return UNKNOWN;
    }
    let state = if access.scratch == NOWHERE {
        known(place, subject, &feeder, stamp, core::ptr::null_mut())
    } else {
        known_and_recorded(place, subject, access, &feeder, stamp)
    };
    if state == UNKNOWN || directories::stamp() != stamp {
        return UNKNOWN;
    }
    if !is_single(access) {
        return state;
    }
    let (masks, allowed) = allows(subject.base, access.bits, state, subject.active);
    if !allowed {
        return state;
    }
    if access.scratch != NOWHERE {
        access.masks = masks;
        access.reason = Reason::Rule as u8;
    }
    ALLOWED
}

/// As [`known`], with the path in the access's scratch record.
#[inline(always)]
fn known_and_recorded(
    place: &Place,
    subject: &Subject,
    access: &mut Access,
    feeder: &Feeder,
    stamp: u64,
) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(access.scratch) else {
        return UNKNOWN;
    };
    // SAFETY: a live map value, which is this program's.
    let payload = unsafe { (&raw mut (*scratch).payload).cast::<u8>() };
    let found = known(place, subject, feeder, stamp, payload);
    if found == UNKNOWN {
        return UNKNOWN;
    }
    access.payload_len = (found >> 16) as u32;
    access.flags = 0;
    found & 0xffff
}

/// The state for the whole path, if its directory is known and its last name
/// is a short one. It is fed as [`walk::step`] does it. With a payload to
/// record the path in, its bytes are above the state.
#[inline(always)]
fn known(place: &Place, subject: &Subject, feeder: &Feeder, stamp: u64, payload: *mut u8) -> u64 {
    let records = !payload.is_null();
    let dentry = cast(place.dentry as u64, fact!(DentryType));
    let mount = mount_of::<true>(place.vfsmount);
    let len = load!(dentry, dentry_name_len as u32);
    let name = load!(dentry, dentry_name as u64);
    if name != dentry as u64 + offset!(dentry_inline)
        || len.wrapping_sub(1) >= 8 * WORDS
        || walk::is_root(dentry, mount)
    {
        return UNKNOWN;
    }
    let zero = subject.zero;
    let mut state = feeder.start();
    macro_rules! feed {
        ($word:literal) => {
            if len > 8 * $word {
                let left = (len - 8 * $word) as u64;
                let bytes = word_of(inline_word::<$word>(dentry), left);
                state = zero.plus(feeder.word(state, bytes));
                if records {
                    // SAFETY: the payload is longer than any name that comes here.
                    unsafe { store64(payload.add(8 * $word), bytes) };
                }
            }
        };
    }
    feed!(0);
    feed!(1);
    feed!(2);
    feed!(3);
    let state = feeder.slash(state);
    let parent = load!(dentry, dentry_parent);
    if parent == dentry {
        return UNKNOWN;
    }
    let key = Key::of(subject, parent, mount, feeder.table, state, stamp);
    let before = len as u64 + 1;
    let found = if records {
        let end = bounded::<0x3f>(len as u64);
        // SAFETY: as above.
        unsafe { store64(payload.add(end as usize), b'/' as u64) };
        key.look_and_record(subject.slot, payload, before)
    } else {
        key.look(subject.slot)
    };
    let whole = (found >> 16) + before;
    if found == UNKNOWN || whole > MAX_PATH as u64 {
        return UNKNOWN;
    }
    if records {
        whole << 16 | found & 0xffff
    } else {
        found & 0xffff
    }
}

/// Walks the whole path, and remembers its directory.
#[inline(always)]
fn walked(place: &Place, subject: &Subject, access: &mut Access) -> u64 {
    let zero = subject.zero;
    if place.dentry.is_null() || place.vfsmount.is_null() {
        return DECIDED;
    }
    let Some(feeder) = Feeder::of(subject) else {
        return DECIDED;
    };
    let stamp = directories::stamp();
    if !directories::is_quiet(stamp) {
        access.reason = Reason::Raced as u8;
        return RACED;
    }
    if access.bits & FileAccess::Write.bit() != 0 && is_control(place.magic) {
        access.forced = Reason::CgroupFilesystem as u8;
    }
    let dentry = cast(place.dentry as u64, fact!(DentryType));
    let mount = mount_of::<true>(place.vfsmount);
    let mut walk = Walk::new::<true>(zero, dentry, mount, feeder);
    walk.scratch = access.scratch;
    walk.process = process_on(zero, place.magic);
    let mut entry = core::ptr::null_mut::<Directory>();
    if directories::is_local(place.magic) {
        let mut steps = 0;
        let mut ended = zero.plus(0);
        while steps < LEAF_STEPS {
            ended = zero.plus(walk::step::<true, false>(
                0,
                (&raw mut walk).cast::<c_void>(),
            ));
            if zero.plus(ended) != 0 || zero.plus32(walk.left) == 0 {
                break;
            }
            steps += 1;
        }
        if zero.plus(ended) == 0 && zero.plus32(walk.left) == 0 && walk.mount == mount {
            entry = directories::find(subject, &raw mut walk, stamp);
        }
    }
    if zero.plus32(walk.status) == WALKING {
        run(&mut walk, walk::step::<true, false> as *mut c_void);
    }
    let status = zero.plus32(walk.status);
    let proven = directories::stamp() == stamp;
    if !entry.is_null() {
        if proven && zero.plus32(status) == Reason::Rule as u32 {
            directories::remember(entry, &walk);
        } else {
            directories::forget(entry);
        }
    }
    if !proven {
        access.reason = Reason::Raced as u8;
        return RACED;
    }
    finish(&walk, access, status)
}
