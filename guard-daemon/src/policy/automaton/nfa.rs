//! Patterns as one trie of automaton nodes for each group, leaf component
//! first (see `guard_common::table`). Patterns that start alike, seen from
//! the leaf, share their nodes.

use std::collections::HashMap;

use super::groups::Group;
use super::share;
use super::utf8::{self, Pending};
use crate::policy::glob::{CharClass, Component, Pattern, Token};

/// Bytes from `lo` to `hi` lead to `target`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    pub(crate) lo: u8,
    pub(crate) hi: u8,
    /// What the byte leaves pending when it is taken as a character of its own.
    pub(crate) pending: Pending,
    pub(crate) target: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) group: u32,
    /// Belongs to the group's `!` patterns.
    pub(crate) negative: bool,
    /// Every byte but `/` leads there.
    pub(crate) wild: Option<u32>,
    pub(crate) edges: Vec<Edge>,
    /// `/` leads there.
    pub(crate) slash: Option<u32>,
    /// A pattern ends here.
    pub(crate) accept: bool,
    /// Whatever follows, a pattern matches: where a pattern ends here, also if
    /// nothing follows; else once the component that was begun has ended.
    pub(crate) universal: bool,
    /// Nodes that are reached without any byte.
    pub(super) empty: Vec<u32>,
}

/// A step of a pattern: what the trie branches on.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Step {
    Byte(u8),
    Class(CharClass),
    /// Any bytes; all that a `*` needs where only bytes follow.
    AnyBytes,
    /// Any whole characters, so that a class behind it starts at one.
    AnyCharacters,
    Slash,
    AnyDepth,
}

pub(crate) struct Nfa {
    pub(crate) nodes: Vec<Node>,
    /// For each node, itself and all that is reached from it without a byte.
    pub(crate) closure: Vec<Vec<u32>>,
    pub(crate) roots: Vec<u32>,
    children: HashMap<(u32, Step), u32>,
}

