//! Subset construction: the NFA's sets of threads become the DFA's states.

use std::collections::HashMap;

use guard_common::table::Output;

use super::groups::{Group, canonical};
use super::nfa::Nfa;
use super::utf8::{self, PENDING_BITS, Pending};
use super::{Dfa, TooLarge};

/// Threads in all states together: bounds the memory.
const MAX_THREADS: usize = 1 << 24;

/// A node and what is pending; or [`SURE`] and a group, whose positive
/// patterns match whatever follows; or [`COVER`] and the index of an output
/// that holds whatever follows.
type Thread = u32;
const COVER: Thread = 1 << 31;
const SURE: Thread = 1 << 30;

fn is_node(thread: Thread) -> bool {
    thread & (COVER | SURE) == 0
}

fn node_of(thread: Thread) -> usize {
    (thread >> PENDING_BITS) as usize
}

fn pending_of(thread: Thread) -> Pending {
    (thread & ((1 << PENDING_BITS) - 1)) as Pending
}

/// Hashes thread sets: many, short, and ours, so no need for a keyed hash.
#[derive(Default)]
struct ThreadHasher(u64);

impl std::hash::Hasher for ThreadHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

type BuildHasher = std::hash::BuildHasherDefault<ThreadHasher>;

/// Adds all masks of `other`.
fn join(output: &mut Output, other: &Output) {
    for (masks, other) in output.by_access.iter_mut().zip(other.by_access) {
        masks.allow |= other.allow;
        masks.approve |= other.approve;
        masks.deny |= other.deny;
    }
}

/// Bytes that no edge tells apart.
struct Classes {
    of: [u8; 256],
    /// One byte of each class.
    some: Vec<u8>,
    slash: usize,
}

fn classes(nfa: &Nfa) -> Classes {
    let mut cut = [false; 257];
    let mut covered = [false; 256];
    let mut pending = false;
    for edge in nfa.nodes.iter().flat_map(|node| &node.edges) {
        cut[edge.lo as usize] = true;
        cut[edge.hi as usize + 1] = true;
        covered[edge.lo as usize..=edge.hi as usize].fill(true);
        pending |= edge.pending != 0;
    }
    cut[b'/' as usize] = true;
    cut[b'/' as usize + 1] = true;
    if pending {
        for byte in utf8::PENDING_CUTS {
            cut[byte as usize] = true;
        }
        covered[0x80..].fill(true);
    }
    covered[b'/' as usize] = true;
    let mut of = [0; 256];
    let mut some: Vec<u8> = Vec::new();
    let mut other: Option<u8> = None;
    for byte in 0..=255u8 {
        let index = byte as usize;
        of[index] = if !covered[index] {
            // All bytes that no edge names are one class.
            *other.get_or_insert_with(|| {
                some.push(byte);
                (some.len() - 1) as u8
            })
        } else if index == 0 || cut[index] || !covered[index - 1] {
            some.push(byte);
            (some.len() - 1) as u8
        } else {
            of[index - 1]
        };
    }
    Classes {
        of,
        slash: of[b'/' as usize] as usize,
        some,
    }
}

struct Builder<'a> {
    nfa: &'a Nfa,
    groups: &'a [Group<'a>],
    classes: Classes,
    /// For each node, its edges by class.
    edges: Vec<Vec<(u8, Pending, u32)>>,
    covers: Vec<Output>,
    cover_ids: HashMap<Output, u32>,
    ids: HashMap<Box<[Thread]>, u32, BuildHasher>,
    sets: Vec<Box<[Thread]>>,
    threads: usize,
    max_states: usize,
}

