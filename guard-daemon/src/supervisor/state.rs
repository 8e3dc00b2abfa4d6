//! What is kept of a sandbox outside of the supervisor's memory, so that the
//! next one can take it over.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::paths::SANDBOXES;
use crate::policy::Own;
use crate::wire::Enforcement;

/// Version of the files' form. Others are swept, not guessed at.
const VERSION: u32 = 3;

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxState {
    version: u32,
    /// Number, never used twice in one boot.
    pub number: u64,
    /// Id: name of its cgroup, its temporary directory and this file.
    pub id: String,
    /// `--name`.
    pub server: String,
    /// Who holds the policy.
    pub enforcement: Enforcement,
    /// What its relay proves itself by.
    pub token: String,
    /// User that the server runs as.
    pub uid: u32,
    /// User that the relay runs as.
    pub relay_uid: Option<u32>,
    /// The server's process; 0 until it was started.
    pub pid: i32,
    /// Seconds since the epoch.
    pub started: u64,
    /// The trail.
    pub audit_file: PathBuf,
    /// Where in the trail the next supervisor begins to look for what is
    /// written of it.
    pub mark: Mark,
    /// Id of its cgroup.
    pub cgroup_id: Option<u64>,
    /// Index of its slot.
    pub slot: Option<u32>,
    /// Private temporary directory.
    pub tmp: PathBuf,
    /// The policy.
    pub policy: PolicyState,
}

/// A place in a trail, at the start of a line. Nothing before it is of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The file, by inode: another one is read from its start.
    pub inode: u64,
    /// Bytes from its start.
    pub offset: u64,
    /// The relay's records up to this number were written before it.
    pub through: u64,
}

/// The policy of a sandbox, and what it was resolved with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyState {
    /// Its name; of a file, that of the file without `.toml`.
    pub name: String,
    /// Digest of the resolved policy.
    pub hash: String,
    /// Counts the policies that the sandbox was under, from 1.
    pub generation: u32,
    /// The text.
    pub text: String,
    /// Where the text came from: a file's real path, or `built-in NAME`.
    pub source: String,
    /// Directories for includes.
    pub home: Option<PathBuf>,
    /// Escaped.
    pub cwd: String,
    /// The command, escaped.
    pub command: Vec<String>,
    /// The environment that the command was resolved with, escaped: PATH and
    /// what version managers read.
    pub env: Vec<String>,
    /// `--set`.
    pub set: Vec<(String, String)>,
    /// What of guard's own was out of its reach.
    pub own: Vec<Own>,
}

/// A new state of this version.
impl SandboxState {
    /// Of this version; the rest is the caller's to fill in.
    #[must_use]
    #[allow(clippy::too_many_arguments)] // one place makes them
    pub fn new(
        number: u64,
        id: String,
        server: String,
        enforcement: Enforcement,
        token: String,
        audit_file: PathBuf,
        tmp: PathBuf,
        policy: PolicyState,
    ) -> Self {
        Self {
            version: VERSION,
            number,
            id,
            server,
            enforcement,
            token,
            uid: 0,
            relay_uid: None,
            pid: 0,
            started: 0,
            audit_file,
            mark: Mark::default(),
            cgroup_id: None,
            slot: None,
            tmp,
            policy,
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// As the file operations.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let new = dir.join(format!(".{}.new", self.id));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, path(dir, &self.id))
    }
}

/// Where a sandbox's file is.
#[must_use]
pub fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// The directory of a supervisor that runs as root.
#[must_use]
pub fn system_dir() -> &'static Path {
    Path::new(SANDBOXES)
}

/// Removes a sandbox's file.
pub fn forget(dir: &Path, id: &str) {
    if let Err(e) = fs::remove_file(path(dir, id))
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::error!("state of sandbox {id} stays: {e}");
    }
}

/// All states that are there. A file that cannot be understood is given by its
/// id without a state.
///
/// # Errors
/// When the directory cannot be read.
pub fn load_all(dir: &Path) -> io::Result<Vec<(String, Option<SandboxState>)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_suffix(".json") else {
            continue;
        };
        let state = fs::read(entry.path())
            .ok()
            .and_then(|text| serde_json::from_slice::<SandboxState>(&text).ok())
            .filter(|state| state.version == VERSION && state.id == id);
        all.push((id.to_owned(), state));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: &str) -> SandboxState {
        let policy = PolicyState {
            name: "p".into(),
            hash: "sha256:0".into(),
            generation: 1,
            text: "version = 1\n".into(),
            source: "built-in p".into(),
            home: None,
            cwd: "/".into(),
            command: vec!["cat".into()],
            env: vec![],
            set: vec![],
            own: Vec::new(),
        };
        SandboxState::new(
            7,
            id.into(),
            "cat".into(),
            Enforcement::Kernel,
            "t".into(),
            "/a".into(),
            "/t".into(),
            policy,
        )
    }

    #[test]
    fn states_come_back_and_damaged_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        state("aa").save(dir.path()).unwrap();
        let mut other = state("bb");
        other.version = VERSION + 1;
        other.save(dir.path()).unwrap();
        fs::write(path(dir.path(), "cc"), b"{").unwrap();
        let mut all = load_all(dir.path()).unwrap();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(all[0], ("aa".into(), Some(state("aa"))));
        assert_eq!(all[1], ("bb".into(), None));
        assert_eq!(all[2], ("cc".into(), None));
        forget(dir.path(), "aa");
        assert_eq!(load_all(dir.path()).unwrap().len(), 2);
        assert!(load_all(&dir.path().join("none")).unwrap().is_empty());
    }
}
