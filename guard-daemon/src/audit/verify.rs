//! Checks a whole trail.

use std::io::{self, BufRead, Read};

use sha2::{Digest as _, Sha256};

use super::chain::{LineError, MAX_LINE, Tip, check_line};
use super::event::{AuditEvent, Body, Loss};
use super::words::Digest;

/// What an intact trail holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Lines that are events.
    pub lines: u64,
    /// Lines that a crash tore, each reported by the event behind it.
    pub torn: u64,
    /// Its end: keep it elsewhere to notice that lines were removed there.
    pub tip: Tip,
}

/// Why a trail is not intact.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error("cannot read line {line}: {source}")]
    Read {
        /// From 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("line {line}: {fault}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// With the line by itself.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It does not follow the line before.
    #[error(
        "it does not follow the line before it (its `prev` is another line's hash): \
         lines were removed, added or moved here"
    )]
    Prev,
    /// Its number does not.
    #[error("it has number {found}, the next is {expected}: lines were removed or added here")]
    Seq {
        /// One more than the line before.
        expected: u64,
        /// Its own.
        found: u64,
    },
    /// The last line has no end.
    #[error(
        "the line has no end: it was being written, or the end of the trail was cut \
         (guard reports a torn line when it opens the trail again)"
    )]
    NoEnd,
}

/// Reads one line into `line`, without its end; bounded. Says whether there
/// was a line and whether it was ended.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let limit = MAX_LINE as u64 + 2;
    if input.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    let ended = line.last() == Some(&b'\n');
    if ended {
        line.pop();
    }
    Ok(Some(ended))
}

/// Checks that every line is as it was written and follows the one before.
///
/// Lines removed at the end of the trail leave an intact trail: compare
/// [`Report::tip`] with one that was kept elsewhere.
///
/// # Errors
/// The first line that is wrong, and what is wrong with it.
pub fn verify(mut input: impl BufRead) -> Result<Report, VerifyError> {
    let mut state = State::default();
    let mut line = Vec::new();
    loop {
        let number = state.number + 1;
        let read = read_line(&mut input, &mut line);
        let ended = match read {
            Ok(Some(ended)) => ended,
            Ok(None) => return state.finish(),
            Err(source) => {
                return Err(VerifyError::Read {
                    line: number,
                    source,
                });
            }
        };
        state.number = number;
        state.line(&line, ended)?;
    }
}

/// Bytes that are no line, so far: a crash may have left them.
struct Pending {
    first: u64,
    fault: Fault,
    bytes: u64,
    digest: Sha256,
}

struct State {
    number: u64,
    lines: u64,
    torn: u64,
    tip: Tip,
    pending: Option<Pending>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            number: 0,
            lines: 0,
            torn: 0,
            tip: Tip::start(),
            pending: None,
        }
    }
}

impl State {
    fn line(&mut self, line: &[u8], ended: bool) -> Result<(), VerifyError> {
        let checked = match check_line(line) {
            Ok(checked) if ended => checked,
            Ok(_) => return self.fail(Fault::NoEnd),
            Err(_) if !ended && line.len() <= MAX_LINE => return self.fail(Fault::NoEnd),
            Err(LineError::TooLong) => return self.fail(LineError::TooLong.into()),
            Err(e) => {
                self.hold(line, e);
                return Ok(());
            }
        };
        if let Some(pending) = self.pending.take() {
            let claimed = torn_claim(line);
            let found = (
                pending.bytes,
                Digest::from_sha256(&pending.digest.clone().finalize().into()),
            );
            if claimed.as_ref() != Some(&found) {
                self.pending = Some(pending);
                return self.fail(Fault::NoEnd); // the pending fault is reported
            }
            self.torn += 1;
        }
        if checked.seq != self.tip.seq + 1 {
            return self.fail(Fault::Seq {
                expected: self.tip.seq + 1,
                found: checked.seq,
            });
        }
        if checked.prev != self.tip.hash {
            return self.fail(Fault::Prev);
        }
        self.lines += 1;
        self.tip = checked.tip();
        Ok(())
    }

