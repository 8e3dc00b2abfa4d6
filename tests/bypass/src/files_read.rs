//! Reading a denied file by another spelling, another name, another call.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use crate::attack::{At, Outcome, Reached, Technique, nothing};
use crate::place::{Place, deep_write};
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("open-plain", open_plain),
    Technique::new("open-leaf-name", open_leaf_name),
    Technique::new("open-literal", open_literal),
    Technique::new("open-not-named", open_not_named).prepared(prepare_not_named),
    Technique::new("comm-spoof", comm_spoof),
    Technique::new("dot-dot", dot_dot),
    Technique::new("openat2-beneath", openat2_beneath),
    Technique::new("o-path-reopen", o_path_reopen),
    Technique::new("proc-self-root", proc_self_root),
    Technique::new("proc-outside-root", proc_outside_root).outside(),
    Technique::new("proc-outside-cwd", proc_outside_cwd).outside(),
    Technique::new("proc-self-cwd", proc_self_cwd),
    Technique::new("fchdir-relative", fchdir_relative),
    Technique::new("symlink-followed", symlink_followed),
    Technique::new("symlink-chain", symlink_chain),
    Technique::new("symlink-swap-race", symlink_swap_race),
    Technique::new("hardlink-before", hardlink_before).prepared(prepare_hardlink),
    Technique::new("hardlink-inside", hardlink_inside),
    Technique::new("hardlink-by-descriptor", hardlink_by_descriptor),
    Technique::new("bind-mount-before", bind_mount_before).prepared(prepare_bind_mount),
    Technique::new("long-name", long_name).prepared(prepare_long_name),
    Technique::new("deep-128", deep_128).prepared(prepare_deep_128),
    Technique::new("deep-300", deep_300).prepared(prepare_deep_300),
    Technique::new("path-4000", path_4000).prepared(prepare_path_4000),
    Technique::new("path-over-4096", path_over_4096).prepared(prepare_path_over_4096),
    Technique::new("deleted-reopen", deleted_reopen).outside(),
    Technique::new("handle-reopen", handle_reopen),
    Technique::new("list-directory", list_directory),
    Technique::new("inotify-watch", inotify_watch),
    Technique::new("fanotify-watch", fanotify_watch),
    Technique::new("read-write-open", read_write_open),
    Technique::new("sendfile", sendfile),
    Technique::new("splice", splice),
    Technique::new("copy-file-range", copy_file_range),
    Technique::new("map-file", map_file),
    Technique::new("write-only-open", write_only_open),
];

fn read(path: impl AsRef<std::path::Path>) -> Outcome {
    fs::read(path).at("open").map(Reached::Secret)
}

/// Opens the denied file by its own path.
fn open_plain(place: &Place) -> Outcome {
    read(place.secret())
}

/// Opens a file whose leaf name is denied, in a directory that is allowed.
fn open_leaf_name(place: &Place) -> Outcome {
    read(place.at("open/x.env"))
}

/// Opens a file that a rule denies by its whole path.
fn open_literal(place: &Place) -> Outcome {
    read(place.at("literal.key"))
}

fn prepare_not_named(place: &Place) {
    place.write("sock/unnamed.txt", &place.secret_bytes(), 0o644);
}

/// Opens a file that no rule names.
fn open_not_named(place: &Place) -> Outcome {
    read(place.at("sock/unnamed.txt"))
}

/// Takes the name of a trusted program, then opens.
fn comm_spoof(place: &Place) -> Outcome {
    call!("prctl", libc::SYS_prctl, libc::PR_SET_NAME, c"guard")?;
    read(place.secret())
}

/// Goes through allowed directories and back with `..`.
fn dot_dot(place: &Place) -> Outcome {
    read(place.at("open/real/../.././open/../closed/./secret.txt"))
}

/// `openat2` below a descriptor of the parent, with resolve flags.
fn openat2_beneath(place: &Place) -> Outcome {
    let dir = sys::open(&place.dir, libc::O_PATH | libc::O_DIRECTORY)?;
    let path = c"closed/secret.txt";
    // struct open_how: flags, mode, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS.
    let how: [u64; 3] = [libc::O_CLOEXEC as u64, 0, 0x08 | 0x04];
    let fd = call!(
        "openat2",
        libc::SYS_openat2,
        dir,
        path,
        Memory::of(&how),
        24
    )?;
    sys::read_all(sys::fd(fd)).map(Reached::Secret)
}

