//! `npx PACKAGE ARGS`: a program that finds another, and downloads it where it
//! is not there. guard finds an installed one by itself and starts that, so
//! that the server's policy need not cover npm's cache, a shell and the
//! network.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha512};

/// What npx was asked for.
struct Asked {
    /// As written: `NAME`, `NAME@VERSION`, `@SCOPE/NAME@VERSION`.
    package: String,
    /// The package's program, where another than its own was named.
    program: Option<String>,
    /// Arguments of the program.
    rest: Vec<OsString>,
}

/// What a command is to npx.
pub(super) enum Npx {
    /// Not npx, or npx used in a way that is not followed (`--call`, a path, a
    /// repository).
    No,
    /// The program that it would run, and its arguments.
    Installed(PathBuf, Vec<OsString>),
    /// It would fetch this package first.
    Missing(String),
}

/// Finds the program that `npx …` would run.
pub(super) fn installed(
    program: &Path,
    arguments: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    cwd: &Path,
) -> Npx {
    let real = program.canonicalize().unwrap_or_default();
    if real.file_name() != Some(OsStr::new("npx-cli.js")) {
        return Npx::No;
    }
    let Some(asked) = parse(arguments) else {
        return Npx::No;
    };
    let (name, version) = match asked
        .package
        .char_indices()
        .rfind(|(at, c)| *at > 0 && *c == '@')
    {
        Some((at, _)) => (&asked.package[..at], Some(&asked.package[at + 1..])),
        None => (asked.package.as_str(), None),
    };
    if !is_package_name(name) {
        return Npx::No;
    }
    // A version that was named must be the one that is there; npx's own cache
    // is keyed by what was written.
    let plain = version.is_none_or(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    let cache = cache(&asked.package, environment);
    let modules = cwd
        .ancestors()
        .map(|dir| dir.join("node_modules"))
        .chain(global_modules(&real))
        .filter(|_| plain)
        .map(|dir| (dir, version))
        .chain(cache.map(|dir| (dir, None)));
    for (modules, version) in modules {
        if let Some(found) = program_of(&modules.join(name), name, version, &asked) {
            return Npx::Installed(found, asked.rest);
        }
    }
    Npx::Missing(asked.package)
}

fn parse(arguments: &[OsString]) -> Option<Asked> {
    let mut package = None;
    let mut rest = arguments;
    while let [first, tail @ ..] = rest {
        let from_here = rest;
        let text = first.to_str()?;
        rest = tail;
        match text {
            "-y" | "--yes" | "-q" | "--quiet" | "--prefer-offline" | "--offline" => {}
            "-p" | "--package" => {
                let [value, tail @ ..] = tail else {
                    return None;
                };
                package = Some(value.to_str()?.to_owned());
                rest = tail;
            }
            "--" => break,
            _ if text.starts_with("--package=") => {
                package = Some(text["--package=".len()..].to_owned());
            }
            _ if text.starts_with('-') => return None,
            _ => return Some(split(package, from_here)),
        }
    }
    (!rest.is_empty()).then(|| split(package, rest))
}

/// The first word is the package, or, where `--package` named that, its program.
fn split(package: Option<String>, words: &[OsString]) -> Asked {
    let first = words[0].to_string_lossy().into_owned();
    let rest = words[1..].to_vec();
    match package {
        Some(package) => Asked {
            package,
            program: Some(first),
            rest,
        },
        None => Asked {
            package: first,
            program: None,
            rest,
        },
    }
}

/// `name` or `@scope/name`, and nothing that is a path.
fn is_package_name(name: &str) -> bool {
    let part = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| part(scope) && part(name)),
        None => part(name),
    }
}

/// The `node_modules` that npm itself is installed in.
fn global_modules(npx: &Path) -> Option<PathBuf> {
    npx.ancestors()
        .find(|dir| dir.file_name() == Some(OsStr::new("node_modules")))
        .map(Path::to_owned)
}

/// Where npx keeps what it fetched: a directory named by the digest of what
/// was asked for.
fn cache(package: &str, environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let root = environment("npm_config_cache")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(environment("HOME")?).join(".npm")))?;
    let digest = Sha512::digest(package.as_bytes());
    let key: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    Some(root.join("_npx").join(key).join("node_modules"))
}

/// The file of a package's program, if the package is there in that version.
fn program_of(
    directory: &Path,
    name: &str,
    version: Option<&str>,
    asked: &Asked,
) -> Option<PathBuf> {
    let manifest = std::fs::read(directory.join("package.json")).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).ok()?;
    if version.is_some_and(|version| manifest["version"].as_str() != Some(version)) {
        return None;
    }
    let own = name.rsplit('/').next().unwrap_or(name);
    let wanted = asked.program.as_deref();
    let file = match &manifest["bin"] {
        serde_json::Value::String(file) if wanted.is_none_or(|w| w == own) => file.as_str(),
        serde_json::Value::Object(bins) => match wanted {
            Some(wanted) => bins.get(wanted)?.as_str()?,
            None if bins.len() == 1 => bins.values().next()?.as_str()?,
            None => bins.get(own)?.as_str()?,
        },
        _ => return None,
    };
    // The program is inside its package, whatever the manifest says.
    let real = directory.join(file).canonicalize().ok()?;
    let inside = real.starts_with(directory.canonicalize().ok()?);
    (inside && !real.as_os_str().as_bytes().is_empty()).then_some(real)
}
