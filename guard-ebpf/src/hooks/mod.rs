//! The hooks. Each is thin: pass on an earlier denial, find the subject,
//! judge, report.

mod address;
mod exec;
mod file;
mod socket;

use guard_common::event::Reason;
use guard_common::matcher::{Table, Verdict, decide, masks_at};
use guard_common::table::{AccessMasks, FileAccess};

use crate::emit::{Access, Path, conclude};
use crate::kernel::Typed;
use crate::maps::ARENA;
use crate::path::{ArenaTable, Judged, judge};
use crate::subject::Subject;

/// `-EACCES`.
pub const REFUSED: i32 = -13;

/// The subject's table.
#[inline(always)]
pub fn table(subject: &Subject) -> Option<ArenaTable> {
    let region = ARENA.get_ptr(subject.entry.region)?;
    Some(ArenaTable {
        region: region.cast(),
        base: subject.entry.base,
    })
}

/// Judges one file for all kinds of access in `bits` and reports it. True: refuse.
/// `silent_allow` is not 0 when only a denial is to be reported.
#[inline(always)]
pub fn judge_file(subject: &Subject, file: Typed, access: &mut Access, silent_allow: u32) -> bool {
    let zero = subject.zero;
    let mut judged = Judged {
        state: zero.plus32(0),
        reason: zero.plus32(Reason::Internal as u32),
        len: zero.plus32(0),
        fed_self: zero.plus32(0),
    };
    let failed = judge(file.0, subject, &raw mut judged);
    access.fed_self = judged.fed_self;
    access.reason = judged.reason;
    if failed == 0 && judged.reason == Reason::Rule as u32 {
        settle(subject, access, judged.state);
    }
    if silent_allow != 0 && access.verdict == Verdict::Allow as u32 {
        return false;
    }
    conclude(
        subject,
        access,
        &Path {
            file,
            len: judged.len,
        },
    )
}

/// Takes the verdict from the state that a whole path ended in. A function of
/// its own: see [`judge`].
#[inline(never)]
extern "C" fn settle(subject: *const Subject, access: *mut Access, state: u32) -> u64 {
    // SAFETY: both are on the caller's stack.
    let (subject, access) = unsafe { (&*subject, &mut *access) };
    let zero = subject.zero;
    let Some(table) = table(subject) else {
        return 1;
    };
    let (verdict, masks) = strictest(&table, state, access.bits, subject.active);
    access.verdict = zero.plus32(verdict as u32);
    access.masks = masks;
    if verdict == Verdict::Approve {
        access.reason = zero.plus32(Reason::ApprovalUnavailable as u32);
    }
    0
}

/// The strictest verdict over the kinds of access that are asked for, and the
/// masks that led to it. Asking for nothing is asking to read.
#[inline(always)]
fn strictest(table: &ArenaTable, state: u32, bits: u32, active: u64) -> (Verdict, AccessMasks) {
    let mut worst = Verdict::Allow;
    let mut deciding = AccessMasks::default();
    let mut any = false;
    for access in FileAccess::ALL {
        if bits & access.bit() as u32 == 0 {
            continue;
        }
        let masks = masks_at(table, table.u32(24), table.u32(28), state, access);
        let verdict = decide(masks, active);
        if !any || verdict as u8 > worst as u8 {
            worst = verdict;
            deciding = masks;
        }
        any = true;
    }
    if any {
        (worst, deciding)
    } else {
        (Verdict::Deny, deciding)
    }
}
