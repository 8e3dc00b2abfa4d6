//! From a request to everything that is decided before anything is made:
//! user, policy, command, environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::spec::Identity;
use super::state::PolicyState;
use super::users::{self, Account, UserError, Who};
use super::{env, handover};
use crate::audit::event::readable;
use crate::policy::launch::{LaunchError, resolve_command};
use crate::policy::own as policy_own;
use crate::policy::{
    CompiledPolicy, Document, Lookup, Own, Owner, PolicyErrors, ResolveContext, compile, resolve,
};
use crate::wire::{Enforcement, RunRequest, WIRE_VERSION, escape, unescape};

/// The policy when `--policy` names none.
const DEFAULT_POLICY: &str = "default";

/// Why nothing is started.
#[derive(Debug)]
pub struct Refused {
    /// 125, 126 or 127.
    pub status: u8,
    /// What failed, on what, and what to do.
    pub reason: String,
}

impl Refused {
    /// A refusal by guard itself.
    pub fn new(reason: impl ToString) -> Self {
        Self {
            status: 125,
            reason: reason.to_string(),
        }
    }
}

impl From<UserError> for Refused {
    fn from(error: UserError) -> Self {
        Self::new(error)
    }
}

impl From<PolicyErrors> for Refused {
    fn from(errors: PolicyErrors) -> Self {
        Self::new(format!("the policy is refused\n{errors}"))
    }
}

impl From<LaunchError> for Refused {
    fn from(error: LaunchError) -> Self {
        Self {
            status: error.exit_status(),
            reason: error.to_string(),
        }
    }
}

/// With whose rights this supervisor works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Root: servers get users of their own.
    Root,
    /// An ordinary user's, who starts servers for nobody else.
    Own,
}

/// A request whose text is bytes again.
#[derive(Debug)]
pub struct Wanted {
    /// Command and arguments.
    pub command: Vec<OsString>,
    /// Working directory, absolute.
    pub cwd: PathBuf,
    /// `NAME=value`.
    pub env: Vec<Vec<u8>>,
}

impl Wanted {
    /// Reads what the request carries escaped.
    ///
    /// # Errors
    /// When it is not of this version or not what a client sends.
    pub fn read(request: &RunRequest) -> Result<Self, Refused> {
        if request.version != WIRE_VERSION {
            return Err(Refused::new(format!(
                "this client speaks version {} of guard's wire, the supervisor version \
                 {WIRE_VERSION}: end the supervisor and start the one of this version",
                request.version
            )));
        }
        let all = |list: &[String]| -> Result<Vec<Vec<u8>>, Refused> {
            list.iter()
                .map(|text| unescape(text).ok_or_else(|| Refused::new("badly escaped request")))
                .collect()
        };
        let cwd = all(std::slice::from_ref(&request.cwd))?.concat();
        let cwd = PathBuf::from(OsString::from_vec(cwd));
        if !cwd.is_absolute() {
            return Err(Refused::new("the working directory is not absolute"));
        }
        Ok(Self {
            command: all(&request.command)?
                .into_iter()
                .map(OsString::from_vec)
                .collect(),
            cwd,
            env: all(&request.env)?,
        })
    }

    fn var(&self, name: &str) -> Option<OsString> {
        env::get(&self.env, name).map(|v| OsStr::from_bytes(v).to_owned())
    }
}

/// The policy's text, and as whom its server runs: known before there is a
/// directory for its `${tmp}`.
#[derive(Debug)]
pub struct Chosen {
    /// As `--policy` says; of a file, its name without `.toml`.
    pub policy_name: String,
    /// The file's real path, or `built-in NAME`.
    source: String,
    text: Vec<u8>,
    file: Option<PathBuf>,
    document: Document,
    lookup: Lookup,
    /// As whom; `None`: as this process.
    pub account: Option<Account>,
    home: Option<PathBuf>,
}

