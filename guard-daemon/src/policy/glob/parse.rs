//! Glob text to patterns: variables put in, braces multiplied out.

use std::ops::Range;

use super::{CharClass, Component, Pattern, Token};

/// What a list makes of a pattern without `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// It is an error.
    Allow,
    /// It matches any component, and so everything below it.
    DenyOrApprove,
}

/// What is wrong with a glob, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GlobError {
    pub(crate) at: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Patterns that one rule's braces and variables may make.
const MAX_ALTERNATIVES: usize = 1024;
/// Braces within braces.
const MAX_NESTING: usize = 16;
/// Bytes of the longest rule.
const MAX_RULE: usize = guard_common::limits::MAX_PATH;

/// A step of a glob before it is cut into components.
#[derive(Clone, Debug)]
enum Piece {
    Token(Token),
    DoubleStar,
    Slash,
    Either(Vec<Vec<Piece>>),
}

/// Values of a variable; the error says why there are none.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Result<Vec<Vec<u8>>, (String, Option<String>)>;

/// Reads a glob (without its leading `!`).
///
/// A variable with several values makes a pattern for each; one with none
/// makes no pattern.
pub(crate) fn parse(
    text: &str,
    kind: ListKind,
    variables: Variables<'_>,
) -> Result<Vec<Pattern>, GlobError> {
    let whole = |message: String, help: Option<&str>| GlobError {
        at: 0..text.len(),
        message,
        help: help.map(str::to_owned),
    };
    if text.is_empty() {
        return Err(whole("an empty rule".into(), None));
    }
    if text.len() > MAX_RULE {
        return Err(whole(
            format!("a rule of {} bytes; the longest has {MAX_RULE}", text.len()),
            None,
        ));
    }
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
        variables,
    };
    let pieces = parser.sequence(false)?;
    let mut out = Vec::new();
    for flat in multiply(&pieces).ok_or_else(|| {
        whole(
            format!("braces and variables make more than {MAX_ALTERNATIVES} patterns of this rule"),
            Some("write several rules, or a wider one"),
        )
    })? {
        out.push(cut(&flat, kind).map_err(|(message, help)| whole(message, help.as_deref()))?);
    }
    Ok(out)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    variables: Variables<'a>,
}

impl Parser<'_> {
    fn error(&self, from: usize, message: impl Into<String>) -> GlobError {
        let end = self.at.max(from + 1).min(self.text.len());
        GlobError {
            at: from..end,
            message: message.into(),
            help: None,
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// Up to the end, or inside braces up to `,` or `}`, which is left.
    fn sequence(&mut self, in_braces: bool) -> Result<Vec<Piece>, GlobError> {
        let mut out = Vec::new();
        loop {
            let from = self.at;
            if in_braces && self.text[from..].starts_with([',', '}']) {
                return Ok(out);
            }
            let Some(c) = self.next() else {
                return Ok(out);
            };
            match c {
                '\0' => return Err(self.error(from, "a NUL byte: no path has one")),
                '/' => out.push(Piece::Slash),
                '?' => out.push(Piece::Token(Token::Class(CharClass::any()))),
                '*' if self.eat("*") => out.push(Piece::DoubleStar),
                '*' => out.push(Piece::Token(Token::Star)),
                '[' => out.push(Piece::Token(Token::Class(self.class(from)?))),
                '{' => out.push(self.braces(from)?),
                '}' => {
                    let mut error = self.error(from, "a } that closes nothing");
                    error.help = Some("for the character itself write \\}".into());
                    return Err(error);
                }
                '$' if self.eat("{") => out.push(self.variable(from)?),
                '\\' => match self.next() {
                    Some('\0') | None => {
                        let mut error = self.error(from, "a \\ with nothing behind it");
                        error.help = Some("for the character itself write \\\\".into());
                        return Err(error);
                    }
                    Some('/') => return Err(self.error(from, "a / cannot be escaped")),
                    Some(c) => literal(c, &mut out),
                },
                c => literal(c, &mut out),
            }
        }
    }

    fn braces(&mut self, from: usize) -> Result<Piece, GlobError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(self.error(from, format!("braces nested deeper than {MAX_NESTING}")));
        }
        let mut choices = vec![self.sequence(true)?];
        loop {
            match self.next() {
                Some(',') => choices.push(self.sequence(true)?),
                Some(_) => break,
                None => {
                    let mut error = self.error(from, "a { that is never closed");
                    error.help = Some("for the character itself write \\{".into());
                    return Err(error);
                }
            }
        }
        self.depth -= 1;
        if choices.iter().all(Vec::is_empty) {
            return Err(self.error(from, "braces with nothing in them"));
        }
        Ok(Piece::Either(choices))
    }

    fn variable(&mut self, from: usize) -> Result<Piece, GlobError> {
        let Some(len) = self.text[self.at..].find('}') else {
            return Err(self.error(from, "a ${ that is never closed"));
        };
        let name = &self.text[self.at..self.at + len];
        self.at += len + 1;
        let values = (self.variables)(name).map_err(|(message, help)| {
            let mut error = self.error(from, message);
            error.help = help;
            error
        })?;
        let pieces = |value: &Vec<u8>| {
            value
                .iter()
                .map(|byte| match byte {
                    b'/' => Piece::Slash,
                    byte => Piece::Token(Token::Byte(*byte)),
                })
                .collect()
        };
        Ok(Piece::Either(values.iter().map(pieces).collect()))
    }

    fn class(&mut self, from: usize) -> Result<CharClass, GlobError> {
        let negated = self.eat("!");
        if self.text[self.at..].starts_with('^') {
            let mut error = self.error(from, "a class that starts with ^");
            error.help = Some("for the opposite write [!…], for the character itself \\^".into());
            return Err(error);
        }
        let mut ranges = Vec::new();
        while let Some(lo) = self.class_member(from)? {
            let dash =
                self.text[self.at..].starts_with('-') && !self.text[self.at..].starts_with("-]");
            let hi = if dash {
                self.at += 1;
                self.class_member(from)?.unwrap_or(lo)
            } else {
                lo
            };
            if hi < lo {
                return Err(self.error(from, format!("the range {lo}-{hi} is empty")));
            }
            ranges.push((lo as u32, hi as u32));
        }
        if ranges.is_empty() {
            let mut error = self.error(from, "an empty class");
            error.help = Some("for the character ] write \\]".into());
            return Err(error);
        }
        Ok(CharClass::new(ranges, negated))
    }

    /// The next character of a class; `None` at its end.
    fn class_member(&mut self, from: usize) -> Result<Option<char>, GlobError> {
        match self.next() {
            Some(']') => Ok(None),
            Some('/') => Err(self.error(from, "a class cannot hold /")),
            Some('\0') => Err(self.error(from, "a NUL byte: no path has one")),
            Some('\\') => match self.next() {
                Some('/') => Err(self.error(from, "a class cannot hold /")),
                Some(c) => Ok(Some(c)),
                None => Err(self.unclosed_class(from)),
            },
            Some(c) => Ok(Some(c)),
            None => Err(self.unclosed_class(from)),
        }
    }

    fn unclosed_class(&self, from: usize) -> GlobError {
        let mut error = self.error(from, "a [ that is never closed");
        error.help = Some("for the character itself write \\[".into());
        error
    }
}