/// `O_PATH`, which no hook sees, then opened again through `/proc/self/fd`.
fn o_path_reopen(place: &Place) -> Outcome {
    let fd = sys::open(place.secret(), libc::O_PATH)?;
    read(sys::proc_fd(&fd))
}

/// Through this process's own root link.
fn proc_self_root(place: &Place) -> Outcome {
    read(format!("/proc/self/root{}", place.secret().display()))
}

/// Through the root link of a process outside.
fn proc_outside_root(place: &Place) -> Outcome {
    let pid = place.number("pid")?;
    read(format!("/proc/{pid}/root{}", place.secret().display()))
}

/// Through the working directory of a process outside, which is the denied one.
fn proc_outside_cwd(place: &Place) -> Outcome {
    read(format!("/proc/{}/cwd/secret.txt", place.number("pid")?))
}

/// Makes the denied directory the working directory, then names the file through /proc.
fn proc_self_cwd(place: &Place) -> Outcome {
    std::env::set_current_dir(place.at("closed")).at("chdir")?;
    read("/proc/self/cwd/secret.txt")
}

/// Goes into the denied directory by descriptor; the name opened is one component.
fn fchdir_relative(place: &Place) -> Outcome {
    let dir = sys::open(place.at("closed"), libc::O_PATH | libc::O_DIRECTORY)?;
    call!("fchdir", libc::SYS_fchdir, dir)?;
    read("secret.txt")
}

/// A symbolic link with a harmless name.
fn symlink_followed(place: &Place) -> Outcome {
    symlink("../closed/secret.txt", place.at("open/harmless.txt")).at("symlink")?;
    read(place.at("open/harmless.txt"))
}

/// Links to links, absolute and relative, one of them a directory.
fn symlink_chain(place: &Place) -> Outcome {
    symlink("/proc/self/root", place.at("open/a")).at("symlink")?;
    let below = place.dir.display().to_string();
    symlink(format!("a{below}"), place.at("open/b")).at("symlink")?;
    symlink("b/closed", place.at("open/c")).at("symlink")?;
    read(place.at("open/c/secret.txt"))
}

/// Swaps a link between an allowed and the denied directory under a reader:
/// between a check of the name and its use.
fn symlink_swap_race(place: &Place) -> Outcome {
    let (flip, next) = (place.at("open/flip"), place.at("open/next"));
    symlink("real", &flip).at("symlink")?;
    // SAFETY: a process of one thread.
    let parent = unsafe { libc::getpid() };
    let swap = || {
        // SAFETY: takes integers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: takes nothing.
        while unsafe { libc::getppid() } == parent {
            for target in ["../closed", "real"] {
                let made = symlink(target, &next).and_then(|()| fs::rename(&next, &flip));
                if made.is_err() {
                    return 1;
                }
            }
        }
        0
    };
    // SAFETY: a process of one thread.
    let swapper = unsafe { libc::fork() };
    if swapper == 0 {
        let code = swap();
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) }
    }
    let mut got = Err(nothing("open through the link"));
    for _ in 0..400 {
        match fs::read(flip.join("secret.txt")) {
            Ok(bytes) if bytes != b"not the secret" => {
                got = Ok(Reached::Secret(bytes));
                break;
            }
            _ => {}
        }
    }
    // SAFETY: takes integers; ends the child made above.
    unsafe { libc::kill(swapper, libc::SIGKILL) };
    sys::wait(swapper)?;
    got
}

fn prepare_hardlink(place: &Place) {
    let made = fs::hard_link(place.at("literal.key"), place.at("open/alias.txt"));
    made.unwrap_or_else(|e| panic!("link: {e}"));
}

/// Another name, made before the sandbox, of a file that a rule denies by its path.
fn hardlink_before(place: &Place) -> Outcome {
    read(place.at("open/alias.txt"))
}

/// Makes another name of the denied file where reading is allowed.
fn hardlink_inside(place: &Place) -> Outcome {
    fs::hard_link(place.secret(), place.at("open/alias.txt")).at("link")?;
    read(place.at("open/alias.txt"))
}

