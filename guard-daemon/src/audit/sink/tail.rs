//! Finds where a trail ends, and what a crash left behind its last line.

use std::io;

use super::super::chain::{MAX_LINE, Tip, check_line};
use super::super::event::VERSION;
use super::super::words::Digest;
use super::storage::Storage;

/// First look at the end of the file.
const WINDOW: u64 = 64 << 10;
/// Last look: room for a longest line and a longest torn one.
const MAX_WINDOW: u64 = 3 * MAX_LINE as u64;

/// The end of a trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// What the next line follows.
    pub(super) tip: Tip,
    /// What stands between the last line and the end of the file.
    pub(super) rest: Rest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Clean,
    /// The last line is whole but its end of line is missing.
    NoNewline,
    /// A line that was not written to its end.
    Torn {
        /// Its bytes.
        bytes: u64,
        /// Their digest.
        digest: Digest,
    },
}

/// Why the end of a file cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// It could not be read.
    #[error("cannot read the end of the trail: {0}")]
    Read(#[from] io::Error),
    /// What stands there was not written by guard, or was changed.
    #[error(
        "the end of the file is not an intact audit trail ({0}); guard does not append to it: \
         look at it with `guard audit verify`, then move it away"
    )]
    Damaged(String),
}

/// Reads the end of a trail.
pub(super) fn find<S: Storage>(storage: &S) -> Result<Tail, TailError> {
    let len = storage.len()?;
    let mut window = WINDOW;
    loop {
        let size = window.min(len);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        storage.read_at(&mut bytes, len - size)?;
        if let Some(tail) = look(&bytes, size == len)? {
            return Ok(tail);
        }
        if window >= MAX_WINDOW {
            return Err(TailError::Damaged(format!(
                "no line in its last {window} bytes"
            )));
        }
        window *= 4;
    }
}

/// Looks for the last line in the end of a file; `None` when more is needed.
fn look(bytes: &[u8], whole: bool) -> Result<Option<Tail>, TailError> {
    let clean = |tip| {
        Ok(Some(Tail {
            tip,
            rest: Rest::Clean,
        }))
    };
    let last_newline = bytes.iter().rposition(|b| *b == b'\n');
    let open_line = &bytes[last_newline.map_or(0, |at| at + 1)..];
    let line_starts_here = last_newline.is_some() || whole;
    if open_line.is_empty() {
        let Some(at) = last_newline else {
            return clean(Tip::start()); // an empty file
        };
        // The last line was ended: then it is intact, or was changed.
        let start = bytes[..at].iter().rposition(|b| *b == b'\n');
        if start.is_none() && !whole {
            return Ok(None);
        }
        return match check_line(&bytes[start.map_or(0, |s| s + 1)..at]) {
            Ok(line) => clean(line.tip()),
            Err(e) => Err(TailError::Damaged(e.to_string())),
        };
    }
    if line_starts_here && let Ok(line) = check_line(open_line) {
        return Ok(Some(Tail {
            tip: line.tip(),
            rest: Rest::NoNewline,
        }));
    }
    // Torn: everything behind the last intact line. There can be newlines in
    // it, when a writer died while it repaired what another left.
    let mut end = bytes.len();
    while let Some(at) = bytes[..end].iter().rposition(|b| *b == b'\n') {
        let start = bytes[..at].iter().rposition(|b| *b == b'\n');
        if (start.is_some() || whole)
            && let Ok(line) = check_line(&bytes[start.map_or(0, |s| s + 1)..at])
        {
            return Ok(Some(torn(line.tip(), &bytes[at + 1..])));
        }
        end = at;
    }
    if !whole {
        return Ok(None);
    }
    let first = format!("{{\"v\":{VERSION},\"seq\":1,");
    let common = first.len().min(bytes.len());
    if bytes[..common] == first.as_bytes()[..common] || bytes.iter().all(|b| *b == 0) {
        return Ok(Some(torn(Tip::start(), bytes)));
    }
    Err(TailError::Damaged("it holds no line of guard's".into()))
}

fn torn(tip: Tip, bytes: &[u8]) -> Tail {
    Tail {
        tip,
        rest: Rest::Torn {
            bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
        },
    }
}
