//! Where fields lie in the running kernel's structs, in bytes. Found in
//! `/sys/kernel/btf/vmlinux` when the programs are loaded, and written into
//! their instructions. A field that is missing there is a refusal to load.

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $ty:literal . $path:literal,)*) => {
        /// Byte offsets of kernel struct fields.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Offsets {
            /// Struct and field path of each offset, in the struct's order. A field
            /// that was renamed has its names in order, with `|` between them.
            pub const FIELDS: &'static [(&'static str, &'static str)] = &[$(($ty, $path),)*];

            /// Makes the struct from offsets in the order of [`Self::FIELDS`].
            #[must_use]
            pub const fn from_array(values: [u32; Self::FIELDS.len()]) -> Self {
                let mut rest = 0;
                $(let $name = values[rest]; rest += 1;)*
                let _ = rest;
                Self { $($name,)* }
            }
        }
    };
}

offsets! {
    /// The file's dentry.
    file_dentry = "file"."f_path.dentry",
    /// The file's mount.
    file_mnt = "file"."f_path.mnt",
    /// Open flags.
    file_flags = "file"."f_flags",
    /// What the file was opened for.
    file_mode = "file"."f_mode",
    /// A path's dentry.
    path_dentry = "path"."dentry",
    /// A path's mount.
    path_mnt = "path"."mnt",
    /// Flags of a dentry.
    dentry_flags = "dentry"."d_flags",
    /// Sequence count of a dentry: odd while its name or parent changes.
    dentry_seq = "dentry"."d_seq.seqcount.sequence",
    /// Back pointer of its hash chain: null once it has no name.
    dentry_hashed = "dentry"."d_hash.pprev",
    /// Directory that it is in.
    dentry_parent = "dentry"."d_parent",
    /// Bytes of its name.
    dentry_name_len = "dentry"."d_name.len",
    /// Its name.
    dentry_name = "dentry"."d_name.name",
    /// Room for a short name (`d_shortname` from 6.14 on).
    dentry_inline = "dentry"."d_iname|d_shortname",
    /// Its inode.
    dentry_inode = "dentry"."d_inode",
    /// Its filesystem.
    dentry_sb = "dentry"."d_sb",
    /// Type of a filesystem.
    sb_magic = "super_block"."s_magic",
    /// Root dentry of a filesystem.
    sb_root = "super_block"."s_root",
    /// Its device number.
    sb_dev = "super_block"."s_dev",
    /// All mounts of a filesystem: the list, or from 6.18 on the first.
    sb_mounts = "super_block"."s_mounts",
    /// Links of a mount in that list.
    mount_instance = "mount"."mnt_instance|mnt_next_for_sb",
    /// Number of an inode.
    inode_number = "inode"."i_ino",
    /// Tells an inode from a former one with the same number.
    inode_generation = "inode"."i_generation",
    /// Links to an inode.
    inode_links = "inode"."i_nlink",
    /// Type and permissions of an inode.
    inode_mode = "inode"."i_mode",
    /// An inode of procfs: the process.
    proc_inode_pid = "proc_inode"."pid",
    /// The inode in one of procfs.
    proc_inode_inode = "proc_inode"."vfs_inode",
    /// Root dentry of a mount.
    vfsmount_root = "vfsmount"."mnt_root",
    /// The public part of a mount.
    mount_mnt = "mount"."mnt",
    /// Root dentry in it.
    mount_root = "mount"."mnt.mnt_root",
    /// The mount it is mounted on.
    mount_parent = "mount"."mnt_parent",
    /// The dentry it is mounted on.
    mount_mountpoint = "mount"."mnt_mountpoint",
    /// The namespace it is in.
    mount_ns = "mount"."mnt_ns",
    /// A task's namespaces.
    task_nsproxy = "task_struct"."nsproxy",
    /// A task's parent.
    task_real_parent = "task_struct"."real_parent",
    /// A task's process id.
    task_tgid = "task_struct"."tgid",
    /// A task's control groups.
    task_cgroups = "task_struct"."cgroups",
    /// What the threads of a process share.
    task_signal = "task_struct"."signal",
    /// Its credentials in force (`current_cred()`).
    task_cred = "task_struct"."cred",
    /// Effective user id, as the initial user namespace has it.
    cred_euid = "cred"."euid",
    /// Ids of a process, by kind.
    signal_pids = "signal_struct"."pids",
    /// The cgroup v2 of a set of control groups.
    css_set_default = "css_set"."dfl_cgrp",
    /// How often a sequence count was changed; odd while it is.
    seqcount_sequence = "seqcount"."sequence",
    /// A mount namespace.
    nsproxy_mnt_ns = "nsproxy"."mnt_ns",
    /// The file that is executed.
    binprm_file = "linux_binprm"."file",
    /// The file of a mapping.
    vma_file = "vm_area_struct"."vm_file",
    /// What a change of attributes is about.
    iattr_valid = "iattr"."ia_valid",
    /// Type of a socket.
    socket_type = "socket"."type",
    /// The protocol's side of a socket.
    socket_sk = "socket"."sk",
    /// The cgroup that a socket was made in.
    sock_cgroup = "sock"."sk_cgrp_data.cgroup",
    /// Family of a socket.
    sock_family = "sock"."__sk_common.skc_family",
    /// IPv4 address that it is bound to.
    sock_rcv_saddr = "sock"."__sk_common.skc_rcv_saddr",
    /// IPv6 address that it is bound to.
    sock_v6_rcv_saddr = "sock"."__sk_common.skc_v6_rcv_saddr",
    /// Port that it is bound to, in host order.
    sock_num = "sock"."__sk_common.skc_num",
    /// Address of a unix socket.
    unix_addr = "unix_sock"."addr",
    /// Where a unix socket lies: null when it is in no directory.
    unix_path_dentry = "unix_sock"."path.dentry",
    /// And through which mount.
    unix_path_mnt = "unix_sock"."path.mnt",
    /// Bytes of a unix address.
    unix_address_len = "unix_address"."len",
    /// A unix address.
    unix_address_name = "unix_address"."name",
}

/// What the loader puts into the programs besides offsets, in the order of
/// these numbers behind [`Offsets::FIELDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fact {
    /// BTF id of `struct dentry`, for `bpf_rdonly_cast`.
    DentryType = Offsets::FIELDS.len() as u32,
    /// BTF id of `struct mount`, for `bpf_rdonly_cast`; 0 where the kernel has
    /// no such function (before 6.2): reads are copies there.
    MountType,
    /// 1 where the mounts of a filesystem are chained by `mnt_next_for_sb`.
    MountsChained,
    /// BTF id of `struct seqcount`.
    SeqcountType,
    /// Low half of the address of `rename_lock` (fs/dcache.c); 0 where it, or
    /// that of `mount_lock`, is not known.
    RenameLock,
    /// Low half of the address of `mount_lock` (fs/namespace.c). The high half
    /// has all bits set, as for all of the kernel's own data on x86-64.
    MountLock,
}

/// Number of offsets and facts.
pub const FACTS: usize = Offsets::FIELDS.len() + 6;

/// A load with an offset from here on stands for a load of the field with the
/// number that is left: the loader puts the field's offset there, so that the
/// load costs one instruction. No struct that the programs load from is so long.
pub const MARK_LOAD: i32 = 0x7000;

/// A move of a constant from here on stands for the fact, or the field's
/// offset, with the number that is left.
pub const MARK_VALUE: i32 = 0x6763_0000;

/// Marks the calls of `bpf_rdonly_cast`: the loader puts the number of the
/// running kernel's function there.
pub const MARK_CAST: i32 = 0x6773_0000;
