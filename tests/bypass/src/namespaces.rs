//! Other views of the file system, other namespaces, other cgroups.

use std::fs;
use std::os::fd::AsRawFd;

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("mount-bind", mount_bind),
    Technique::new("mount-tmpfs-over", mount_tmpfs_over),
    Technique::new("umount", umount),
    Technique::new("remount", remount),
    Technique::new("open-tree-clone", open_tree_clone),
    Technique::new("move-mount", move_mount),
    Technique::new("fsopen", fsopen),
    Technique::new("mount-setattr", mount_setattr),
    Technique::new("chroot", chroot),
    Technique::new("pivot-root", pivot_root),
    Technique::new("setns", setns),
    Technique::new("unshare-user", unshare_user),
    Technique::new("unshare-user-mount", unshare_user_mount),
    Technique::new("clone-newuser", clone_newuser),
    Technique::new("clone3-newuser", clone3_newuser),
    Technique::new("compat-unshare", compat_unshare),
    Technique::new("cgroup-procs", cgroup_procs),
    Technique::new("cgroup-mkdir", cgroup_mkdir),
    Technique::new("clone-into-cgroup", clone_into_cgroup),
];

const DONE: Outcome = Ok(Reached::Done);

fn read(path: impl AsRef<std::path::Path>) -> Outcome {
    fs::read(path).at("open").map(Reached::Secret)
}

/// Mounts the denied directory at an allowed name.
fn mount_bind(place: &Place) -> Outcome {
    let (from, to) = (
        sys::path(place.at("closed")),
        sys::path(place.at("open/mnt")),
    );
    call!("mount", libc::SYS_mount, from, to, 0, libc::MS_BIND, 0)?;
    read(place.at("open/mnt/secret.txt"))
}

/// Covers an allowed directory with a file system of its own.
fn mount_tmpfs_over(place: &Place) -> Outcome {
    let to = sys::path(place.at("readonly"));
    call!("mount", libc::SYS_mount, c"tmpfs", to, c"tmpfs", 0, 0)?;
    DONE
}

/// Takes a mount away. (In its own namespace where it can have one.)
fn umount(place: &Place) -> Outcome {
    // SAFETY: takes an integer. Without guard it keeps the host's mounts as they are.
    unsafe { libc::unshare(libc::CLONE_NEWNS) };
    let (dir, private) = (sys::path("/"), libc::MS_REC | libc::MS_PRIVATE);
    // Refused here, the next call is refused too.
    let _ = call!("mount", libc::SYS_mount, 0, dir, 0, private, 0);
    let to = sys::path(place.at("open/mnt"));
    let _ = call!("mount", libc::SYS_mount, c"tmpfs", to, c"tmpfs", 0, 0);
    call!("umount2", libc::SYS_umount2, to, libc::MNT_DETACH)?;
    DONE
}

/// Changes the flags of a mount.
fn remount(_: &Place) -> Outcome {
    // SAFETY: takes an integer. Without guard it keeps the host's mounts as they are.
    unsafe { libc::unshare(libc::CLONE_NEWNS) };
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID;
    call!("mount", libc::SYS_mount, 0, c"/tmp", 0, flags, 0)?;
    DONE
}

fn tree(place: &Place) -> Result<std::os::fd::OwnedFd, Failure> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    let dir = sys::path(place.at("closed"));
    call!("open_tree", libc::SYS_open_tree, libc::AT_FDCWD, dir, flags).map(sys::fd)
}

/// Clones the denied directory as a mount that is nowhere, and opens below it.
fn open_tree_clone(place: &Place) -> Outcome {
    let tree = tree(place)?;
    let fd = sys::open_at(tree.as_raw_fd(), "secret.txt", libc::O_RDONLY)?;
    sys::read_all(fd).map(Reached::Secret)
}

/// Mounts the clone at an allowed name.
fn move_mount(place: &Place) -> Outcome {
    // A filter may refuse one of these calls and not the other.
    let from = tree(place).or_else(|_| sys::open(place.at("closed"), libc::O_PATH))?;
    let (here, to) = (libc::AT_FDCWD, sys::path(place.at("open/mnt")));
    // MOVE_MOUNT_F_EMPTY_PATH (include/uapi/linux/mount.h).
    call!("move_mount", libc::SYS_move_mount, from, c"", here, to, 4)?;
    read(place.at("open/mnt/secret.txt"))
}

/// Makes a file system with the new calls, and writes there.
fn fsopen(_: &Place) -> Outcome {
    let fs = sys::fd(call!("fsopen", libc::SYS_fsopen, c"tmpfs", 1)?);
    // FSCONFIG_CMD_CREATE (include/uapi/linux/mount.h).
    call!("fsconfig", libc::SYS_fsconfig, fs, 6, 0, 0, 0)?;
    let mount = sys::fd(call!("fsmount", libc::SYS_fsmount, fs, 1, 0)?);
    sys::open_at(mount.as_raw_fd(), "x", libc::O_CREAT | libc::O_RDWR)?;
    DONE
}

