//! What the output is, and what may be written to it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// The output of a command.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    /// Columns; `None` when it is no terminal.
    pub(super) width: Option<u16>,
    /// Whether to colour.
    pub(super) colour: bool,
}

impl Screen {
    /// Standard output. `NO_COLOR` (any value but an empty one) turns colours off.
    pub(super) fn of_stdout() -> Self {
        let terminal = io::stdout().is_terminal();
        let variable = |name| std::env::var_os(name);
        Self {
            width: terminal.then(|| comfy_table::Table::new().width().unwrap_or(80)),
            colour: coloured(terminal, variable("NO_COLOR"), variable("TERM")),
        }
    }

    /// Writes a line of the trail: byte for byte into a pipe or file, with
    /// `\uXXXX` for what a terminal might obey.
    pub(super) fn write_json(&self, out: &mut impl Write, raw: &[u8]) -> io::Result<()> {
        if self.width.is_none() {
            out.write_all(raw)?;
        } else {
            for c in String::from_utf8_lossy(raw).chars() {
                if is_unsafe(c) {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}")?;
                    }
                } else {
                    write!(out, "{c}")?;
                }
            }
        }
        out.write_all(b"\n")
    }
}

/// Whether to colour, by what the environment says.
fn coloured(terminal: bool, no_colour: Option<OsString>, term: Option<OsString>) -> bool {
    terminal && no_colour.is_none_or(|v| v.is_empty()) && term.is_none_or(|v| v != "dumb")
}

/// Text without anything that a terminal obeys or that reorders or hides what
/// is shown: such characters become `\u{…}`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Control characters (C0, DEL, C1), and Unicode's invisible ones: marks that
/// change direction, zero-width characters, line separators, tags.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_printed() {
        for (text, shown) in [
            ("/srv/a b", "/srv/a b"),
            ("naïve 文", "naïve 文"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\nb\rc\td", "a\\u{a}b\\u{d}c\\u{9}d"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("gpj\u{202e}exe", "gpj\\u{202e}exe"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let some = |s: &str| Some(OsString::from(s));
        assert!(coloured(true, None, some("xterm")));
        assert!(coloured(true, some(""), None));
        assert!(!coloured(true, some("1"), some("xterm")));
        assert!(!coloured(true, None, some("dumb")));
        assert!(!coloured(false, None, some("xterm")));
    }

    #[test]
    fn json_stays_json_on_a_terminal_and_bytes_in_a_pipe() {
        let raw = "{\"path\":\"/a\u{9b}\u{7f}\u{e0041}\"}".as_bytes();
        let written = |width| {
            let mut out = Vec::new();
            let screen = Screen {
                width,
                colour: false,
            };
            screen.write_json(&mut out, raw).unwrap();
            out
        };
        assert_eq!(written(None), [raw, b"\n"].concat());
        let shown = written(Some(80));
        assert!(shown.is_ascii());
        let value = |b: &[u8]| serde_json::from_slice::<serde_json::Value>(b).unwrap();
        assert_eq!(value(&shown), value(raw));
    }
}
