//! The kernels that guard is tested on: the newest Debian cloud kernel of each series.
//!
//! Packages are fetched and unpacked, never installed.

use crate::apt::{Apt, Installed};
use crate::{cache, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The series that every test run covers, oldest first.
pub(crate) const ALL: &[&str] = &["6.1", "6.12", "7.x"];

/// What the guest needs before it can mount its root, in loading order. Which of them are built
/// in differs between kernels; a missing file is a built-in one.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];

/// What the suite `network` loads in the guest: the pair of devices between two network
/// namespaces, and the families of sockets that its controls need.
const NETWORK: &[&str] = &["veth", "af_alg", "vsock", "inet_diag", "tcp_diag"];

/// A kernel that can be booted.
pub(crate) struct Kernel {
    /// For messages, as `6.12.95+deb12-cloud-amd64`.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Uncompressed modules in loading order.
    pub(crate) modules: Vec<PathBuf>,
    /// The same, of those that only the suite `network` loads.
    pub(crate) network: Vec<PathBuf>,
}

/// Where a series comes from.
struct Source {
    suites: &'static [&'static str],
    /// Package that holds the image: what stands before the version.
    image: &'static str,
    /// Package that holds the modules, where it is not the same.
    modules: Option<&'static str>,
}

const SUFFIX: &str = "-cloud-amd64";

fn source(series: &str) -> Result<Source> {
    let major = series.split('.').next().unwrap_or_default();
    Ok(match (series, major) {
        ("6.1", _) => Source {
            suites: &["bookworm", "bookworm-security"],
            image: "linux-image-",
            modules: None,
        },
        ("6.12", _) => Source {
            suites: &["bookworm-backports"],
            image: "linux-image-",
            modules: None,
        },
        (_, "7") => Source {
            suites: &["trixie-backports"],
            image: "linux-binary-",
            modules: Some("linux-modules-"),
        },
        _ => bail!(
            "no kernel of series {series} is known; known are {}; use --kernel-image FILE for another",
            ALL.join(", ")
        ),
    })
}

/// The newest kernel of `series` (`6.1`, `6.12`, `7.x`), fetched when it is not in the cache.
pub(crate) fn fetch(series: &str) -> Result<Kernel> {
    let source = source(series)?;
    let key = cache::key(&[&kept().join(" ")]);
    let directory = cache::entry(&format!("kernel-{series}-{key}"), |partial| {
        fetch_into(series, &source, partial).with_context(|| {
            format!(
                "kernel {series} could not be fetched; --kernel-image FILE boots one of your own"
            )
        })
    })?;
    open(&directory)
}

fn fetch_into(series: &str, source: &Source, partial: &Path) -> Result<()> {
    let apt = Apt::open("kernels", &all_suites(), Installed::Nothing)?;
    let prefix = format!("{}{}.", source.image, series.trim_end_matches(".x"));
    let mut names = apt.names(&prefix)?;
    if let Some(modules) = source.modules {
        // The archive may hold the modules of a kernel before, or after, its image.
        let present = apt.names(modules)?;
        names.retain(|name| present.contains(&name.replacen(source.image, modules, 1)));
    }
    let newest = newest(&names, &prefix)
        .with_context(|| format!("{} hold no {prefix}*{SUFFIX}", source.suites.join(", ")))?;
    let release = newest.trim_start_matches(source.image).to_owned();
    eprintln!("xtask: fetching kernel {release}");
    let modules = source.modules.map(|name| format!("{name}{release}"));
    let mut packages = vec![newest.as_str()];
    packages.extend(modules.as_deref());
    let unpacked = partial.join("unpacked");
    apt.unpack(&packages, &unpacked)?;
    let image = find(&unpacked, &|name| {
        name == "vmlinuz" || name.starts_with("vmlinuz-")
    })
    .with_context(|| format!("{newest} holds no vmlinuz"))?;
    fs::rename(&image, partial.join("vmlinuz")).context("could not move the kernel image")?;
    fs::create_dir(partial.join("modules")).context("could not create the module directory")?;
    for name in kept() {
        keep_module(&unpacked, name, &partial.join("modules"))?;
    }
    fs::write(partial.join("release"), &release).context("could not write the release")?;
    cache::remove(&unpacked)
}

/// Modules that are kept of a kernel.
fn kept() -> Vec<&'static str> {
    [MODULES, NETWORK].concat()
}

