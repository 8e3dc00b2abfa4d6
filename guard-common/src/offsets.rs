//! Where fields lie in the running kernel's structs, in bytes. Filled from
//! `/sys/kernel/btf/vmlinux` when the programs are loaded, frozen, and read by
//! them as constants. A field that is missing there is a refusal to load.

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident = $ty:literal . $path:literal,)*) => {
        /// Byte offsets of kernel struct fields.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Offsets {
            /// Struct and field path of each offset, in the struct's order.
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
    /// Flags of a dentry.
    dentry_flags = "dentry"."d_flags",
    /// Back pointer of its hash chain: null once it has no name.
    dentry_hashed = "dentry"."d_hash.pprev",
    /// Directory that it is in.
    dentry_parent = "dentry"."d_parent",
    /// Bytes of its name.
    dentry_name_len = "dentry"."d_name.len",
    /// Its name.
    dentry_name = "dentry"."d_name.name",
    /// Its filesystem.
    dentry_sb = "dentry"."d_sb",
    /// Type of a filesystem.
    sb_magic = "super_block"."s_magic",
    /// Root dentry of a mount.
    vfsmount_root = "vfsmount"."mnt_root",
    /// The public part of a mount.
    mount_mnt = "mount"."mnt",
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
    /// A mount namespace.
    nsproxy_mnt_ns = "nsproxy"."mnt_ns",
    /// The file that is executed.
    binprm_file = "linux_binprm"."file",
    /// Type of a socket.
    socket_type = "socket"."type",
}

/// The flags, hash chain, parent and name of `struct dentry` must lie below
/// this: the walk reads so much of each dentry at once.
pub const DENTRY_HEAD: usize = 64;

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), only u32, no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::Offsets {}
}
