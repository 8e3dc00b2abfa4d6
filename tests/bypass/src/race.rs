//! Directories move under a reader. Each move tells when it is begun and done,
//! so that a reader can prove that what it was given was denied all the while.
//!
//! The tree, of which the policy allows `toggle/open`, `exchange/open`,
//! `torn/good/…/good` and `calm`:
//!
//! - `toggle/NAME/file`: one directory, moved between `open` and `shut`.
//! - `exchange/{open,shut}/file`: two directories, exchanged.
//! - `torn/OUTER/…/INNER/file`: both names are `good` or `bad`, never both
//!   `good` at once. Whoever reads the file was let in by a path that never was.
//! - `calm/file`: stays. Moves elsewhere must not fail it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::attack::{At, Failure};
use crate::sys::{self, call};

/// How many directories lie between the two names of `torn`.
const BETWEEN: usize = 24;

/// What readers found. `Default` is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Reads of what was denied all the while.
    pub wrong: u64,
    /// Reads that were allowed.
    pub allowed: u64,
    /// Opens that were denied.
    pub denied: u64,
    /// Denied opens of the file that stays.
    pub calm_denied: u64,
    /// Denied opens of what was allowed all the while.
    pub refused: u64,
}

/// What each of the two readers says when it has hold of the directories: then they may move.
pub const READY: &str = "race-ready";

const MARK: &str = "race-report ";

impl Found {
    fn line(&self) -> String {
        let Self {
            wrong,
            allowed,
            denied,
            calm_denied,
            refused,
        } = self;
        format!("{MARK}{wrong} {allowed} {denied} {calm_denied} {refused}\n")
    }

    /// Reads a report's line; `None` when it is another.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let numbers = line.strip_prefix(MARK)?.split(' ').map(|n| n.parse().ok());
        let n: Vec<u64> = numbers.collect::<Option<_>>()?;
        let [wrong, allowed, denied, calm_denied, refused] = n[..] else {
            return None;
        };
        Some(Self {
            wrong,
            allowed,
            denied,
            calm_denied,
            refused,
        })
    }

    fn add(&mut self, other: Self) {
        self.wrong += other.wrong;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.calm_denied += other.calm_denied;
        self.refused += other.refused;
    }
}

/// The rules that the tree is made for.
#[must_use]
pub fn read_rules(dir: &Path) -> Vec<String> {
    let between = "/d".repeat(BETWEEN);
    let rules = ["toggle/open", "exchange/open", "calm", "epochs"].map(str::to_owned);
    let torn = format!("torn/good{between}/good");
    rules
        .into_iter()
        .chain([torn])
        .map(|below| format!("{}/{below}/**", dir.display()))
        .collect()
}

/// Makes the tree.
///
/// # Panics
/// When that fails: the test cannot go on.
pub fn prepare(dir: &Path) {
    let between = "d/".repeat(BETWEEN);
    let torn = format!("torn/bad/{between}good");
    for below in [
        "toggle/open",
        "exchange/open",
        "exchange/shut",
        "calm",
        &torn,
    ] {
        let path = dir.join(below);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("make {below}: {e}"));
        fs::write(path.join("file"), "content").unwrap_or_else(|e| panic!("write there: {e}"));
    }
    fs::write(dir.join("epochs"), [0; 4096]).unwrap_or_else(|e| panic!("write epochs: {e}"));
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir, all).unwrap_or_else(|e| panic!("open {}: {e}", dir.display()));
}

/// The page that writer and readers share: a number for each place that a
/// directory can be at. Odd: it is there for certain. It becomes odd after the
/// move to there, and even before the move away.
struct Epochs(*const AtomicU64);

impl Epochs {
    fn map(dir: &Path, write: bool) -> Result<Self, Failure> {
        let (flags, prot) = if write {
            (libc::O_RDWR, libc::PROT_READ | libc::PROT_WRITE)
        } else {
            (libc::O_RDONLY, libc::PROT_READ)
        };
        let fd = sys::open(dir.join("epochs"), flags)?;
        let at = call!(
            "mmap",
            libc::SYS_mmap,
            0,
            4096,
            prot,
            libc::MAP_SHARED,
            fd,
            0
        )?;
        Ok(Self(at as *const AtomicU64))
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        // SAFETY: a page that stays mapped holds 512 of them; `index` is 0 to 3. Readers only load.
        unsafe { &*self.0.add(index) }
    }
}

/// The directory of `toggle` is at `shut`; at `open`; of the two of `exchange` the first, or the
/// second, is at `open`.
const TOGGLE_SHUT: usize = 0;
const TOGGLE_OPEN: usize = 1;
const FIRST_OPEN: usize = 2;
const SECOND_OPEN: usize = 3;

