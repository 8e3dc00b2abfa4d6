//! Random system calls of two processes. What they may not read holds a mark
//! that they look for in all that they read.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::attack::Failure;
use crate::random::Random;
use crate::sys::{self, Memory, call};

/// What every protected file holds, and nothing else does.
pub const SENTINEL: &str = "SENTINEL-of-the-fuzzer";

/// Names that paths are made of. Some are protected, some protect.
const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "e",
    "sub",
    "open",
    "closed",
    "readonly",
    "secret.txt",
    "ro.txt",
    "x.env",
    "vault",
    "key.txt",
    "..",
    ".",
    "alias",
];

/// Descriptors kept open at once.
const SLOTS: usize = 12;

/// One process of the fuzzer.
struct Fuzzer {
    world: PathBuf,
    random: Random,
    slots: Vec<OwnedFd>,
    /// Calls that succeeded.
    done: u64,
    /// Protected bytes that were read, and by what.
    leaks: Vec<String>,
}

/// Does `count` random calls, the same ones for the same seed.
/// Returns how many succeeded, and what was read that may not be.
fn run(world: &Path, seed: u64, count: u64) -> (u64, Vec<String>) {
    let mut fuzzer = Fuzzer {
        world: world.to_owned(),
        random: Random::new(seed),
        slots: Vec::new(),
        done: 0,
        leaks: Vec::new(),
    };
    // Where it starts is of no importance; it may not have been let in there.
    let _ = std::env::set_current_dir(world.join("open"));
    for _ in 0..count {
        if fuzzer.step().is_ok() {
            fuzzer.done += 1;
        }
        if fuzzer.slots.len() > SLOTS {
            fuzzer.slots.remove(0);
        }
    }
    (fuzzer.done, fuzzer.leaks)
}

type Done = Result<(), Failure>;

impl Fuzzer {
    fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    fn names(&mut self, most: u64) -> String {
        let count = 1 + self.below(most);
        let names: Vec<&str> = (0..count).map(|_| *self.of(NAMES)).collect();
        names.join("/")
    }

    /// A path in one of its many forms.
    fn path(&mut self) -> String {
        let world = self.world.display().to_string();
        let names = self.names(3);
        match self.below(10) {
            0..=3 => format!("{world}/{names}"),
            4 => names,
            5 => format!("{world}/open/{names}"),
            6 => format!("/proc/self/root{world}/{names}"),
            7 => format!("/proc/self/cwd/{names}"),
            8 => self
                .slot()
                .map_or(names.clone(), |fd| format!("/proc/self/fd/{fd}/{names}")),
            _ => self
                .slot()
                .map_or(names, |fd| format!("/proc/self/fd/{fd}")),
        }
    }

    fn c_path(&mut self) -> CString {
        sys::path(self.path())
    }

    fn slot(&mut self) -> Option<i32> {
        let count = self.slots.len() as u64;
        if count == 0 {
            return None;
        }
        let index = self.below(count) as usize;
        self.slots.get(index).map(AsRawFd::as_raw_fd)
    }

    /// A directory to begin at, and a path that may be relative to it.
    fn at(&mut self) -> (i32, CString) {
        let dir = match self.below(3) {
            0 => self.slot().unwrap_or(libc::AT_FDCWD),
            _ => libc::AT_FDCWD,
        };
        let path = if dir == libc::AT_FDCWD {
            self.path()
        } else {
            self.names(3)
        };
        (dir, sys::path(path))
    }

    fn any_fd(&mut self) -> i32 {
        self.slot().unwrap_or(-1)
    }

    fn look(&mut self, bytes: &[u8], how: &str) {
        let mark = SENTINEL.as_bytes();
        if bytes.windows(mark.len()).any(|window| window == mark) {
            self.leaks.push(how.to_owned());
        }
    }

    fn step(&mut self) -> Done {
        match self.below(30) {
            0..=6 => self.open(),
            7 | 8 => self.read(),
            9 => self.write(),
            10..=12 => self.rename(),
            13 | 14 => self.link(),
            15 | 16 => self.remove(),
            17 | 18 => self.make(),
            19 => self.symlink(),
            20 => self.truncate(),
            21 => self.mode(),
            22 => self.owner(),
            23 => self.attribute(),
            24 => self.times(),
            25 => self.enter(),
            26 => self.copy(),
            27 => self.map(),
            28 => self.allocate(),
            _ => self.socket(),
        }
    }

