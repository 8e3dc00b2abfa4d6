//! Where policies and includes are found: the user's directory, the system's,
//! the built-ins.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::document::{Document, MAX_TEXT};
use super::error::{Errors, Place, PolicyError, PolicyErrors, Source, Spanned};

/// Policies that come with guard: name and text.
pub const POLICIES: [(&str, &str); 4] = [
    ("default", include_str!("../../../policies/default.toml")),
    (
        "filesystem",
        include_str!("../../../policies/filesystem.toml"),
    ),
    (
        "everything",
        include_str!("../../../policies/everything.toml"),
    ),
    ("git", include_str!("../../../policies/git.toml")),
];

/// Includes that come with guard: name and text.
pub const INCLUDES: [(&str, &str); 4] = [
    ("base", include_str!("../../../policies/include/base.toml")),
    ("git", include_str!("../../../policies/include/git.toml")),
    ("node", include_str!("../../../policies/include/node.toml")),
    (
        "python",
        include_str!("../../../policies/include/python.toml"),
    ),
];

/// The directories that are searched, first to last; the built-ins follow.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    directories: Vec<PathBuf>,
    owner: Option<Owner>,
}

/// An ordinary user on whose behalf root looks for policies: only files of the
/// user's own, or root's, are believed, and none that others may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// Its primary group, which may write its files.
    pub gid: u32,
    /// Whether this is asked of files that are named by their paths, too.
    pub files: bool,
}

impl Owner {
    /// Why a file with this owner, group and mode is not believed.
    fn objection(self, uid: u32, gid: u32, mode: u32) -> Option<String> {
        if uid != 0 && uid != self.uid {
            return Some(format!(
                "it belongs to uid {uid}; a policy for uid {} must be its own or root's",
                self.uid
            ));
        }
        if mode & 0o002 != 0 {
            return Some("everybody may write it: `chmod o-w` it".into());
        }
        if mode & 0o020 != 0 && gid != 0 && gid != self.gid {
            return Some(format!("its group {gid} may write it: `chmod g-w` it"));
        }
        None
    }
}

/// A policy's text and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What errors call it: the file's path, or `built-in NAME`.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// The file, canonical, if it is one.
    pub file: Option<PathBuf>,
}

impl Lookup {
    /// The directories of a user: `$XDG_CONFIG_HOME/guard/policies` (or
    /// `~/.config/…`), then `/etc/guard/policies`.
    #[must_use]
    pub fn for_user(xdg_config_home: Option<&OsStr>, home: Option<&Path>) -> Self {
        let config = xdg_config_home
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| home.map(|home| home.join(".config")));
        let mut directories: Vec<PathBuf> = config
            .map(|config| config.join("guard/policies"))
            .into_iter()
            .collect();
        directories.push("/etc/guard/policies".into());
        Self {
            directories,
            owner: None,
        }
    }

    /// The same, by root for an ordinary user.
    #[must_use]
    pub const fn on_behalf_of(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Only what comes with guard.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default()
    }

    /// Exactly these directories, then the built-ins.
    #[must_use]
    pub fn in_directories(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            owner: None,
        }
    }

    /// The directories that are searched.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(PathBuf::as_path)
    }

    /// Finds a policy: what holds a `/` or ends in `.toml` is a file, relative
    /// to `cwd`; anything else is a name.
    ///
    /// # Errors
    /// When there is none, or the file cannot be read.
    pub fn policy(&self, name_or_file: &str, cwd: &Path) -> Result<Found, PolicyErrors> {
        if name_or_file.contains('/') || name_or_file.ends_with(".toml") {
            let path = cwd.join(name_or_file);
            let owner = self.owner.filter(|owner| owner.files);
            return match read(&path, name_or_file, owner)? {
                Some(found) => Ok(found),
                None => Err(PolicyError::nowhere(format!("{name_or_file}: no such file")).into()),
            };
        }
        self.named(name_or_file, "", &POLICIES)?.ok_or_else(|| {
            let names: Vec<_> = POLICIES.iter().map(|(name, _)| *name).collect();
            PolicyError::nowhere(format!("there is no policy {name_or_file:?}"))
                .help(format!(
                    "looked for {}; built in: {}",
                    self.places(name_or_file, ""),
                    names.join(", ")
                ))
                .into()
        })
    }

    /// Finds and reads an include that a policy names.
    pub(crate) fn include(&self, name: &Spanned<String>) -> Result<Document, PolicyErrors> {
        let at = |error: &PolicyError| PolicyError::at(&name.place, error.message.clone());
        let found =
            self.named(&name.value, "include", &INCLUDES)
                .map_err(|errors| {
                    let mut all = Errors::default();
                    errors.iter().for_each(|error| all.push(at(error)));
                    all
                })
                .or_else(|errors| errors.finish(None))?
                .ok_or_else(|| {
                    let names: Vec<_> = INCLUDES.iter().map(|(name, _)| *name).collect();
                    PolicyError::at(&name.place, format!("there is no include {:?}", name.value))
                        .help(format!(
                            "looked for {}; built in: {}",
                            self.places(&name.value, "include"),
                            names.join(", ")
                        ))
                })?;
        Document::parse_as(
            &found.text,
            &found.name,
            super::document::DocumentKind::Include,
        )
    }

    fn places(&self, name: &str, under: &str) -> String {
        let files: Vec<_> = self
            .directories
            .iter()
            .map(|dir| file_in(dir, under, name).display().to_string())
            .collect();
        if files.is_empty() {
            "no file".into()
        } else {
            files.join(" and ")
        }
    }

    fn named(
        &self,
        name: &str,
        under: &str,
        built_in: &[(&str, &str)],
    ) -> Result<Option<Found>, PolicyErrors> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(PolicyError::nowhere(format!(
                "{name:?} is not a name: letters, digits, - and _ only"
            ))
            .into());
        }
        for dir in &self.directories {
            let file = file_in(dir, under, name);
            if let Some(found) = read(&file, &file.display().to_string(), self.owner)? {
                return Ok(Some(found));
            }
        }
        Ok(built_in
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, text)| Found {
                name: format!("built-in {name}"),
                text: text.as_bytes().to_vec(),
                file: None,
            }))
    }
}

