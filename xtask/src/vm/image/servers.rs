//! Real MCP servers and clients for the guest, from npm and PyPI, in pinned versions.
//!
//! The guest's own npm and pip fetch them, so that the machine needs neither. They see this
//! machine's environment: `npm_config_registry` and `PIP_INDEX_URL` name other registries.

use crate::process;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

pub(super) const PACKAGES: &str = include_str!("../../../guest/package.json");
/// Versions and hashes, and no registry's address.
pub(super) const LOCK: &str = include_str!("../../../guest/package-lock.json");
pub(super) const REQUIREMENTS: &str = include_str!("../../../guest/requirements.txt");

/// Where the packages from npm are in the guest.
const NODE_HOME: &str = "opt/mcp";
/// The system's trusted certificates, where Debian keeps them.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

/// What a program needs from this machine to reach a registry. Taken away again afterwards.
const BORROWED: &[&str] = &["etc/resolv.conf", "etc/hosts", CERTIFICATES];

/// Fetches the servers from npm into `/opt/mcp`, their programs in PATH.
pub(super) fn from_npm(root: &Path) -> Result<()> {
    let home = root.join(NODE_HOME);
    fs::create_dir_all(&home).with_context(|| format!("could not create {}", home.display()))?;
    fs::write(home.join("package.json"), PACKAGES).context("could not write package.json")?;
    fs::write(home.join("package-lock.json"), LOCK).context("could not write package-lock.json")?;
    let script = format!(
        "cd /{NODE_HOME} && exec npm ci --ignore-scripts --no-audit --no-fund --omit=dev --cache /tmp/npm"
    );
    fetch(root, &script).context("could not fetch the MCP servers from npm")?;
    let programs = home.join("node_modules/.bin");
    for entry in
        fs::read_dir(&programs).with_context(|| format!("could not read {}", programs.display()))?
    {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("mcp-") {
            let target = Path::new("/")
                .join(NODE_HOME)
                .join("node_modules/.bin")
                .join(&name);
            symlink(target, root.join("usr/local/bin").join(&name))
                .with_context(|| format!("could not link {}", name.display()))?;
        }
    }
    Ok(())
}

/// Fetches the server from PyPI that has a policy of its own, and its client.
pub(super) fn from_pypi(root: &Path) -> Result<()> {
    from_index(root, REQUIREMENTS, "mcp-server-git", "mcp_server_git")
}

/// Fetches a server from PyPI to where the guest's Python looks for packages, and makes its
/// program of the module that has its `main`.
pub(super) fn from_index(
    root: &Path,
    requirements: &str,
    program: &str,
    module: &str,
) -> Result<()> {
    let link = root.join("usr/bin/python3");
    let version =
        fs::read_link(&link).with_context(|| format!("could not read {}", link.display()))?;
    let packages = format!("/usr/local/lib/{}/dist-packages", version.display());
    fs::write(root.join("tmp/requirements"), requirements)
        .context("could not write the requirements")?;
    // Compiling here is much faster than on an emulated processor, in every boot again. Debian's
    // libraries hold a few files of old syntax, which is why its result does not count.
    let script = format!(
        "set -e
        python3 -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --no-compile \\
            --no-cache-dir --disable-pip-version-check --target {packages} --requirement /tmp/requirements
        python3 -m compileall -qq {packages}
        python3 -m compileall -qq /usr/lib/{version} /usr/lib/python3 || true",
        version = version.display()
    );
    fetch(root, &script).with_context(|| format!("could not fetch {program} from PyPI"))?;
    let place = root.join("usr/local/bin").join(program);
    let text = format!("#!/usr/bin/python3\nfrom {module} import main\n\nmain()\n");
    fs::write(&place, text).with_context(|| format!("could not write {program}"))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))
        .context("could not mark it executable")
}

/// Runs a shell script with the guest's tree as its root, and leaves no trace but what it made.
///
/// The runtimes name their own files by absolute path, so that another root is the only way.
fn fetch(root: &Path, script: &str) -> Result<()> {
    let mut kept = Vec::new();
    for name in BORROWED {
        let (own, place) = (Path::new("/").join(name), root.join(name));
        if own.exists() {
            kept.push((place.clone(), fs::read(&place).ok()));
            fs::copy(&own, &place).with_context(|| format!("could not copy {}", own.display()))?;
        }
    }
    let device = root.join("dev/null");
    fs::write(&device, "").context("could not make a stand-in for /dev/null")?;
    let mut command = another_root(root)?;
    command
        .args(["/bin/sh", "-c", script])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp")
        .env("npm_config_cafile", Path::new("/").join(CERTIFICATES))
        .env("PIP_CERT", Path::new("/").join(CERTIFICATES))
        .env_remove("PIP_FIND_LINKS");
    let done = process::quiet(&mut command);
    fs::remove_file(&device).context("could not remove the stand-in for /dev/null")?;
    for (place, content) in kept {
        match content {
            Some(content) => fs::write(&place, content),
            None => fs::remove_file(&place),
        }
        .with_context(|| format!("could not put {} back", place.display()))?;
    }
    let scratch = root.join("tmp");
    crate::cache::remove(&scratch)?;
    fs::create_dir(&scratch).context("could not make /tmp")?;
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o1777))
        .context("could not open /tmp to all")?;
    done
}

/// `chroot` where that is allowed, else a user namespace in which it is.
fn another_root(root: &Path) -> Result<Command> {
    let root_user = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    let name = if root_user { "chroot" } else { "unshare" };
    let program = process::find(name).with_context(|| format!("no {name} in PATH"))?;
    let mut command = Command::new(program);
    if !root_user {
        command.args(["--map-root-user", "--root"]);
    }
    command.arg(root);
    Ok(command)
}
