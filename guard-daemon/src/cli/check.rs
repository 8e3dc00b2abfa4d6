//! `guard check`: is a policy right?

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use guard_common::matcher::{SliceTable, header};

use crate::policy::launch::{CommandChain, resolve_command};
use crate::policy::{
    CompiledPolicy, Document, Lookup, PolicyErrors, ResolveContext, compile, own, resolve,
};

/// Parse and compile a policy and run its own examples
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Name of a policy, or a file
    pub policy: String,
    /// Give a value to ${KEY}
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// The command that the policy is for, last of all: what it names becomes
    /// ${args.N}, and its interpreter is granted
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub server: Vec<OsString>,
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("write KEY=VALUE".to_owned()),
    }
}

/// A policy as this user would get it, here and now.
pub(super) struct Loaded {
    pub(super) policy: CompiledPolicy,
    pub(super) examples: usize,
    pub(super) chain: Option<CommandChain>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("{0}")]
    Policy(#[from] PolicyErrors),
    #[error("error: {0}")]
    Launch(#[from] crate::policy::launch::LaunchError),
    #[error("error: the working directory cannot be found: {0}")]
    Cwd(std::io::Error),
}

/// Finds, resolves and compiles a policy for a command, which may be empty.
pub(super) fn load(
    name: &str,
    set: &[(String, String)],
    command: &[OsString],
) -> Result<Loaded, LoadError> {
    let cwd = std::env::current_dir().map_err(LoadError::Cwd)?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute());
    let real_home = home.as_ref().and_then(|home| home.canonicalize().ok());
    let lookup = Lookup::for_user(
        std::env::var_os("XDG_CONFIG_HOME").as_deref(),
        home.as_deref(),
    );
    let found = lookup.policy(name, &cwd)?;
    let chain = match command {
        [] => None,
        _ => Some(resolve_command(
            command,
            &|name| std::env::var_os(name),
            &cwd,
        )?),
    };
    if let Some(chain) = &chain {
        chain.check_installed()?;
    }
    let document = Document::parse(&found.text, &found.name)?;
    let context = ResolveContext {
        home: real_home,
        cwd,
        // A sandbox has a directory of its own; here any name does.
        tmp: Path::new("/tmp/guard-check").to_owned(),
        args: command.to_vec(),
        set: set.to_vec(),
        includes: &lookup,
        launch: chain.as_ref(),
        own: own::standing(),
    };
    let resolved = resolve(&document, &context)?;
    let examples = resolved.example_count();
    Ok(Loaded {
        policy: compile(&resolved)?,
        examples,
        chain,
    })
}

/// Prints; a reader that has gone away (`guard check … | head`) is no error.
pub(super) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Checks; prints what is wrong to stderr. Exit status 0 or 1.
#[must_use]
pub fn run(args: &CheckArgs) -> ExitCode {
    match load(&args.policy, &args.set, &args.server) {
        Ok(loaded) => {
            let head = header(&SliceTable(loaded.policy.table()));
            let mut out = format!(
                "{}: ok: {} examples hold; {} states, {} address rules, {} name rules, {} KiB; {}\n",
                args.policy,
                loaded.examples,
                head.states,
                head.net_len,
                loaded.policy.names().count(),
                head.size.div_ceil(1024),
                loaded.policy.hash()
            );
            if let Some(chain) = loaded.chain {
                out.push_str(&format!("starts {}\n", chain.program.display()));
                for file in &chain.files {
                    out.push_str(&format!("  executes {}\n", file.display()));
                }
            }
            print(&out);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
