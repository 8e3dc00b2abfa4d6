//! From a command to the files that the kernel will execute for it: through
//! PATH, symlinks, `#!` lines, `env` and version managers' shims. Node and
//! Python live in home directories as often as in `/usr`; what is found here
//! lets includes name them wherever they are, and nothing else there.

mod format;
mod npx;
mod runtime;
mod shim;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use format::Format;
pub use runtime::Runtime;

/// A command, followed to its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandChain {
    /// What to execute: an absolute path, symlinks kept, since Python finds
    /// its virtual environment by the name it is started by.
    pub program: PathBuf,
    /// What it is given as arguments, `argv[0]` first: the command as written,
    /// or what guard starts in place of a shim or of npx.
    pub argv: Vec<OsString>,
    /// Real paths of all files that the kernel executes on the way, scripts
    /// and loaders included. The policy may not be without them.
    pub files: Vec<PathBuf>,
    /// The package that npx would have to fetch first.
    pub missing: Option<String>,
    /// The outermost `node_modules` of scripts that npm installed: what they
    /// require lies there too.
    pub modules: Vec<PathBuf>,
    /// Of other scripts, the nearest directory with a manifest; never a
    /// top-level one.
    pub packages: Vec<PathBuf>,
    /// Node interpreters.
    pub node: Runtime,
    /// Python interpreters.
    pub python: Runtime,
    /// Real path of each argument that names something that exists.
    pub argument_paths: Vec<Option<PathBuf>>,
    /// Real paths of the arguments that name directories: absolute, or
    /// relative and starting with a dot.
    pub argument_directories: Vec<PathBuf>,
}

/// Why a command cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No command.
    #[error("there is no command to run: write it behind --")]
    Empty,
    /// Neither in PATH nor in the file system.
    #[error("{0}: command not found")]
    NotFound(String),
    /// Not a regular file with an execute bit.
    #[error("{0}: not an executable file")]
    NotExecutable(PathBuf),
    /// Neither ELF nor a script with a `#!` line.
    #[error("{0}: neither an ELF program nor a script that starts with #!")]
    Format(PathBuf),
    /// A `#!` line that names nothing, or more of them than the kernel follows.
    #[error("{path}: {problem}")]
    Script {
        /// The script.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A version manager's stand-in for a program that it cannot be asked for.
    #[error("{path} is a shim of {manager}, which runs programs that no policy names: {advice}")]
    Shim {
        /// The shim.
        path: PathBuf,
        /// Whose it is.
        manager: &'static str,
        /// What to do.
        advice: String,
    },
    /// npx would have to fetch the package.
    #[error(
        "{package} is not installed, and npx would fetch it before it runs it: run \
         `npm install --global {package}`, or npx once without guard"
    )]
    NotInstalled {
        /// As written.
        package: String,
    },
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl LaunchError {
    /// The exit status that a shell gives for it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Empty | Self::NotFound(_) => 127,
            _ => 126,
        }
    }
}

impl CommandChain {
    /// Refuses what would have to be fetched: for sandboxes, which no policy
    /// of this version lets reach a registry.
    ///
    /// # Errors
    /// [`LaunchError::NotInstalled`].
    pub fn check_installed(&self) -> Result<(), LaunchError> {
        match &self.missing {
            None => Ok(()),
            Some(package) => Err(LaunchError::NotInstalled {
                package: package.clone(),
            }),
        }
    }
}

/// Scripts run by scripts, as deep as the kernel goes (fs/exec.c,
/// `exec_binprm`).
const MAX_SCRIPTS: usize = 5;

/// Follows a command. `environment` gives the variables of the caller: PATH,
/// and those that version managers read.
///
/// # Errors
/// When the command, or what its `#!` line names, is not there or cannot be
/// executed.
pub fn resolve_command(
    command: &[OsString],
    environment: &dyn Fn(&str) -> Option<OsString>,
    cwd: &Path,
) -> Result<CommandChain, LaunchError> {
    let [name, ..] = command else {
        return Err(LaunchError::Empty);
    };
    let mut walk = Walk {
        environment,
        cwd,
        chain: CommandChain::default(),
    };
    let found = walk.find(name)?;
    let mut argv = command.to_vec();
    let mut program = found;
    if let Some(real) = shim::real_program(&program, environment, cwd)? {
        argv[0] = real.clone().into_os_string();
        program = real;
    }
    match npx::installed(&program, &argv[1..], environment, cwd) {
        npx::Npx::No => {}
        npx::Npx::Installed(real, rest) => {
            argv = [&[real.clone().into_os_string()], &rest[..]].concat();
            program = real;
        }
        npx::Npx::Missing(package) => walk.chain.missing = Some(package),
    }
    walk.command(&program, &argv[1..], 0)?;
    walk.chain.program = program;
    walk.chain.argv = argv;
    for argument in command {
        let real = cwd.join(argument).canonicalize().ok();
        walk.chain.argument_paths.push(real);
    }
    for (argument, real) in command.iter().zip(&walk.chain.argument_paths).skip(1) {
        let meant = argument.as_bytes().starts_with(b"/") || argument.as_bytes().starts_with(b".");
        if let Some(real) = real.as_ref().filter(|real| meant && real.is_dir()) {
            push(&mut walk.chain.argument_directories, real.clone());
        }
    }
    Ok(walk.chain)
}

fn push(list: &mut Vec<PathBuf>, path: PathBuf) {
    if !list.contains(&path) {
        list.push(path);
    }
}

