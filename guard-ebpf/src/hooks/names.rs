//! Making, removing and moving names.

use aya_ebpf::programs::LsmContext;
use guard_common::event::{Kind, Op, Reason};
use guard_common::matcher::Verdict;
use guard_common::table::FileAccess;

use super::hook;
use crate::emit::{Access, acquire_scratch, conclude, release_scratch};
use crate::judge::{Place, denied_by_links, judge};
use crate::kernel::{Object, load};
use crate::moves::{Recorded, move_gains};
use crate::subject::Subject;

/// `S_IFMT` and its values (include/uapi/linux/stat.h).
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
/// `RENAME_EXCHANGE` (include/uapi/linux/fs.h).
const RENAME_EXCHANGE: u32 = 2;

hook! {
    /// `int security_path_mknod(const struct path *dir, struct dentry
    /// *dentry, umode_t mode, unsigned int dev)`: open with `O_CREAT`, mknod,
    /// and binding a unix socket.
    path_mknod = "path_mknod"(4) |ctx, subject| {
        let kind = ctx.arg::<u32>(2) & S_IFMT;
        let device = kind == S_IFCHR || kind == S_IFBLK;
        let op = if kind == S_IFREG || kind == 0 { Op::Create } else { Op::Mknod };
        let forced = if device { Reason::DeviceFile as u8 } else { 0 };
        named(subject, op, ctx.arg(0), ctx.arg(1), forced)
    }
}

hook! {
    /// `int security_path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`.
    path_mkdir = "path_mkdir"(3)
    |ctx, subject| named(subject, Op::Mkdir, ctx.arg(0), ctx.arg(1), 0)
}

hook! {
    /// `int security_path_symlink(const struct path *dir, struct dentry
    /// *dentry, const char *old_name)`: where it leads is judged when it is followed.
    path_symlink = "path_symlink"(3)
    |ctx, subject| named(subject, Op::Symlink, ctx.arg(0), ctx.arg(1), 0)
}

hook! {
    /// `int security_path_rmdir(const struct path *dir, struct dentry *dentry)`.
    path_rmdir = "path_rmdir"(2)
    |ctx, subject| named(subject, Op::Rmdir, ctx.arg(0), ctx.arg(1), 0)
}

hook! {
    /// `int security_path_unlink(const struct path *dir, struct dentry *dentry)`.
    path_unlink = "path_unlink"(2)
    |ctx, subject| named(subject, Op::Unlink, ctx.arg(0), ctx.arg(1), 0)
}

hook! {
    /// `int security_path_link(struct dentry *old_dentry, const struct path
    /// *new_dir, struct dentry *new_dentry)`. The old name has no mount of its
    /// own, but is on the new one's (fs/namei.c, `do_linkat`: `-EXDEV`).
    path_link = "path_link"(3)
    |ctx, subject| linked(subject, ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

hook! {
    /// `int security_path_rename(const struct path *old_dir, struct dentry
    /// *old_dentry, const struct path *new_dir, struct dentry *new_dentry,
    /// unsigned int flags)`.
    path_rename = "path_rename"(5) |ctx, subject| renamed(subject, &ctx)
}

/// A change of one name.
#[inline(always)]
fn named(subject: &Subject, op: Op, directory: Object, dentry: Object, forced: u8) -> bool {
    let place = Place::of(dentry, load!(directory, path_mnt));
    let mut access = Access::unjudged(Kind::File, op, FileAccess::Write.bit());
    access.forced = forced;
    judge(&place, subject, &mut access);
    conclude(subject, &access)
}

/// One side of a move, and what the rules say of all that can be done there.
#[inline(always)]
fn side(op: Op) -> Access {
    let mut access = Access::unjudged(Kind::File, op, FileAccess::Write.bit());
    access.want_verdicts = 1;
    access
}

#[inline(always)]
fn linked(subject: &Subject, old: Object, directory: Object, new: Object) -> bool {
    let vfsmount = load!(directory, path_mnt);
    let mut access = side(Op::Link);
    // A file made by O_TMPFILE has no name yet.
    let mut place = Place::of(old, vfsmount);
    access.denied_link = denied_by_links(subject, &place);
    judge(&place, subject, &mut access);
    let verdicts = access.verdicts;
    let refused = conclude(subject, &access);
    access = side(Op::Link);
    access.floor = verdicts;
    place.dentry = new;
    judge(&place, subject, &mut access);
    conclude(subject, &access) | refused
}

/// Whether a dentry is a directory.
#[inline(always)]
fn is_directory(dentry: Object) -> bool {
    let inode = load!(dentry, dentry_inode);
    !inode.is_null() && load!(inode, inode_mode as u16) as u32 & S_IFMT == S_IFDIR
}

/// Where the old name of a rename is, by number 0, and the new one, by 2. The
/// arguments are read where they are needed: the stack has no room for all.
#[inline(always)]
fn end(arguments: &LsmContext, number: usize) -> Place {
    Place::of(
        arguments.arg(number + 1),
        load!(arguments.arg(number), path_mnt),
    )
}

#[inline(always)]
fn renamed(subject: &Subject, arguments: &LsmContext) -> bool {
    let mut access = side(Op::Rename);
    let mut place = end(arguments, 0);
    judge(&place, subject, &mut access);
    let verdicts = access.verdicts;
    let refused = conclude(subject, &access);
    let exchange = arguments.arg::<u32>(4) & RENAME_EXCHANGE != 0;
    let with_all = is_directory(arguments.arg(1)) || (exchange && is_directory(arguments.arg(3)));
    let mut old = Recorded::none();
    if with_all {
        // Both names are needed whole. In the same place as before and after:
        // the stack has no room for two.
        access = side(Op::Rename);
        access.scratch = acquire_scratch();
        judge(&place, subject, &mut access);
        old = Recorded::by(&access);
    }
    access = side(Op::Rename);
    access.floor = verdicts;
    if with_all {
        access.scratch = acquire_scratch();
    }
    place = end(arguments, 2);
    judge(&place, subject, &mut access);
    if access.verdict == Verdict::Allow as u8 {
        let mut reason = Reason::Rule as u8;
        if exchange && lenient(verdicts, access.verdicts) != 0 {
            // What is there comes here.
            reason = Reason::MoreRights as u8;
        }
        if with_all {
            let new = Recorded::by(&access);
            let found = move_gains(subject, old.packed(), new.packed(), exchange as u64);
            if found != 0 {
                reason = found as u8;
            }
        }
        if reason != Reason::Rule as u8 {
            access.verdict = Verdict::Deny as u8;
            access.reason = reason;
        }
    }
    release_scratch(old.scratch);
    conclude(subject, &access) | refused
}

/// Not 0 when `a` says less strict things than `b` of some kind of access.
#[inline(always)]
fn lenient(a: u8, b: u8) -> u8 {
    let mut found = 0;
    let mut kind = 0;
    while kind < FileAccess::COUNT {
        found |= ((a >> (2 * kind) & 3) < (b >> (2 * kind) & 3)) as u8;
        kind += 1;
    }
    found
}
