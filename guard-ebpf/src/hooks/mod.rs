//! The hooks. Each is thin: pass on an earlier denial, find the subject,
//! judge, report.

mod address;
mod exec;
mod file;
mod socket;

use guard_common::event::{Kind, Op, Reason};
use guard_common::matcher::{Verdict, decide, masks_at};
use guard_common::table::{AccessMasks, FileAccess};

use crate::emit::{Access, Payload, conclude};
use crate::kernel::Typed;
use crate::maps::ARENA;
use crate::path::{ArenaTable, judge};
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
#[inline(always)]
pub fn judge_file(
    subject: &Subject,
    file: Typed,
    kind: Kind,
    op: Op,
    bits: u8,
    silent_allow: bool,
) -> bool {
    let zero = subject.zero;
    let mut access = Access {
        kind,
        op,
        bits,
        verdict: zero.plus32(Verdict::Deny as u32),
        reason: zero.plus32(Reason::Internal as u32),
        masks: AccessMasks::default(),
        fed_self: false,
    };
    let mut len = zero.plus32(0);
    if let Some(table) = table(subject) {
        let head = Head::read(&table);
        let judged = judge(file, table, head.classes, head.start, zero);
        len = judged.len;
        access.fed_self = judged.fed_self;
        access.reason = judged.reason;
        if judged.reason == Reason::Rule as u32 {
            let (verdict, masks) = strictest(&table, &head, judged.state, bits, subject.active);
            access.verdict = zero.plus32(verdict as u32);
            access.masks = masks;
            if verdict == Verdict::Approve {
                access.reason = zero.plus32(Reason::ApprovalUnavailable as u32);
            }
        }
    }
    if silent_allow && access.verdict == Verdict::Allow as u32 {
        return false;
    }
    conclude(subject, &access, &Payload::File(file, len))
}

/// What the walk needs of a table's header.
pub struct Head {
    /// Columns of the transition table.
    pub classes: u32,
    /// First state.
    pub start: u32,
    state_output: u32,
    outputs: u32,
}

impl Head {
    #[inline(always)]
    fn read(table: &ArenaTable) -> Self {
        use guard_common::matcher::Table;
        Self {
            classes: table.u32(16),
            start: table.u32(20),
            state_output: table.u32(24),
            outputs: table.u32(28),
        }
    }
}

/// The strictest verdict over the kinds of access that are asked for, and the
/// masks that led to it. Asking for nothing is asking to read.
#[inline(always)]
fn strictest(
    table: &ArenaTable,
    head: &Head,
    state: u32,
    bits: u8,
    active: u64,
) -> (Verdict, AccessMasks) {
    let mut worst = Verdict::Allow;
    let mut deciding = AccessMasks::default();
    let mut any = false;
    let mut judge_one = |access: FileAccess| {
        let masks = masks_at(table, head.state_output, head.outputs, state, access);
        let verdict = decide(masks, active);
        if !any || verdict as u8 > worst as u8 {
            worst = verdict;
            deciding = masks;
        }
        any = true;
    };
    if bits & FileAccess::Read.bit() != 0 {
        judge_one(FileAccess::Read);
    }
    if bits & FileAccess::Write.bit() != 0 {
        judge_one(FileAccess::Write);
    }
    if bits & FileAccess::Exec.bit() != 0 {
        judge_one(FileAccess::Exec);
    }
    if any {
        (worst, deciding)
    } else {
        (Verdict::Deny, deciding)
    }
}
