//! Moving, linking and making names: the file stays, its name changes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("rename-out", rename_out),
    Technique::new("rename-leaf-out", rename_leaf_out),
    Technique::new("rename-over", rename_over),
    Technique::new("rename-into", rename_into),
    Technique::new("rename-exchange", rename_exchange),
    Technique::new("rename-exchange-directories", rename_exchange_directories),
    Technique::new("rename-directory", rename_directory),
    Technique::new("rename-parent-of-literal", rename_parent_of_literal).prepared(prepare_vault),
    Technique::new("rename-for-more-rights", rename_for_more_rights),
    Technique::new("rename-read-only", rename_read_only),
    Technique::new("link-for-more-rights", link_for_more_rights),
    Technique::new("tmpfile-link", tmpfile_link),
    Technique::new("create", create),
    Technique::new("create-exclusive", create_exclusive),
    Technique::new("mkdir", mkdir),
    Technique::new("rmdir", rmdir),
    Technique::new("mknod-fifo", mknod_fifo),
    Technique::new("mknod-regular", mknod_regular),
    Technique::new("mknod-device", mknod_device),
    Technique::new("bind-socket-file", bind_socket_file),
    Technique::new("symlink-planted", symlink_planted),
    Technique::new("unlink", unlink),
    Technique::new("unlink-read-only", unlink_read_only),
    Technique::new("unlink-by-descriptor", unlink_by_descriptor),
];

fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Failure> {
    fs::rename(from, to).at("rename")
}

fn rename_with(from: &Path, to: &Path, flags: libc::c_uint) -> Result<(), Failure> {
    let (from, to, here) = (sys::path(from), sys::path(to), libc::AT_FDCWD);
    call!(
        "renameat2",
        libc::SYS_renameat2,
        here,
        from,
        here,
        to,
        flags
    )
    .map(drop)
}

fn read(path: impl AsRef<Path>) -> Outcome {
    fs::read(path).at("open").map(Reached::Secret)
}

/// Moves the denied file to an allowed name.
fn rename_out(place: &Place) -> Outcome {
    rename(place.secret(), place.at("open/harmless.txt"))?;
    read(place.at("open/harmless.txt"))
}

/// Gives a file with a denied leaf name another one, in the same directory.
fn rename_leaf_out(place: &Place) -> Outcome {
    rename(place.at("open/x.env"), place.at("open/x.txt"))?;
    read(place.at("open/x.txt"))
}

/// Puts another file in the place of the denied one.
fn rename_over(place: &Place) -> Outcome {
    rename(place.at("open/decoy.txt"), place.secret())?;
    Ok(Reached::Done)
}

/// Moves a file into the denied directory.
fn rename_into(place: &Place) -> Outcome {
    rename(place.at("open/decoy.txt"), place.at("closed/planted.txt"))?;
    Ok(Reached::Done)
}

/// Exchanges the denied file with an allowed one.
fn rename_exchange(place: &Place) -> Outcome {
    rename_with(
        &place.at("open/decoy.txt"),
        &place.secret(),
        libc::RENAME_EXCHANGE,
    )?;
    read(place.at("open/decoy.txt"))
}

/// Exchanges the denied directory with an allowed one.
fn rename_exchange_directories(place: &Place) -> Outcome {
    rename_with(
        &place.at("open/real"),
        &place.at("closed"),
        libc::RENAME_EXCHANGE,
    )?;
    read(place.at("open/real/secret.txt"))
}

/// Moves the denied directory itself to an allowed name: AppArmor lets this pass
/// unless the profile names the directory too.
fn rename_directory(place: &Place) -> Outcome {
    rename(place.at("closed"), place.at("open/harmless"))?;
    read(place.at("open/harmless/secret.txt"))
}

fn prepare_vault(place: &Place) {
    let made = fs::create_dir_all(place.at("open/vault/inner"));
    made.unwrap_or_else(|e| panic!("make the vault: {e}"));
    place.write("open/vault/inner/key.txt", &place.secret_bytes(), 0o644);
}

/// Moves an allowed directory, so that a file below it leaves the path that a rule denies.
fn rename_parent_of_literal(place: &Place) -> Outcome {
    rename(place.at("open/vault"), place.at("open/harmless"))?;
    read(place.at("open/harmless/inner/key.txt"))
}

/// Moves a directory that may only be read to where writing is allowed.
fn rename_for_more_rights(place: &Place) -> Outcome {
    rename(place.at("readonly"), place.at("open/mine"))?;
    fs::write(place.at("open/mine/ro.txt"), b"changed").at("open")?;
    Ok(Reached::Done)
}