    fn open(&mut self) -> Done {
        let access = *self.of(&[
            libc::O_RDONLY,
            libc::O_RDONLY,
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_PATH,
        ]);
        let mut flags = access | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
        for more in [
            libc::O_CREAT,
            libc::O_TRUNC,
            libc::O_EXCL,
            libc::O_APPEND,
            libc::O_DIRECTORY,
            libc::O_NOFOLLOW,
        ] {
            if self.below(6) == 0 {
                flags |= more;
            }
        }
        if self.below(20) == 0 {
            flags |= libc::O_TMPFILE;
        }
        let (dir, path) = self.at();
        let fd = call!("openat", libc::SYS_openat, dir, path, flags, 0o755).map(sys::fd)?;
        if access == libc::O_RDONLY || access == libc::O_RDWR {
            let how = format!("openat({dir}, {path:?}, {flags:#o})");
            self.read_fd(fd.as_raw_fd(), &how)?;
        }
        self.slots.push(fd);
        Ok(())
    }

    fn read_fd(&mut self, fd: i32, how: &str) -> Done {
        let mut buffer = [0_u8; 256];
        let count = call!(
            "pread",
            libc::SYS_pread64,
            fd,
            Memory::to(&mut buffer),
            256,
            0
        )?;
        self.look(&buffer[..count], how);
        Ok(())
    }

    fn read(&mut self) -> Done {
        let fd = self.any_fd();
        self.read_fd(fd, "pread of a kept descriptor")
    }

    fn write(&mut self) -> Done {
        let fd = self.any_fd();
        call!("pwrite", libc::SYS_pwrite64, fd, c"junk", 4, 0).map(drop)
    }

