//! Changing what a file is besides its contents and names.

use guard_common::event::{Kind, Op};
use guard_common::table::FileAccess;

use super::hook;
use crate::emit::Access;
use crate::judge::{Place, denied_by_inode, denied_by_links, is_nameless, judge_place};
use crate::kernel::{Object, fact, load};
use crate::mounts::find_mount;
use crate::subject::Subject;

/// `ATTR_ATIME`, `ATTR_MTIME`, `ATTR_ATIME_SET`, `ATTR_MTIME_SET` (include/linux/fs.h).
const ATTR_TIMES: u32 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8;
/// `ATTR_MODE`, `ATTR_UID`, `ATTR_GID`, `ATTR_SIZE`: have hooks with a path.
const ATTR_OTHERS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3;

hook! {
    /// `int security_path_truncate(const struct path *path)`; on kernels
    /// before 6.2, which are those that give addresses no type, `ftruncate`
    /// comes here too.
    path_truncate = "path_truncate"(1) |ctx, subject| {
        let place = of_path(ctx.arg(0));
        !(fact!(MountType) == 0 && is_nameless(place.dentry))
            && changed(subject, Op::Truncate, place, FileAccess::Write)
    }
}

hook! {
    /// `int security_file_truncate(struct file *file)`, from 6.2 on: it is open
    /// for writing, which was judged. What has no path (memfd) cannot be again.
    file_truncate = "file_truncate"(1) |ctx, subject| {
        let place = Place::of_file(ctx.arg(0));
        !is_nameless(place.dentry)
            && changed(subject, Op::Truncate, place, FileAccess::Write)
    }
}

hook! {
    /// `int security_path_chmod(const struct path *path, umode_t mode)`.
    path_chmod = "path_chmod"(2)
    |ctx, subject| changed(subject, Op::Chmod, of_path(ctx.arg(0)), FileAccess::Write)
}

hook! {
    /// `int security_path_chown(const struct path *path, kuid_t uid, kgid_t gid)`.
    path_chown = "path_chown"(3)
    |ctx, subject| changed(subject, Op::Chown, of_path(ctx.arg(0)), FileAccess::Write)
}

hook! {
    /// `int security_path_notify(const struct path *path, u64 mask, unsigned
    /// int obj_type)`: inotify, fanotify, dnotify. Names and times of what is
    /// below are told, so it is reading.
    path_notify = "path_notify"(3)
    |ctx, subject| changed(subject, Op::Watch, of_path(ctx.arg(0)), FileAccess::Read)
}

hook! {
    /// `int security_inode_setattr(struct mnt_idmap *idmap, struct dentry
    /// *dentry, struct iattr *attr)`, for times.
    inode_setattr_3 = "inode_setattr"(3) |ctx, subject|
    @if is_times(ctx.arg(2)) => changed_inode(subject, Op::Times, ctx.arg(1))
}

hook! {
    /// As [`inode_setattr_3`], on kernels without the first argument.
    inode_setattr_2 = "inode_setattr"(2) |ctx, subject|
    @if is_times(ctx.arg(1)) => changed_inode(subject, Op::Times, ctx.arg(0))
}

hook! {
    /// `int security_inode_setxattr(struct mnt_idmap *idmap, struct dentry
    /// *dentry, const char *name, const void *value, size_t size, int flags)`.
    inode_setxattr_6 = "inode_setxattr"(6)
    |ctx, subject| changed_inode(subject, Op::Xattr, ctx.arg(1))
}

hook! {
    /// `int security_inode_removexattr(struct mnt_idmap *idmap, struct dentry
    /// *dentry, const char *name)`.
    inode_removexattr_3 = "inode_removexattr"(3)
    |ctx, subject| changed_inode(subject, Op::Xattr, ctx.arg(1))
}

hook! {
    /// `int security_inode_set_acl(struct mnt_idmap *idmap, struct dentry
    /// *dentry, const char *acl_name, struct posix_acl *kacl)`, from 6.2 on.
    inode_set_acl = "inode_set_acl"(4)
    |ctx, subject| changed_inode(subject, Op::Xattr, ctx.arg(1))
}

hook! {
    /// `int security_inode_remove_acl(struct mnt_idmap *idmap, struct dentry
    /// *dentry, const char *acl_name)`, from 6.2 on.
    inode_remove_acl = "inode_remove_acl"(3)
    |ctx, subject| changed_inode(subject, Op::Xattr, ctx.arg(1))
}

hook! {
    /// `int security_inode_file_setattr(struct dentry *dentry, struct
    /// file_kattr *fa)`, from 6.17 on: what FS_IOC_SETFLAGS and file_setattr set.
    inode_file_setattr = "inode_file_setattr"(2)
    |ctx, subject| changed_inode(subject, Op::Xattr, ctx.arg(0))
}

#[inline(always)]
fn is_times(attributes: Object) -> bool {
    let valid = load!(attributes, iattr_valid as u32);
    valid & ATTR_TIMES != 0 && valid & ATTR_OTHERS == 0
}

#[inline(always)]
fn of_path(path: Object) -> Place {
    Place::of(load!(path, path_dentry), load!(path, path_mnt))
}

#[inline(always)]
fn changed(subject: &Subject, op: Op, place: Place, access: FileAccess) -> bool {
    let mut access = Access::unjudged(Kind::File, op, access.bit());
    access.denied_link = denied_by_links(subject, &place);
    judge_place(subject, place, &mut access)
}

/// The hooks of inodes do not say through which mount: any by which the
/// sandbox could reach the file gives its path.
#[inline(always)]
fn changed_inode(subject: &Subject, op: Op, dentry: Object) -> bool {
    let place = Place::of(dentry, find_mount(subject, dentry));
    let bits = FileAccess::Write.bit();
    let mut access = Access::unjudged(Kind::File, op, bits);
    access.denied_link = denied_by_inode(subject, &place, false);
    judge_place(subject, place, &mut access)
}
