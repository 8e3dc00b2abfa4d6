//! Debian packages, fetched and unpacked without installing anything.
//!
//! apt runs with a private configuration: its own lists and download directory in the cache, the
//! archive's address taken from the machine's own sources, signatures checked with the machine's
//! own Debian keyring. Nothing of the system is touched and no privilege is needed.

use crate::{cache, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Package lists older than this are fetched again before something is resolved from them.
const FRESH: Duration = Duration::from_secs(3600);
/// Debian's own keyring. Where it is missing, apt's default trust applies.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What apt takes for installed when it resolves dependencies.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Installed {
    /// What the machine has: only what is missing there is fetched.
    Host,
    /// Nothing: the whole closure is fetched.
    Nothing,
}

/// A private apt with its own set of suites.
pub(crate) struct Apt {
    directory: PathBuf,
    status: PathBuf,
}

impl Apt {
    /// Prepares the private configuration `name` for `suites` (as `bookworm-backports`) and
    /// fetches their package lists when they are older than an hour.
    ///
    /// # Errors
    /// When the machine has no apt, or its sources name no Debian archive.
    pub(crate) fn open(name: &str, suites: &[&str], installed: Installed) -> Result<Self> {
        if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
            bail!(
                "Debian packages are needed, and this machine has no apt-get with dpkg-deb: run this on \
                 Debian 12 or later (a container will do)"
            );
        }
        let archives = Archives::of_machine()?;
        let directory = cache::root()?.join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("could not create {}", path.display()))?;
        }
        let status = match installed {
            Installed::Host => PathBuf::from("/var/lib/dpkg/status"),
            Installed::Nothing => directory.join("status"),
        };
        if installed == Installed::Nothing {
            fs::write(&status, "")
                .with_context(|| format!("could not write {}", status.display()))?;
        }
        let apt = Self { directory, status };
        apt.update(&archives.list(suites)?)?;
        Ok(apt)
    }

    fn update(&self, list: &str) -> Result<()> {
        let sources = self.directory.join("sources.list");
        let stamp = self.directory.join("updated");
        let same = fs::read_to_string(&sources).is_ok_and(|old| old == list);
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if same && age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        fs::write(&sources, list)
            .with_context(|| format!("could not write {}", sources.display()))?;
        eprintln!("xtask: fetching Debian's package lists");
        process::quiet(self.command("apt-get").args([
            "-o",
            "APT::Update::Error-Mode=any",
            "update",
        ]))?;
        fs::write(&stamp, "").with_context(|| format!("could not write {}", stamp.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.directory.join(part).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
            format!("Dir::State={}", self.directory.display()),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", self.status.display()),
            format!("Dir::Cache={}", at("cache")),
            "Dir::Cache::srcpkgcache=".into(),
            "APT::Sandbox::User=".into(),
            "Debug::NoLocking=true".into(),
            "APT::Install-Recommends=false".into(),
            "Acquire::Retries=3".into(),
        ] {
            command.args(["-o", &option]);
        }
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Names of all packages that start with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = process::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// All versions of `package`, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = process::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// Fetches `packages` (a name, or `name=version`) alone and unpacks them below `target`.
    pub(crate) fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        let fetched = self.fetch_into_fresh(|command| command.arg("download").args(packages))?;
        unpack_all(&fetched, target)
    }

    /// Fetches `packages` with all that they depend on and unpacks everything below `target`.
    /// `release` is preferred over the suite that apt would choose.
    pub(crate) fn unpack_closure(
        &self,
        packages: &[&str],
        release: Option<&str>,
        target: &Path,
    ) -> Result<()> {
        let archives = self.directory.join("cache/archives");
        clear(&archives)?;
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--download-only", "--no-remove"]);
        if let Some(release) = release {
            command.args(["--target-release", release]);
        }
        process::quiet(command.args(packages))?;
        let fetched = packages_in(&archives)?;
        unpack_all(&fetched, target)?;
        clear(&archives)
    }

    fn fetch_into_fresh(
        &self,
        add: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Vec<PathBuf>> {
        let fresh = self.directory.join("download");
        cache::remove(&fresh)?;
        fs::create_dir_all(&fresh)
            .with_context(|| format!("could not create {}", fresh.display()))?;
        let mut command = self.command("apt-get");
        process::quiet(add(&mut command).current_dir(&fresh))?;
        packages_in(&fresh)
    }
}

/// The Debian archives that the machine's own sources name.
struct Archives {
    main: String,
    security: Option<String>,
}

impl Archives {
    fn of_machine() -> Result<Self> {
        let format = [
            "indextargets",
            "--no-release-info",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
        ];
        let targets = process::output(Command::new("apt-get").args(format).env("LC_ALL", "C"))?;
        Self::choose(&targets, &codename()?).context(
            "the machine's apt sources name no Debian archive with the suite of this release: \
             add Debian's `main` to /etc/apt/sources.list",
        )
    }

    /// Of lines `URI SUITE`, those that hold the release `codename` and its security updates.
    fn choose(targets: &str, codename: &str) -> Option<Self> {
        let of = |suite: &str| {
            targets
                .lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(_, release)| *release == suite)
                .map(|(uri, _)| uri.to_owned())
        };
        Some(Self {
            main: of(codename)?,
            security: of(&format!("{codename}-security")),
        })
    }

    fn list(&self, suites: &[&str]) -> Result<String> {
        let option = if Path::new(KEYRING).exists() {
            format!("[arch=amd64 signed-by={KEYRING}]")
        } else {
            "[arch=amd64]".into()
        };
        let mut list = String::new();
        for suite in suites {
            let uri = if suite.ends_with("-security") {
                match &self.security {
                    Some(uri) => uri,
                    None => bail!(
                        "the machine's apt sources name no archive of security updates; {suite} is needed"
                    ),
                }
            } else {
                &self.main
            };
            list.push_str(&format!("deb {option} {uri} {suite} main\n"));
        }
        Ok(list)
    }
}

