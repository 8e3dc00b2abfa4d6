//! The chain: each line carries its number, the hash of the line before and
//! its own. Without a key this shows damage, not forgery: whoever can write
//! the file can write it anew.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::event::{AuditEvent, VERSION};
use super::words::{hex, is_hex_64};

/// What every line ends with, around 64 digits.
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
const LINE_END: &[u8] = b"\"}";

/// Bytes of the longest line, without its end. More than a relay's largest
/// packet can become when every byte of it is escaped.
pub const MAX_LINE: usize = 4 << 20;

/// The hash of a line: 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineHash(String);

impl LineHash {
    /// What the first line has as its `prev`.
    #[must_use]
    pub fn zero() -> Self {
        Self("0".repeat(64))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The end of a chain: what the next line follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// `seq` of the last line; 0 when there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: LineHash,
}

impl Tip {
    /// The tip of an empty trail.
    #[must_use]
    pub fn start() -> Self {
        Self {
            seq: 0,
            hash: LineHash::zero(),
        }
    }
}

/// Why an event cannot become a line.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is not JSON: an error in guard.
    #[error("cannot write the audit event as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than [`MAX_LINE`].
    #[error("the audit event has {0} bytes, a line may have {MAX_LINE}")]
    TooLong(usize),
}

/// Makes the line that follows `tip`, without an end of line, and the new tip.
///
/// # Errors
/// When the event is no JSON or too long.
pub fn seal(event: &AuditEvent, tip: &Tip) -> Result<(Vec<u8>, Tip), SealError> {
    #[derive(Serialize)]
    struct Unsealed<'a> {
        v: u32,
        seq: u64,
        #[serde(flatten)]
        event: &'a AuditEvent,
        prev: &'a str,
    }
    let seq = tip.seq + 1;
    let mut line = serde_json::to_vec(&Unsealed {
        v: VERSION,
        seq,
        event,
        prev: tip.hash.as_str(),
    })?;
    line.pop(); // the closing brace comes back with the hash
    let hash = hash_of(&line);
    line.extend_from_slice(HASH_MEMBER);
    line.extend_from_slice(hash.0.as_bytes());
    line.extend_from_slice(LINE_END);
    if line.len() > MAX_LINE {
        return Err(SealError::TooLong(line.len()));
    }
    Ok((line, Tip { seq, hash }))
}

fn hash_of(body: &[u8]) -> LineHash {
    LineHash(hex(&Sha256::digest(body)))
}

/// A line whose own hash is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its number.
    pub seq: u64,
    /// What it says that the line before has.
    pub prev: LineHash,
    /// Its own.
    pub hash: LineHash,
}

impl Checked {
    /// The tip that this line makes.
    #[must_use]
    pub fn tip(self) -> Tip {
        Tip {
            seq: self.seq,
            hash: self.hash,
        }
    }
}

/// What is wrong with a line by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not end with its hash.
    #[error("the line does not end with `\"hash\":` and 64 hexadecimal digits")]
    NoHash,
    /// Its bytes are not those that were hashed.
    #[error("the line was changed: its bytes hash to {computed}, it says {written}")]
    Changed {
        /// Of the bytes.
        computed: String,
        /// In the line.
        written: String,
    },
    /// The hash is right, the rest is not an event.
    #[error("the line is not an audit event: {0}")]
    NotAnEvent(String),
    /// Longer than guard writes.
    #[error("the line has more than {MAX_LINE} bytes")]
    TooLong,
}

/// Checks one line (without its end of line) by itself.
///
/// # Errors
/// What is wrong with it.
pub fn check_line(line: &[u8]) -> Result<Checked, LineError> {
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    let (body, written) = split_hash(line).ok_or(LineError::NoHash)?;
    let computed = hash_of(body);
    if computed.0.as_bytes() != written {
        return Err(LineError::Changed {
            computed: computed.0,
            written: String::from_utf8_lossy(written).into_owned(),
        });
    }
    let links: Links = serde_json::from_slice(line).map_err(not_an_event)?;
    if links.v != VERSION {
        return Err(LineError::NotAnEvent(format!(
            "it is of version {}, this guard reads version {VERSION}",
            links.v
        )));
    }
    if !is_hex_64(links.prev.as_bytes()) {
        return Err(LineError::NotAnEvent("`prev` is not a hash".into()));
    }
    Ok(Checked {
        seq: links.seq,
        prev: LineHash(links.prev),
        hash: computed,
    })
}

/// The members that link lines; the others are passed over.
#[derive(serde::Deserialize)]
struct Links {
    v: u32,
    seq: u64,
    prev: String,
}

#[allow(clippy::needless_pass_by_value)] // as map_err gives it
fn not_an_event(error: serde_json::Error) -> LineError {
    LineError::NotAnEvent(error.to_string())
}

fn split_hash(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_suffix(LINE_END)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
    let body = rest.strip_suffix(HASH_MEMBER)?;
    is_hex_64(digits).then_some((body, digits))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_line_is_its_event_and_links() {
        let event = &samples::all()[0];
        let (line, tip) = seal(event, &Tip::start()).unwrap();
        let text = String::from_utf8(line.clone()).unwrap();
        assert!(text.starts_with("{\"v\":1,\"seq\":1,\"time\":\"2025-11-20T21:00:00.123456789Z\""));
        assert!(text.contains(&format!(",\"prev\":\"{}\",\"hash\":\"", "0".repeat(64))));
        let checked = check_line(&line).unwrap();
        assert_eq!((checked.seq, checked.prev.clone()), (1, LineHash::zero()));
        assert_eq!(checked.tip(), tip);
        // The rule of the contract, spelled out.
        let at = text.rfind(",\"hash\":").unwrap();
        assert_eq!(hex(&Sha256::digest(&line[..at])), tip.hash.as_str());
    }

    #[test]
    fn every_changed_byte_is_found() {
        let (line, _) = seal(&samples::all()[0], &Tip::start()).unwrap();
        for at in 0..line.len() {
            for change in [0x01, 0x20, 0x80] {
                let mut changed = line.clone();
                changed[at] ^= change;
                assert!(check_line(&changed).is_err(), "byte {at} ^ {change:#x}");
            }
            let mut shorter = line.clone();
            shorter.remove(at);
            assert!(check_line(&shorter).is_err(), "without byte {at}");
        }
    }

    #[test]
    fn a_right_hash_over_something_else_is_no_event() {
        let body = b"{\"v\":1,\"seq\":\"x\"";
        let mut line = body.to_vec();
        line.extend_from_slice(HASH_MEMBER);
        line.extend_from_slice(hash_of(body).0.as_bytes());
        line.extend_from_slice(LINE_END);
        assert!(matches!(check_line(&line), Err(LineError::NotAnEvent(_))));
    }
}