impl Nfa {
    pub(crate) fn build(groups: &[Group<'_>]) -> Self {
        let mut nfa = Self {
            nodes: Vec::new(),
            closure: Vec::new(),
            roots: Vec::new(),
            children: HashMap::new(),
        };
        for (index, group) in groups.iter().enumerate() {
            for (negative, patterns) in [(false, &group.positive), (true, &group.negative)] {
                if patterns.is_empty() {
                    continue;
                }
                let root = nfa.add(index as u32, negative);
                nfa.roots.push(root);
                for pattern in patterns {
                    nfa.insert(root, pattern);
                }
            }
        }
        share::share_ends(&mut nfa);
        nfa.close();
        nfa
    }

    fn add(&mut self, group: u32, negative: bool) -> u32 {
        self.nodes.push(Node {
            group,
            negative,
            ..Node::default()
        });
        self.nodes.len() as u32 - 1
    }

    fn add_like(&mut self, node: u32) -> u32 {
        let Node {
            group, negative, ..
        } = self.nodes[node as usize];
        self.add(group, negative)
    }

    fn insert(&mut self, root: u32, pattern: &Pattern) {
        let mut at = root;
        for component in pattern.components.iter().rev() {
            match component {
                Component::AnyDepth => at = self.child(at, Step::AnyDepth),
                Component::Name(tokens) => {
                    let last_class = tokens
                        .iter()
                        .rposition(|t| matches!(t, Token::Class(class) if class.invalid));
                    for (index, token) in tokens.iter().enumerate() {
                        let step = match token {
                            Token::Byte(byte) => Step::Byte(*byte),
                            Token::Class(class) => Step::Class(class.clone()),
                            Token::Star if last_class.is_some_and(|last| index < last) => {
                                Step::AnyCharacters
                            }
                            Token::Star => Step::AnyBytes,
                        };
                        at = self.child(at, step);
                    }
                    at = self.child(at, Step::Slash);
                }
            }
        }
        self.nodes[at as usize].accept = true;
    }

    fn child(&mut self, from: u32, step: Step) -> u32 {
        if let Some(child) = self.children.get(&(from, step.clone())) {
            return *child;
        }
        let child = self.add_like(from);
        match &step {
            Step::Byte(byte) => self.edge(from, *byte, *byte, 0, child),
            Step::Class(class) => self.class(from, class, child),
            Step::AnyBytes => {
                self.nodes[from as usize].empty.push(child);
                self.nodes[child as usize].wild = Some(child);
            }
            Step::AnyCharacters => {
                self.nodes[from as usize].empty.push(child);
                self.class(child, &CharClass::any(), child);
            }
            Step::Slash => self.nodes[from as usize].slash = Some(child),
            Step::AnyDepth => {
                let inside = self.add_like(from);
                self.nodes[from as usize].empty.push(child);
                self.nodes[child as usize].wild = Some(inside);
                self.nodes[inside as usize].wild = Some(inside);
                self.nodes[inside as usize].slash = Some(child);
            }
        }
        self.children.insert((from, step), child);
        child
    }

    fn edge(&mut self, from: u32, lo: u8, hi: u8, pending: Pending, target: u32) {
        self.nodes[from as usize].edges.push(Edge {
            lo,
            hi,
            pending,
            target,
        });
    }

    fn class(&mut self, from: u32, class: &CharClass, target: u32) {
        // Sequences that end alike share the nodes of their ends.
        let mut ends: HashMap<Vec<(u8, u8)>, u32> = HashMap::new();
        for (lo, hi) in &class.ranges {
            for sequence in utf8::sequences(*lo, *hi) {
                let mut next = target;
                for cut in (1..sequence.len()).rev() {
                    next = match ends.get(&sequence[cut..]) {
                        Some(node) => *node,
                        None => {
                            let node = self.add_like(from);
                            let (lo, hi) = sequence[cut];
                            self.edge(node, lo, hi, 0, next);
                            ends.insert(sequence[cut..].to_vec(), node);
                            node
                        }
                    };
                }
                let (lo, hi) = sequence[0];
                self.edge(from, lo, hi, 0, next);
            }
        }
        if class.invalid {
            for (lo, hi) in utf8::ODD_BYTES {
                self.edge(from, lo, hi, utf8::pending_after(lo), target);
            }
        }
    }

    /// Computes closures and which nodes are universal.
    fn close(&mut self) {
        self.closure = (0..self.nodes.len() as u32)
            .map(|node| {
                let mut all = vec![node];
                let mut done = 0;
                while done < all.len() {
                    let empty = &self.nodes[all[done] as usize].empty;
                    all.extend(
                        empty
                            .iter()
                            .filter(|n| !all.contains(n))
                            .copied()
                            .collect::<Vec<_>>(),
                    );
                    done += 1;
                }
                let useful = |n: &u32| {
                    let node = &self.nodes[*n as usize];
                    node.accept
                        || node.wild.is_some()
                        || node.slash.is_some()
                        || !node.edges.is_empty()
                };
                all.retain(useful);
                all.sort_unstable();
                all
            })
            .collect();
        // A `**` at whose end a pattern ends, first; then what leads there by
        // bytes that are always there.
        for node in 0..self.nodes.len() {
            let inside = self.nodes[node].wild;
            let loops =
                inside.is_some_and(|inside| self.nodes[inside as usize].slash == Some(node as u32));
            if loops && self.nodes[node].accept {
                self.nodes[node].universal = true;
            }
        }
        for node in 0..self.nodes.len() {
            let loops = self.nodes[node].wild == Some(node as u32);
            let ends = self.nodes[node].slash.is_some_and(|slash| {
                self.closure[slash as usize]
                    .iter()
                    .map(|n| &self.nodes[*n as usize])
                    .any(|n| n.universal && n.accept)
            });
            if loops && ends {
                self.nodes[node].universal = true;
            }
        }
    }
}
