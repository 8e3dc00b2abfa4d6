//! Why the kernel side cannot be had, in words that say what to do.

use std::path::PathBuf;

use super::btf::BtfError;

/// Why the kernel side cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Offsets could not be found.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// A field lies where the programs do not read.
    #[error(
        "struct {structure}.{field} lies at byte {offset} in this kernel, further than guard's programs read: guard does not know this kernel"
    )]
    Layout {
        /// The struct.
        structure: &'static str,
        /// The field.
        field: &'static str,
        /// Where it lies.
        offset: u32,
    },
    /// A hook that guard cannot do without.
    #[error(
        "this kernel has no LSM hook {0} in a form that guard knows: it would not be complete without"
    )]
    Hook(&'static str),
    /// The object could not be loaded.
    #[error("the kernel does not take guard's maps: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program was refused.
    #[error("kernel {kernel} refuses the program {program}: {reason}")]
    Program {
        /// Which program.
        program: String,
        /// Kernel release.
        kernel: String,
        /// The kernel's words: the last lines of the verifier's log.
        reason: String,
    },
    /// A map operation failed.
    #[error("map {map}: {reason}")]
    Map {
        /// Which map.
        map: &'static str,
        /// What failed.
        reason: String,
    },
    /// A pin could not be made or opened.
    #[error("cannot {action} {path}: {reason}")]
    Pin {
        /// pin, open, remove.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// A pin that was there is not there any more.
    #[error(
        "{path} is gone: somebody removed it. When no server runs, `guard daemon --teardown` clears what is left"
    )]
    PinGone {
        /// Which file.
        path: PathBuf,
    },
    /// Another version's programs are pinned and in use.
    #[error(
        "another version of guard holds {path} with live sandboxes: end them, or run `guard daemon --teardown` with that version"
    )]
    OtherVersion {
        /// Its directory.
        path: PathBuf,
    },
    /// No room for another policy.
    #[error(
        "no room for a policy of {wanted} bytes: {used} bytes are in use by other sandboxes' policies; end some, or use fewer rules"
    )]
    ArenaFull {
        /// Bytes asked for.
        wanted: u32,
        /// Bytes in use.
        used: u64,
    },
    /// No slot is free.
    #[error("{0} sandboxes are alive on this host, the most that guard manages at once")]
    NoSlot(u32),
    /// The canary was not stopped.
    #[error(
        "self-test failed: {0}; no server is started. `guard doctor` says what this host lacks"
    )]
    Canary(String),
    /// A file operation failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, on what.
        action: String,
        /// The error.
        source: std::io::Error,
    },
}

impl KernelError {
    /// For `map_err`.
    pub(super) fn map<E: std::fmt::Display>(map: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Map {
            map,
            reason: e.to_string(),
        }
    }

    /// For `map_err`.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// For `map_err`.
    pub(super) fn pin<E: std::error::Error>(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |e| Self::Pin {
            action,
            path,
            reason: chain(&e),
        }
    }
}

/// An error and all its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
