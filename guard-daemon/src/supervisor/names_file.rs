//! The names that a sandbox was given addresses for, one a line: a name's number
//! is its line. The next supervisor reads them, so that events of grants that
//! outlive this one carry their names.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::paths::SANDBOXES;
use crate::policy::names::Name;

fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.names"))
}

/// Adds a name.
///
/// # Errors
/// As the file operations.
pub(super) fn append(id: &str, name: &Name) -> io::Result<()> {
    append_in(Path::new(SANDBOXES), id, name)
}

/// All names, in the order of their numbers; none where there is no file. What
/// follows a line that is no name has no number that can be trusted.
#[must_use]
pub(super) fn load(id: &str) -> Vec<Name> {
    load_in(Path::new(SANDBOXES), id)
}

/// Removes the file.
pub(super) fn forget(id: &str) {
    let path = path(Path::new(SANDBOXES), id);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!("{} stays: {error}", path.display());
    }
}

fn append_in(dir: &Path, id: &str, name: &Name) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path(dir, id))?;
    file.write_all(format!("{name}\n").as_bytes())
}

fn load_in(dir: &Path, id: &str) -> Vec<Name> {
    let text = std::fs::read_to_string(path(dir, id)).unwrap_or_default();
    // A line that a crash has cut has no end, and its number was never used.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map_while(|line| Name::parse(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["b.test", "a.test"].map(|name| Name::parse(name).unwrap());
        assert_eq!(load_in(dir.path(), "x"), []);
        for name in &names {
            append_in(dir.path(), "x", name).unwrap();
        }
        assert_eq!(load_in(dir.path(), "x"), names);
        let mut file = OpenOptions::new()
            .append(true)
            .open(path(dir.path(), "x"))
            .unwrap();
        file.write_all(b"cut.te").unwrap();
        assert_eq!(load_in(dir.path(), "x"), names);
    }
}
