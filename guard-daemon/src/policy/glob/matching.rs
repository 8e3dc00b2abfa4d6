//! One pattern against one path, without an automaton: how `guard explain`
//! and the audit trail find the rule that decided.

use super::{Component, Pattern, Token};

/// Length and value of the character at the start of `bytes`; `None` for a
/// byte that starts no valid one. `bytes` is not empty.
fn character(bytes: &[u8]) -> (usize, Option<char>) {
    let longest = bytes.len().min(4);
    for len in 1..=longest {
        if let Ok(text) = std::str::from_utf8(&bytes[..len]) {
            return (len, text.chars().next());
        }
    }
    (1, None)
}

/// Bytes that `token` takes from the start of `rest`, if it matches there.
fn take(token: &Token, rest: &[u8]) -> Option<usize> {
    if rest.is_empty() {
        return None;
    }
    match token {
        Token::Byte(byte) => (rest[0] == *byte).then_some(1),
        Token::Class(class) => {
            let (len, c) = character(rest);
            c.map_or(class.invalid, |c| class.contains(c))
                .then_some(len)
        }
        Token::Star => None,
    }
}

fn name_matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut t, mut n) = (0, 0);
    // The last `*` and where it last ended: the only one worth going back to.
    let mut back: Option<(usize, usize)> = None;
    loop {
        if t < tokens.len() && tokens[t] == Token::Star {
            back = Some((t + 1, n));
            t += 1;
            continue;
        }
        if t == tokens.len() && n == name.len() {
            return true;
        }
        if let Some(len) = tokens.get(t).and_then(|token| take(token, &name[n..])) {
            t += 1;
            n += len;
            continue;
        }
        let Some((after, end)) = back else {
            return false;
        };
        if end == name.len() {
            return false;
        }
        let end = end + character(&name[end..]).0;
        back = Some((after, end));
        (t, n) = (after, end);
    }
}

/// Whether the pattern matches an absolute path.
pub(crate) fn matches(pattern: &Pattern, path: &[u8]) -> bool {
    let pattern = &pattern.components;
    let mut rest = path;
    let mut p = 0;
    let mut back: Option<(usize, &[u8])> = None;
    loop {
        rest = rest.strip_prefix(b"/").unwrap_or(rest);
        if p < pattern.len() && pattern[p] == Component::AnyDepth {
            back = Some((p + 1, rest));
            p += 1;
            continue;
        }
        if p == pattern.len() && rest.is_empty() {
            return true;
        }
        let len = memchr::memchr(b'/', rest).unwrap_or(rest.len());
        if let Some(Component::Name(tokens)) = pattern.get(p)
            && len > 0
            && name_matches(tokens, &rest[..len])
        {
            p += 1;
            rest = &rest[len..];
            continue;
        }
        let Some((after, from)) = back else {
            return false;
        };
        if from.is_empty() {
            return false;
        }
        let len = memchr::memchr(b'/', from).map_or(from.len(), |at| at + 1);
        rest = &from[len..];
        back = Some((after, rest));
        p = after;
    }
}