/// Another name, made from an `O_PATH` descriptor.
fn hardlink_by_descriptor(place: &Place) -> Outcome {
    let fd = sys::open(place.secret(), libc::O_PATH)?;
    let (from, to) = (
        sys::path(sys::proc_fd(&fd)),
        sys::path(place.at("open/alias.txt")),
    );
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    call!("linkat", libc::SYS_linkat, here, from, here, to, follow)?;
    read(place.at("open/alias.txt"))
}

fn prepare_bind_mount(place: &Place) {
    place.write("open/mounted.txt", b"", 0o644);
    let (from, to) = (
        sys::path(place.at("literal.key")),
        sys::path(place.at("open/mounted.txt")),
    );
    let made = call!("mount", libc::SYS_mount, from, to, 0, libc::MS_BIND, 0);
    made.unwrap_or_else(|e| panic!("mount: {e:?}"));
}

/// A bind mount, made before the sandbox, of a file that a rule denies by its path.
fn bind_mount_before(place: &Place) -> Outcome {
    read(place.at("open/mounted.txt"))
}

fn long_leaf() -> String {
    format!("{}.env", "n".repeat(251))
}

fn prepare_long_name(place: &Place) {
    let leaf = format!("open/{}", long_leaf());
    place.write(&leaf, &place.secret_bytes(), 0o644);
}

/// A denied name of 255 bytes: peers compare 64, 128 or 200.
fn long_name(place: &Place) -> Outcome {
    read(place.at("open").join(long_leaf()))
}

fn names(count: usize, length: usize) -> Vec<String> {
    (0..count).map(|_| "d".repeat(length)).collect()
}

/// Opens `leaf` below `count` directories, going there one at a time.
fn deep_read(place: &Place, count: usize, length: usize) -> Outcome {
    std::env::set_current_dir(place.at("open")).at("chdir")?;
    for name in names(count, length) {
        std::env::set_current_dir(name).at("chdir")?;
    }
    read("x.env")
}

fn deep_prepare(place: &Place, count: usize, length: usize) {
    let secret = place.secret_bytes();
    deep_write(&place.at("open"), &names(count, length), "x.env", &secret);
}

fn prepare_deep_128(place: &Place) {
    deep_prepare(place, 124, 1);
}

/// A denied name 128 components deep: peers walk 20.
fn deep_128(place: &Place) -> Outcome {
    deep_read(place, 124, 1)
}

fn prepare_deep_300(place: &Place) {
    deep_prepare(place, 300, 1);
}

/// A denied name deeper than guard walks.
fn deep_300(place: &Place) -> Outcome {
    deep_read(place, 300, 1)
}

fn prepare_path_4000(place: &Place) {
    deep_prepare(place, 19, 205);
}

/// A denied name at the end of a path of 4,000 bytes.
fn path_4000(place: &Place) -> Outcome {
    deep_read(place, 19, 205)
}

fn prepare_path_over_4096(place: &Place) {
    deep_prepare(place, 22, 205);
}

/// A denied name at the end of a path longer than the kernel's own limit.
fn path_over_4096(place: &Place) -> Outcome {
    deep_read(place, 22, 205)
}