/// Moves directories until the time is up.
///
/// # Errors
/// When a move fails.
pub fn write(dir: &Path, time: Duration) -> Result<u64, Failure> {
    let epochs = Epochs::map(dir, true)?;
    let step = |index: usize| epochs.at(index).fetch_add(1, Ordering::SeqCst);
    let rename = |from: PathBuf, to: PathBuf| fs::rename(from, to).at("rename");
    let (toggle, exchange, torn) = (dir.join("toggle"), dir.join("exchange"), dir.join("torn"));
    let inner = |outer: &str| torn.join(outer).join("d/".repeat(BETWEEN));
    let swap = || {
        let (from, to) = (
            sys::path(exchange.join("open")),
            sys::path(exchange.join("shut")),
        );
        let here = libc::AT_FDCWD;
        call!(
            "renameat2",
            libc::SYS_renameat2,
            here,
            from,
            here,
            to,
            libc::RENAME_EXCHANGE
        )
    };
    // At first all that may be allowed is: odd says "for certain".
    for index in [TOGGLE_OPEN, FIRST_OPEN] {
        step(index);
    }
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < time {
        step(TOGGLE_OPEN);
        rename(toggle.join("open"), toggle.join("shut"))?;
        step(TOGGLE_SHUT);
        // bad/…/good: the inner name becomes bad before the outer becomes good, and back.
        rename(inner("bad").join("good"), inner("bad").join("bad"))?;
        rename(torn.join("bad"), torn.join("good"))?;
        step(FIRST_OPEN);
        swap()?;
        step(SECOND_OPEN);
        pause(rounds);
        step(TOGGLE_SHUT);
        rename(toggle.join("shut"), toggle.join("open"))?;
        step(TOGGLE_OPEN);
        rename(torn.join("good"), torn.join("bad"))?;
        rename(inner("bad").join("bad"), inner("bad").join("good"))?;
        step(SECOND_OPEN);
        swap()?;
        step(FIRST_OPEN);
        pause(rounds);
        rounds += 1;
    }
    Ok(rounds)
}

/// Rests of many lengths, so that readers meet every moment of a move.
fn pause(round: u64) {
    for _ in 0..(round * 37) % 400 {
        std::hint::spin_loop();
    }
    if round.is_multiple_of(8) {
        std::thread::yield_now();
    }
}

/// Reads until the time is up, in two processes, and reports on stderr.
///
/// # Errors
/// When the tree cannot be entered.
pub fn read(dir: &Path, time: Duration) -> Result<(), Failure> {
    let ready = || eprintln!("{READY}");
    let (mut from_child, mut to_parent) = std::io::pipe().at("pipe")?;
    // SAFETY: this program has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(from_child);
        let found = read_alone(dir, time, ready);
        let text = found.map_or_else(|e| format!("{e:?}"), |found| found.line());
        let sent = std::io::Write::write_all(&mut to_parent, text.as_bytes()).is_ok();
        // SAFETY: ends this process without the parent's destructors.
        unsafe { libc::_exit(i32::from(!sent)) }
    }
    drop(to_parent);
    let mut found = read_alone(dir, time, ready)?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut from_child, &mut text).at("read from the other reader")?;
    sys::wait(child)?;
    let other = Found::parse(text.trim_end());
    found.add(other.ok_or_else(|| Failure::Untried(format!("the other reader: {text}")))?);
    eprint!("{}", found.line());
    Ok(())
}

fn read_alone(dir: &Path, time: Duration, ready: impl FnOnce()) -> Result<Found, Failure> {
    let epochs = Epochs::map(dir, false)?;
    let hold = |below: &str| sys::open(dir.join(below), libc::O_PATH | libc::O_DIRECTORY);
    // By descriptor: the directories are reached wherever they are.
    let toggle = hold("toggle/open")?;
    let (first, second) = (hold("exchange/open")?, hold("exchange/shut")?);
    let torn = hold(&format!("torn/bad/{}good", "d/".repeat(BETWEEN)))?;
    let open = |at: &std::os::fd::OwnedFd| {
        let fd = sys::open_at(at.as_raw_fd(), "file", libc::O_RDONLY).ok();
        fd.is_some_and(|fd| sys::read_all(fd).is_ok_and(|bytes| bytes == b"content"))
    };
    ready();
    let mut found = Found::default();
    // `shut` and `open`: epochs that are odd while the directory is there for certain.
    let judge = |found: &mut Found, at, shut: Option<usize>, certain: Option<usize>| {
        let load = |index: Option<usize>| index.map(|i| epochs.at(i).load(Ordering::SeqCst));
        let before = (load(shut), load(certain));
        let read = open(at);
        let held =
            |then: Option<u64>, index| then.is_some_and(|e| e % 2 == 1) && then == load(index);
        match read {
            true if held(before.0, shut) => found.wrong += 1,
            false if held(before.1, certain) => found.refused += 1,
            true => found.allowed += 1,
            false => found.denied += 1,
        }
    };
    let begun = Instant::now();
    while begun.elapsed() < time {
        judge(&mut found, &toggle, Some(TOGGLE_SHUT), Some(TOGGLE_OPEN));
        judge(&mut found, &first, Some(SECOND_OPEN), Some(FIRST_OPEN));
        judge(&mut found, &second, Some(FIRST_OPEN), Some(SECOND_OPEN));
        match open(&torn) {
            true => found.wrong += 1,
            false => found.denied += 1,
        }
        if fs::read(dir.join("calm/file")).is_err() {
            found.calm_denied += 1;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let found = Found {
            wrong: 1,
            allowed: 2,
            denied: 3,
            calm_denied: 4,
            refused: 5,
        };
        assert_eq!(Found::parse(found.line().trim_end()), Some(found));
    }

    /// Without guard all may be read, so the readers must see it: what lay where it is denied
    /// all the while counts as wrong.
    #[test]
    fn reads_without_guard_are_found_wrong() {
        let dir = std::env::temp_dir().join(format!("bypass-race-{}", std::process::id()));
        prepare(&dir);
        let time = Duration::from_millis(400);
        let (tell, told) = std::sync::mpsc::channel();
        let found = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_alone(&dir, time, move || tell.send(()).unwrap()));
            told.recv().unwrap();
            write(&dir, time).unwrap();
            reader.join().unwrap().unwrap()
        });
        fs::remove_dir_all(&dir).unwrap();
        assert!(found.wrong > 0 && found.allowed > 0, "{found:?}");
        assert_eq!(
            (found.denied, found.calm_denied, found.refused),
            (0, 0, 0),
            "{found:?}"
        );
    }
}
