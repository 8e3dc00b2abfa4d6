//! What belongs to an interpreter and to a script.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CommandChain, push};

/// Interpreters of one kind that a command runs, by real paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// The programs.
    pub bins: Vec<PathBuf>,
    /// Where they were installed to: `PREFIX/bin/program`.
    pub prefixes: Vec<PathBuf>,
    /// Python's virtual environments.
    pub venvs: Vec<PathBuf>,
}

fn base_name(path: &Path) -> &[u8] {
    path.file_name().map_or(b"", OsStrExt::as_bytes)
}

fn is_node(path: &Path) -> bool {
    let name = base_name(path);
    name == b"nodejs"
        || name
            .strip_prefix(b"node")
            .is_some_and(|rest| rest.iter().all(|b| b.is_ascii_digit() || *b == b'.'))
}

fn is_python(path: &Path) -> bool {
    let name = base_name(path);
    name.starts_with(b"python") || name.starts_with(b"pypy")
}

fn is_shell(path: &Path) -> bool {
    [&b"sh"[..], b"bash", b"dash", b"zsh", b"ksh"].contains(&base_name(path))
}

/// `PREFIX` of `PREFIX/bin/program`.
fn prefix(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?;
    (dir.file_name() == Some(OsStr::new("bin")))
        .then(|| dir.parent())
        .flatten()
        .map(Path::to_owned)
}

impl CommandChain {
    /// Takes note of an interpreter: `path` as it was named, `real` after symlinks.
    pub(super) fn note_interpreter(&mut self, path: &Path, real: &Path) {
        let runtime = if is_node(real) {
            &mut self.node
        } else if is_python(real) || is_python(path) {
            &mut self.python
        } else {
            return;
        };
        push(&mut runtime.bins, real.to_owned());
        if let Some(prefix) = prefix(real) {
            push(&mut runtime.prefixes, prefix);
        }
        // Python looks for pyvenv.cfg beside the name it was started by, or
        // one directory up.
        let venv = prefix(path).filter(|venv| venv.join("pyvenv.cfg").is_file());
        if let Some(venv) = venv.and_then(|venv| venv.canonicalize().ok()) {
            push(&mut runtime.venvs, venv);
        }
    }

    /// Takes note of a script's package.
    pub(super) fn note_script(&mut self, real: &Path) {
        let modules = real
            .ancestors()
            .filter(|dir| dir.file_name() == Some(OsStr::new("node_modules")))
            .last();
        if let Some(modules) = modules {
            push(&mut self.modules, modules.to_owned());
        } else if let Some(package) = package(real) {
            push(&mut self.packages, package);
        }
    }
}

/// The nearest directory above a script with a manifest.
fn package(script: &Path) -> Option<PathBuf> {
    script
        .ancestors()
        .take_while(|dir| dir.components().count() > 2)
        .find(|dir| {
            ["package.json", "pyproject.toml", "setup.py"]
                .iter()
                .any(|manifest| dir.join(manifest).is_file())
        })
        .map(Path::to_owned)
}

/// The argument that names the script an interpreter runs.
pub(super) fn script_argument<'a>(
    interpreter: &Path,
    arguments: &'a [OsString],
) -> Option<&'a OsStr> {
    // Options that take the next argument, and options after which there is
    // no script.
    let (with_value, no_script): (&[&str], &[&str]) = if is_node(interpreter) {
        (
            &[
                "-r",
                "--require",
                "--import",
                "--loader",
                "--experimental-loader",
                "-C",
                "--conditions",
                "--env-file",
                "--title",
                "--icu-data-dir",
                "--openssl-config",
            ],
            &[
                "-e",
                "--eval",
                "-p",
                "--print",
                "-pe",
                "-i",
                "--interactive",
            ],
        )
    } else if is_python(interpreter) {
        (&["-W", "-X", "--check-hash-based-pycs"], &["-m", "-c", "-"])
    } else if is_shell(interpreter) {
        (&["-o", "-O", "--rcfile", "--init-file"], &["-c", "-s"])
    } else {
        return None;
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            return Some(argument);
        };
        if no_script.contains(&text) {
            return None;
        } else if text == "--" {
            return rest.next().map(OsString::as_os_str);
        } else if with_value.contains(&text) {
            rest.next();
        } else if !text.starts_with('-') {
            return Some(argument);
        }
    }
    None
}