fn literal(c: char, out: &mut Vec<Piece>) {
    let mut buffer = [0; 4];
    for byte in c.encode_utf8(&mut buffer).bytes() {
        out.push(Piece::Token(Token::Byte(byte)));
    }
}

/// All ways through the alternatives; `None` when there are too many.
fn multiply(pieces: &[Piece]) -> Option<Vec<Vec<Piece>>> {
    let mut ways: Vec<Vec<Piece>> = vec![Vec::new()];
    for piece in pieces {
        let Piece::Either(choices) = piece else {
            for way in &mut ways {
                way.push(piece.clone());
            }
            continue;
        };
        let mut ends = Vec::new();
        for choice in choices {
            ends.extend(multiply(choice)?);
        }
        if ways.len().checked_mul(ends.len())? > MAX_ALTERNATIVES {
            return None;
        }
        ways = ways
            .iter()
            .flat_map(|way| ends.iter().map(|end| [&way[..], &end[..]].concat()))
            .collect();
    }
    Some(ways)
}

/// Cuts a flat glob into components.
fn cut(pieces: &[Piece], kind: ListKind) -> Result<Pattern, (String, Option<String>)> {
    let slash = |piece: &Piece| matches!(piece, Piece::Slash);
    if !pieces.iter().any(slash) {
        let name = component(pieces)?;
        return match kind {
            ListKind::DenyOrApprove => Ok(Pattern {
                components: join([Component::AnyDepth, name, Component::AnyDepth]),
            }),
            ListKind::Allow => Err((
                "a rule that allows must be an absolute path".into(),
                Some("start it with /, or with **/ for any directory".into()),
            )),
        };
    }
    let mut parts: Vec<&[Piece]> = pieces.split(slash).collect();
    match parts[0] {
        [] => {
            parts.remove(0);
        }
        [Piece::DoubleStar] => {}
        _ => {
            return Err((
                "a relative path".into(),
                Some("start it with /, or with **/ for any directory".into()),
            ));
        }
    }
    if parts == [&[] as &[Piece]] {
        return Ok(Pattern {
            components: Vec::new(),
        });
    }
    let components: Result<Vec<_>, _> = parts.into_iter().map(component).collect();
    Ok(Pattern {
        components: join(components?),
    })
}

/// Drops a `**` that follows another.
fn join(components: impl IntoIterator<Item = Component>) -> Vec<Component> {
    let mut out: Vec<Component> = components.into_iter().collect();
    out.dedup_by(|a, b| *a == Component::AnyDepth && *b == Component::AnyDepth);
    out
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(a), Self::Token(b)) => a == b,
            (Self::DoubleStar, Self::DoubleStar) | (Self::Slash, Self::Slash) => true,
            _ => false,
        }
    }
}

fn component(pieces: &[Piece]) -> Result<Component, (String, Option<String>)> {
    if pieces == [Piece::DoubleStar] {
        return Ok(Component::AnyDepth);
    }
    let mut tokens = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Token(Token::Star) if tokens.last() == Some(&Token::Star) => {}
            Piece::Token(token) => tokens.push(token.clone()),
            _ => {
                return Err((
                    "** must be a whole component".into(),
                    Some("* is any run of characters inside one component".into()),
                ));
            }
        }
    }
    let dot = Token::Byte(b'.');
    if tokens.is_empty() {
        Err((
            "an empty component: // or a / at the end".into(),
            Some("for a directory and all below it write /**".into()),
        ))
    } else if tokens.len() <= 2 && tokens.iter().all(|t| *t == dot) {
        Err((
            "a component that is . or ..".into(),
            Some("write the path as the kernel sees it".into()),
        ))
    } else {
        Ok(Component::Name(tokens))
    }
}

#[cfg(test)]
mod tests;
