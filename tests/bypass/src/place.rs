//! Where an attack takes place: files that it may use, files that it may not.
//!
//! | Below the place | Policy | What |
//! |---|---|---|
//! | `open/` | read, write | the attacker's own |
//! | `readonly/` | read | may be looked at |
//! | `bin/` | read, exec | programs that may be started |
//! | `closed/` | denied by a component's name | holds the secret |
//! | `open/*.env` | denied by a leaf's name | the secret again |
//! | `literal.key` | denied by its whole path | the secret again |
//! | `sock/`, `log` | neither, read | of the process outside |
//! | `box/` | denied by a component's name | what the process outside deletes |
//! | `outside.txt` | read | how to find the process outside |

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::attack::{At, Failure, Outcome, Reached, nothing};

/// One technique's files.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory that all is in.
    pub dir: PathBuf,
}

/// Machine code, x86-64: `mov eax, 42; ret`.
pub const CODE: &[u8] = &[0xb8, 42, 0, 0, 0, 0xc3];

/// The port of 127.0.0.1 that the policy allows. Nobody listens there.
pub const ALLOWED_PORT: u16 = 9;

/// The descriptor of a secret that the client leaves open.
pub const INHERITED: i32 = 9;

/// Where the policy in use and the trail are. The policy of root's techniques
/// lets them write there.
pub const GUARDS: &str = "/srv/bypass-guard";

/// How long an effect outside is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// A program of the system that only ends with success.
const TRUE: &str = "/usr/bin/true";

impl Place {
    /// The place of a technique below a directory.
    #[must_use]
    pub fn new(base: &Path, name: &str) -> Self {
        Self {
            dir: base.join(name),
        }
    }

    /// The technique's name.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// A path below.
    #[must_use]
    pub fn at(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// The secret's usual file.
    #[must_use]
    pub fn secret(&self) -> PathBuf {
        self.at("closed/secret.txt")
    }

    /// What the process outside says about itself.
    ///
    /// # Errors
    /// When it has not said so.
    pub fn told(&self, key: &str) -> Result<String, Failure> {
        let text = fs::read_to_string(self.at("outside.txt")).at("read outside.txt")?;
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.into_iter().find(|(name, _)| *name == key);
        let found = found.map(|(_, value)| value.to_owned());
        found.ok_or_else(|| Failure::Untried(format!("the process outside does not tell {key}")))
    }

    /// A number that the process outside says.
    ///
    /// # Errors
    /// As [`Self::told`].
    pub fn number(&self, key: &str) -> Result<usize, Failure> {
        let text = self.told(key)?;
        text.parse()
            .map_err(|_| Failure::Untried(format!("{key}={text} is no number")))
    }

    /// Waits until the process outside has noticed something, which it logs.
    ///
    /// # Errors
    /// When it notices nothing.
    pub fn noticed(&self) -> Outcome {
        let log = self.at("log");
        until("the process outside notices", || {
            fs::metadata(&log).is_ok_and(|meta| meta.len() > 0)
        })
    }

    /// Waits until the process outside is gone.
    ///
    /// # Errors
    /// When it stays.
    pub fn gone(&self) -> Outcome {
        let stat = format!("/proc/{}/stat", self.number("pid")?);
        until("the process outside ends", || {
            fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "))
        })
    }

    /// Makes the usual files. Run as root.
    ///
    /// # Panics
    /// When that fails: the test cannot go on.
    pub fn prepare(&self, secret: &str) {
        for below in [
            "",
            "open",
            "open/real",
            "open/mnt",
            "closed",
            "closed/empty",
            "readonly",
            "bin",
            "sock",
            "box/closed",
        ] {
            fs::create_dir_all(self.at(below)).unwrap_or_else(|e| panic!("make {below}: {e}"));
        }
        for below in [
            "closed/secret.txt",
            "box/closed/doomed.txt",
            "open/x.env",
            "literal.key",
        ] {
            self.write(below, secret.as_bytes(), 0o644);
        }
        self.write("open/note.txt", b"only a note", 0o644);
        self.write("open/decoy.txt", b"a decoy", 0o644);
        self.write("open/real/secret.txt", b"not the secret", 0o644);
        self.write("open/code.bin", CODE, 0o644);
        self.write("readonly/ro.txt", b"to be read", 0o644);
        self.write("open/script.sh", b"#!/usr/bin/true\n", 0o755);
        self.write("log", b"", 0o644);
    }

    /// Copies a small program of the system, which loads a library.
    pub fn copy_program(&self, below: &str) {
        let bytes = fs::read(TRUE).unwrap_or_else(|e| panic!("read {TRUE}: {e}"));
        self.write(below, &bytes, 0o755);
    }

    /// Writes a file for the technique.
    pub fn write(&self, below: &str, bytes: &[u8], mode: u32) {
        let path = self.at(below);
        let show = |e: std::io::Error| -> ! { panic!("write {}: {e}", path.display()) };
        fs::write(&path, bytes).unwrap_or_else(|e| show(e));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap_or_else(|e| show(e));
    }

    /// The secret of this place, for preparations.
    pub fn secret_bytes(&self) -> Vec<u8> {
        fs::read(self.secret()).unwrap_or_else(|e| panic!("read the secret: {e}"))
    }

    /// Gives all of it to a user, but for what is root's in `bin`.
    pub fn give(&self, uid: u32) {
        give(&self.dir, uid);
    }

    /// Every protected file and its state, as text: a difference is a change.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.look(&self.dir, &mut all);
        all
    }