    fn hold(&mut self, line: &[u8], error: LineError) {
        match &mut self.pending {
            Some(pending) => {
                pending.digest.update(b"\n");
                pending.digest.update(line);
                pending.bytes += 1 + line.len() as u64;
            }
            None => {
                self.pending = Some(Pending {
                    first: self.number,
                    fault: error.into(),
                    bytes: line.len() as u64,
                    digest: Sha256::new_with_prefix(line),
                });
            }
        }
    }

    /// The first fault: that of bytes no event accounts for, or this one.
    fn fail<T>(&mut self, fault: Fault) -> Result<T, VerifyError> {
        Err(match self.pending.take() {
            Some(pending) => VerifyError::Line {
                line: pending.first,
                fault: pending.fault,
            },
            None => VerifyError::Line {
                line: self.number,
                fault,
            },
        })
    }

    fn finish(mut self) -> Result<Report, VerifyError> {
        if self.pending.is_some() {
            return self.fail(Fault::NoEnd);
        }
        Ok(Report {
            lines: self.lines,
            torn: self.torn,
            tip: self.tip,
        })
    }
}

/// The bytes and digest of the torn line that this event reports.
fn torn_claim(line: &[u8]) -> Option<(u64, Digest)> {
    match serde_json::from_slice::<AuditEvent>(line).ok()?.body {
        Body::Loss(Loss::Torn {
            bytes,
            fragment_hash,
        }) => Some((bytes, fragment_hash)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::seal;
    use super::super::samples;
    use super::*;

    fn trail(lines: usize) -> Vec<Vec<u8>> {
        let events = samples::all();
        let mut tip = Tip::start();
        (0..lines)
            .map(|n| {
                let (mut line, next) = seal(&events[n], &tip).unwrap();
                tip = next;
                line.push(b'\n');
                line
            })
            .collect()
    }

    fn line_of(bytes: &[u8]) -> u64 {
        match verify(bytes) {
            Err(VerifyError::Line { line, .. }) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_one_changed_byte_is_found_and_named() {
        let lines = trail(3);
        let whole = lines.concat();
        assert_eq!(verify(&whole[..]).unwrap().lines, 3);
        for at in 0..whole.len() {
            for change in [0x01, 0x08, 0x20, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                let line = line_of(&changed);
                let expected = whole[..at].iter().filter(|b| **b == b'\n').count() as u64 + 1;
                assert_eq!(line, expected, "byte {at} ^ {change:#x}");
            }
        }
    }

    #[test]
    fn removed_moved_and_doubled_lines_are_found() {
        let l = trail(4);
        for order in [
            &[1, 2, 3][..],
            &[0, 2, 3],
            &[0, 2, 1, 3],
            &[0, 1, 1, 2],
            &[0, 0],
        ] {
            let bytes: Vec<u8> = order.iter().flat_map(|n| l[*n].clone()).collect();
            assert!(verify(&bytes[..]).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_removed_end_is_an_intact_shorter_trail_with_another_tip() {
        let l = trail(3);
        let whole = verify(&l.concat()[..]).unwrap();
        let shorter = verify(&l[..2].concat()[..]).unwrap();
        assert_ne!(whole.tip, shorter.tip);
        assert_eq!(verify(&b""[..]).unwrap().lines, 0);
    }

    #[test]
    fn added_bytes_are_found() {
        let whole = trail(2).concat();
        for extra in [&b"\n"[..], b" ", b"{}\n", b"x"] {
            let mut longer = whole.clone();
            longer.extend_from_slice(extra);
            assert_eq!(line_of(&longer), 3, "{extra:?}");
        }
        assert_eq!(line_of(&whole[..whole.len() - 1]), 2);
    }
}