/// Finds the policy and decides the user.
///
/// # Errors
/// When there is no such policy, it cannot be parsed, or nobody to run as.
pub fn choose(request: &RunRequest, wanted: &Wanted, rights: Rights) -> Result<Chosen, Refused> {
    // The directories of the one who asks; their own variables only where they are theirs.
    let asks = match (rights, &request.user, request.sudo) {
        (Rights::Own, Some(_), _) => {
            return Err(Refused::new(
                "--user needs root: without it a server runs as the user who starts it",
            ));
        }
        (Rights::Own, None, _) => None,
        (Rights::Root, Some(name), _) => Some(Who::Name(name.clone()).look_up(true)?),
        (Rights::Root, None, Some((uid, _))) if uid != 0 => Some(Who::Uid(uid).look_up(true)?),
        (Rights::Root, None, _) => None,
    };
    let lookup = match &asks {
        Some(account) => {
            let owner = Owner {
                uid: account.identity.uid,
                gid: account.identity.gid,
                // A file that root itself names is root's choice.
                files: request.user.is_none(),
            };
            Lookup::for_user(None, Some(&account.home)).on_behalf_of(owner)
        }
        None => {
            let home = wanted.var("HOME").map(PathBuf::from);
            Lookup::for_user(wanted.var("XDG_CONFIG_HOME").as_deref(), home.as_deref())
        }
    };
    let policy_name = request.policy.as_deref().unwrap_or(DEFAULT_POLICY);
    let found = lookup.policy(policy_name, &wanted.cwd)?;
    let document = Document::parse(&found.text, &found.name)?;
    let account = match rights {
        Rights::Own => None,
        Rights::Root => {
            let user = document.user.as_deref();
            let sudo = request.sudo.map(|(uid, _)| uid);
            let who = users::choose(user, request.user.as_deref(), sudo)?;
            Some(who.look_up(user == Some("root"))?)
        }
    };
    let home = match &account {
        Some(account) => Some(account.home.clone()),
        None => wanted.var("HOME").map(PathBuf::from),
    };
    let source = match &found.file {
        Some(file) => readable(file.as_os_str().as_bytes()).0,
        None => found.name,
    };
    Ok(Chosen {
        policy_name: policy_label(policy_name),
        source,
        text: found.text,
        file: found.file,
        document,
        lookup,
        account,
        home: home.and_then(|home| home.canonicalize().ok()),
    })
}

/// What events call a policy: a name as it is, a file by its own name.
fn policy_label(name_or_file: &str) -> String {
    let path = Path::new(name_or_file);
    let name = path.file_name().unwrap_or(path.as_os_str()).as_bytes();
    readable(name.strip_suffix(b".toml").unwrap_or(name)).0
}

/// Everything that a launch needs.
#[derive(Debug)]
pub struct Prepared {
    /// Name in the trail.
    pub server: String,
    /// As whom; `None`: as this process.
    pub identity: Option<Identity>,
    /// The policy.
    pub policy: CompiledPolicy,
    /// What the next supervisor compiles it from.
    pub policy_state: PolicyState,
    /// What to execute.
    pub program: PathBuf,
    /// Its arguments, from `argv[0]` on.
    pub argv: Vec<Vec<u8>>,
    /// What is left of the environment.
    pub env: env::Filtered,
    /// For stderr.
    pub notes: Vec<String>,
}