/// A regular file with an execute bit.
fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Searches PATH as execvp(3) does.
fn search(name: &OsStr, path: Option<OsString>, cwd: &Path) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let path = cwd.join(name);
        return path.exists().then_some(path);
    }
    let path = path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|dir| cwd.join(dir).join(name))
        .find(|candidate| is_executable(candidate))
}

struct Walk<'a> {
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    cwd: &'a Path,
    chain: CommandChain,
}

impl Walk<'_> {
    fn find(&self, name: &OsStr) -> Result<PathBuf, LaunchError> {
        let found = search(name, (self.environment)("PATH"), self.cwd);
        match found {
            Some(path) if !name.is_empty() => Ok(path),
            _ => Err(LaunchError::NotFound(name.to_string_lossy().into_owned())),
        }
    }

    /// A program and the arguments that it may run something with.
    fn command(
        &mut self,
        program: &Path,
        arguments: &[OsString],
        depth: usize,
    ) -> Result<(), LaunchError> {
        let real = self.execute(program, depth)?;
        if is_env(&real) {
            if let Some((name, rest)) = env_command(arguments) {
                let found = self.find(&name)?;
                let found =
                    shim::real_program(&found, self.environment, self.cwd)?.unwrap_or(found);
                return self.command(&found, &rest, depth + 1);
            }
        } else if let Some(script) = runtime::script_argument(&real, arguments) {
            self.script_file(&self.cwd.join(script));
        }
        Ok(())
    }

    /// One file that the kernel executes, and what its `#!` line names.
    fn execute(&mut self, path: &Path, depth: usize) -> Result<PathBuf, LaunchError> {
        let read = |source| LaunchError::Read {
            path: path.to_owned(),
            source,
        };
        let script = |problem: String| LaunchError::Script {
            path: path.to_owned(),
            problem,
        };
        if !is_executable(path) {
            return Err(LaunchError::NotExecutable(path.to_owned()));
        }
        if depth > MAX_SCRIPTS {
            return Err(script("too many scripts that run scripts".into()));
        }
        let real = path.canonicalize().map_err(read)?;
        push(&mut self.chain.files, real.clone());
        match format::read(&real).map_err(read)? {
            Format::Elf { loader } => {
                if let Some(loader) = loader.and_then(|loader| loader.canonicalize().ok()) {
                    push(&mut self.chain.files, loader);
                }
                self.chain.note_interpreter(path, &real);
            }
            Format::Script {
                interpreter,
                argument,
            } => {
                let interpreter_path = self.cwd.join(&interpreter);
                if !is_executable(&interpreter_path) {
                    return Err(script(format!(
                        "its #! line names {}, which cannot be executed",
                        interpreter.display()
                    )));
                }
                self.chain.note_script(&real);
                let interpreter = self.execute(&interpreter_path, depth + 1)?;
                if is_env(&interpreter) {
                    let words = env_words(argument.as_deref());
                    let Some((name, rest)) = env_command(&words) else {
                        return Err(script("its #! line runs env without a program".into()));
                    };
                    let found = self.find(&name)?;
                    let found =
                        shim::real_program(&found, self.environment, self.cwd)?.unwrap_or(found);
                    self.command(&found, &rest, depth + 1)?;
                }
            }
            Format::Unknown => return Err(LaunchError::Format(path.to_owned())),
        }
        Ok(real)
    }

    /// A script that is an interpreter's argument: read, never executed.
    fn script_file(&mut self, path: &Path) {
        let with_js = {
            let mut name = path.as_os_str().to_owned();
            name.push(".js");
            PathBuf::from(name)
        };
        for candidate in [path, &with_js] {
            if let Ok(real) = candidate.canonicalize() {
                if real.is_file() {
                    push(&mut self.chain.files, real.clone());
                }
                self.chain.note_script(&real);
                return;
            }
        }
    }
}

fn is_env(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new("env"))
}

/// Words of a `#!` line's argument, which the kernel hands over as one.
fn env_words(argument: Option<&OsStr>) -> Vec<OsString> {
    let Some(argument) = argument else {
        return Vec::new();
    };
    let bytes = argument.as_bytes();
    let split = ["-S", "--split-string=", "-vS"]
        .iter()
        .find_map(|option| bytes.strip_prefix(option.as_bytes()));
    match split {
        Some(rest) => rest
            .split(|b| b.is_ascii_whitespace())
            .filter(|word| !word.is_empty())
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect(),
        None => vec![argument.to_owned()],
    }
}

/// The command that `env` runs: behind its options and assignments.
fn env_command(arguments: &[OsString]) -> Option<(OsString, Vec<OsString>)> {
    let mut rest = arguments;
    loop {
        let [first, tail @ ..] = rest else {
            return None;
        };
        let bytes = first.as_bytes();
        rest = match bytes {
            b"-S" | b"--split-string" => {
                let [text, tail @ ..] = tail else {
                    return None;
                };
                let mut option = OsString::from("-S");
                option.push(text);
                let words = [&env_words(Some(&option))[..], tail].concat();
                return env_command(&words);
            }
            b"-u" | b"--unset" | b"-C" | b"--chdir" => tail.get(1..)?,
            _ if bytes.starts_with(b"-S") => {
                let words = [&env_words(Some(first))[..], tail].concat();
                return env_command(&words);
            }
            _ if bytes.starts_with(b"-") || bytes.contains(&b'=') => tail,
            _ => return Some((first.clone(), tail.to_vec())),
        };
    }
}