    fn look(&self, dir: &Path, all: &mut BTreeMap<String, String>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let below = path.strip_prefix(&self.dir).unwrap_or(&path);
            let name = below.to_string_lossy().into_owned();
            let own = ["open", "outside.txt", "sock", "box", "box/closed"].contains(&name.as_str());
            let free = name == "box/closed/doomed.txt"
                || name.starts_with("open/") && !name.ends_with(".env") && !name.contains("vault");
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if !own && !free {
                all.insert(name, state(&path, &meta));
            }
            if meta.is_dir() {
                self.look(&path, all);
            }
        }
    }
}

fn until(what: &str, so: impl Fn() -> bool) -> Outcome {
    let begun = Instant::now();
    while !so() {
        if begun.elapsed() > PATIENCE {
            return Err(nothing(what));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Reached::Done)
}

/// What can be changed of a file.
pub(crate) fn state(path: &Path, meta: &fs::Metadata) -> String {
    let content = if meta.is_file() {
        fs::read(path).map_or_else(
            |e| e.to_string(),
            |b| String::from_utf8_lossy(&b).into_owned(),
        )
    } else {
        String::new()
    };
    format!(
        "inode {} mode {:o} owner {}:{} links {} size {} modified {}.{} changed {}.{} content {content:?}",
        meta.ino(),
        meta.mode(),
        meta.uid(),
        meta.gid(),
        // A directory's links count its subdirectories, each of which is listed.
        if meta.is_dir() { 0 } else { meta.nlink() },
        if meta.is_file() { meta.size() } else { 0 },
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// Gives a tree to a user.
pub fn give(path: &Path, uid: u32) {
    if path.ends_with("bin") {
        return;
    }
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if meta.is_symlink() {
        return;
    }
    chown(path, Some(uid), Some(uid)).unwrap_or_else(|e| panic!("give {}: {e}", path.display()));
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            give(&entry.path(), uid);
        }
    }
}

/// A symbolic link for a preparation.
pub fn link(target: impl AsRef<Path>, at: impl AsRef<Path>) {
    let at = at.as_ref();
    symlink(target, at).unwrap_or_else(|e| panic!("link {}: {e}", at.display()));
}

/// A file in a directory whose path may be longer than the kernel takes: goes
/// there one name at a time.
pub fn deep_write(start: &Path, names: &[String], leaf: &str, bytes: &[u8]) {
    let back = std::env::current_dir().unwrap_or_else(|e| panic!("the working directory: {e}"));
    std::env::set_current_dir(start).unwrap_or_else(|e| panic!("go to {}: {e}", start.display()));
    for name in names {
        if let Err(e) = fs::create_dir(name).and_then(|()| std::env::set_current_dir(name)) {
            panic!("make and enter {name}: {e}");
        }
        let opened = fs::set_permissions(".", fs::Permissions::from_mode(0o755));
        opened.unwrap_or_else(|e| panic!("open {name}: {e}"));
    }
    let mut file = fs::File::create(leaf).unwrap_or_else(|e| panic!("make {leaf}: {e}"));
    file.write_all(bytes)
        .unwrap_or_else(|e| panic!("write {leaf}: {e}"));
    std::env::set_current_dir(back).unwrap_or_else(|e| panic!("go back: {e}"));
}