fn file_in(dir: &Path, under: &str, name: &str) -> PathBuf {
    dir.join(under).join(format!("{name}.toml"))
}

/// Reads a policy file, which errors call `name`. `None` when there is none.
fn read(path: &Path, name: &str, owner: Option<Owner>) -> Result<Option<Found>, PolicyErrors> {
    let fail = |what: String| {
        let source = std::sync::Arc::new(Source {
            name: name.to_owned(),
            text: String::new(),
        });
        PolicyErrors::from(PolicyError::at(&Place::start(&source), what))
    };
    // Asked first, because opening a pipe or a device could block or act.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err(fail("not a regular file".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(format!("cannot be read: {error}"))),
    }
    let mut text = Vec::new();
    let file = std::fs::File::options()
        .read(true)
        // It may have become a pipe since.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| fail(format!("cannot be opened: {e}")))?;
    let meta = file
        .metadata()
        .map_err(|e| fail(format!("cannot be looked at: {e}")))?;
    if !meta.is_file() {
        return Err(fail("not a regular file".into()));
    }
    if let Some(why) = owner.and_then(|o| o.objection(meta.uid(), meta.gid(), meta.mode())) {
        return Err(fail(format!("this policy is not believed: {why}")));
    }
    // One byte more than a policy may have, so that the parser says so.
    file.take(MAX_TEXT as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| fail(format!("cannot be read: {e}")))?;
    if text.len() > MAX_TEXT {
        return Err(fail(format!(
            "larger than a policy may be ({MAX_TEXT} bytes)"
        )));
    }
    let file = path
        .canonicalize()
        .map_err(|e| fail(format!("its real path cannot be found: {e}")))?;
    Ok(Some(Found {
        name: name.to_owned(),
        text,
        file: Some(file),
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_policy_for_somebody_is_theirs_or_roots_and_nobody_elses_to_write() {
        let owner = Owner {
            uid: 1000,
            gid: 1001,
            files: true,
        };
        for (uid, gid, mode, believed) in [
            (1000, 1001, 0o644, true),
            (0, 0, 0o664, true),
            (0, 50, 0o644, true),
            (1000, 1001, 0o664, true),
            (1001, 1001, 0o644, false),
            (1000, 1001, 0o646, false),
            (0, 0, 0o666, false),
            (0, 50, 0o664, false),
            (1000, 1000, 0o664, false),
        ] {
            let objection = owner.objection(uid, gid, mode);
            assert_eq!(objection.is_none(), believed, "{uid} {gid} {mode:o}");
        }
    }

    #[test]
    fn what_others_may_write_is_only_read_for_oneself() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, "version = 1\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        let meta = std::fs::metadata(&file).unwrap();
        let owner = |files| Owner {
            uid: meta.uid(),
            gid: meta.gid(),
            files,
        };
        let own = Lookup::in_directories(vec![dir.path().to_owned()]);
        let path = file.to_str().unwrap();
        let cwd = Path::new("/");
        for (lookup, name, found) in [
            (own.clone(), "mine", true),
            (own.clone(), path, true),
            (own.clone().on_behalf_of(owner(true)), "mine", false),
            (own.clone().on_behalf_of(owner(true)), path, false),
            (own.clone().on_behalf_of(owner(false)), "mine", false),
            (own.on_behalf_of(owner(false)), path, true),
        ] {
            let result = lookup.policy(name, cwd);
            assert_eq!(result.is_ok(), found, "{name} {lookup:?}: {result:?}");
        }
    }
}
