//! Globs: what a rule over paths says.
//!
//! - `*` is any run of bytes inside one component, also an empty one; `?` one
//!   character; `[a-z]` and `[!a-z]` one character in or not in the class.
//!   All of them match a leading dot; none matches `/`.
//! - `**` as a whole component is any number of components, also none.
//! - `{a,b}` is either, and nests; `\` takes the next character literally.
//!
//! A *character* is one UTF-8 character; where a name is not UTF-8, each byte
//! that starts no valid character counts as one. Names are read from their
//! start, so what counts as one character never depends on the pattern.

mod matching;
mod parse;

pub(crate) use matching::matches;
pub(crate) use parse::{GlobError, ListKind, Variables, parse};

/// A set of characters: sorted ranges that do not touch, without `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CharClass {
    /// Code points, both ends included. Negation is worked in already.
    pub(crate) ranges: Vec<(u32, u32)>,
    /// Whether a byte that is no part of a valid character is in the class.
    pub(crate) invalid: bool,
}

impl CharClass {
    /// `?`: everything but `/`.
    pub(crate) fn any() -> Self {
        Self::new(Vec::new(), true)
    }

    /// Sorts and joins ranges, negates when asked, and takes out `/`.
    pub(crate) fn new(mut ranges: Vec<(u32, u32)>, negated: bool) -> Self {
        const LAST: u32 = char::MAX as u32;
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (lo, hi) in ranges {
            match joined.last_mut() {
                Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
                _ => joined.push((lo, hi)),
            }
        }
        if negated {
            let mut next = 0;
            let mut rest = Vec::new();
            for (lo, hi) in joined {
                if lo > next {
                    rest.push((next, lo - 1));
                }
                next = hi + 1;
            }
            if next <= LAST {
                rest.push((next, LAST));
            }
            joined = rest;
        }
        let slash = u32::from(b'/');
        let ranges = joined
            .into_iter()
            .flat_map(|(lo, hi)| {
                if lo <= slash && slash <= hi {
                    [(lo, slash.wrapping_sub(1)), (slash + 1, hi)]
                } else {
                    [(lo, hi), (1, 0)]
                }
            })
            .filter(|(lo, hi)| lo <= hi)
            .collect();
        Self {
            ranges,
            invalid: negated,
        }
    }

    pub(crate) fn contains(&self, c: char) -> bool {
        let c = c as u32;
        self.ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c))
    }
}

/// One step inside a component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Token {
    /// This byte.
    Byte(u8),
    /// One character of a class.
    Class(CharClass),
    /// Any run of bytes.
    Star,
}

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Component {
    /// One name.
    Name(Vec<Token>),
    /// `**`.
    AnyDepth,
}

/// A glob without braces and variables, from the root to the leaf.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pattern {
    pub(crate) components: Vec<Component>,
}

impl Pattern {
    /// A pattern for exactly one absolute path.
    pub(crate) fn literal(path: &[u8]) -> Self {
        let components = path
            .split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .map(|name| Component::Name(name.iter().map(|b| Token::Byte(*b)).collect()))
            .collect();
        Self { components }
    }
}