/// Changes the flags of a mount with the new call.
fn mount_setattr(_: &Place) -> Outcome {
    // SAFETY: takes an integer. Without guard it keeps the host's mounts as they are.
    unsafe { libc::unshare(libc::CLONE_NEWNS) };
    // struct mount_attr: set MOUNT_ATTR_NOSUID.
    let attributes = [2_u64, 0, 0, 0];
    let at = Memory::of(&attributes);
    call!(
        "mount_setattr",
        libc::SYS_mount_setattr,
        libc::AT_FDCWD,
        c"/tmp",
        0,
        at,
        32
    )?;
    DONE
}

/// Makes the place the root directory: paths become short.
fn chroot(place: &Place) -> Outcome {
    call!("chroot", libc::SYS_chroot, sys::path(&place.dir))?;
    read("/closed/secret.txt")
}

/// Changes the root of the mount namespace.
fn pivot_root(place: &Place) -> Outcome {
    // SAFETY: takes an integer. Without guard it keeps the host's mounts as they are.
    unsafe { libc::unshare(libc::CLONE_NEWNS) };
    let (root, private) = (c"/", libc::MS_REC | libc::MS_PRIVATE);
    let new = sys::path(&place.dir);
    // Refused here, the last call is refused too.
    let _ = call!("mount", libc::SYS_mount, 0, root, 0, private, 0);
    let _ = call!("mount", libc::SYS_mount, new, new, 0, libc::MS_BIND, 0);
    std::env::set_current_dir(&place.dir).at("chdir")?;
    call!("pivot_root", libc::SYS_pivot_root, c".", c".")?;
    read("/closed/secret.txt")
}

/// Joins the namespaces of the first process.
fn setns(_: &Place) -> Outcome {
    let pidfd = sys::fd(call!("pidfd_open", libc::SYS_pidfd_open, 1, 0)?);
    call!("setns", libc::SYS_setns, pidfd, libc::CLONE_NEWNS)?;
    DONE
}

/// Makes a user namespace, in which it has every capability.
fn unshare_user(_: &Place) -> Outcome {
    call!("unshare", libc::SYS_unshare, libc::CLONE_NEWUSER)?;
    DONE
}

/// Makes a user and a mount namespace and mounts the denied directory at an allowed name.
fn unshare_user_mount(place: &Place) -> Outcome {
    call!(
        "unshare",
        libc::SYS_unshare,
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS
    )?;
    mount_bind(place)
}

fn cloned(result: Result<usize, Failure>) -> Outcome {
    match result? {
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        pid => sys::wait(pid as i32).map(|_| Reached::Done),
    }
}

/// Makes a child in a user namespace.
fn clone_newuser(_: &Place) -> Outcome {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    cloned(call!("clone", libc::SYS_clone, flags, 0, 0, 0, 0))
}

fn clone3(flags: u64, cgroup: u64) -> Result<usize, Failure> {
    // struct clone_args: flags, …, exit_signal (5th), …, cgroup (11th).
    let mut arguments = [0_u64; 11];
    (arguments[0], arguments[4], arguments[10]) = (flags, libc::SIGCHLD as u64, cgroup);
    call!("clone3", libc::SYS_clone3, Memory::of(&arguments), 88)
}

/// The same with `clone3`, whose flags a system call filter cannot see.
fn clone3_newuser(_: &Place) -> Outcome {
    cloned(clone3(libc::CLONE_NEWUSER as u64, 0))
}

/// The same through the 32-bit system call interface, which has other numbers.
#[cfg(target_arch = "x86_64")]
fn compat_unshare(_: &Place) -> Outcome {
    const UNSHARE: i64 = 310; // arch/x86/entry/syscalls/syscall_32.tbl
    let result: i64;
    // SAFETY: a system call with an integer argument; the 32-bit entry may clobber r8 to r11.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {flags:e}", "int 0x80", "pop rbx",
            flags = in(reg) libc::CLONE_NEWUSER,
            inlateout("rax") UNSHARE => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // The 32-bit answer.
    let result = result as i32;
    if result == 0 {
        return DONE;
    }
    Err(Failure::Stopped {
        step: "int 0x80".into(),
        errno: -result,
    })
}

/// Leaves its cgroup by writing itself into another.
fn cgroup_procs(_: &Place) -> Outcome {
    fs::write("/sys/fs/cgroup/cgroup.procs", "0").at("open cgroup.procs")?;
    DONE
}

/// Makes a cgroup of its own to go into.
fn cgroup_mkdir(place: &Place) -> Outcome {
    let dir = format!("/sys/fs/cgroup/{}", place.name());
    fs::create_dir(&dir).at("mkdir")?;
    // The host is to stay as it was.
    fs::remove_dir(dir).at("rmdir")?;
    DONE
}

/// Makes a child in another cgroup.
fn clone_into_cgroup(_: &Place) -> Outcome {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let dir = sys::open("/sys/fs/cgroup", libc::O_PATH | libc::O_DIRECTORY)?;
    let made = clone3(CLONE_INTO_CGROUP, dir.as_raw_fd() as u64)?;
    if made == 0 {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(text.trim() != "0::/")) }
    }
    match sys::wait(made as i32)? {
        0 => DONE,
        _ => Err(nothing("the child is elsewhere")),
    }
}