/// Gives a file that may only be read another name.
fn rename_read_only(place: &Place) -> Outcome {
    rename(place.at("readonly/ro.txt"), place.at("readonly/other.txt"))?;
    Ok(Reached::Done)
}

/// Links a file that may only be read to where writing is allowed, and writes it there.
fn link_for_more_rights(place: &Place) -> Outcome {
    let alias = place.at("open/alias.txt");
    fs::hard_link(place.at("readonly/ro.txt"), &alias).at("link")?;
    fs::write(alias, b"changed").at("open")?;
    Ok(Reached::Done)
}

/// Makes a file with no name where writing is allowed, and links it into the denied directory.
fn tmpfile_link(place: &Place) -> Outcome {
    let fd = sys::open(place.at("open"), libc::O_TMPFILE | libc::O_RDWR)?;
    let (from, to) = (
        sys::path(sys::proc_fd(&fd)),
        sys::path(place.at("closed/planted.txt")),
    );
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    call!("linkat", libc::SYS_linkat, here, from, here, to, follow)?;
    Ok(Reached::Done)
}

/// Makes a file in the denied directory.
fn create(place: &Place) -> Outcome {
    fs::File::create(place.at("closed/planted.txt")).at("open")?;
    Ok(Reached::Done)
}

/// Makes a file with an allowed directory but a denied leaf name.
fn create_exclusive(place: &Place) -> Outcome {
    fs::File::create_new(place.at("open/new.env")).at("open")?;
    Ok(Reached::Done)
}

/// Makes a directory there.
fn mkdir(place: &Place) -> Outcome {
    fs::create_dir(place.at("closed/planted")).at("mkdir")?;
    Ok(Reached::Done)
}

/// Removes a directory there.
fn rmdir(place: &Place) -> Outcome {
    fs::remove_dir(place.at("closed/empty")).at("rmdir")?;
    Ok(Reached::Done)
}

fn mknod(path: &Path, mode: u32, device: u64) -> Result<(), Failure> {
    let path = sys::path(path);
    call!(
        "mknod",
        libc::SYS_mknodat,
        libc::AT_FDCWD,
        path,
        mode | 0o644,
        device
    )
    .map(drop)
}

/// Makes a FIFO there.
fn mknod_fifo(place: &Place) -> Outcome {
    mknod(&place.at("closed/planted"), libc::S_IFIFO, 0)?;
    Ok(Reached::Done)
}

/// Makes a regular file there with `mknod`, which opens nothing.
fn mknod_regular(place: &Place) -> Outcome {
    mknod(&place.at("closed/planted"), libc::S_IFREG, 0)?;
    Ok(Reached::Done)
}

/// Makes a node of the disk where writing is allowed, and reads the disk.
fn mknod_device(place: &Place) -> Outcome {
    let node = place.at("open/disk");
    mknod(&node, libc::S_IFBLK, disk()?)?;
    let is_device = fs::metadata(&node)
        .at("stat")?
        .file_type()
        .is_block_device();
    let file = fs::File::open(&node).at("open")?;
    let mut block = [0; 4096];
    std::io::Read::read_exact(&mut &file, &mut block).at("read")?;
    if is_device {
        Ok(Reached::Done)
    } else {
        Err(nothing("mknod"))
    }
}

fn disk() -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/dev/vda").at("stat /dev/vda")?.rdev())
}

/// Makes a socket's file there by `bind`.
fn bind_socket_file(place: &Place) -> Outcome {
    std::os::unix::net::UnixListener::bind(place.at("closed/planted")).at("bind")?;
    Ok(Reached::Done)
}

/// Plants a symbolic link there.
fn symlink_planted(place: &Place) -> Outcome {
    symlink("/tmp", place.at("closed/planted")).at("symlink")?;
    Ok(Reached::Done)
}

/// Deletes the denied file.
fn unlink(place: &Place) -> Outcome {
    fs::remove_file(place.secret()).at("unlink")?;
    Ok(Reached::Done)
}

/// Deletes a file that may only be read.
fn unlink_read_only(place: &Place) -> Outcome {
    fs::remove_file(place.at("readonly/ro.txt")).at("unlink")?;
    Ok(Reached::Done)
}

/// Deletes by a name relative to a descriptor.
fn unlink_by_descriptor(place: &Place) -> Outcome {
    let dir = sys::open(place.at("closed"), libc::O_PATH | libc::O_DIRECTORY)?;
    call!("unlinkat", libc::SYS_unlinkat, dir, c"secret.txt", 0)?;
    Ok(Reached::Done)
}
