//! Lines out of a stream of bytes, with bounded memory.

use std::io::{self, Read};

/// What comes next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line with its end as it was written; only the stream's last may have none.
    Line(&'a [u8]),
    /// A line longer than the limit, given as its first bytes. The rest was, or
    /// is at the next call, thrown away.
    TooLong(&'a [u8]),
    /// The end of the stream.
    End,
}

/// Bytes that one read asks for at least, and that the buffer keeps when idle.
const READ: usize = 64 << 10;
/// Room beyond this is given back when it is no longer needed.
const KEEP: usize = 4 << 20;

/// Cuts a stream at `\n`. One `read` a message where messages are short; at
/// most the limit and [`READ`] bytes of memory (twice that while it grows).
#[derive(Debug)]
pub struct Framer<R> {
    from: R,
    buffer: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// Bytes of it that are known to have no line end.
    seen: usize,
    /// Where the bytes read end.
    filled: usize,
    limit: usize,
    /// Within a line that was reported as too long.
    discarding: bool,
}

impl<R: Read> Framer<R> {
    /// `limit`: bytes of the longest line, without its end.
    pub fn new(from: R, limit: usize) -> Self {
        Self {
            from,
            buffer: vec![0; READ],
            start: 0,
            seen: 0,
            filled: 0,
            limit,
            discarding: false,
        }
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// What `read` says, but for interruptions.
    pub fn read(&mut self) -> io::Result<Frame<'_>> {
        loop {
            let unread = self.start + self.seen..self.filled;
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[unread]) {
                let line = self.start..self.start + self.seen + found + 1;
                self.start = line.end;
                self.seen = 0;
                if std::mem::take(&mut self.discarding) {
                    continue;
                }
                if line.len() - 1 > self.limit {
                    return Ok(Frame::TooLong(&self.buffer[line]));
                }
                return Ok(Frame::Line(&self.buffer[line]));
            }
            self.seen = self.filled - self.start;
            if self.discarding {
                self.drop_line();
            } else if self.seen > self.limit {
                self.discarding = true;
                let line = self.start..self.filled;
                self.start = self.filled;
                self.seen = 0;
                return Ok(Frame::TooLong(&self.buffer[line]));
            }
            if self.fill()? == 0 {
                let line = self.start..self.filled;
                self.start = self.filled;
                self.seen = 0;
                if line.is_empty() || std::mem::take(&mut self.discarding) {
                    return Ok(Frame::End);
                }
                return Ok(Frame::Line(&self.buffer[line]));
            }
        }
    }

    fn drop_line(&mut self) {
        self.start = self.filled;
        self.seen = 0;
    }

    /// Reads once, making room first.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.filled {
            self.start = 0;
            self.filled = 0;
            if self.buffer.len() > KEEP {
                self.buffer.truncate(READ);
                self.buffer.shrink_to_fit();
            }
        }
        if self.buffer.len() - self.filled < READ / 2 {
            if self.start >= self.buffer.len() / 2 {
                self.buffer.copy_within(self.start..self.filled, 0);
                self.filled -= self.start;
                self.start = 0;
            } else {
                let most = self.start + self.limit + READ;
                let size = (self.buffer.len() * 2)
                    .min(most)
                    .max(self.filled + READ / 2);
                self.buffer.reserve_exact(size - self.buffer.len());
                self.buffer.resize(size, 0);
            }
        }
        loop {
            match self.from.read(&mut self.buffer[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
