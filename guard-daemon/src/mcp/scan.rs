//! The strict scanner: one pass over a line, at memory speed for long strings.
//! It checks that every parser reads the line alike and notes where the few
//! values lie that guard must read. Budget: below 1 µs for 1 KB, watched by
//! `cargo xtask bench proxy`.

use super::fault::Fault;

/// Levels of arrays and objects within each other.
pub const MAX_DEPTH: u32 = 128;

/// A value that guard reads. The place in the message is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    /// `jsonrpc`
    Jsonrpc,
    /// `id`
    Id,
    /// `method`
    Method,
    /// `params`
    Params,
    /// `result`
    Result,
    /// `error`
    Error,
    /// `params.name`
    Name,
    /// `params.arguments`
    Arguments,
    /// `params.requestId`
    RequestId,
    /// `params.taskId`
    TaskId,
    /// `params.status`
    Status,
    /// `params.requestState`
    RequestState,
    /// `result.isError`
    IsError,
    /// `result.protocolVersion`
    ProtocolVersion,
    /// `result.resultType`
    ResultType,
    /// `result.taskId`
    ResultTaskId,
    /// `result.status`
    ResultStatus,
    /// `result.requestState`
    ResultState,
    /// `result.task.taskId`
    HandedTaskId,
}

const FIELDS: usize = Field::HandedTaskId as usize + 1;

/// Byte range of a value in its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Behind the last byte. 0: the value is not there.
    pub end: usize,
}

/// Where the fields of one message lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields([Span; FIELDS]);

impl Fields {
    /// The field's JSON text.
    #[must_use]
    pub fn get<'a>(&self, line: &'a [u8], field: Field) -> Option<&'a [u8]> {
        let span = self.0[field as usize];
        line.get(span.start..span.end)
            .filter(|text| !text.is_empty())
    }

    fn set(&mut self, field: Field, span: Span) -> Result<(), Fault> {
        if self.0[field as usize].end != 0 {
            // No longer known which of the two another parser takes.
            self.0[field as usize] = Span::default();
            return Err(Fault::DuplicateKey);
        }
        self.0[field as usize] = span;
        Ok(())
    }
}

/// Who wrote the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The MCP client: judged for what the server will read.
    Client,
    /// The server. Halves of surrogate pairs are let pass: servers that cut
    /// strings by UTF-16 units write them, and clients read them.
    Server,
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// White space only.
    Blank,
    /// One object: [`Scanner::messages`] has one element.
    Single,
    /// An array, with its elements in [`Scanner::messages`].
    Batch,
}

/// The object whose keys are being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Message,
    Params,
    Result,
    Task,
    Elsewhere,
}

/// A key of an object that is still open.
#[derive(Clone, Copy)]
struct Key {
    start: u32,
    end: u32,
    /// It lies in `decoded`, since it was written with escapes.
    decoded: bool,
}

/// Scans lines; keeps its buffers from one to the next.
#[derive(Default)]
pub struct Scanner {
    keys: Vec<Key>,
    decoded: Vec<u8>,
    messages: Vec<Fields>,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner").finish_non_exhaustive()
    }
}

impl Scanner {
    /// Scans one line, with or without its end.
    ///
    /// # Errors
    /// The first [`Fault`]. [`Self::messages`] then has what was found before
    /// it, and no value of a field that was there twice.
    pub fn scan(&mut self, line: &[u8], side: Side) -> Result<Shape, Fault> {
        self.keys.clear();
        self.decoded.clear();
        self.messages.clear();
        let mut body = line.strip_suffix(b"\n").unwrap_or(line);
        body = body.strip_suffix(b"\r").unwrap_or(body);
        let utf8 = std::str::from_utf8(body).map_err(|_| Fault::NotUtf8);
        let mut run = Run {
            line: body,
            at: 0,
            side,
            out: self,
        };
        let shape = run.line();
        // The scan itself needs no UTF-8; done before, for the id of a bad line.
        utf8.and(shape)
    }

