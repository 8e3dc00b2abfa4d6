//! The smallest DFA with the same outputs, by refining partitions of states
//! and of transitions in turn (Valmari and Lehtinen, "Efficient Minimization
//! of DFAs with Partial Transition Functions", 2008): n states, m transitions
//! that do not lead to the dead state, O(m log n).

use std::collections::HashMap;

use super::Dfa;

/// Disjoint sets of 0..n that can be split by marking elements.
struct Partition {
    elements: Vec<u32>,
    location: Vec<u32>,
    set_of: Vec<u32>,
    first: Vec<u32>,
    end: Vec<u32>,
    marked: Vec<u32>,
    touched: Vec<u32>,
}

impl Partition {
    /// Elements with equal keys, which are below `keys`, are together.
    fn by_key(n: usize, keys: usize, key: impl Fn(u32) -> usize) -> Self {
        let mut next = vec![0u32; keys + 1];
        for element in 0..n as u32 {
            next[key(element) + 1] += 1;
        }
        for index in 0..keys {
            next[index + 1] += next[index];
        }
        let mut elements = vec![0; n];
        for element in 0..n as u32 {
            let at = &mut next[key(element)];
            elements[*at as usize] = element;
            *at += 1;
        }
        let mut partition = Self {
            location: vec![0; n],
            set_of: vec![0; n],
            first: Vec::new(),
            end: Vec::new(),
            marked: Vec::new(),
            touched: Vec::new(),
            elements,
        };
        for at in 0..n {
            let element = partition.elements[at];
            let new = at == 0 || key(partition.elements[at - 1]) != key(element);
            if new {
                partition.first.push(at as u32);
                partition.end.push(at as u32);
                partition.marked.push(0);
            }
            let set = partition.first.len() - 1;
            partition.end[set] = at as u32 + 1;
            partition.location[element as usize] = at as u32;
            partition.set_of[element as usize] = set as u32;
        }
        partition
    }

    fn sets(&self) -> usize {
        self.first.len()
    }

    fn mark(&mut self, element: u32) {
        let set = self.set_of[element as usize] as usize;
        let at = self.location[element as usize];
        let border = self.first[set] + self.marked[set];
        if at < border {
            return;
        }
        let other = self.elements[border as usize];
        self.elements.swap(at as usize, border as usize);
        self.location[other as usize] = at;
        self.location[element as usize] = border;
        if self.marked[set] == 0 {
            self.touched.push(set as u32);
        }
        self.marked[set] += 1;
    }

    /// Splits marked from unmarked; the smaller half becomes the new set.
    fn split(&mut self) {
        for set in std::mem::take(&mut self.touched) {
            let set = set as usize;
            let border = self.first[set] + self.marked[set];
            let marked = std::mem::take(&mut self.marked[set]);
            if border == self.end[set] {
                continue;
            }
            let (first, end) = if marked <= self.end[set] - border {
                let range = (self.first[set], border);
                self.first[set] = border;
                range
            } else {
                let range = (border, self.end[set]);
                self.end[set] = border;
                range
            };
            let new = self.first.len() as u32;
            self.first.push(first);
            self.end.push(end);
            self.marked.push(0);
            for at in first..end {
                self.set_of[self.elements[at as usize] as usize] = new;
            }
        }
    }

    fn members(&self, set: usize) -> Vec<u32> {
        self.elements[self.first[set] as usize..self.end[set] as usize].to_vec()
    }
}

/// States from which some output other than none can be reached.
fn useful(dfa: &Dfa) -> Vec<bool> {
    let n = dfa.states();
    let mut before: Vec<Vec<u32>> = vec![Vec::new(); n];
    for (index, target) in dfa.transitions.iter().enumerate() {
        let from = (index / dfa.classes) as u32;
        if *target != 0 && before[*target as usize].last() != Some(&from) {
            before[*target as usize].push(from);
        }
    }
    let mut useful: Vec<bool> = dfa.state_output.iter().map(|output| *output != 0).collect();
    let mut queue: Vec<u32> = (0..n as u32).filter(|s| useful[*s as usize]).collect();
    while let Some(state) = queue.pop() {
        for from in &before[state as usize] {
            if !std::mem::replace(&mut useful[*from as usize], true) {
                queue.push(*from);
            }
        }
    }
    useful
}

/// Minimises. The dead state stays 0; the others are numbered in the order in
/// which they are reached from the start.
pub(crate) fn minimise(dfa: &Dfa) -> Dfa {
    let useful = useful(dfa);
    let mut edges: Vec<(u32, u8, u32)> = Vec::new();
    for (index, target) in dfa.transitions.iter().enumerate() {
        let from = index / dfa.classes;
        if useful[from] && useful[*target as usize] {
            edges.push((from as u32, (index % dfa.classes) as u8, *target));
        }
    }
    let n = dfa.states();
    let mut blocks = Partition::by_key(n, dfa.outputs.len(), |state| {
        dfa.state_output[state as usize] as usize
    });
    let mut cords = Partition::by_key(edges.len(), dfa.classes, |edge| {
        usize::from(edges[edge as usize].1)
    });
    let mut incoming_first = vec![0u32; n + 1];
    for (_, _, target) in &edges {
        incoming_first[*target as usize + 1] += 1;
    }
    for state in 0..n {
        incoming_first[state + 1] += incoming_first[state];
    }
    let mut incoming = vec![0u32; edges.len()];
    let mut fill = incoming_first.clone();
    for (index, (_, _, target)) in edges.iter().enumerate() {
        let at = &mut fill[*target as usize];
        incoming[*at as usize] = index as u32;
        *at += 1;
    }
    let (mut block, mut cord) = (0, 0);
    while block < blocks.sets() || cord < cords.sets() {
        while block < blocks.sets() {
            for state in blocks.members(block) {
                let range = incoming_first[state as usize]..incoming_first[state as usize + 1];
                for at in range {
                    cords.mark(incoming[at as usize]);
                }
            }
            cords.split();
            block += 1;
        }
        if cord < cords.sets() {
            for edge in cords.members(cord) {
                blocks.mark(edges[edge as usize].0);
            }
            blocks.split();
            cord += 1;
        }
    }
    renumber(dfa, &useful, &blocks)
}

/// One state for each block, breadth first from the start.
fn renumber(dfa: &Dfa, useful: &[bool], blocks: &Partition) -> Dfa {
    let block_of = |state: u32| {
        if useful[state as usize] {
            blocks.set_of[state as usize]
        } else {
            u32::MAX
        }
    };
    let mut number: HashMap<u32, u32> = HashMap::from([(u32::MAX, 0)]);
    let mut some: Vec<u32> = vec![0];
    let mut reach = |state: u32, some: &mut Vec<u32>| {
        *number.entry(block_of(state)).or_insert_with(|| {
            some.push(state);
            some.len() as u32 - 1
        })
    };
    let start = reach(dfa.start, &mut some);
    let mut transitions = Vec::new();
    let mut done = 0;
    while done < some.len() {
        if done == 0 {
            transitions.resize(dfa.classes, 0);
        } else {
            let from = some[done] as usize * dfa.classes;
            for class in 0..dfa.classes {
                let target = reach(dfa.transitions[from + class], &mut some);
                transitions.push(target);
            }
        }
        done += 1;
    }
    Dfa {
        class_of: dfa.class_of,
        classes: dfa.classes,
        transitions,
        state_output: some
            .iter()
            .enumerate()
            .map(|(number, state)| {
                if number == 0 {
                    0
                } else {
                    dfa.state_output[*state as usize]
                }
            })
            .collect(),
        outputs: dfa.outputs.clone(),
        start,
    }
}
