//! What supervisor and launcher say to each other.

use serde::{Deserialize, Serialize};

use crate::relay::config::RelayConfig;

/// What is to be launched. Descriptors travel with it, in this order: the MCP
/// client's stdin, stdout, stderr; the relay's wire and control sockets; the
/// slot's map or `/dev/null`; `cgroup.kill` or `/dev/null`; and with `cgroup`
/// the sandbox's cgroup directory and `cgroup.procs` of the relays' cgroup.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// The executable, escaped.
    pub path: String,
    /// Arguments from `argv[0]` on, escaped.
    pub argv: Vec<String>,
    /// The whole environment as `NAME=value`, escaped.
    pub env: Vec<String>,
    /// Working directory, escaped.
    pub cwd: String,
    /// File mode creation mask.
    pub umask: u32,
    /// Whom the server runs as; `None`: as the launcher.
    pub identity: Option<Identity>,
    /// Uid and gid of the relay; `None`: as the launcher.
    pub relay_id: Option<u32>,
    /// Whether cgroup descriptors came.
    pub cgroup: bool,
    /// For `guard __relay`. The launcher fills in the server's process.
    pub relay: RelayConfig,
    /// What stands behind the kernel programs; `None` with `--audit-only`,
    /// which denies nothing.
    pub walls: Option<Walls>,
}

/// What stands behind the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walls {
    /// `[process] io_uring`.
    pub io_uring: bool,
    /// System V objects and message queues of its own.
    pub ipc_namespace: bool,
    /// `[files] max_write_size`, bytes.
    pub max_write_size: Option<u64>,
    /// A rule names abstract unix sockets of others.
    pub abstract_sockets: bool,
    /// Directories and files, escaped, below which the policy may let the
    /// server write, for a Landlock ruleset; `None`: no ruleset.
    pub write_roots: Option<Vec<String>>,
}

/// A user as the kernel knows one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// How far a launch came.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchReport {
    /// The server was executed. With [`Walls`] the listener of its system call
    /// filter comes along.
    Started {
        /// Its process.
        pid: i32,
    },
    /// A step failed; nothing runs.
    Failed {
        /// Which.
        stage: Stage,
        /// `errno`.
        errno: i32,
        /// More, when errno does not say it all.
        detail: Option<String>,
    },
}

/// Steps of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the specification.
    Spec,
    /// Compiling the filter, making the Landlock ruleset and pipes.
    Prepare,
    /// clone3 into the cgroup.
    Clone,
    /// A session of its own.
    Session,
    /// A namespace of its own for System V objects and message queues.
    IpcNamespace,
    /// Signals and limits.
    Limits,
    /// Giving up capabilities.
    Capabilities,
    /// Changing user and groups.
    User,
    /// Entering the working directory.
    Directory,
    /// Arranging descriptors.
    Descriptors,
    /// Putting the Landlock ruleset in force.
    Landlock,
    /// Installing the filter.
    Seccomp,
    /// Executing the server.
    Exec,
    /// Moving the relay to its cgroup.
    RelayCgroup,
    /// Making the relay unprivileged.
    RelayPrivileges,
    /// Executing the relay.
    RelayExec,
}