    /// The messages of the last line.
    #[must_use]
    pub fn messages(&self) -> &[Fields] {
        &self.messages
    }

    fn key_bytes<'a>(&'a self, line: &'a [u8], key: Key) -> &'a [u8] {
        let from = if key.decoded { &self.decoded } else { line };
        from.get(key.start as usize..key.end as usize)
            .unwrap_or_default()
    }

    /// Whether all keys from `base` on differ.
    fn unique(&mut self, line: &[u8], base: usize) -> bool {
        let mut keys = std::mem::take(&mut self.keys);
        let open = keys.get_mut(base..).unwrap_or_default();
        let same = |a: Key, b: Key| self.key_bytes(line, a) == self.key_bytes(line, b);
        let unique = if open.len() <= 16 {
            (1..open.len()).all(|i| !open[..i].iter().any(|k| same(*k, open[i])))
        } else {
            open.sort_unstable_by(|a, b| self.key_bytes(line, *a).cmp(self.key_bytes(line, *b)));
            !open.windows(2).any(|pair| same(pair[0], pair[1]))
        };
        self.keys = keys;
        unique
    }
}

struct Run<'a> {
    line: &'a [u8],
    at: usize,
    side: Side,
    out: &'a mut Scanner,
}

impl Run<'_> {
    fn line(&mut self) -> Result<Shape, Fault> {
        if self.line.starts_with(b"\xef\xbb\xbf") {
            return Err(Fault::ByteOrderMark);
        }
        self.space()?;
        let shape = match self.peek() {
            None => return Ok(Shape::Blank),
            Some(b'{') => {
                self.message(0)?;
                Shape::Single
            }
            Some(b'[') => {
                self.batch()?;
                Shape::Batch
            }
            Some(_) => {
                self.value(Place::Elsewhere, 0)?;
                self.end()?;
                return Err(Fault::NotAMessage);
            }
        };
        self.end()?;
        Ok(shape)
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.space()?;
        match self.peek() {
            None => Ok(()),
            Some(0) => Err(Fault::Nul),
            Some(_) => Err(Fault::NotJson),
        }
    }

    fn batch(&mut self) -> Result<(), Fault> {
        self.at += 1;
        self.space()?;
        if self.peek() == Some(b']') {
            return Err(Fault::NotAMessage); // JSON-RPC 2.0 §6: an empty batch is invalid
        }
        let mut all_objects = true;
        loop {
            self.space()?;
            if self.peek() == Some(b'{') {
                self.message(1)?;
            } else {
                all_objects = false;
                self.value(Place::Elsewhere, 1)?;
            }
            self.space()?;
            match self.next()? {
                b',' => {}
                b']' if all_objects => return Ok(()),
                b']' => return Err(Fault::NotAMessage),
                _ => return Err(Fault::NotJson),
            }
        }
    }

    fn message(&mut self, depth: u32) -> Result<(), Fault> {
        self.out.messages.push(Fields::default());
        self.value(Place::Message, depth)
    }

    fn peek(&self) -> Option<u8> {
        self.line.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let byte = self.peek().ok_or(Fault::NotJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn space(&mut self) -> Result<(), Fault> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t') => self.at += 1,
                Some(b'\r' | b'\n') => return Err(Fault::CarriageReturn),
                _ => return Ok(()),
            }
        }
    }

    fn value(&mut self, place: Place, depth: u32) -> Result<(), Fault> {
        match self.peek().ok_or(Fault::NotJson)? {
            b'"' => self.string().map(|_| ()),
            b'{' | b'[' if depth >= MAX_DEPTH => Err(Fault::TooDeep),
            b'{' => self.object(place, depth + 1),
            b'[' => self.array(depth + 1),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            0 => Err(Fault::Nul),
            _ => Err(Fault::NotJson),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if self.line[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        Err(Fault::NotJson)
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(Fault::NotJson);
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn array(&mut self, depth: u32) -> Result<(), Fault> {
        self.at += 1;
        self.space()?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space()?;
            self.value(Place::Elsewhere, depth)?;
            self.space()?;
            match self.next()? {
                b',' => {}
                b']' => return Ok(()),
                0 => return Err(Fault::Nul),
                _ => return Err(Fault::NotJson),
            }
        }
    }

    fn object(&mut self, place: Place, depth: u32) -> Result<(), Fault> {
        self.at += 1;
        let keys = self.out.keys.len();
        let decoded = self.out.decoded.len();
        self.space()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space()?;
            match self.peek() {
                Some(b'"') => {}
                Some(0) => return Err(Fault::Nul),
                _ => return Err(Fault::NotJson),
            }
            let key = self.key()?;
            self.out.keys.push(key);
            let (field, inner) = match place {
                Place::Elsewhere => (None, Place::Elsewhere),
                _ => lookup(place, self.out.key_bytes(self.line, key), self.side)?,
            };
            self.space()?;
            if self.next()? != b':' {
                return Err(Fault::NotJson);
            }
            self.space()?;
            let start = self.at;
            self.value(inner, depth)?;
            if let (Some(field), Some(message)) = (field, self.out.messages.last_mut()) {
                let end = self.at;
                message.set(field, Span { start, end })?;
            }
            self.space()?;
            match self.next()? {
                b',' => {}
                b'}' => break,
                0 => return Err(Fault::Nul),
                _ => return Err(Fault::NotJson),
            }
        }
        if !self.out.unique(self.line, keys) {
            return Err(Fault::DuplicateKey);
        }
        self.out.keys.truncate(keys);
        self.out.decoded.truncate(decoded);
        Ok(())
    }

    fn key(&mut self) -> Result<Key, Fault> {
        let start = self.at + 1;
        let escaped = self.string()?;
        let end = self.at - 1;
        // A line is shorter than 2^31 bytes (`RelayConfig::max_message`).
        let at = |offset: usize| u32::try_from(offset).map_err(|_| Fault::TooLong);
        if !escaped {
            return Ok(Key {
                start: at(start)?,
                end: at(end)?,
                decoded: false,
            });
        }
        let from = self.out.decoded.len();
        unescape_into(&self.line[start..end], &mut self.out.decoded);
        if self.out.decoded[from..].contains(&0) {
            return Err(Fault::Nul);
        }
        Ok(Key {
            start: at(from)?,
            end: at(self.out.decoded.len())?,
            decoded: true,
        })
    }

    /// Reads a string; whether it has escapes.
    fn string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain(&self.line[self.at..]);
            match self.next()? {
                b'"' => return Ok(escaped),
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0 => return Err(Fault::Nul),
                _ => return Err(Fault::NotJson), // a control character
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let unit = hex4(self.line, self.at).ok_or(Fault::NotJson)?;
                self.at += 4;
                match unit {
                    0xd800..=0xdbff => {
                        let low = self.line[self.at..]
                            .starts_with(b"\\u")
                            .then(|| hex4(self.line, self.at + 2))
                            .flatten();
                        if matches!(low, Some(0xdc00..=0xdfff)) {
                            self.at += 6;
                            return Ok(());
                        }
                        self.lone_surrogate()
                    }
                    0xdc00..=0xdfff => self.lone_surrogate(),
                    _ => Ok(()),
                }
            }
            _ => Err(Fault::NotJson),
        }
    }

    fn lone_surrogate(&self) -> Result<(), Fault> {
        match self.side {
            Side::Client => Err(Fault::Surrogate),
            Side::Server => Ok(()),
        }
    }
}

