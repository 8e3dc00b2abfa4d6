//! The cgroups: one lasting parent, a child for each sandbox, and a place for
//! relays that stopping the supervisor's own service does not reach.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Directory that all sandboxes are under, below the root of the hierarchy.
pub const PARENT: &str = "guard";
/// Directory of the relays: outside of [`PARENT`], so that no rule judges them.
pub const RELAYS: &str = "guard-relays";

/// What failed, on what.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "cgroup v2 is not mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NotMounted,
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// Verb.
        what: &'static str,
        /// Object.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CgroupError + 'a {
    move |source| CgroupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The hierarchy.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: PathBuf,
}

/// One sandbox's cgroup.
#[derive(Debug)]
pub struct SandboxCgroup {
    dir: PathBuf,
    /// What the kernel programs know it by.
    pub id: u64,
}

/// Where cgroup v2 is mounted, from the text of `/proc/self/mountinfo`
/// (proc(5)). The last mount on a place is the one that is seen there; of
/// several places the usual ones go first.
fn mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    let mounts: Vec<PathBuf> = mountinfo
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ');
            let place = fields.nth(4)?;
            let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
            (kind == b"cgroup2").then(|| PathBuf::from(OsString::from_vec(unoctal(place))))
        })
        .collect();
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find_map(|usual| {
            mounts
                .iter()
                .rev()
                .find(|m| m.as_path() == Path::new(usual))
        })
        .or(mounts.last())
        .cloned()
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unoctal(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

impl Cgroups {
    /// Finds the hierarchy, also the `unified` one of a hybrid host.
    ///
    /// # Errors
    /// When none is mounted.
    pub fn find() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo = fs::read(path).map_err(io_error("read", path))?;
        let root = mount_point(&mountinfo).ok_or(CgroupError::NotMounted)?;
        Ok(Self { root })
    }

    /// Where the hierarchy is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The parent's directory, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn parent(&self) -> Result<PathBuf, CgroupError> {
        self.make(self.root.join(PARENT))
    }

    fn make(&self, dir: PathBuf) -> Result<PathBuf, CgroupError> {
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(io_error("make the cgroup", &dir)(e)),
        }
        Ok(dir)
    }

    /// `cgroup.procs` of the relays' cgroup, open for writing.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn relays(&self) -> Result<OwnedFd, CgroupError> {
        let procs = self.make(self.root.join(RELAYS))?.join("cgroup.procs");
        let file = OpenOptions::new()
            .write(true)
            .open(&procs)
            .map_err(io_error("open", &procs))?;
        Ok(file.into())
    }

    /// Makes a sandbox's cgroup. There must be none of that name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, name: &str) -> Result<SandboxCgroup, CgroupError> {
        let dir = self.parent()?.join(name);
        fs::create_dir(&dir).map_err(io_error("make the cgroup", &dir))?;
        SandboxCgroup::open(dir)
    }

    /// The sandboxes' cgroups that are there: name and cgroup.
    ///
    /// # Errors
    /// When the parent cannot be read.
    pub fn existing(&self) -> Result<Vec<(String, SandboxCgroup)>, CgroupError> {
        let parent = self.root.join(PARENT);
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(io_error("read", &parent)(e)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("read", &parent))?;
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.push((name, SandboxCgroup::open(entry.path())?));
            }
        }
        Ok(found)
    }

    /// Removes both lasting cgroups if nothing is in them.
    pub fn remove_lasting(&self) {
        for name in [PARENT, RELAYS] {
            let dir = self.root.join(name);
            if let Err(e) = fs::remove_dir(&dir)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!("cgroup {} stays: {e}", dir.display());
            }
        }
    }
}

impl SandboxCgroup {
    fn open(dir: PathBuf) -> Result<Self, CgroupError> {
        // kernfs: the inode number of a cgroup's directory is its id.
        let id = fs::metadata(&dir).map_err(io_error("look at", &dir))?.ino();
        Ok(Self { dir, id })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory as a descriptor, for clone3.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn dir_fd(&self) -> Result<OwnedFd, CgroupError> {
        let file = File::open(&self.dir).map_err(io_error("open", &self.dir))?;
        Ok(file.into())
    }

    /// `cgroup.kill`, open for writing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn kill_fd(&self) -> Result<OwnedFd, CgroupError> {
        let path = self.dir.join("cgroup.kill");
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        Ok(file.into())
    }

    /// Kills every process in it and below.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let path = self.dir.join("cgroup.kill");
        File::from(self.kill_fd()?)
            .write_all(b"1")
            .map_err(io_error("write", &path))
    }

    /// Whether any process is in it or below.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        let path = self.dir.join("cgroup.events");
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        Ok(!text.lines().any(|line| line == "populated 0"))
    }

    /// Removes it and what is below it, which must hold no process.
    ///
    /// # Errors
    /// When something is left in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove_tree(&self.dir)
    }
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("read", dir)(e)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove the cgroup", dir)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu\n\
            41 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let unified = b"31 23 0:28 / /sys/fs/cgroup rw shared:4 master:2 - cgroup2 none rw\n\
            99 23 0:28 / /mnt rw - cgroup2 none rw\n";
        let odd = b"31 23 0:28 / /my\\040groups rw - cgroup2 none rw\n";
        let none = b"32 31 0:29 / /sys/fs/cgroup/cgroup2 rw - cgroup cgroup rw,cpu\n";
        for (text, expected) in [
            (&hybrid[..], Some("/sys/fs/cgroup/unified")),
            (unified, Some("/sys/fs/cgroup")),
            (odd, Some("/my groups")),
            (none, None),
            (b"", None),
        ] {
            assert_eq!(mount_point(text), expected.map(PathBuf::from));
        }
    }
}