    fn rename(&mut self) -> Done {
        let ((from_dir, from), (to_dir, to)) = (self.at(), self.at());
        let flags = *self.of(&[0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
        call!(
            "renameat2",
            libc::SYS_renameat2,
            from_dir,
            from,
            to_dir,
            to,
            flags
        )
        .map(drop)
    }

    fn link(&mut self) -> Done {
        let ((mut from_dir, mut from), (to_dir, to)) = (self.at(), self.at());
        let flags = *self.of(&[0, libc::AT_SYMLINK_FOLLOW, libc::AT_EMPTY_PATH]);
        if flags == libc::AT_EMPTY_PATH {
            (from_dir, from) = (self.any_fd(), CString::default());
        }
        call!(
            "linkat",
            libc::SYS_linkat,
            from_dir,
            from,
            to_dir,
            to,
            flags
        )
        .map(drop)
    }

    fn remove(&mut self) -> Done {
        let (dir, path) = self.at();
        let flags = *self.of(&[0, 0, libc::AT_REMOVEDIR]);
        call!("unlinkat", libc::SYS_unlinkat, dir, path, flags).map(drop)
    }

    fn make(&mut self) -> Done {
        let (dir, path) = self.at();
        match self.below(3) {
            0 => call!("mkdirat", libc::SYS_mkdirat, dir, path, 0o755).map(drop),
            1 => call!(
                "mknodat",
                libc::SYS_mknodat,
                dir,
                path,
                libc::S_IFIFO | 0o644,
                0
            )
            .map(drop),
            _ => call!(
                "mknodat",
                libc::SYS_mknodat,
                dir,
                path,
                libc::S_IFREG | 0o644,
                0
            )
            .map(drop),
        }
    }

    fn symlink(&mut self) -> Done {
        let target = self.c_path();
        let (dir, path) = self.at();
        call!("symlinkat", libc::SYS_symlinkat, target, dir, path).map(drop)
    }

    fn truncate(&mut self) -> Done {
        let length = self.below(100);
        if self.below(2) == 0 {
            return call!("ftruncate", libc::SYS_ftruncate, self.any_fd(), length).map(drop);
        }
        call!("truncate", libc::SYS_truncate, self.c_path(), length).map(drop)
    }

    /// Always such that its own files stay open to it.
    fn mode(&mut self) -> Done {
        let mode = *self.of(&[0o755, 0o777, 0o700]);
        if self.below(2) == 0 {
            return call!("fchmod", libc::SYS_fchmod, self.any_fd(), mode).map(drop);
        }
        let (dir, path) = self.at();
        call!("fchmodat", libc::SYS_fchmodat, dir, path, mode).map(drop)
    }

    fn owner(&mut self) -> Done {
        // SAFETY: takes nothing.
        let group = unsafe { libc::getgid() };
        if self.below(2) == 0 {
            return call!("fchown", libc::SYS_fchown, self.any_fd(), -1, group).map(drop);
        }
        let (dir, path) = self.at();
        let flags = *self.of(&[0, libc::AT_SYMLINK_NOFOLLOW]);
        call!("fchownat", libc::SYS_fchownat, dir, path, -1, group, flags).map(drop)
    }

    fn attribute(&mut self) -> Done {
        let (name, value) = (c"user.fuzz", Memory::of(b"1"));
        match self.below(4) {
            0 => call!(
                "fsetxattr",
                libc::SYS_fsetxattr,
                self.any_fd(),
                name,
                value,
                1,
                0
            )
            .map(drop),
            1 => call!("removexattr", libc::SYS_removexattr, self.c_path(), name).map(drop),
            2 => call!(
                "lsetxattr",
                libc::SYS_lsetxattr,
                self.c_path(),
                name,
                value,
                1,
                0
            )
            .map(drop),
            _ => call!(
                "setxattr",
                libc::SYS_setxattr,
                self.c_path(),
                name,
                value,
                1,
                0
            )
            .map(drop),
        }
    }

    fn times(&mut self) -> Done {
        let times = Memory::of(&[1_i64, 0, 1, 0]);
        if self.below(2) == 0 {
            return call!("futimens", libc::SYS_utimensat, self.any_fd(), 0, times, 0).map(drop);
        }
        let (dir, path) = self.at();
        call!("utimensat", libc::SYS_utimensat, dir, path, times, 0).map(drop)
    }

    fn enter(&mut self) -> Done {
        if self.below(2) == 0 {
            return call!("fchdir", libc::SYS_fchdir, self.any_fd()).map(drop);
        }
        call!("chdir", libc::SYS_chdir, self.c_path()).map(drop)
    }

    fn copy(&mut self) -> Done {
        let (from, to) = (self.any_fd(), self.any_fd());
        if self.below(2) == 0 {
            return call!("sendfile", libc::SYS_sendfile, to, from, 0, 100).map(drop);
        }
        call!(
            "copy_file_range",
            libc::SYS_copy_file_range,
            from,
            0,
            to,
            0,
            100,
            0
        )
        .map(drop)
    }

    fn map(&mut self) -> Done {
        let fd = self.any_fd();
        // A page past the end of a file would be a fault.
        let mut stat = [0_u64; 18];
        call!("fstat", libc::SYS_fstat, fd, Memory::to(&mut stat))?;
        let (mode, size) = (stat[3] as u32 & libc::S_IFMT, stat[6] as usize);
        if mode != libc::S_IFREG || size < 30 {
            return Ok(());
        }
        let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        let at = call!("mmap", libc::SYS_mmap, 0, 4096, prot, flags, fd, 0)?;
        // The kernel reads it, since the other process may have cut the file meanwhile.
        let mut buffer = [0_u8; 64];
        let (read, write) = (
            libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: 30,
            },
            libc::iovec {
                iov_base: at as *mut libc::c_void,
                iov_len: 30,
            },
        );
        let pipe = std::io::pipe();
        if let Ok((from, to)) = &pipe {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            if call!("writev", libc::SYS_writev, to, Memory::of(&write), 1).is_ok() {
                call!("readv", libc::SYS_readv, from, Memory::of(&read), 1)?;
            }
        }
        call!("munmap", libc::SYS_munmap, at, 4096)?;
        self.look(&buffer, "mmap of a kept descriptor");
        Ok(())
    }

    fn allocate(&mut self) -> Done {
        let mode = *self.of(&[0, 1, 3]);
        call!("fallocate", libc::SYS_fallocate, self.any_fd(), mode, 0, 64).map(drop)
    }

    fn socket(&mut self) -> Done {
        let path = self.path();
        let bound = std::os::unix::net::UnixDatagram::bind(path);
        bound.map(drop).map_err(|_| Failure::Untried("bind".into()))
    }
}

/// What one round of two processes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Number of its world.
    pub world: u64,
    /// Gives the round again.
    pub seed: u64,
    /// Calls that succeeded.
    pub done: u64,
    /// Protected bytes that were read, and by what.
    pub leaks: Vec<String>,
}

const MARK: &str = "fuzz-report ";

impl Round {
    fn line(&self) -> String {
        let leaks = self.leaks.join("\t").replace('\n', " ");
        format!("{MARK}{} {} {} {leaks}\n", self.world, self.seed, self.done)
    }

    /// Reads a report's line; `None` when it is another.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.splitn(4, ' ');
        let mut number = || words.next()?.parse().ok();
        let (world, seed, done) = (number()?, number()?, number()?);
        let leaks = words.next()?.split('\t').filter(|l| !l.is_empty());
        Some(Self {
            world,
            seed,
            done,
            leaks: leaks.map(str::to_owned).collect(),
        })
    }
}

