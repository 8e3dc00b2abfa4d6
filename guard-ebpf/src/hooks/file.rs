//! Opening files.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use guard_common::event::{Kind, Op};
use guard_common::table::FileAccess;

use super::{REFUSED, judge_file};
use crate::emit::Access;
use crate::kernel::{Typed, Zero, offset, read};
use crate::subject::{Who, who};

/// `O_ACCMODE` (include/uapi/asm-generic/fcntl.h).
const O_ACCMODE: u32 = 3;
const O_WRONLY: u32 = 1;
const O_RDONLY: u32 = 0;
/// Truncates even when opened for reading.
const O_TRUNC: u32 = 0o1000;
/// `__FMODE_EXEC` (include/linux/fs.h): opened by execve or the kernel's
/// loading of an interpreter.
const FMODE_EXEC: u32 = 0x20;
/// `PIPEFS_MAGIC` (include/uapi/linux/magic.h): reopening one's own pipe
/// through `/proc/self/fd`. Pipes have no path.
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// `int security_file_open(struct file *file)`: every open that gives access
/// to contents; `O_PATH` opens do not come here, reopening them does.
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
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
            let file = Typed(ctx.arg::<*const c_void>(0));
            if on_pipefs(file) {
                return 0;
            }
            // SAFETY: a field of struct file.
            let flags = unsafe { file.u32(offset!(file_flags)) };
            let exec = flags & FMODE_EXEC;
            let mut access = Access::unjudged(
                subject.zero,
                Kind::File,
                Op::Open,
                asked(subject.zero, flags),
            );
            if exec != 0 {
                access.kind = subject.zero.plus32(Kind::Exec as u32);
            }
            // bprm_check_security reports the exec that this open is for.
            if judge_file(subject, file, &mut access, exec) {
                REFUSED
            } else {
                0
            }
        }
    }
}

/// What an open with these flags asks for: [`FileAccess`] bits.
#[inline(always)]
fn asked(zero: Zero, flags: u32) -> u32 {
    let bits = if flags & FMODE_EXEC != 0 {
        FileAccess::Exec.bit()
    } else {
        let by_mode = match flags & O_ACCMODE {
            O_RDONLY => FileAccess::Read.bit(),
            O_WRONLY => FileAccess::Write.bit(),
            _ => FileAccess::Read.bit() | FileAccess::Write.bit(),
        };
        if flags & O_TRUNC != 0 {
            by_mode | FileAccess::Write.bit()
        } else {
            by_mode
        }
    };
    zero.plus32(bits as u32)
}

#[inline(always)]
fn on_pipefs(file: Typed) -> bool {
    // SAFETY: pointer fields of struct file and dentry.
    let sb = unsafe {
        file.pointer(offset!(file_dentry))
            .pointer(offset!(dentry_sb))
    };
    read::<u64>(sb.address() + offset!(sb_magic) as u64) == Some(PIPEFS_MAGIC)
}
