//! Executing programs and mapping code.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use guard_common::event::{Kind, Op};
use guard_common::table::FileAccess;

use super::{REFUSED, judge_file};
use crate::emit::Access;
use crate::kernel::{Typed, offset};
use crate::subject::{Who, who};

/// `PROT_EXEC` (include/uapi/asm-generic/mman-common.h).
const PROT_EXEC: u64 = 4;

/// `int security_bprm_check(struct linux_binprm *bprm)`: called for a script
/// and again for its interpreter.
#[lsm(hook = "bprm_check_security")]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(1);
    if earlier != 0 {
        return earlier;
    }
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 0,
        Who::Unknown => REFUSED,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            let bprm = Typed(ctx.arg::<*const c_void>(0));
            // SAFETY: a pointer field of struct linux_binprm.
            let file = unsafe { bprm.pointer(offset!(binprm_file)) };
            if file.0.is_null() {
                return REFUSED;
            }
            let zero = subject.zero;
            let bits = zero.plus32(FileAccess::Exec.bit() as u32);
            let mut access = Access::unjudged(zero, Kind::Exec, Op::Exec, bits);
            let refuse = judge_file(subject, file, &mut access, 0);
            if refuse { REFUSED } else { 0 }
        }
    }
}

/// `int security_mmap_file(struct file *file, unsigned long reqprot, unsigned
/// long prot, unsigned long flags)`: code that the dynamic loader, or
/// anybody, maps. Anonymous memory has no file.
#[lsm(hook = "mmap_file")]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let earlier: i32 = ctx.arg(4);
    if earlier != 0 {
        return earlier;
    }
    let file = Typed(ctx.arg::<*const c_void>(0));
    if file.0.is_null() {
        return 0;
    }
    // `prot` is what the kernel will give, READ_IMPLIES_EXEC included.
    let (asked, given): (u64, u64) = (ctx.arg(1), ctx.arg(2));
    if (asked | given) & PROT_EXEC == 0 {
        return 0;
    }
    let mut subject = MaybeUninit::uninit();
    match who(&mut subject) {
        Who::Outside => 0,
        Who::Unknown => REFUSED,
        Who::Inside => {
            // SAFETY: filled for a task that is inside.
            let subject = unsafe { subject.assume_init_ref() };
            let zero = subject.zero;
            let bits = zero.plus32(FileAccess::Exec.bit() as u32);
            let mut access = Access::unjudged(zero, Kind::Exec, Op::MapExec, bits);
            let refuse = judge_file(subject, file, &mut access, 0);
            if refuse { REFUSED } else { 0 }
        }
    }
}
