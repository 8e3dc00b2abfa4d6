//! Which patterns a name matches: all of a policy's patterns as one trie by
//! label, the last label first, its wildcards as edges.
//!
//! A name is fed label by label. Each label costs a look-up in the nodes that
//! the labels before it led to: one for a policy without wildcards, a few more
//! for each wildcard that lies on the way, however many rules there are. Labels
//! with a `*` among other characters are compared one by one, each at most once
//! for a label; so there are at most [`MAX_LABEL_GLOBS`] different ones.

use std::collections::HashMap;

/// Different labels with a `*` beside other characters, in all rules.
pub const MAX_LABEL_GLOBS: usize = 64;

/// The trie. Patterns are known by the order in which they were added.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    nodes: Vec<Node>,
    /// Labels with a `*` beside other characters; edges name them by their index.
    globs: Vec<String>,
}

/// What the labels so far led to.
#[derive(Clone, Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    /// Index of the glob, and where it leads.
    globs: Vec<(usize, usize)>,
    /// Where any label leads.
    any: Option<usize>,
    /// Any further label leads here again: the edge to here was a `*`.
    stays: bool,
    /// Patterns that end here.
    ends: Vec<usize>,
}

/// More than [`MAX_LABEL_GLOBS`].
#[derive(Debug)]
pub(super) struct TooManyGlobs;

impl Default for Matcher {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            globs: Vec::new(),
        }
    }
}

impl Matcher {
    /// Adds a pattern in canonical form.
    pub(super) fn add(&mut self, labels: &[String], number: usize) -> Result<(), TooManyGlobs> {
        let mut at = 0;
        for label in labels.iter().rev() {
            let new = self.nodes.len();
            let (next, stays) = if label == "*" {
                (*self.nodes[at].any.get_or_insert(new), true)
            } else if label.contains('*') {
                let glob = self.glob(label)?;
                let globs = &mut self.nodes[at].globs;
                let known = globs.iter().find(|(other, _)| *other == glob);
                let next = known.map_or(new, |(_, next)| *next);
                if next == new {
                    globs.push((glob, new));
                }
                (next, false)
            } else {
                let literals = &mut self.nodes[at].literals;
                (*literals.entry(label.as_str().into()).or_insert(new), false)
            };
            if next == new {
                self.nodes.push(Node {
                    stays,
                    ..Node::default()
                });
            }
            at = next;
        }
        self.nodes[at].ends.push(number);
        Ok(())
    }

    fn glob(&mut self, label: &str) -> Result<usize, TooManyGlobs> {
        if let Some(known) = self.globs.iter().position(|glob| glob == label) {
            return Ok(known);
        }
        if self.globs.len() == MAX_LABEL_GLOBS {
            return Err(TooManyGlobs);
        }
        self.globs.push(label.to_owned());
        Ok(self.globs.len() - 1)
    }

    /// The patterns that a name matches, in order; its labels, the last one first.
    pub(super) fn matching<'a>(&self, labels: impl Iterator<Item = &'a str>) -> Vec<usize> {
        let (mut here, mut next) = (vec![0], Vec::new());
        for label in labels {
            // One bit for each glob, made when the first edge asks.
            let mut globs = None;
            for at in here.drain(..) {
                let node = &self.nodes[at];
                next.extend(node.literals.get(label));
                next.extend(node.any);
                next.extend(node.stays.then_some(at));
                if !node.globs.is_empty() {
                    let globs = *globs.get_or_insert_with(|| self.globs_of(label));
                    let holds = |(glob, _): &&(usize, usize)| globs >> glob & 1 == 1;
                    next.extend(node.globs.iter().filter(holds).map(|(_, next)| next));
                }
            }
            // A node behind a * is reached from itself and from the node before.
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut here, &mut next);
        }
        let mut ends: Vec<usize> = here
            .iter()
            .flat_map(|at| &self.nodes[*at].ends)
            .copied()
            .collect();
        ends.sort_unstable();
        ends
    }

    fn globs_of(&self, label: &str) -> u64 {
        let holds = |glob: &String| u64::from(glob_matches(glob.as_bytes(), label.as_bytes()));
        self.globs
            .iter()
            .enumerate()
            .fold(0, |bits, (index, glob)| bits | holds(glob) << index)
    }
}

const _: () = assert!(MAX_LABEL_GLOBS <= u64::BITS as usize);

/// Whether a label matches one with `*`s. What follows a `*` is found as early
/// as it can be, so nothing is tried twice but from the last `*` on.
pub(super) fn glob_matches(glob: &[u8], label: &[u8]) -> bool {
    let (mut g, mut l) = (0, 0);
    // Behind the last *, and where the label went on then.
    let mut star: Option<(usize, usize)> = None;
    while l < label.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                star = Some((g, l));
            }
            Some(byte) if *byte == label[l] => {
                g += 1;
                l += 1;
            }
            _ => {
                let Some((behind, from)) = star else {
                    return false;
                };
                g = behind;
                l = from + 1;
                star = Some((behind, l));
            }
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(patterns: &[&str], name: &str) -> Vec<usize> {
        let mut matcher = Matcher::default();
        for (number, pattern) in patterns.iter().enumerate() {
            let labels: Vec<String> = pattern.split('.').map(str::to_owned).collect();
            matcher.add(&labels, number).unwrap();
        }
        matcher.matching(name.rsplit('.'))
    }

    #[test]
    fn each_wildcard_on_its_own() {
        let patterns = [
            "example.com",
            "*.example.com",
            "*",
            "api.*",
            "*.internal.*",
            "api-*.example.com",
            "*.*",
            "a*z.*.com",
        ];
        for (name, expected) in [
            ("example.com", &[0, 2, 6][..]),
            ("com", &[2]),
            ("api", &[2]),
            ("a.example.com", &[1, 2, 6]),
            ("a.b.example.com", &[1, 2, 6]),
            ("api.x", &[2, 3, 6]),
            ("api.x.y", &[2, 3, 6]),
            ("x.api.y", &[2, 6]),
            ("a.internal.b", &[2, 4, 6]),
            ("a.b.internal.c.d", &[2, 4, 6]),
            ("internal.b", &[2, 6]),
            ("a.internal", &[2, 6]),
            ("internal.internal.internal.internal", &[2, 4, 6]),
            ("api-.example.com", &[1, 2, 5, 6]),
            ("api-1.example.com", &[1, 2, 5, 6]),
            ("x.api-1.example.com", &[1, 2, 6]),
            ("abz.x.y.com", &[2, 6, 7]),
            ("az.com", &[2, 6]),
            ("notexample.com", &[2, 6]),
        ] {
            assert_eq!(found(&patterns, name), expected, "{name}");
        }
    }

    #[test]
    fn stars_within_a_label() {
        for (glob, label, expected) in [
            ("a*", "a", true),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "b-a", false),
            ("*ab", "aab", true),
            ("a*ab*b", "aab", false),
            ("a*ab*b", "aaabb", true),
        ] {
            let said = glob_matches(glob.as_bytes(), label.as_bytes());
            assert_eq!(said, expected, "{glob} {label}");
        }
    }

    #[test]
    fn different_globs_are_few() {
        let mut matcher = Matcher::default();
        let mut add = |label: String| matcher.add(&[label, "x".into()], 0);
        for n in 0..MAX_LABEL_GLOBS {
            add(format!("a{n}-*")).unwrap();
        }
        add("a0-*".into()).unwrap();
        add("other".into()).unwrap();
        add("b*".into()).unwrap_err();
    }
}
