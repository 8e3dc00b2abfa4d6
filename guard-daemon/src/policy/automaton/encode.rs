//! A DFA and address rules as the bytes of a table (`guard_common::table`).

use std::collections::HashMap;

use guard_common::limits::{ABI_VERSION, MAX_TABLE};
use guard_common::table::{
    AccessMasks, CLASS_MAP_OFFSET, MAX_ROW_UNITS, ROW_UNIT, TABLE_MAGIC, TRANSITIONS_OFFSET,
};

use super::{Addresses, Dfa, TooLarge};

/// Classes whose columns are the same become one. Returns old class → new
/// class, and one old class for each new one: at most 255, since byte 0 gets
/// a class of its own behind them.
fn merge_columns(dfa: &Dfa) -> (Vec<u8>, Vec<usize>) {
    let mut seen: HashMap<Vec<u32>, u8> = HashMap::new();
    let mut kept = Vec::new();
    let merged = (0..dfa.classes)
        .map(|class| {
            if !dfa.class_of[1..].contains(&(class as u8)) {
                return 0; // Byte 0 alone is in it.
            }
            let column = dfa.transitions[class..]
                .iter()
                .step_by(dfa.classes)
                .copied()
                .collect();
            *seen.entry(column).or_insert_with(|| {
                kept.push(class);
                (kept.len() - 1) as u8
            })
        })
        .collect();
    (merged, kept)
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, n: u16) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }
    fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_ne_bytes());
    }
    fn masks(&mut self, masks: &AccessMasks) {
        self.u64(masks.allow);
        self.u64(masks.deny);
        self.u64(masks.approve);
    }
}

pub(crate) fn encode(
    dfa: &Dfa,
    addresses: &Addresses,
    rule_sets: u32,
) -> Result<Vec<u8>, TooLarge> {
    let Addresses { network, listen } = addresses;
    let states = dfa.states();
    let (merged, kept) = merge_columns(dfa);
    // Byte 0 changes no state: the kernel feeds whole words, padded with it.
    let padding = kept.len();
    // The output's index comes first in a row.
    let column = |class: usize| 2 * (1 + class);
    let stride = column(padding + 1).div_ceil(ROW_UNIT as usize);
    if states * stride > MAX_ROW_UNITS as usize {
        return Err(TooLarge::Rows { states, stride });
    }
    // Outputs that no state has any more are left out; 0 stays 0.
    let mut output_ids: HashMap<u32, u16> = HashMap::from([(0, 0)]);
    let mut outputs = vec![0u32];
    let output_of_state: Vec<u16> = dfa
        .state_output
        .iter()
        .map(|output| {
            *output_ids.entry(*output).or_insert_with(|| {
                outputs.push(*output);
                (outputs.len() - 1) as u16
            })
        })
        .collect();
    let outputs_at = TRANSITIONS_OFFSET as usize + states * stride * ROW_UNIT as usize;
    let net_at = outputs_at + outputs.len() * size_of::<guard_common::table::Output>();
    let listen_at = net_at + size_of_val(&network[..]);
    let boundaries_at = listen_at + size_of_val(&listen[..]);
    let boundaries = boundaries(dfa);
    // A multiple of 8.
    let size = (boundaries_at + 2 * boundaries.len()).next_multiple_of(8);
    if size > MAX_TABLE as usize {
        return Err(TooLarge::Bytes(size));
    }
    let row = |state: usize| (state * stride) as u16;
    let column_of = |byte: usize| match byte {
        0 => column(padding),
        _ => column(merged[dfa.class_of[byte] as usize] as usize),
    };
    let mut out = Bytes(Vec::with_capacity(size));
    for word in [
        TABLE_MAGIC,
        ABI_VERSION,
        size as u32,
        states as u32,
        stride as u32,
        row(dfa.start as usize).into(),
        column_of(b'/'.into()) as u32,
        outputs_at as u32,
        outputs.len() as u32,
        net_at as u32,
        network.len() as u32,
        rule_sets,
        boundaries_at as u32,
        boundaries.len() as u32,
        listen_at as u32,
        listen.len() as u32,
    ] {
        out.u32(word);
    }
    out.0.resize(CLASS_MAP_OFFSET as usize, 0);
    for byte in 0..256 {
        out.u16(column_of(byte) as u16);
    }
    for (state, output) in output_of_state.iter().enumerate() {
        out.u16(*output);
        for class in &kept {
            out.u16(row(dfa.transitions[state * dfa.classes + class] as usize));
        }
        out.u16(row(state));
        let end = TRANSITIONS_OFFSET as usize + (state + 1) * stride * ROW_UNIT as usize;
        out.0.resize(end, 0);
    }
    for output in outputs {
        for masks in &dfa.outputs[output as usize].by_access {
            out.masks(masks);
        }
    }
    for rule in network.iter().chain(listen) {
        for word in [rule.addr_hi, rule.addr_lo, rule.mask_hi, rule.mask_lo] {
            out.u64(word);
        }
        out.masks(&rule.masks);
        out.u16(rule.port_first);
        out.u16(rule.port_last);
        out.u32(0);
    }
    for state in boundaries {
        out.u16(row(state as usize));
    }
    out.0.resize(size, 0);
    Ok(out.0)
}

/// The states that whole components, at least one, lead to.
fn boundaries(dfa: &Dfa) -> Vec<u32> {
    let slash = dfa.class_of[usize::from(b'/')] as usize;
    // Byte 0 is in no name.
    let in_names: Vec<bool> = (0..dfa.classes)
        .map(|class| {
            (1..256).any(|byte| byte != usize::from(b'/') && dfa.class_of[byte] as usize == class)
        })
        .collect();
    let next = |state: u32, class: usize| dfa.transitions[state as usize * dfa.classes + class];
    let mut is_boundary = vec![false; dfa.states()];
    let mut in_component = vec![false; dfa.states()];
    // States between components, and such inside one.
    let mut between = vec![dfa.start];
    let mut inside = Vec::new();
    let mut enter = |state: u32, inside: &mut Vec<u32>| {
        for class in (0..dfa.classes).filter(|class| in_names[*class]) {
            let to = next(state, class);
            if !std::mem::replace(&mut in_component[to as usize], true) {
                inside.push(to);
            }
        }
    };
    loop {
        if let Some(state) = inside.pop() {
            enter(state, &mut inside);
            let to = next(state, slash);
            if !std::mem::replace(&mut is_boundary[to as usize], true) {
                between.push(to);
            }
        } else if let Some(state) = between.pop() {
            enter(state, &mut inside);
        } else {
            break;
        }
    }
    (0..dfa.states() as u32)
        .filter(|state| is_boundary[*state as usize])
        .collect()
}
