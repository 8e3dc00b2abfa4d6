//! Patterns that end alike, seen from the leaf, share the nodes of their ends.
//! Braces make many such: after `/{,usr/}lib/x` and `/{,usr/}lib64/x` the same
//! directories follow. Without this each would be a thread of its own, and the
//! subset construction would make their product before it is minimised.

use std::collections::HashMap;

use super::nfa::{Nfa, Node};

/// Everything that a node does, its targets already shared.
#[derive(PartialEq, Eq, Hash)]
struct Behaviour {
    group: u32,
    negative: bool,
    accept: bool,
    /// Every byte but `/` leads: nowhere, back here, or through a `**`.
    wild: u8,
    edges: Vec<(u8, u8, u8, u32)>,
    slash: Option<u32>,
    empty: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Visit {
    New,
    Open,
    Done(u32),
}

struct Sharing<'a> {
    nodes: &'a [Node],
    visits: Vec<Visit>,
    known: HashMap<Behaviour, u32>,
}

impl Sharing<'_> {
    /// The node that stands for this one.
    fn shared(&mut self, id: u32) -> u32 {
        match self.visits[id as usize] {
            Visit::Done(shared) => return shared,
            // A loop through other nodes: they stay as they are.
            Visit::Open => return id,
            Visit::New => self.visits[id as usize] = Visit::Open,
        }
        let node = &self.nodes[id as usize];
        let mut edges: Vec<_> = node
            .edges
            .iter()
            .map(|edge| (edge.lo, edge.hi, edge.pending, self.shared(edge.target)))
            .collect();
        edges.sort_unstable();
        let mut empty: Vec<_> = node.empty.iter().map(|n| self.shared(*n)).collect();
        empty.sort_unstable();
        let behaviour = Behaviour {
            group: node.group,
            negative: node.negative,
            accept: node.accept,
            wild: match node.wild {
                None => 0,
                Some(target) if target == id => 1,
                Some(_) => 2,
            },
            edges,
            slash: node.slash.map(|n| self.shared(n)),
            empty,
        };
        let shared = *self.known.entry(behaviour).or_insert(id);
        self.visits[id as usize] = Visit::Done(shared);
        shared
    }
}

/// Redirects everything to one node of those that do the same.
pub(super) fn share_ends(nfa: &mut Nfa) {
    let mut sharing = Sharing {
        nodes: &nfa.nodes,
        visits: vec![Visit::New; nfa.nodes.len()],
        known: HashMap::new(),
    };
    let roots: Vec<u32> = nfa.roots.iter().map(|root| sharing.shared(*root)).collect();
    let stand_in: Vec<u32> = (0..nfa.nodes.len() as u32)
        .map(|id| match sharing.visits[id as usize] {
            Visit::Done(shared) => shared,
            Visit::New | Visit::Open => id,
        })
        .collect();
    nfa.roots = roots;
    for node in &mut nfa.nodes {
        let targets = node.edges.iter_mut().map(|edge| &mut edge.target);
        for target in targets.chain(&mut node.empty).chain(&mut node.slash) {
            *target = stand_in[*target as usize];
        }
    }
}