/// A descriptor of a file that is then deleted, opened again.
fn deleted_reopen(place: &Place) -> Outcome {
    let fd = sys::open(place.at("box/closed/doomed.txt"), libc::O_PATH)?;
    fs::write(place.at("open/doom"), b"").at("ask the process outside")?;
    let begun = std::time::Instant::now();
    while place.at("box/closed/doomed.txt").exists() {
        if begun.elapsed().as_secs() > 5 {
            return Err(nothing("the process outside deletes it"));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    read(sys::proc_fd(&fd))
}

/// The file's handle, opened with no path at all.
fn handle_reopen(place: &Place) -> Outcome {
    let mount = sys::open("/", libc::O_PATH | libc::O_DIRECTORY)?;
    // struct file_handle: handle_bytes, handle_type, the handle.
    let mut handle = [0_u32; 34];
    handle[0] = 128;
    let (file, mut id) = (sys::path(place.secret()), 0_i32);
    let (to, mount_id) = (Memory::to(&mut handle), Memory::to(&mut id));
    call!(
        "name_to_handle_at",
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        file,
        to,
        mount_id,
        0
    )?;
    // The mount is named by any descriptor of it that was opened.
    drop(mount);
    let mount = sys::open(place.at("open"), libc::O_RDONLY | libc::O_DIRECTORY)?;
    let step = "open_by_handle_at";
    let fd = call!(
        step,
        libc::SYS_open_by_handle_at,
        mount,
        Memory::to(&mut handle),
        0
    )?;
    sys::read_all(sys::fd(fd)).map(Reached::Secret)
}

/// Lists the denied directory.
fn list_directory(place: &Place) -> Outcome {
    let entries = fs::read_dir(place.at("closed")).at("open")?;
    let found = entries.flatten().any(|e| e.file_name() == "secret.txt");
    found
        .then_some(Reached::Done)
        .ok_or_else(|| nothing("getdents"))
}

/// Is told by inotify of what happens in the denied directory.
fn inotify_watch(place: &Place) -> Outcome {
    let fd = sys::fd(call!(
        "inotify_init1",
        libc::SYS_inotify_init1,
        libc::O_CLOEXEC
    )?);
    let (dir, mask) = (sys::path(place.at("closed")), libc::IN_ALL_EVENTS);
    call!(
        "inotify_add_watch",
        libc::SYS_inotify_add_watch,
        fd,
        dir,
        mask
    )?;
    Ok(Reached::Done)
}

/// The same with fanotify, which ordinary users may use since 5.13.
fn fanotify_watch(place: &Place) -> Outcome {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID;
    let fd = sys::fd(call!("fanotify_init", libc::SYS_fanotify_init, flags, 0)?);
    let mask = libc::FAN_OPEN | libc::FAN_EVENT_ON_CHILD;
    let (dir, add) = (sys::path(place.at("closed")), libc::FAN_MARK_ADD);
    call!(
        "fanotify_mark",
        libc::SYS_fanotify_mark,
        fd,
        add,
        mask,
        libc::AT_FDCWD,
        dir
    )?;
    Ok(Reached::Done)
}

/// Opens for both at once.
fn read_write_open(place: &Place) -> Outcome {
    sys::read_all(sys::open(place.secret(), libc::O_RDWR)?).map(Reached::Secret)
}

fn copied(place: &Place) -> Outcome {
    read(place.at("open/copy.txt"))
}

/// Has the kernel copy it with `sendfile`.
fn sendfile(place: &Place) -> Outcome {
    let from = sys::open(place.secret(), libc::O_RDONLY)?;
    let to = fs::File::create(place.at("open/copy.txt")).at("create")?;
    call!("sendfile", libc::SYS_sendfile, to, from, 0, 4096)?;
    copied(place)
}

/// Has the kernel move it through a pipe with `splice`.
fn splice(place: &Place) -> Outcome {
    let from = sys::open(place.secret(), libc::O_RDONLY)?;
    let (read, write) = std::io::pipe().at("pipe")?;
    let (read, write) = (read.as_raw_fd(), write.as_raw_fd());
    call!("splice", libc::SYS_splice, from, 0, write, 0, 4096, 0)?;
    let to = fs::File::create(place.at("open/copy.txt")).at("create")?;
    call!("splice", libc::SYS_splice, read, 0, to, 0, 4096, 0)?;
    copied(place)
}

/// Has the kernel copy it with `copy_file_range`.
fn copy_file_range(place: &Place) -> Outcome {
    let from = sys::open(place.secret(), libc::O_RDONLY)?;
    let to = fs::File::create(place.at("open/copy.txt")).at("create")?;
    call!(
        "copy_file_range",
        libc::SYS_copy_file_range,
        from,
        0,
        to,
        0,
        4096,
        0
    )?;
    copied(place)
}

/// Maps it.
fn map_file(place: &Place) -> Outcome {
    let fd = sys::open(place.secret(), libc::O_RDONLY)?;
    let length = fs::metadata(place.secret()).at("stat")?.len() as usize;
    let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
    let at = call!("mmap", libc::SYS_mmap, 0, length, prot, flags, fd, 0)?;
    // SAFETY: the mapping that was just made, of that length.
    Ok(Reached::Secret(unsafe { sys::bytes_at(at, length) }))
}

/// Opens it write-only, which is another right than reading, and seeks for its size.
fn write_only_open(place: &Place) -> Outcome {
    let fd = sys::open(place.secret(), libc::O_WRONLY)?;
    let size = call!("lseek", libc::SYS_lseek, fd, 0, libc::SEEK_END)?;
    if size == 0 {
        Err(nothing("lseek"))
    } else {
        Ok(Reached::Done)
    }
}
