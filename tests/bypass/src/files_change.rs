//! Changing a file without opening it for writing: size, mode, owner, attributes, times.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("write-denied", write_denied),
    Technique::new("append-read-only", append_read_only),
    Technique::new("truncate", truncate),
    Technique::new("truncate-read-only", truncate_read_only),
    Technique::new("open-truncate", open_truncate),
    Technique::new("truncate-by-descriptor-link", truncate_by_link),
    Technique::new("chmod", chmod),
    Technique::new("fchmod-read-only", fchmod_read_only),
    Technique::new("chmod-descriptor-link", chmod_descriptor_link),
    Technique::new("chown", chown),
    Technique::new("fchown-read-only", fchown_read_only),
    Technique::new("setxattr", setxattr),
    Technique::new("fsetxattr-read-only", fsetxattr_read_only),
    Technique::new("removexattr", removexattr).prepared(prepare_xattr),
    Technique::new("set-acl", set_acl),
    Technique::new("utimes", utimes),
    Technique::new("futimens-read-only", futimens_read_only),
    Technique::new("ioctl-set-flags", ioctl_set_flags),
    Technique::new("reopen-for-writing", reopen_for_writing),
    Technique::new("shared-map-writable", shared_map_writable),
];

const DONE: Outcome = Ok(Reached::Done);

/// Writes the denied file.
fn write_denied(place: &Place) -> Outcome {
    fs::write(place.secret(), b"changed").at("open")?;
    DONE
}

/// Appends to a file that may only be read.
fn append_read_only(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_WRONLY | libc::O_APPEND)?;
    call!("write", libc::SYS_write, fd, c"changed", 7)?;
    DONE
}

fn truncate_at(path: &Path) -> Outcome {
    call!("truncate", libc::SYS_truncate, sys::path(path), 0)?;
    DONE
}

/// Empties the denied file by its path.
fn truncate(place: &Place) -> Outcome {
    truncate_at(&place.secret())
}

/// Empties a file that may only be read.
fn truncate_read_only(place: &Place) -> Outcome {
    truncate_at(&place.at("readonly/ro.txt"))
}

/// Opens for reading, with `O_TRUNC`: not opened for writing, and emptied all the same.
fn open_truncate(place: &Place) -> Outcome {
    sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY | libc::O_TRUNC)?;
    let left = fs::metadata(place.at("readonly/ro.txt")).at("stat")?.len();
    if left == 0 {
        DONE
    } else {
        Err(nothing("O_TRUNC"))
    }
}

/// Empties the file behind a descriptor that was opened for reading, by its link in /proc.
fn truncate_by_link(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    truncate_at(Path::new(&sys::proc_fd(&fd)))
}

/// Changes the mode of the denied file.
fn chmod(place: &Place) -> Outcome {
    fs::set_permissions(place.secret(), fs::Permissions::from_mode(0o777)).at("chmod")?;
    DONE
}

/// Changes the mode by a descriptor that was opened for reading.
fn fchmod_read_only(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    call!("fchmod", libc::SYS_fchmod, fd, 0o777)?;
    DONE
}

/// Changes the mode by the link of an `O_PATH` descriptor.
fn chmod_descriptor_link(place: &Place) -> Outcome {
    let fd = sys::open(place.secret(), libc::O_PATH)?;
    fs::set_permissions(sys::proc_fd(&fd), fs::Permissions::from_mode(0o777)).at("chmod")?;
    DONE
}

/// Gives the denied file to another user.
fn chown(place: &Place) -> Outcome {
    std::os::unix::fs::chown(place.secret(), Some(1000), None).at("chown")?;
    DONE
}

/// Gives a file to its own group, by a descriptor that was opened for reading: takes setuid
/// bits away, and needs no privilege.
fn fchown_read_only(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    // SAFETY: takes nothing.
    let group = unsafe { libc::getgid() };
    call!("fchown", libc::SYS_fchown, fd, -1, group)?;
    DONE
}

