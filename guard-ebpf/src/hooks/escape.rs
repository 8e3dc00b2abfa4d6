//! What no policy can grant inside a sandbox.

use guard_common::event::{Op, Reason};

use super::{hook, refuse};

macro_rules! never {
    ($($(#[$doc:meta])* $name:ident = $hook:literal($args:literal) $op:ident $(, $detail:literal)?;)*) => {
        $(hook! {
            $(#[$doc])*
            $name = $hook($args)
            |ctx, subject| refuse(subject, Op::$op, Reason::Escape, 0, 0 $(+ ctx.arg::<u32>($detail))?)
        })*
    };
}

never! {
    /// `int security_sb_mount(const char *dev_name, const struct path *path,
    /// const char *type, unsigned long flags, void *data)`.
    sb_mount = "sb_mount"(5) Mount;
    /// `int security_sb_umount(struct vfsmount *mnt, int flags)`.
    sb_umount = "sb_umount"(2) Mount;
    /// `int security_sb_remount(struct super_block *sb, void *mnt_opts)`.
    sb_remount = "sb_remount"(2) Mount;
    /// `int security_sb_pivotroot(const struct path *old_path, const struct path *new_path)`.
    sb_pivotroot = "sb_pivotroot"(2) Mount;
    /// `int security_move_mount(const struct path *from_path, const struct path *to_path)`.
    move_mount = "move_mount"(2) Mount;
    /// `int security_path_chroot(const struct path *path)`.
    path_chroot = "path_chroot"(1) Chroot;
    /// `int security_create_user_ns(const struct cred *cred)`.
    userns_create = "userns_create"(1) UserNamespace;
    /// `int security_bpf(int cmd, union bpf_attr *attr, unsigned int size)`.
    bpf_3 = "bpf"(3) Bpf, 0;
    /// As [`bpf_3`], on kernels that also say whether the kernel itself asks.
    bpf_4 = "bpf"(4) Bpf, 0;
    /// `int security_perf_event_open(struct perf_event_attr *attr, int type)`.
    perf_event_open_2 = "perf_event_open"(2) Perf;
    /// As [`perf_event_open_2`], on kernels without the first argument.
    perf_event_open_1 = "perf_event_open"(1) Perf;
    /// `int security_kernel_module_request(char *kmod_name)`.
    kernel_module_request = "kernel_module_request"(1) Module;
    /// `int security_kernel_load_data(enum kernel_load_data_id id, bool contents)`.
    kernel_load_data = "kernel_load_data"(2) Module, 0;
    /// `int security_kernel_read_file(struct file *file, enum
    /// kernel_read_file_id id, bool contents)`.
    kernel_read_file = "kernel_read_file"(3) Module, 1;
    /// `int security_key_alloc(struct key *key, const struct cred *cred,
    /// unsigned long flags)`.
    key_alloc = "key_alloc"(3) Key;
    /// `int security_key_permission(key_ref_t key_ref, const struct cred
    /// *cred, enum key_need_perm need_perm)`.
    key_permission = "key_permission"(3) Key, 2;
    /// `int security_syslog(int type)`.
    syslog = "syslog"(1) KernelLog, 0;
    /// `int security_uring_override_creds(const struct cred *new)`.
    uring_override_creds = "uring_override_creds"(1) IoUring;
    /// `int security_uring_sqpoll(void)`.
    uring_sqpoll = "uring_sqpoll"(0) IoUring;
    /// `int security_uring_cmd(struct io_uring_cmd *ioucmd)`.
    uring_cmd = "uring_cmd"(1) IoUring;
}