/// Builds the DFA. State 0 is the set without threads.
pub(crate) fn determinise(
    nfa: &Nfa,
    groups: &[Group<'_>],
    max_states: usize,
) -> Result<Dfa, TooLarge> {
    let classes = classes(nfa);
    let edges = nfa
        .nodes
        .iter()
        .map(|node| {
            let mut out = Vec::new();
            for edge in &node.edges {
                let mut last = None;
                for byte in edge.lo..=edge.hi {
                    let class = classes.of[byte as usize];
                    if last != Some(class) && byte != b'/' {
                        out.push((class, edge.pending, edge.target));
                        last = Some(class);
                    }
                }
            }
            out
        })
        .collect();
    let mut builder = Builder {
        nfa,
        groups,
        classes,
        edges,
        covers: Vec::new(),
        cover_ids: HashMap::new(),
        ids: HashMap::default(),
        sets: Vec::new(),
        threads: 0,
        max_states,
    };
    builder.run()
}

impl Builder<'_> {
    fn run(&mut self) -> Result<Dfa, TooLarge> {
        self.id(Vec::new(), true)?;
        let mut first = Vec::new();
        for root in &self.nfa.roots {
            self.reach(*root, 0, &mut first);
        }
        let start = self.id(first, true)?;
        let classes = self.classes.some.len();
        let mut transitions: Vec<u32> = Vec::new();
        let mut state = 0;
        while state < self.sets.len() {
            let row = self.row(state)?;
            transitions.extend_from_slice(&row);
            state += 1;
        }
        let mut outputs = vec![Output::default()];
        let mut output_ids = HashMap::from([(Output::default(), 0)]);
        let state_output = (0..self.sets.len())
            .map(|state| {
                let output = self.output(state);
                *output_ids.entry(output).or_insert_with(|| {
                    outputs.push(output);
                    outputs.len() as u32 - 1
                })
            })
            .collect();
        Ok(Dfa {
            class_of: self.classes.of,
            classes,
            transitions,
            state_output,
            outputs,
            start,
        })
    }

    fn reach(&self, node: u32, pending: Pending, out: &mut Vec<Thread>) {
        for node in &self.nfa.closure[node as usize] {
            out.push(node << PENDING_BITS | Thread::from(pending));
        }
    }

    /// Next states of a state, for all classes.
    fn row(&mut self, state: usize) -> Result<Vec<u32>, TooLarge> {
        let set = std::mem::take(&mut self.sets[state]);
        let count = self.classes.some.len();
        // What every byte but `/` leads to, what `/` does, and what one class
        // does besides: most classes have nothing of their own.
        let mut all = Vec::new();
        let mut slash = Vec::new();
        let mut own: Vec<Vec<Thread>> = vec![Vec::new(); count];
        for thread in set.iter().copied() {
            if !is_node(thread) {
                all.push(thread);
                slash.push(thread);
                continue;
            }
            let node = &self.nfa.nodes[node_of(thread)];
            let pending = pending_of(thread);
            if let Some(target) = node.slash {
                self.reach(target, 0, &mut slash);
            }
            if pending == 0 {
                if let Some(target) = node.wild {
                    self.reach(target, 0, &mut all);
                }
                for (class, pending, target) in &self.edges[node_of(thread)] {
                    self.reach(*target, *pending, &mut own[*class as usize]);
                }
                continue;
            }
            let steps: Vec<Option<Pending>> = self
                .classes
                .some
                .iter()
                .map(|byte| utf8::pending_step(pending, *byte))
                .collect();
            if let Some(target) = node.wild {
                for (class, step) in steps.iter().enumerate() {
                    if let (Some(pending), true) = (step, class != self.classes.slash) {
                        self.reach(target, *pending, &mut own[class]);
                    }
                }
            }
            for (class, new, target) in &self.edges[node_of(thread)] {
                // A byte that leaves something pending is no continuation
                // byte, so it has settled what was pending before.
                if let Some(old) = steps[*class as usize] {
                    self.reach(
                        *target,
                        if *new == 0 { old } else { *new },
                        &mut own[*class as usize],
                    );
                }
            }
        }
        self.sets[state] = set;
        let shared = self.id(all.clone(), false)?;
        let mut row = vec![shared; count];
        for (class, mut own) in own.into_iter().enumerate() {
            if class == self.classes.slash {
                row[class] = self.id(std::mem::take(&mut slash), true)?;
            } else if !own.is_empty() {
                own.extend_from_slice(&all);
                row[class] = self.id(own, false)?;
            }
        }
        Ok(row)
    }

    /// The state of a set of threads, made if it is new. `boundary`: a
    /// component has just ended, or nothing was read yet.
    fn id(&mut self, mut set: Vec<Thread>, boundary: bool) -> Result<u32, TooLarge> {
        self.prune(&mut set, boundary);
        if let Some(id) = self.ids.get(&set[..]) {
            return Ok(*id);
        }
        self.threads += set.len();
        if self.sets.len() >= self.max_states || self.threads > MAX_THREADS {
            return Err(TooLarge::Construction(self.max_states));
        }
        let id = self.sets.len() as u32;
        let set = set.into_boxed_slice();
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        Ok(id)
    }

    /// The group and the sign of a thread; `None` for a cover.
    fn side(&self, thread: Thread) -> Option<(u32, bool)> {
        if thread & COVER != 0 {
            None
        } else if thread & SURE != 0 {
            Some((thread & !SURE, false))
        } else {
            let node = &self.nfa.nodes[node_of(thread)];
            Some((node.group, node.negative))
        }
    }

    /// Whether the patterns of a thread's side match whatever follows.
    fn is_sure(&self, thread: Thread, boundary: bool) -> bool {
        if !is_node(thread) {
            return thread & SURE != 0;
        }
        let node = &self.nfa.nodes[node_of(thread)];
        // Between components the path may end: only what accepts here is sure.
        pending_of(thread) == 0 && node.universal && (node.accept || !boundary)
    }

    /// Drops threads that cannot change any verdict, so that fewer sets differ.
    fn prune(&mut self, set: &mut Vec<Thread>, boundary: bool) {
        set.sort_unstable();
        // A thread with nothing pending can do all that its twin with
        // something pending can; it sorts first.
        set.dedup_by(|b, a| {
            a == b || (is_node(*b) && pending_of(*a) == 0 && node_of(*a) == node_of(*b))
        });
        let sure = |t: &Thread| self.is_sure(*t, boundary);
        if !set.iter().any(|t| *t & COVER != 0 || sure(t)) {
            return;
        }
        // A ! pattern that matches whatever follows settles its group.
        let settled: Vec<u32> = set
            .iter()
            .filter(|t| sure(t))
            .filter_map(|t| self.side(*t))
            .filter_map(|(group, negative)| negative.then_some(group))
            .collect();
        set.retain(|t| {
            self.side(*t)
                .is_none_or(|(group, _)| !settled.contains(&group))
        });
        let mut cover = Output::default();
        let mut open: Vec<u32> = Vec::new();
        for thread in set.iter() {
            let Some((group, _)) = self.side(*thread) else {
                join(&mut cover, &self.covers[(thread & !COVER) as usize]);
                continue;
            };
            if !sure(thread) {
                continue;
            }
            // With its ! patterns still open, all that is known of a group is
            // that its positive ones match; without any, all is known.
            if set.iter().any(|t| self.side(*t) == Some((group, true))) {
                open.push(group);
            } else {
                self.groups[group as usize].add_to(&mut cover);
            }
        }
        open.sort_unstable();
        open.dedup();
        set.retain(|t| {
            self.side(*t)
                .is_some_and(|(group, negative)| negative || !open.contains(&group))
        });
        set.extend(open.iter().map(|group| SURE | group));
        set.retain(|t| {
            self.side(*t)
                .is_some_and(|(group, _)| !self.groups[group as usize].is_covered_by(&cover))
        });
        let cover = canonical(cover);
        if cover != Output::default() {
            let covers = &mut self.covers;
            let id = *self.cover_ids.entry(cover).or_insert_with(|| {
                covers.push(cover);
                covers.len() as u32 - 1
            });
            set.push(COVER | id);
        }
    }

    /// What is known of a path that ends in this state.
    fn output(&self, state: usize) -> Output {
        let mut output = Output::default();
        let mut positive: Vec<u32> = Vec::new();
        let mut negative: Vec<u32> = Vec::new();
        for thread in &self.sets[state] {
            let Some((group, is_negative)) = self.side(*thread) else {
                join(&mut output, &self.covers[(thread & !COVER) as usize]);
                continue;
            };
            let matched = if is_node(*thread) {
                pending_of(*thread) == 0 && self.nfa.nodes[node_of(*thread)].accept
            } else {
                true
            };
            if matched && is_negative {
                negative.push(group);
            } else if matched {
                positive.push(group);
            }
        }
        for group in positive {
            if !negative.contains(&group) {
                self.groups[group as usize].add_to(&mut output);
            }
        }
        canonical(output)
    }
}
