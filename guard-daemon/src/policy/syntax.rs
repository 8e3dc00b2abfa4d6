//! What can be said of a document's rules before variables have values: so
//! that one run names the wrong keys and the wrong globs together.

use super::document::{Document, FILE_LISTS, NETWORK_LISTS};
use super::error::{Errors, PolicyError, Spanned};
use super::glob::{self, GlobError, ListKind};
use super::{examples, network, unix};

/// The error of a glob, at its place.
pub(super) fn glob_error(text: &Spanned<String>, error: GlobError) -> PolicyError {
    let skip = usize::from(text.value.starts_with('!'));
    PolicyError {
        place: Some(text.within(error.at, skip)),
        message: format!("{}: {:?}", error.message, text.value),
        help: error.help,
    }
}

/// Which kind a list of `[files]` or `[network]` is.
pub(super) fn list_kind(key: &str) -> ListKind {
    if ["deny", "approve"].contains(&key) {
        ListKind::DenyOrApprove
    } else {
        ListKind::Allow
    }
}

pub(super) fn check(document: &Document, errors: &mut Errors) {
    for (list, key) in document.files.lists.iter().zip(FILE_LISTS) {
        for rule in list {
            let glob = rule.value.strip_prefix('!').unwrap_or(&rule.value);
            // Where there are variables, only their values say whether the
            // path is absolute; a variable without values makes no pattern.
            if let Err(error) = glob::parse(glob, list_kind(key), &|_| Ok(Vec::new())) {
                errors.push(glob_error(rule, error));
            }
        }
        if let [first, ..] = &list[..]
            && list.iter().all(|rule| rule.value.starts_with('!'))
        {
            let message =
                format!("a ! rule takes paths out of its own list, and files.{key} has no others");
            errors.push(
                PolicyError::at(&first.place, message)
                    .help("to refuse paths, put them into files.deny without the !"),
            );
        }
    }
    for (list, key) in document.network.lists.iter().zip(NETWORK_LISTS) {
        for rule in list {
            if let Err(error) = network::destination(rule, list_kind(key)) {
                errors.push(error);
            }
        }
    }
    for text in &document.network.listen {
        if let Err(error) = network::listen(text) {
            errors.push(error);
        }
    }
    for rule in &document.network.unix {
        if let Err(error) = unix::parse(rule, &|_| Ok(Vec::new())) {
            errors.push(error);
        }
    }
    for example in &document.examples {
        if example.access.value.contains("${") {
            continue;
        }
        if let Err((message, help)) = examples::parse_access(&example.access.value) {
            errors.push(PolicyError {
                place: Some(example.access.place.clone()),
                message,
                help,
            });
        }
    }
}