/// Runs rounds in the worlds below a directory, `0`, `1`, …, until the time is
/// up or there is no other world. Reports on stderr.
///
/// # Errors
/// When a process cannot be made.
pub fn rounds(
    base: &Path,
    seed: u64,
    count: u64,
    time: std::time::Duration,
) -> Result<(), Failure> {
    let begun = std::time::Instant::now();
    for number in 0.. {
        let world = base.join(number.to_string());
        if begun.elapsed() > time || fs::symlink_metadata(&world).is_err() {
            break;
        }
        let mut round = Round {
            world: number,
            seed: seed + number,
            done: 0,
            leaks: Vec::new(),
        };
        let pipe = |e| Failure::Untried(format!("a pipe: {e}"));
        let (mut read, write) = std::io::pipe().map_err(pipe)?;
        let mut children = Vec::new();
        for half in 0..2 {
            // SAFETY: this program has one thread.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let (done, leaks) = run(&world, (seed + number) * 2 + half, count);
                let half = Round {
                    done,
                    leaks,
                    ..round
                };
                let sent = std::io::Write::write_all(&mut &write, half.line().as_bytes()).is_ok();
                // SAFETY: ends this process without the parent's destructors.
                unsafe { libc::_exit(i32::from(!sent)) }
            }
            children.push(pid);
        }
        drop(write);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut read, &mut text).map_err(pipe)?;
        for pid in children {
            if sys::wait(pid)? != 0 {
                round.leaks.push("one of the processes broke".into());
            }
        }
        for half in text.lines().filter_map(Round::parse) {
            round.done += half.done;
            round.leaks.extend(half.leaks);
        }
        eprint!("{}", round.line());
    }
    Ok(())
}

/// Makes a world: what is below `open` may be changed, what is below `readonly`
/// read, the rest is protected. Run as root, given away afterwards.
///
/// # Panics
/// When that fails: the test cannot go on.
pub fn prepare(world: &Path) {
    let fail = |what: &str, e: std::io::Error| -> ! { panic!("make {what}: {e}") };
    for below in [
        "open/a",
        "open/b/sub",
        "open/d",
        "open/vault",
        "readonly/sub",
        "closed/sub",
    ] {
        fs::create_dir_all(world.join(below)).unwrap_or_else(|e| fail(below, e));
    }
    for below in PROTECTED {
        fs::write(world.join(below), SENTINEL).unwrap_or_else(|e| fail(below, e));
    }
    for below in [
        "readonly/ro.txt",
        "readonly/sub/a",
        "open/c",
        "open/a/e",
        "open/b/sub/c",
    ] {
        fs::write(world.join(below), "nothing of importance, long enough")
            .unwrap_or_else(|e| fail(below, e));
    }
}

/// Files that hold the mark.
const PROTECTED: &[&str] = &[
    "closed/secret.txt",
    "closed/sub/a",
    "open/x.env",
    "open/vault/key.txt",
    "secret.txt",
];

/// How all that may not be changed is.
#[must_use]
pub fn state(world: &Path) -> std::collections::BTreeMap<String, String> {
    let dirs = ["", "closed", "closed/sub", "readonly", "readonly/sub"];
    let files = ["readonly/ro.txt", "readonly/sub/a"];
    let all = dirs.iter().chain(&files).chain(PROTECTED);
    let state = |below: &&str| {
        let path = world.join(below);
        let now = fs::symlink_metadata(&path)
            .map_or_else(|e| e.to_string(), |meta| crate::place::state(&path, &meta));
        ((*below).to_owned(), now)
    };
    all.map(state).collect()
}

/// Files where writing is allowed that hold the mark, though none there should.
#[must_use]
pub fn leaked(dir: &Path, world: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            found.extend(leaked(&path, world));
        } else if meta.is_file()
            && !PROTECTED.iter().any(|below| world.join(below) == path)
            && fs::read(&path).is_ok_and(|b| String::from_utf8_lossy(&b).contains(SENTINEL))
        {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        for leaks in [vec![], vec!["open a".to_owned(), "mmap".to_owned()]] {
            let round = Round {
                world: 3,
                seed: 9,
                done: 70,
                leaks,
            };
            assert_eq!(
                Round::parse(round.line().trim_end_matches('\n')),
                Some(round)
            );
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_paths() {
        let paths = |seed| {
            let mut fuzzer = Fuzzer {
                world: "/w".into(),
                random: Random::new(seed),
                slots: Vec::new(),
                done: 0,
                leaks: Vec::new(),
            };
            (0..50).map(|_| fuzzer.path()).collect::<Vec<_>>()
        };
        assert_eq!(paths(7), paths(7));
        assert_ne!(paths(7), paths(8));
    }
}
