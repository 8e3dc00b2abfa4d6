//! Opening files, and receiving open ones.

use guard_common::event::{Kind, Op, Reason};
use guard_common::table::FileAccess;

use super::hook;
use crate::emit::Access;
use crate::judge::{Place, denied_by_links, is_nameless, judge_often};
use crate::kernel::{Object, load};
use crate::subject::Subject;

/// `O_ACCMODE` (include/uapi/asm-generic/fcntl.h).
const O_ACCMODE: u32 = 3;
const O_WRONLY: u32 = 1;
const O_RDONLY: u32 = 0;
/// Truncates even when opened for reading.
const O_TRUNC: u32 = 0o1000;
/// `__O_TMPFILE`: a file without a name, in the directory that is opened.
const O_TMPFILE: u32 = 0o20_000_000;
/// `__FMODE_EXEC` (include/linux/fs.h): opened by execve or the kernel's
/// loading of an interpreter.
const FMODE_EXEC: u32 = 0x20;
/// `FMODE_READ`, `FMODE_WRITE` (include/linux/fs.h).
const FMODE_READ: u32 = 1;
const FMODE_WRITE: u32 = 2;
/// `PIPEFS_MAGIC`, `SOCKFS_MAGIC`, `ANON_INODE_FS_MAGIC`
/// (include/uapi/linux/magic.h): what has no path because it is no file.
const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;
const ANON_INODE_MAGIC: u64 = 0x0904_1934;
/// `PID_FS_MAGIC`, from 6.9 on: pidfds. What they can be used for is judged
/// when it is done.
const PIDFS_MAGIC: u64 = 0x5049_4446;

hook! {
    /// `int security_file_open(struct file *file)`: every open that gives
    /// access to contents; `O_PATH` opens do not come here, reopening them does.
    file_open = "file_open"(1) |ctx, subject| opened(subject, ctx.arg(0))
}

hook! {
    /// `int security_file_receive(struct file *file)`: a descriptor that came
    /// over a unix socket is judged as if it was opened here.
    file_receive = "file_receive"(1) |ctx, subject| received(subject, ctx.arg(0))
}

#[inline(always)]
fn opened(subject: &Subject, file: Object) -> bool {
    let flags = load!(file, file_flags as u32);
    let place = Place::of_file(file);
    // Reopening one's own pipe through /proc/self/fd; making a pidfd.
    let magic = place.magic;
    if magic == PIPEFS_MAGIC || magic == PIDFS_MAGIC {
        return false;
    }
    let mut access = Access::unjudged(Kind::File, Op::Open, asked(flags));
    if flags & FMODE_EXEC != 0 {
        access.kind = Kind::Exec as u8;
        // bprm_check_security reports the exec that this open is for.
        access.silent_allow = 1;
    }
    if is_nameless(place.dentry) && flags & O_TMPFILE == 0 {
        access.forced = Reason::Deleted as u8;
    }
    access.denied_link = denied_by_links(subject, &place);
    judge_often(subject, place, &mut access)
}

/// What an open with these flags asks for: [`FileAccess`] bits.
#[inline(always)]
fn asked(flags: u32) -> u8 {
    if flags & FMODE_EXEC != 0 {
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
    }
}

#[inline(always)]
fn received(subject: &Subject, file: Object) -> bool {
    let place = Place::of_file(file);
    let magic = place.magic;
    if magic == PIPEFS_MAGIC
        || magic == SOCKFS_MAGIC
        || magic == ANON_INODE_MAGIC
        || magic == PIDFS_MAGIC
    {
        return false;
    }
    let mode = load!(file, file_mode as u32);
    let mut bits = 0;
    if mode & FMODE_READ != 0 {
        bits |= FileAccess::Read.bit();
    }
    if mode & FMODE_WRITE != 0 {
        bits |= FileAccess::Write.bit();
    }
    if bits == 0 {
        // O_PATH: what it leads to is judged when it is opened.
        return false;
    }
    let mut access = Access::unjudged(Kind::File, Op::Receive, bits);
    if is_nameless(place.dentry) {
        access.forced = Reason::Deleted as u8;
    }
    access.denied_link = denied_by_links(subject, &place);
    judge_often(subject, place, &mut access)
}
