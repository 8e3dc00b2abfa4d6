//! Reads a trail line by line, for people and programs that look at it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::path::Path;

use super::chain::MAX_LINE;
use super::event::{AuditEvent, Body, Loss};
use super::verify::read_line;

/// One line.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the file, from 1.
    pub line: u64,
    /// Its bytes, without the end of line.
    pub raw: Vec<u8>,
    /// What it says. Its hash was not checked: [`super::verify`] does.
    pub event: AuditEvent,
}

/// What a trail holds at one place.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Box<Entry>),
    /// Bytes that are none, and that no event accounts for.
    Malformed {
        /// The line, from 1.
        line: u64,
        /// Why.
        why: String,
    },
}

/// A trail that is read from its start, and on as it grows.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: u64,
    buffer: Vec<u8>,
    /// Malformed lines that the next event may account for.
    held: Vec<(u64, String, u64)>,
    ready: std::collections::VecDeque<Item>,
    /// A line that has no end yet.
    partial: Vec<u8>,
}

/// Opens a trail as it is now: a line that is being written is not in it.
///
/// # Errors
/// When it cannot be opened or locked.
pub fn open(path: &Path) -> io::Result<Reader<Settled>> {
    Ok(Reader::new(open_settled(path)?))
}

/// The bytes of a trail as it is now.
pub type Settled = io::Take<BufReader<File>>;

/// Opens the bytes of a trail as it is now.
///
/// # Errors
/// When it cannot be opened or locked.
pub fn open_settled(path: &Path) -> io::Result<Settled> {
    let file = File::open(path)?;
    let len = settled_len(&file)?;
    Ok(io::Read::take(BufReader::new(file), len))
}

/// Bytes of the file between two appends.
fn settled_len(file: &File) -> io::Result<u64> {
    // Not for long: a writer that waits gives up after two seconds.
    file.lock_shared()?;
    let len = file.metadata().map(|m| m.len());
    file.unlock()?;
    len
}

impl Reader<Settled> {
    /// Allows reading what was appended since. Says whether that is anything.
    ///
    /// # Errors
    /// When the file cannot be looked at, or became shorter than what was read.
    pub fn grow(&mut self) -> io::Result<bool> {
        let file = self.input.get_mut();
        let read = file.stream_position()? + self.input.limit();
        let len = settled_len(self.input.get_ref().get_ref())?;
        if len < read {
            return Err(io::Error::other(
                "the trail became shorter while it was read",
            ));
        }
        self.input.set_limit(self.input.limit() + (len - read));
        Ok(len > read)
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from here.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            buffer: Vec::new(),
            held: Vec::new(),
            ready: std::collections::VecDeque::new(),
            partial: Vec::new(),
        }
    }

    /// The next item; `None` at the end of what there is. A last line without
    /// an end stays for the next time; [`Self::rest`] tells of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_item(&mut self) -> io::Result<Option<Item>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let Some(ended) = read_line(&mut self.input, &mut self.buffer)? else {
                return Ok(None);
            };
            self.partial.extend_from_slice(&self.buffer);
            if !ended && self.partial.len() <= MAX_LINE {
                continue;
            }
            let raw = std::mem::take(&mut self.partial);
            self.take(raw);
        }
    }

    fn take(&mut self, raw: Vec<u8>) {
        self.line += 1;
        let line = self.line;
        match serde_json::from_slice::<AuditEvent>(&raw) {
            Ok(event) => {
                self.release(&event);
                self.ready
                    .push_back(Item::Event(Box::new(Entry { line, raw, event })));
            }
            Err(e) => self.held.push((line, e.to_string(), raw.len() as u64)),
        }
    }

    /// Malformed lines are told, unless the event says that a crash left them.
    fn release(&mut self, event: &AuditEvent) {
        let newlines = self.held.len().saturating_sub(1) as u64;
        let held = newlines + self.held.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
        let torn = matches!(event.body, Body::Loss(Loss::Torn { bytes, .. }) if bytes == held);
        for (line, why, _) in self.held.drain(..).filter(|_| !torn) {
            self.ready.push_back(Item::Malformed { line, why });
        }
    }

    /// What is wrong at the end: malformed lines behind the last event, a line
    /// without an end.
    pub fn rest(&mut self) -> Vec<Item> {
        let mut items: Vec<Item> = self
            .held
            .drain(..)
            .map(|(line, why, _)| Item::Malformed { line, why })
            .collect();
        if !self.partial.is_empty() {
            items.push(Item::Malformed {
                line: self.line + 1,
                why: "the line has no end".into(),
            });
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::sink::FileSink;
    use super::*;

    fn read_all(bytes: &[u8]) -> (usize, Vec<u64>) {
        let mut reader = Reader::new(bytes);
        let (mut events, mut malformed) = (0, Vec::new());
        let mut sort = |item| match item {
            Item::Event(_) => events += 1,
            Item::Malformed { line, .. } => malformed.push(line),
        };
        while let Some(item) = reader.next_item().unwrap() {
            sort(item);
        }
        reader.rest().into_iter().for_each(sort);
        (events, malformed)
    }

    #[test]
    fn malformed_lines_are_numbered_and_torn_ones_are_accounted_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let fill = || {
            let mut sink = FileSink::open(&path, "b").unwrap();
            sink.append(&samples::all()[..2]).unwrap();
        };
        fill();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(read_all(&whole), (2, vec![]));
        let broken = [&b"{}\n"[..], &whole, b"nonsense\n", b"{\"v\":1"].concat();
        assert_eq!(read_all(&broken), (2, vec![1, 4, 5]));
        std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
        fill();
        // One whole, one torn, its notice, two more.
        assert_eq!(read_all(&std::fs::read(&path).unwrap()), (4, vec![]));
    }

    #[test]
    fn a_growing_trail_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut sink = FileSink::open(&path, "b").unwrap();
        sink.append(&samples::all()[..1]).unwrap();
        let mut reader = open(&path).unwrap();
        assert!(reader.next_item().unwrap().is_some());
        assert!(reader.next_item().unwrap().is_none());
        assert!(!reader.grow().unwrap());
        sink.append(&samples::all()[..2]).unwrap();
        assert!(reader.grow().unwrap());
        for more in [true, true, false] {
            assert_eq!(reader.next_item().unwrap().is_some(), more);
        }
    }
}