/// Every suite that any series needs, so that one set of package lists serves all.
fn all_suites() -> Vec<&'static str> {
    let mut suites: Vec<&str> = ALL
        .iter()
        .filter_map(|series| source(series).ok())
        .flat_map(|source| source.suites)
        .copied()
        .collect();
    suites.dedup();
    suites
}

/// A kernel image of the user's own. Its modules, if it needs any, are looked for where its
/// package puts them: `../lib/modules/RELEASE` beside a file named `vmlinuz-RELEASE`.
pub(crate) fn given(image: &Path) -> Result<Kernel> {
    let image = image
        .canonicalize()
        .with_context(|| format!("no kernel image at {}", image.display()))?;
    let name = image
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut kernel = Kernel {
        release: name.clone(),
        image: image.clone(),
        modules: Vec::new(),
        network: Vec::new(),
    };
    let Some(release) = name.strip_prefix("vmlinuz-") else {
        eprintln!("xtask: {name} is not named vmlinuz-RELEASE: virtio's drivers must be built in");
        return Ok(kernel);
    };
    release.clone_into(&mut kernel.release);
    let root = image
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"));
    let modules = [
        root.join("lib/modules").join(release),
        Path::new("/lib/modules").join(release),
    ];
    let Some(tree) = modules.iter().find(|tree| tree.is_dir()) else {
        eprintln!("xtask: no modules of {release} found: virtio's drivers must be built in");
        return Ok(kernel);
    };
    let key = cache::key(&[&kept().join(" ")]);
    let modules = cache::entry(&format!("modules-{release}-{key}"), |partial| {
        kept()
            .iter()
            .try_for_each(|name| keep_module(tree, name, partial))
    })?;
    kernel.modules = module_files(&modules, MODULES);
    kernel.network = module_files(&modules, NETWORK);
    Ok(kernel)
}

fn open(directory: &Path) -> Result<Kernel> {
    let release = directory.join("release");
    Ok(Kernel {
        release: fs::read_to_string(&release)
            .with_context(|| format!("could not read {}", release.display()))?,
        image: directory.join("vmlinuz"),
        modules: module_files(&directory.join("modules"), MODULES),
        network: module_files(&directory.join("modules"), NETWORK),
    })
}

fn module_files(directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    names
        .iter()
        .map(|name| directory.join(format!("{name}.ko")))
        .filter(|file| file.exists())
        .collect()
}

/// Copies module `name` out of `tree`, decompressed. One that is not there is built in.
fn keep_module(tree: &Path, name: &str, into: &Path) -> Result<()> {
    let plain = format!("{name}.ko");
    let Some(file) = find(tree, &|found| {
        found == plain || found == format!("{plain}.xz") || found == format!("{plain}.zst")
    }) else {
        return Ok(());
    };
    let tool = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => "cat",
    };
    let mut command = Command::new(tool);
    if tool != "cat" {
        command.args(["--decompress", "--stdout"]);
    }
    let target =
        fs::File::create(into.join(&plain)).with_context(|| format!("could not create {plain}"))?;
    process::run(command.arg(&file).stdout(target))
}

/// The first file below `directory` whose name is `wanted`.
fn find(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if let Some(found) = find(&path, wanted) {
                return Some(found);
            }
        } else if path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(wanted)
        {
            return Some(path);
        }
    }
    None
}

/// Of package names, the newest `PREFIX…-cloud-amd64`, by the numbers in its version.
fn newest(names: &[String], prefix: &str) -> Option<String> {
    names
        .iter()
        .filter(|name| name.starts_with(prefix) && name.ends_with(SUFFIX) && !name.contains("-rt-"))
        .max_by_key(|name| numbers(name.trim_end_matches(SUFFIX)))
        .cloned()
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{newest, source};

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_is_by_number_not_by_letter() {
        let found = names(&[
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64-dbg",
            "linux-image-6.12.95+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.96+deb12-amd64",
        ]);
        assert_eq!(
            newest(&found, "linux-image-6.12.").as_deref(),
            Some("linux-image-6.12.90+deb12.1-cloud-amd64")
        );
    }

    #[test]
    fn six_one_is_not_six_twelve() {
        let found = names(&[
            "linux-image-6.12.90+deb12-cloud-amd64",
            "linux-image-6.1.0-40-cloud-amd64",
        ]);
        assert_eq!(
            newest(&found, "linux-image-6.1.").as_deref(),
            Some("linux-image-6.1.0-40-cloud-amd64")
        );
    }

    #[test]
    fn an_unknown_series_is_refused() {
        assert!(source("5.15").is_err());
        assert!(source("7.2").is_ok());
    }
}