/// The release this machine runs, as `bookworm`.
///
/// # Errors
/// When it is not Debian.
pub(crate) fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("could not read /etc/os-release")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        (id, _) => bail!(
            "this machine runs {}, not Debian",
            id.unwrap_or("an unknown system")
        ),
    }
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in fs::read_dir(directory)
        .with_context(|| format!("could not read {}", directory.display()))?
    {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn clear(directory: &Path) -> Result<()> {
    for package in packages_in(directory)? {
        fs::remove_file(&package)
            .with_context(|| format!("could not remove {}", package.display()))?;
    }
    Ok(())
}

/// Unpacks each package through tar, which keeps links to directories (a merged /usr) in place.
fn unpack_all(packages: &[PathBuf], target: &Path) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("could not create {}", target.display()))?;
    for package in packages {
        let mut reader = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("could not start dpkg-deb")?;
        let stream = reader.stdout.take().context("dpkg-deb has no output")?;
        process::run(
            Command::new("tar")
                .args([
                    "--extract",
                    "--keep-directory-symlink",
                    "--no-same-owner",
                    "--directory",
                ])
                .arg(target)
                .stdin(stream),
        )
        .with_context(|| format!("could not unpack {}", package.display()))?;
        let status = reader.wait().context("could not wait for dpkg-deb")?;
        if !status.success() {
            bail!("could not unpack {}: dpkg-deb: {status}", package.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Archives;

    const TARGETS: &str = "http://a.example/debian/ bookworm\nhttp://a.example/debian/ bookworm-updates\n\
                           http://s.example/sec/ bookworm-security\nhttps://other.example/ nodistro\n";

    #[test]
    fn the_archives_come_from_the_machines_own_sources() {
        let archives = Archives::choose(TARGETS, "bookworm").unwrap();
        let list = archives
            .list(&["trixie-backports", "bookworm-security"])
            .unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert!(lines[0].ends_with("http://a.example/debian/ trixie-backports main"));
        assert!(lines[1].ends_with("http://s.example/sec/ bookworm-security main"));
    }

    #[test]
    fn sources_without_this_release_are_no_archive() {
        assert!(Archives::choose(TARGETS, "trixie").is_none());
    }
}
