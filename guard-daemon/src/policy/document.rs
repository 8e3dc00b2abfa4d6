//! Policy text to typed sections: TOML syntax, known keys, types. What the
//! strings mean is [`super::resolve`]'s.

mod examples;
mod keys;
mod limits;
mod network;
mod reader;

use std::sync::Arc;
use std::time::Duration;

use guard_common::matcher::Verdict;

pub use limits::ProcessLimits;
pub(crate) use network::{DestinationText, NETWORK_LISTS, NetworkSection, Sni};

use super::error::{Errors, Place, PolicyError, PolicyErrors, Source, Spanned};

/// Bytes of the largest policy file.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// What a document is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Policy,
    Include,
}

/// The lists of `[files]`, in the order of [`FilesSection::lists`].
pub(crate) const FILE_LISTS: [&str; 5] = ["read", "write", "exec", "deny", "approve"];

/// `[files]` as written.
#[derive(Debug, Default)]
pub(crate) struct FilesSection {
    pub(crate) lists: [Vec<Spanned<String>>; 5],
    /// Paths that nothing can start without; only includes say so.
    pub(crate) required: Vec<Spanned<String>>,
    /// Bytes of the largest file that may be written.
    pub(crate) max_write_size: Option<u64>,
}

/// An `[[example]]` as written.
#[derive(Debug)]
pub(crate) struct ExampleText {
    pub(crate) access: Spanned<String>,
    pub(crate) verdict: Verdict,
}

/// Which accesses are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditLog {
    /// All.
    #[default]
    All,
    /// Denied ones.
    Denials,
}

/// What happens to accesses that cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They go on; the loss is counted and reported.
    #[default]
    Continue,
    /// They are denied.
    Deny,
}

/// `[audit]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSettings {
    /// Which accesses are reported.
    pub log: AuditLog,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// When the disk that holds the trail is full.
    pub disk_full: WhenFull,
    /// When the kernel's ring for events is full.
    pub ring_full: WhenFull,
}

/// A policy file, its syntax, keys and types checked.
#[derive(Debug)]
pub struct Document {
    pub(crate) source: Arc<Source>,
    pub(crate) include: Vec<Spanned<String>>,
    pub(crate) files: FilesSection,
    pub(crate) network: NetworkSection,
    pub(crate) env: Option<Vec<Spanned<String>>>,
    pub(crate) user: Option<String>,
    pub(crate) limits: ProcessLimits,
    pub(crate) audit: AuditSettings,
    pub(crate) examples: Vec<ExampleText>,
}

impl Document {
    /// Reads a policy file. `name` is what errors call it.
    ///
    /// # Errors
    /// Everything that is wrong: not UTF-8, empty, over 1 MiB, not TOML,
    /// unknown keys, wrong types, parts that are not supported yet. After an
    /// error of TOML syntax nothing more is looked for.
    pub fn parse(text: &[u8], name: &str) -> Result<Self, PolicyErrors> {
        Self::parse_as(text, name, DocumentKind::Policy)
    }

    pub(crate) fn parse_as(
        text: &[u8],
        name: &str,
        kind: DocumentKind,
    ) -> Result<Self, PolicyErrors> {
        let source = source(text, name)?;
        let parsed = toml_edit::Document::parse(source.text.clone()).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let place = Place {
                source: Arc::clone(&source),
                span,
            };
            PolicyError::at(&place, format!("not TOML: {}", error.message()))
        })?;
        let mut reader = reader::Reader {
            source: Arc::clone(&source),
            kind,
            errors: Errors::default(),
        };
        let document = reader.document(parsed.as_table());
        super::syntax::check(&document, &mut reader.errors);
        reader.errors.finish(document)
    }
}

/// Checks size and encoding; takes off a BOM.
fn source(text: &[u8], name: &str) -> Result<Arc<Source>, PolicyErrors> {
    let make = |text: String| {
        Arc::new(Source {
            name: name.to_owned(),
            text,
        })
    };
    let whole = |message: String| PolicyError::at(&Place::start(&make(String::new())), message);
    if text.len() > MAX_TEXT {
        return Err(whole(format!(
            "the file has {} bytes; a policy has at most {MAX_TEXT}",
            text.len()
        ))
        .into());
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok(text) if text.trim().is_empty() => Err(whole("the file is empty".to_owned())
            .help("a policy starts with: version = 1")
            .into()),
        Ok(text) => Ok(make(text.to_owned())),
        Err(error) => {
            let at = error.valid_up_to();
            let source = make(String::from_utf8_lossy(text).into_owned());
            let place = Place {
                source,
                span: at..at + 1,
            };
            Err(PolicyError::at(&place, "not UTF-8")
                .help("save the file as UTF-8")
                .into())
        }
    }
}
