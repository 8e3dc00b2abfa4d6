//! Opening files.

use core::ffi::c_void;

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use guard_common::event::{Kind, Op};
use guard_common::table::FileAccess;

use super::{REFUSED, judge_file};
use crate::kernel::{Typed, offset, read};
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
    match who() {
        Who::Outside => 0,
        Who::Unknown => REFUSED,
        Who::Inside(subject) => {
            let file = Typed(ctx.arg::<*const c_void>(0));
            // SAFETY: a field of struct file.
            let flags = unsafe { file.u32(offset!(file_flags)) };
            let (kind, op, bits) = asked(flags);
            if on_pipefs(file) {
                return 0;
            }
            // bprm_check_security reports the exec that this open is for.
            let silent_allow = kind as u8 == Kind::Exec as u8;
            if judge_file(&subject, file, kind, op, bits, silent_allow) {
                REFUSED
            } else {
                0
            }
        }
    }
}

/// What an open with these flags asks for.
#[inline(always)]
fn asked(flags: u32) -> (Kind, Op, u8) {
    if flags & FMODE_EXEC != 0 {
        return (Kind::Exec, Op::Open, FileAccess::Exec.bit());
    }
    let mut bits = match flags & O_ACCMODE {
        O_RDONLY => FileAccess::Read.bit(),
        O_WRONLY => FileAccess::Write.bit(),
        _ => FileAccess::Read.bit() | FileAccess::Write.bit(),
    };
    if flags & O_TRUNC != 0 {
        bits |= FileAccess::Write.bit();
    }
    (Kind::File, Op::Open, bits)
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
