//! Making maps that the loader would make otherwise.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `BPF_MAP_CREATE` (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY_OF_MAPS: u32 = 12;

/// The first members of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;

/// Makes an array of maps that takes arrays of one value of `value_size`
/// bytes, made with `inner_flags`. Kernels before 6.2 take no inner map
/// without type information where the template had some
/// (`bpf_map_meta_equal` compares what was found in it), so the template has none.
///
/// # Errors
/// As bpf(2).
pub fn array_of_arrays(
    max_entries: u32,
    value_size: u32,
    inner_flags: u32,
) -> std::io::Result<OwnedFd> {
    let template = create("SLOTS", ARRAY, value_size, 1, inner_flags, None)?;
    let template = Some(template.as_fd());
    create("SLOTS", ARRAY_OF_MAPS, 4, max_entries, 0, template)
}

/// Makes an array of one value.
///
/// # Errors
/// As bpf(2).
pub fn array(name: &str, value_size: u32, flags: u32) -> std::io::Result<OwnedFd> {
    create(name, ARRAY, value_size, 1, flags, None)
}

fn create(
    name: &str,
    map_type: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner: Option<BorrowedFd<'_>>,
) -> std::io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    // The last byte stays 0.
    for (to, from) in map_name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let attributes = MapCreate {
        map_type,
        key_size: 4,
        value_size,
        max_entries,
        map_flags,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd() as u32),
        numa_node: 0,
        map_name,
    };
    // SAFETY: the kernel reads exactly that many bytes of a live struct.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_CREATE,
            &raw const attributes,
            size_of::<MapCreate>(),
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel just made for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
