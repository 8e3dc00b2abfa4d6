//! As whom a server runs.

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Uid, User, getgrouplist};

use super::spec::Identity;

/// A user that a server may run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// Uid, gid and groups.
    pub identity: Identity,
    /// Home directory.
    pub home: PathBuf,
}

/// Why there is no user to run as.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Root, and nothing says whom to run as.
    #[error(
        "guard does not run servers as root. Name a user with `--user NAME`, call guard through \
         sudo, or write `user = \"NAME\"` into the policy's [process] section (`user = \"root\"` \
         if it must be root)"
    )]
    PlainRoot,
    /// `--user root` without the policy's consent.
    #[error(
        "guard does not run servers as root unless the policy says `user = \"root\"` in its \
         [process] section"
    )]
    RootNotInPolicy,
    /// The policy and the command line differ.
    #[error(
        "the policy runs its server as user {policy:?}, but --user says {flag:?}: leave out --user"
    )]
    Conflict {
        /// `user` of the policy.
        policy: String,
        /// `--user`.
        flag: String,
    },
    /// No such user.
    #[error("there is no user {0:?} on this host")]
    Unknown(String),
    /// The user database cannot be read.
    #[error("cannot look up user {0:?}: {1}")]
    Lookup(String, nix::errno::Errno),
}

/// A user by name, or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// By name.
    Name(String),
    /// By number.
    Uid(u32),
}

/// Decides as whom the server of a request by root runs. What the policy says
/// holds; then `--user`, then the user who called sudo.
///
/// # Errors
/// When nobody is named, or root without the policy's consent.
pub fn choose(
    policy: Option<&str>,
    flag: Option<&str>,
    sudo: Option<u32>,
) -> Result<Who, UserError> {
    match (policy, flag, sudo) {
        (Some(policy), Some(flag), _) if policy != flag => Err(UserError::Conflict {
            policy: policy.to_owned(),
            flag: flag.to_owned(),
        }),
        (Some(policy), _, _) => Ok(Who::Name(policy.to_owned())),
        (None, Some(flag), _) => Ok(Who::Name(flag.to_owned())),
        (None, None, Some(uid)) if uid != 0 => Ok(Who::Uid(uid)),
        (None, None, _) => Err(UserError::PlainRoot),
    }
}

impl Who {
    /// Looks the user up. `root_allowed`: the policy said `user = "root"`.
    ///
    /// # Errors
    /// When there is no such user, or it is root and that is not allowed.
    pub fn look_up(&self, root_allowed: bool) -> Result<Account, UserError> {
        let name = match self {
            Self::Name(name) => name.clone(),
            Self::Uid(uid) => uid.to_string(),
        };
        let failed = |errno| UserError::Lookup(name.clone(), errno);
        let user = match self {
            Self::Name(name) => User::from_name(name),
            Self::Uid(uid) => User::from_uid(Uid::from_raw(*uid)),
        }
        .map_err(failed)?
        .ok_or_else(|| UserError::Unknown(name.clone()))?;
        if user.uid.is_root() && !root_allowed {
            return Err(UserError::RootNotInPolicy);
        }
        let c_name =
            CString::new(user.name.clone()).map_err(|_| UserError::Unknown(user.name.clone()))?;
        let groups = getgrouplist(&c_name, user.gid).map_err(failed)?;
        Ok(Account {
            name: user.name,
            identity: Identity {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
            },
            home: user.dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Result<Who, UserError> {
        Ok(Who::Name(name.into()))
    }

    #[test]
    fn root_is_never_the_default() {
        assert_eq!(choose(None, None, None), Err(UserError::PlainRoot));
        assert_eq!(choose(None, None, Some(0)), Err(UserError::PlainRoot));
        assert_eq!(choose(None, None, Some(1000)), Ok(Who::Uid(1000)));
        assert_eq!(choose(None, Some("bob"), Some(1000)), name("bob"));
        assert_eq!(choose(Some("bob"), None, Some(1000)), name("bob"));
        assert_eq!(choose(Some("bob"), Some("bob"), None), name("bob"));
        assert!(matches!(
            choose(Some("bob"), Some("eve"), None),
            Err(UserError::Conflict { .. })
        ));
    }

    #[test]
    fn root_by_any_name_needs_the_policy() {
        for who in [Who::Name("root".into()), Who::Uid(0)] {
            assert_eq!(who.look_up(false), Err(UserError::RootNotInPolicy));
            assert_eq!(who.look_up(true).map(|a| a.identity.uid), Ok(0));
        }
    }

    #[test]
    fn an_unknown_user_is_named() {
        let who = Who::Name("no-such-user-here".into());
        let error = who.look_up(false).unwrap_err().to_string();
        assert!(error.contains("no-such-user-here"), "{error}");
    }
}