/// The field that a key names, and what the keys below it mean.
fn lookup(place: Place, key: &[u8], side: Side) -> Result<(Option<Field>, Place), Fault> {
    let field = |field| Ok((Some(field), Place::Elsewhere));
    match (place, key) {
        (Place::Message, b"jsonrpc") => field(Field::Jsonrpc),
        (Place::Message, b"id") => field(Field::Id),
        (Place::Message, b"method") => field(Field::Method),
        (Place::Message, b"params") => Ok((Some(Field::Params), Place::Params)),
        (Place::Message, b"result") => Ok((Some(Field::Result), Place::Result)),
        (Place::Message, b"error") => field(Field::Error),
        (Place::Params, b"name") => field(Field::Name),
        (Place::Params, b"arguments") => field(Field::Arguments),
        (Place::Params, b"requestId") => field(Field::RequestId),
        (Place::Params, b"taskId") => field(Field::TaskId),
        (Place::Params, b"status") => field(Field::Status),
        (Place::Params, b"requestState") => field(Field::RequestState),
        (Place::Result, b"isError") => field(Field::IsError),
        (Place::Result, b"protocolVersion") => field(Field::ProtocolVersion),
        (Place::Result, b"resultType") => field(Field::ResultType),
        (Place::Result, b"taskId") => field(Field::ResultTaskId),
        (Place::Result, b"status") => field(Field::ResultStatus),
        (Place::Result, b"requestState") => field(Field::ResultState),
        (Place::Result, b"task") => Ok((None, Place::Task)),
        (Place::Task, b"taskId") => field(Field::HandedTaskId),
        (Place::Message, _) if folds_to(key, &MESSAGE_KEYS) => Err(Fault::AmbiguousKey),
        (Place::Params, _) if side == Side::Client && folds_to(key, &PARAMS_KEYS) => {
            Err(Fault::AmbiguousKey)
        }
        _ => Ok((None, Place::Elsewhere)),
    }
}

