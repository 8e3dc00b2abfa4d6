use std::collections::VecDeque;

use super::*;

/// Gives its chunks one read at a time.
struct Chunks(VecDeque<Vec<u8>>);

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut chunk) = self.0.pop_front() else {
            return Ok(0);
        };
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        if count < chunk.len() {
            self.0.push_front(chunk.split_off(count));
        }
        Ok(count)
    }
}

/// All frames: lines as they are, too long ones as their length's sign.
fn frames(chunks: &[&[u8]], limit: usize) -> Vec<Result<Vec<u8>, usize>> {
    let chunks = chunks.iter().map(|c| c.to_vec()).collect();
    let mut framer = Framer::new(Chunks(chunks), limit);
    let mut all = Vec::new();
    loop {
        match framer.read().unwrap() {
            Frame::Line(line) => all.push(Ok(line.to_vec())),
            Frame::TooLong(prefix) => all.push(Err(prefix.len())),
            Frame::End => return all,
        }
    }
}

#[test]
fn lines_keep_their_ends() {
    let lines: [&[u8]; 4] = [b"a\n", b"b\r\n", b"\n", b"c"];
    let wanted: Vec<_> = lines.iter().map(|l| Ok(l.to_vec())).collect();
    let whole = lines.concat();
    assert_eq!(frames(&[&whole], 10), wanted);
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(frames(&bytes, 10), wanted, "byte by byte");
    assert_eq!(frames(&[], 10), []);
}

#[test]
fn the_limit_is_exact_and_what_follows_is_read() {
    let line = |n: usize| [vec![b'x'; n], vec![b'\n']].concat();
    assert_eq!(frames(&[&line(10)], 10), [Ok(line(10))]);
    assert_eq!(
        frames(&[&line(11), b"y\n"], 10),
        [Err(12), Ok(b"y\n".to_vec())]
    );
    // In pieces, and without an end.
    let (piece, end): (&[u8], &[u8]) = (&[b'x'; 7], b"x\ny\n");
    assert_eq!(
        frames(&[piece, piece, piece, end], 10),
        [Err(14), Ok(b"y\n".to_vec())]
    );
    assert_eq!(frames(&[piece, piece, piece], 10), [Err(14)]);
    assert_eq!(frames(&[piece, piece], 14), [Ok(vec![b'x'; 14])]);
}

/// A stream of `left` bytes without a line end.
struct Endless {
    left: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.left);
        buffer[..count].fill(b'x');
        self.left -= count;
        Ok(count)
    }
}

#[test]
fn a_gigabyte_without_an_end_takes_the_limits_memory() {
    let limit = 1 << 20;
    let mut framer = Framer::new(Endless { left: 1 << 30 }, limit);
    assert!(matches!(framer.read().unwrap(), Frame::TooLong(p) if p.len() > limit));
    assert_eq!(framer.read().unwrap(), Frame::End);
    assert!(framer.held() <= limit + 4 * READ, "{}", framer.held());
}

#[test]
fn room_for_a_large_line_is_given_back() {
    let large = [vec![b'x'; KEEP * 2], vec![b'\n']].concat();
    let small = b"y\n".to_vec();
    let mut framer = Framer::new(Chunks([large, small].into()), KEEP * 3);
    assert!(matches!(framer.read().unwrap(), Frame::Line(l) if l.len() > KEEP));
    assert_eq!(framer.read().unwrap(), Frame::Line(b"y\n"));
    assert_eq!(framer.held(), READ);
}

#[test]
fn many_lines_in_one_read_come_one_by_one_and_in_order() {
    let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let all = frames(&[text.as_bytes()], 100);
    assert_eq!(all.len(), 50_000);
    assert!(
        all.iter()
            .enumerate()
            .all(|(n, l)| *l == Ok(format!("{n}\n").into_bytes()))
    );
}