/// Resolves and compiles. `tmp` is the sandbox's private directory.
///
/// # Errors
/// When the command or the policy is refused.
pub fn prepare(
    request: &RunRequest,
    wanted: &Wanted,
    chosen: Chosen,
    tmp: &Path,
    trail: &Path,
) -> Result<Prepared, Refused> {
    let given: Vec<Vec<u8>> = wanted
        .command
        .iter()
        .map(|a| a.as_bytes().to_vec())
        .collect();
    // Before it is looked for: the advice is the same where it is not installed.
    refuse_handover(None, &given)?;
    let chain = resolve_command(&wanted.command, &|name| wanted.var(name), &wanted.cwd)?;
    if request.enforcement == Enforcement::Kernel {
        chain.check_installed()?;
    }
    let argv: Vec<Vec<u8>> = chain.argv.iter().cloned().map(OsString::into_vec).collect();
    refuse_handover(Some(&chain.program), &argv)?;
    let cwd = wanted.cwd.canonicalize().map_err(|e| {
        let shown = wanted.cwd.display();
        Refused::new(format!("cannot enter the working directory {shown}: {e}"))
    })?;
    let context = ResolveContext {
        home: chosen.home.clone(),
        cwd,
        tmp: tmp.to_owned(),
        args: wanted.command.clone(),
        set: request.set.clone(),
        includes: &chosen.lookup,
        launch: Some(&chain),
        own: own(&chosen, trail),
    };
    let policy = compile(&resolve(&chosen.document, &context)?)?;
    let own = context.own;
    let server = match &request.name {
        Some(name) => name.clone(),
        None => base_name(&wanted.command),
    };
    let mut set = vec![("TMPDIR", tmp.as_os_str().as_bytes().to_vec())];
    if let Some(account) = &chosen.account {
        // The caller's would be root's.
        let own = [
            ("HOME", account.home.as_os_str().as_bytes()),
            ("USER", account.name.as_bytes()),
            ("LOGNAME", account.name.as_bytes()),
        ];
        let allowed = own
            .into_iter()
            .filter(|(name, _)| policy.env_allow().contains(*name));
        set.extend(allowed.map(|(name, value)| (name, value.to_vec())));
    }
    let env = env::filter(&wanted.env, policy.env_allow(), &set);
    let notes = notes(request, &env);
    let policy_state = PolicyState {
        name: chosen.policy_name,
        hash: policy.hash().to_owned(),
        generation: 1,
        text: String::from_utf8_lossy(&chosen.text).into_owned(),
        source: chosen.source,
        home: chosen.home,
        cwd: request.cwd.clone(),
        command: request.command.clone(),
        env: resolution_env(&wanted.env),
        set: request.set.clone(),
        own,
    };
    Ok(Prepared {
        server,
        identity: chosen.account.map(|a| a.identity),
        policy,
        policy_state,
        program: chain.program,
        argv,
        env,
        notes,
    })
}

/// Compiles the policy of a sandbox that runs already. `None` when it is not
/// the same any more (its includes or the command's files have changed): then
/// nothing can say which rule decided, but the kernel's table stands.
#[must_use]
pub fn recompile(state: &PolicyState, tmp: &Path) -> Option<CompiledPolicy> {
    let document = Document::parse(state.text.as_bytes(), &state.source).ok()?;
    let bytes = |list: &[String]| list.iter().map(|t| unescape(t)).collect::<Option<Vec<_>>>();
    let env = bytes(&state.env)?;
    let command: Vec<OsString> = bytes(&state.command)?
        .into_iter()
        .map(OsString::from_vec)
        .collect();
    let var = |name: &str| env::get(&env, name).map(|v| OsStr::from_bytes(v).to_owned());
    let cwd = PathBuf::from(OsString::from_vec(unescape(&state.cwd)?));
    let chain = resolve_command(&command, &var, &cwd).ok()?;
    let lookup = Lookup::for_user(var("XDG_CONFIG_HOME").as_deref(), state.home.as_deref());
    let context = ResolveContext {
        home: state.home.clone(),
        cwd: cwd.canonicalize().ok()?,
        tmp: tmp.to_owned(),
        args: command,
        set: state.set.clone(),
        includes: &lookup,
        launch: Some(&chain),
        own: state.own.clone(),
    };
    let policy = compile(&resolve(&document, &context).ok()?).ok()?;
    (policy.hash() == state.hash).then_some(policy)
}

/// What resolving a command reads of the environment. The rest may be secret
/// and is not written to a file.
fn resolution_env(env: &[Vec<u8>]) -> Vec<String> {
    const READ: [&str; 9] = [
        "PATH=",
        "npm_config_cache=",
        "HOME=",
        "XDG_CONFIG_HOME=",
        "PYENV_",
        "NVM_",
        "VOLTA_",
        "ASDF_",
        "VIRTUAL_ENV=",
    ];
    env.iter()
        .filter(|entry| READ.iter().any(|name| entry.starts_with(name.as_bytes())))
        .map(|entry| escape(entry))
        .collect()
}

