//! A DFA and address rules as the bytes of a table (`guard_common::table`).

use std::collections::HashMap;

use guard_common::limits::{ABI_VERSION, REGION_SIZE};
use guard_common::table::{AccessMasks, NetRule, TABLE_MAGIC, TRANSITIONS_OFFSET};

use super::{Dfa, TooLarge};

/// States that 16 bits can number, as the table's header bounds them.
pub(crate) const MAX_STATES: usize = 65_535;

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
    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}

pub(crate) fn encode(dfa: &Dfa, network: &[NetRule], rule_sets: u32) -> Result<Vec<u8>, TooLarge> {
    let states = dfa.states();
    if states > MAX_STATES {
        return Err(TooLarge::States(states));
    }
    let (merged, kept) = merge_columns(dfa);
    // Byte 0 changes no state: the kernel feeds whole words, padded with it.
    let padding = kept.len();
    let classes = padding + 1;
    // Outputs that no state has any more are left out; 0 stays 0.
    let mut output_ids: HashMap<u32, u16> = HashMap::from([(0, 0)]);
    let mut outputs = vec![0u32];
    let state_output_ids: Vec<u16> = dfa
        .state_output
        .iter()
        .map(|output| {
            *output_ids.entry(*output).or_insert_with(|| {
                outputs.push(*output);
                (outputs.len() - 1) as u16
            })
        })
        .collect();
    let transitions_end = TRANSITIONS_OFFSET as usize + 2 * states * classes;
    let outputs_at = (transitions_end + 2 * states).next_multiple_of(8);
    let net_at = outputs_at + outputs.len() * size_of::<guard_common::table::Output>();
    let size = net_at + size_of_val(network);
    if size > REGION_SIZE as usize {
        return Err(TooLarge::Bytes(size));
    }
    let mut out = Bytes(Vec::with_capacity(size));
    for word in [
        TABLE_MAGIC,
        ABI_VERSION,
        size as u32,
        states as u32,
        classes as u32,
        dfa.start,
        transitions_end as u32,
        outputs_at as u32,
        outputs.len() as u32,
        net_at as u32,
        network.len() as u32,
        rule_sets,
    ] {
        out.u32(word);
    }
    out.0.push(padding as u8);
    for class in &dfa.class_of[1..] {
        out.0.push(merged[*class as usize]);
    }
    for state in 0..states {
        for class in &kept {
            out.u16(dfa.transitions[state * dfa.classes + class] as u16);
        }
        out.u16(state as u16);
    }
    for id in state_output_ids {
        out.u16(id);
    }
    out.align();
    for output in outputs {
        for masks in &dfa.outputs[output as usize].by_access {
            out.masks(masks);
        }
    }
    for rule in network {
        for word in [rule.addr_hi, rule.addr_lo, rule.mask_hi, rule.mask_lo] {
            out.u64(word);
        }
        out.masks(&rule.masks);
        out.u16(rule.port_first);
        out.u16(rule.port_last);
        out.u32(0);
    }
    Ok(out.0)
}
