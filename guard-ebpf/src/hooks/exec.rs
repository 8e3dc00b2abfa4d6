//! Executing programs and mapping code.

use guard_common::event::{Kind, Op, Reason};
use guard_common::table::FileAccess;

use super::hook;
use crate::emit::Access;
use crate::judge::{Place, denied_by_links, is_nameless, judge_often};
use crate::kernel::{Object, load};
use crate::subject::Subject;

/// `PROT_EXEC` (include/uapi/asm-generic/mman-common.h).
const PROT_EXEC: u64 = 4;

hook! {
    /// `int security_bprm_check(struct linux_binprm *bprm)`: called for a
    /// script and again for its interpreter.
    bprm_check_security = "bprm_check_security"(1)
    |ctx, subject| code(subject, load!(ctx.arg(0), binprm_file), Op::Exec)
}

hook! {
    /// `int security_mmap_file(struct file *file, unsigned long reqprot,
    /// unsigned long prot, unsigned long flags)`: code that the dynamic
    /// loader, or anybody, maps. Anonymous memory has no file. `prot` is what
    /// the kernel will give, READ_IMPLIES_EXEC included.
    mmap_file = "mmap_file"(4) |ctx, subject|
    @if (ctx.arg::<u64>(1) | ctx.arg::<u64>(2)) & PROT_EXEC != 0
        && !ctx.arg::<Object>(0).is_null() =>
        mapped(subject, ctx.arg(0))
}

hook! {
    /// `int security_file_mprotect(struct vm_area_struct *vma, unsigned long
    /// reqprot, unsigned long prot)`.
    file_mprotect = "file_mprotect"(3) |ctx, subject|
    @if (ctx.arg::<u64>(1) | ctx.arg::<u64>(2)) & PROT_EXEC != 0 =>
        protected(subject, ctx.arg(0))
}

#[inline(always)]
fn mapped(subject: &Subject, file: Object) -> bool {
    // Asked again here, where the verifier can connect it with the loads.
    if file.is_null() {
        return false;
    }
    code(subject, file, Op::MapExec)
}

#[inline(always)]
fn protected(subject: &Subject, area: Object) -> bool {
    let file = load!(area, vma_file);
    if file.is_null() {
        return false;
    }
    code(subject, file, Op::ProtectExec)
}

#[inline(always)]
fn code(subject: &Subject, file: Object, op: Op) -> bool {
    let mut access = Access::unjudged(Kind::Exec, op, FileAccess::Exec.bit());
    if file.is_null() {
        access.forced = Reason::NoFile as u8;
    }
    let place = Place::of_file(file);
    if is_nameless(place.dentry) {
        // memfd, or unlinked: nobody can look at it afterwards.
        access.forced = Reason::NoFile as u8;
    }
    access.denied_link = denied_by_links(subject, &place);
    judge_often(subject, place, &mut access)
}
