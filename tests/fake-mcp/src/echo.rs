//! The server of the benchmark: as little work as possible for each line, so
//! that what stands between client and server is what is measured.

use std::io::{self, Read, Write};

const CALL: &[u8] = b"\"method\":\"tools/call\",\"params\":";
const RESULT: &[u8] = b"\"result\":";

/// Answers `tools/call` with its parameters as the result, and writes every
/// other line back as it is.
pub(crate) fn run() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), File::stdout());
    let mut buffer = vec![0; 1 << 16];
    let (mut filled, mut seen) = (0, 0);
    let mut answer = Vec::new();
    loop {
        let Some(found) = buffer[seen..filled].iter().position(|b| *b == b'\n') else {
            seen = filled;
            if filled == buffer.len() {
                buffer.resize(filled * 2, 0);
            }
            let count = input.read(&mut buffer[filled..])?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
            continue;
        };
        let end = seen + found + 1;
        answer.clear();
        let line = &buffer[..end];
        let head = &line[..line.len().min(128)];
        match head.windows(CALL.len()).position(|w| w == CALL) {
            Some(at) => {
                answer.extend_from_slice(&line[..at]);
                answer.extend_from_slice(RESULT);
                answer.extend_from_slice(&line[at + CALL.len()..]);
            }
            None => answer.extend_from_slice(line),
        }
        output.write_all(&answer)?;
        buffer.copy_within(end..filled, 0);
        filled -= end;
        seen = 0;
    }
}

/// Standard output without the standard library's line buffer.
struct File(std::fs::File);

impl File {
    fn stdout() -> Self {
        use std::os::fd::AsFd;
        let copy = io::stdout().as_fd().try_clone_to_owned();
        Self(copy.map_or_else(|_| std::process::abort(), std::fs::File::from))
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