const MESSAGE_KEYS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS_KEYS: [&str; 4] = ["name", "arguments", "requestid", "taskid"];

/// Whether a key is one of `known` (in lower case) to a parser that ignores
/// case. Go's encoding/json does, and folds U+017F to s and U+212A to k.
fn folds_to(key: &[u8], known: &[&str]) -> bool {
    if key.len() > 32 {
        return false;
    }
    let Ok(text) = std::str::from_utf8(key) else {
        return false;
    };
    let folded = || {
        text.chars().map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            _ => c.to_ascii_lowercase(),
        })
    };
    known.iter().any(|name| folded().eq(name.chars()))
}

/// Bytes up to the first that ends a run of plain characters in a string:
/// `"`, `\` or a control character.
fn plain(bytes: &[u8]) -> usize {
    const STEP: usize = 32;
    let stop = |b: u8| (b < 0x20) | (b == b'"') | (b == b'\\');
    let mut done = 0;
    // A fold without early exit becomes vector instructions.
    for step in bytes.chunks_exact(STEP) {
        if step.iter().fold(false, |any, b| any | stop(*b)) {
            break;
        }
        done += STEP;
    }
    let rest = &bytes[done..];
    done + rest.iter().position(|b| stop(*b)).unwrap_or(rest.len())
}

fn hex4(line: &[u8], at: usize) -> Option<u16> {
    let digits = line.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, b| {
        Some(value << 4 | char::from(*b).to_digit(16)? as u16)
    })
}

/// Appends what the inside of a string denotes, given that it was scanned.
/// Halves of surrogate pairs get the three bytes that UTF-8 would give them,
/// so that different ones stay different.
pub(super) fn unescape_into(inside: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(&byte) = inside.get(at) {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let code = inside.get(at + 1).copied().unwrap_or_default();
        at += 2;
        match code {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let high = u32::from(hex4(inside, at).unwrap_or_default());
                at += 4;
                let low = inside[at.min(inside.len())..]
                    .starts_with(b"\\u")
                    .then(|| hex4(inside, at + 2))
                    .flatten()
                    .map(u32::from);
                let point = match (high, low) {
                    (0xd800..=0xdbff, Some(low @ 0xdc00..=0xdfff)) => {
                        at += 6;
                        0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
                    }
                    _ => high,
                };
                match char::from_u32(point) {
                    Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    None => out.extend_from_slice(&[
                        0xe0 | (point >> 12) as u8,
                        0x80 | (point >> 6 & 0x3f) as u8,
                        0x80 | (point & 0x3f) as u8,
                    ]),
                }
            }
            other => out.push(other),
        }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
