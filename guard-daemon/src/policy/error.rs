//! Errors of a policy: all of them at once, each with its place.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

/// A policy file's text and the name it goes by in messages.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A span of a source, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) source: Arc<Source>,
    pub(crate) span: Range<usize>,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl Place {
    /// The first characters of a source, for what concerns all of it.
    pub(crate) fn start(source: &Arc<Source>) -> Self {
        Self {
            source: Arc::clone(source),
            span: 0..0,
        }
    }

    /// Line and column, both from 1; columns count characters.
    pub(crate) fn line_col(&self) -> (usize, usize) {
        let before = self.source.text.get(..self.span.start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug)]
pub struct PolicyError {
    pub(crate) place: Option<Place>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl PolicyError {
    pub(crate) fn at(place: &Place, message: impl Into<String>) -> Self {
        Self {
            place: Some(place.clone()),
            message: message.into(),
            help: None,
        }
    }

    /// An error with no place in a file, such as a wrong `--set`.
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self {
            place: None,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What is wrong, without place and help.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// File name, line and column (from 1), where the error has a place.
    #[must_use]
    pub fn location(&self) -> Option<(&str, usize, usize)> {
        let place = self.place.as_ref()?;
        let (line, column) = place.line_col();
        Some((&place.source.name, line, column))
    }
}

/// The whole line that holds `at`, and where it starts.
fn line_around(text: &str, at: usize) -> (usize, &str) {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    (start, text[start..end].trim_end_matches('\r'))
}

/// Control characters would let a policy write to the reader's terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Longest part of a source line that is shown, in characters.
const SHOWN: usize = 160;

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = printable(&self.message);
        match &self.place {
            None => write!(f, "error: {message}")?,
            Some(place) => {
                let (line, column) = place.line_col();
                let name = printable(&place.source.name);
                write!(f, "{name}:{line}:{column}: error: {message}")?;
                let (start, text) = line_around(&place.source.text, place.span.start);
                if !text.is_empty() {
                    let end = place.span.end.min(start + text.len());
                    let span = place.span.start.min(end)..end;
                    let marked = place.source.text.get(span);
                    let marked = marked.map_or(1, |text| text.chars().count().max(1));
                    // A long line is shown from shortly before the error.
                    let skip = if column > SHOWN / 2 { column - 20 } else { 0 };
                    let shown: String = text.chars().skip(skip).take(SHOWN).collect();
                    let lead = if skip > 0 { "…" } else { "" };
                    let number = line.to_string();
                    let pad = " ".repeat(number.len());
                    write!(f, "\n{pad} |\n{number} | {lead}{}", printable(&shown))?;
                    let room = SHOWN.saturating_sub(column - 1 - skip).max(1);
                    let indent = column - 1 - skip + lead.chars().count();
                    let carets = "^".repeat(marked.min(room));
                    write!(f, "\n{pad} | {:indent$}{carets}", "")?;
                }
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", printable(help))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a policy. Never empty.
#[derive(Clone, Debug)]
pub struct PolicyErrors {
    errors: Vec<PolicyError>,
}

impl PolicyErrors {
    /// All errors, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.errors.iter()
    }
}

impl From<PolicyError> for PolicyErrors {
    fn from(error: PolicyError) -> Self {
        Self {
            errors: vec![error],
        }
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}

/// Collects errors while work goes on.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<PolicyError>);

impl Errors {
    pub(crate) fn push(&mut self, error: PolicyError) {
        self.0.push(error);
    }

    pub(crate) fn extend(&mut self, errors: PolicyErrors) {
        self.0.extend(errors.errors);
    }

    /// `value`, unless anything was wrong.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, PolicyErrors> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|e| {
            e.place
                .as_ref()
                .map(|p| (p.source.name.clone(), p.span.start))
        });
        Err(PolicyErrors { errors: self.0 })
    }
}