fn set(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Failure> {
    let path = sys::path(path);
    let value_at = Memory::of(value);
    call!(
        "setxattr",
        libc::SYS_setxattr,
        path,
        name,
        value_at,
        value.len(),
        0
    )
    .map(drop)
}

/// Sets an extended attribute of the denied file.
fn setxattr(place: &Place) -> Outcome {
    set(&place.secret(), c"user.planted", b"1")?;
    DONE
}

/// Sets one by a descriptor that was opened for reading.
fn fsetxattr_read_only(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    let value = Memory::of(b"1");
    call!(
        "fsetxattr",
        libc::SYS_fsetxattr,
        fd,
        c"user.planted",
        value,
        1,
        0
    )?;
    DONE
}

fn prepare_xattr(place: &Place) {
    let set = set(&place.secret(), c"user.mark", b"1");
    set.unwrap_or_else(|e| panic!("set an attribute: {e:?}"));
}

/// Removes an extended attribute of the denied file.
fn removexattr(place: &Place) -> Outcome {
    let (path, name) = (sys::path(place.secret()), c"user.mark");
    call!("removexattr", libc::SYS_removexattr, path, name)?;
    DONE
}

/// Sets an access control list, which is a mode by another name.
fn set_acl(place: &Place) -> Outcome {
    // struct posix_acl_xattr_header, then entries of tag, permissions, id.
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 7, 65534),
        (4, 4, u32::MAX),
        (16, 7, u32::MAX),
        (32, 4, u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    set(&place.secret(), c"system.posix_acl_access", &acl)?;
    DONE
}

fn times(dir: usize, path: Option<&CString>) -> Outcome {
    let times = [libc::timespec {
        tv_sec: 1,
        tv_nsec: 0,
    }; 2];
    let (path, times) = (path.map_or(0, |p| p.as_ptr() as usize), Memory::of(&times));
    call!("utimensat", libc::SYS_utimensat, dir, path, times, 0)?;
    DONE
}

/// Sets the denied file's times.
fn utimes(place: &Place) -> Outcome {
    times(libc::AT_FDCWD as usize, Some(&sys::path(place.secret())))
}

/// Sets times by a descriptor that was opened for reading.
fn futimens_read_only(place: &Place) -> Outcome {
    use std::os::fd::AsRawFd;
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    times(fd.as_raw_fd() as usize, None)
}

/// Sets inode flags by a descriptor that was opened for reading (no LSM hook before 6.17).
fn ioctl_set_flags(place: &Place) -> Outcome {
    // FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_NODUMP_FL (include/uapi/linux/fs.h).
    const GET: u64 = 0x8008_6601;
    const SET: u64 = 0x4008_6602;
    const NODUMP: u32 = 0x40;
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    let mut flags = 0_u32;
    call!(
        "FS_IOC_GETFLAGS",
        libc::SYS_ioctl,
        fd,
        GET,
        Memory::to(&mut flags)
    )?;
    flags |= NODUMP;
    call!(
        "FS_IOC_SETFLAGS",
        libc::SYS_ioctl,
        fd,
        SET,
        Memory::of(&flags)
    )?;
    DONE
}

/// Opens a descriptor that was opened for reading again, for writing.
fn reopen_for_writing(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDONLY)?;
    fs::write(sys::proc_fd(&fd), b"changed").at("open")?;
    DONE
}

/// Maps a file shared and read-only, makes the memory writable, and writes through it.
fn shared_map_writable(place: &Place) -> Outcome {
    let fd = sys::open(place.at("readonly/ro.txt"), libc::O_RDWR)?;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let at = call!("mmap", libc::SYS_mmap, 0, 4096, prot, flags, fd, 0)?;
    // SAFETY: a fresh mapping of a page that may be written.
    unsafe { *(at as *mut u8) = b'X' };
    call!("msync", libc::SYS_msync, at, 4096, libc::MS_SYNC)?;
    DONE
}