fn base_name(command: &[OsString]) -> String {
    let name = command
        .first()
        .and_then(|c| Path::new(c).file_name())
        .unwrap_or_default();
    escape(name.as_bytes())
}

fn refuse_handover(program: Option<&Path>, argv: &[Vec<u8>]) -> Result<(), Refused> {
    let real = program.map(|p| p.canonicalize().unwrap_or_else(|_| p.to_owned()));
    let path = real.as_ref().map_or(&b""[..], |p| p.as_os_str().as_bytes());
    match handover::find(path, argv) {
        Some(program) => Err(Refused::new(handover::explanation(&program))),
        None => Ok(()),
    }
}

/// What of guard's own a sandbox may not reach: besides what every host has,
/// the policy in use, those that the next start could find in its place, the
/// trail, and the program itself.
fn own(chosen: &Chosen, trail: &Path) -> Vec<Own> {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let files = chosen.file.iter().map(|file| Own::file(file));
    let directories = chosen.lookup.directories();
    let directories = directories.map(|dir| Own::directory(&canonical(dir)));
    let mut own = policy_own::standing();
    own.extend(files.chain(directories));
    // The trail itself may not be there yet.
    let trail = match (trail.parent(), trail.file_name()) {
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => trail.to_owned(),
    };
    own.push(Own::file(&trail));
    if let Ok(program) = std::env::current_exe() {
        own.push(Own::file(&canonical(&program)));
    }
    own
}

fn notes(request: &RunRequest, env: &env::Filtered) -> Vec<String> {
    let mut notes = Vec::new();
    if request.enforcement == Enforcement::GatewayOnly {
        notes.push(
            "WARNING: --enforcement gateway-only: the kernel enforces nothing, file and network \
             rules are not applied"
                .to_owned(),
        );
    }
    if request.audit_only {
        notes.push(
            "WARNING: --audit-only: accesses are judged and recorded, none is denied; there is no \
             system call filter, no Landlock ruleset and no limit of resources either"
                .to_owned(),
        );
    }
    if !env.removed.is_empty() {
        let names: Vec<String> = env.removed.iter().map(|name| escape(name)).collect();
        notes.push(format!(
            "removed from the environment: {} (process.env in the policy keeps a variable)",
            names.join(" ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_policy_is_called_by_its_name_or_its_files() {
        for (given, name) in [
            ("filesystem", "filesystem"),
            ("/srv/p/notes.toml", "notes"),
            ("./notes.toml", "notes"),
            ("/srv/p/plain", "plain"),
            ("/", "/"),
        ] {
            assert_eq!(policy_label(given), name);
        }
    }

    #[test]
    fn root_believes_no_policy_for_a_user_that_others_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(&file, "version = 1\n").unwrap();
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let mut request = RunRequest {
            version: WIRE_VERSION,
            policy: Some(file.to_str().unwrap().into()),
            name: None,
            user: None,
            set: vec![],
            audit_only: false,
            enforcement: Enforcement::Kernel,
            audit_file: None,
            command: vec!["true".into()],
            cwd: "/".into(),
            env: vec![],
            umask: 0o022,
            sudo: Some((nobody.uid.as_raw(), nobody.gid.as_raw())),
        };
        let wanted = Wanted::read(&request).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o666);
        let refused = choose(&request, &wanted, Rights::Root).unwrap_err();
        assert!(refused.reason.contains("not believed"), "{refused:?}");
        // Whom root names the file for is another matter, as is one's own file.
        assert!(choose(&request, &wanted, Rights::Own).is_ok());
        request.sudo = None;
        request.user = Some("nobody".into());
        let chosen = choose(&request, &wanted, Rights::Root).unwrap();
        assert_eq!(chosen.policy_name, "p");
        assert_eq!(
            chosen.source,
            file.canonicalize().unwrap().to_str().unwrap()
        );
    }
}
