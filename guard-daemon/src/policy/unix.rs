//! Rules for unix sockets of others: a path, or an abstract name.

use guard_common::limits::MAX_ABSTRACT_NAME;

use super::error::{PolicyError, Spanned};
use super::glob::{self, ListKind, Pattern, Variables};
use super::syntax::glob_error;

/// A rule of `network.unix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnixRule {
    /// Sockets bound at these paths.
    Paths(Vec<Pattern>),
    /// The socket with this abstract name, without the zero in front.
    Abstract(Vec<u8>),
}

/// Reads a rule; `lookup` gives the values of variables in paths.
pub(crate) fn parse(
    text: &Spanned<String>,
    lookup: Variables<'_>,
) -> Result<UnixRule, PolicyError> {
    let bad = |message: &str, help: &str| {
        Err(PolicyError::at(&text.place, format!("{message}: {:?}", text.value)).help(help))
    };
    if text.value.starts_with('!') {
        return bad(
            "network.unix has no ! rules",
            "name single sockets, or deny paths in files.deny",
        );
    }
    let Some(name) = text.value.strip_prefix('@') else {
        return glob::parse(&text.value, ListKind::Allow, lookup)
            .map(UnixRule::Paths)
            .map_err(|error| glob_error(text, error));
    };
    if name.is_empty() {
        return bad("an abstract name is missing", "write @NAME");
    }
    if name.len() > MAX_ABSTRACT_NAME {
        let most = format!("{MAX_ABSTRACT_NAME} bytes fit (unix(7))");
        return bad("the abstract name is too long", &most);
    }
    if name.contains(['*', '?', '[', '{', '$', '\\', '\0']) {
        return bad(
            "an abstract name is taken as it is",
            "wildcards, variables and \\ are for paths; name each socket",
        );
    }
    Ok(UnixRule::Abstract(name.as_bytes().to_vec()))
}
