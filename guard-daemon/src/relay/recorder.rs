//! Tells the outside what the session decides: the record to the supervisor,
//! then the slot to the kernel, and only then the bytes.

use std::sync::Mutex;

use serde::Serialize;

use super::clock;
use super::digests::Digests;
use super::gate::Gate;
use super::outbox::Outbox;
use crate::mcp::digest::Digest;
use crate::mcp::ledger::Ledger;
use crate::mcp::scan::Side;
use crate::mcp::session::{End, Note, Record, Start};
use crate::sys::slot::SlotPage;
use crate::wire::{Outcome, ProtocolNote, RelayRecord};

/// [`RelayRecord`] as it is written on the hot path, without copies. The
/// tests require that both read alike.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Borrowed<'a> {
    CallStart(CallStart<'a>),
    CallEnd(CallEnd),
}

#[derive(Serialize)]
struct CallStart<'a> {
    call: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<u64>,
    id: &'a str,
    method: &'a str,
    tool: Option<&'a str>,
    arguments: Option<&'a str>,
    arguments_cut: bool,
    args_hash: Option<Digest>,
    time: u64,
}

#[derive(Serialize)]
struct CallEnd {
    call: u64,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    args_hash: Option<Digest>,
    result_bytes: u64,
    result_hash: Option<Digest>,
    duration: u64,
    time: u64,
}

/// Bytes of arguments up to which their digest comes with the record of the
/// call's start, which the request waits for. That of longer ones comes with
/// the record of the end.
const DIGEST_LATER: usize = 128 << 10;

/// The gates of client and server.
pub(super) type Gates = Mutex<[Gate; 2]>;

/// Writes records and the slot.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    /// The wire.
    pub outbox: &'a Outbox,
    /// How many notes were told.
    pub gates: &'a Gates,
    /// The slot, unless there is no kernel side.
    pub slot: Option<&'a SlotPage>,
    /// Rule sets while calls are in flight.
    pub call_sets: u64,
    /// Nanoseconds of a lease.
    pub lease: u64,
    /// Bytes of arguments in a record.
    pub args_max: usize,
    /// Makes the digests that take long.
    pub digests: &'a Digests,
    /// Calls that ended, to be told by [`Digests::tell`] when the line was handed on.
    pub ends: &'a mut Vec<End>,
}

/// Tells of one call that ended at `time`. `args_hash`: of arguments whose
/// digest was not made when the call began.
pub(super) fn tell_one(
    outbox: &Outbox,
    end: &End,
    args_hash: Option<Digest>,
    result_hash: Option<Digest>,
    time: u64,
) {
    let mut record = Borrowed::CallEnd(CallEnd {
        call: end.call,
        outcome: end.outcome,
        args_hash,
        result_bytes: end.result_bytes,
        result_hash,
        duration: end.duration,
        time,
    });
    outbox.send(&mut record, |_| false);
}

impl Record for Recorder<'_> {
    fn start(&mut self, start: &Start<'_>) {
        let request = start.request;
        let whole = request
            .arguments
            .and_then(|text| std::str::from_utf8(text).ok());
        let arguments = whole.map(|text| cut(text, self.args_max));
        let arguments_cut = arguments.map(str::len) != whole.map(str::len);
        let later = whole.is_some_and(|text| text.len() > DIGEST_LATER);
        let mut cut_at_all = arguments_cut;
        let mut record = Borrowed::CallStart(CallStart {
            call: start.call,
            continues: start.continues,
            id: request.id.raw,
            method: &request.method,
            tool: request.tool.as_deref(),
            arguments,
            arguments_cut,
            args_hash: whole.filter(|_| arguments_cut && !later).map(digest),
            time: clock::wall(),
        });
        self.outbox.send(&mut record, |record| match record {
            Borrowed::CallStart(start) => {
                let text = start.arguments.filter(|text| !text.is_empty());
                start.arguments = text.map(|text| cut(text, text.len() / 2));
                start.arguments_cut = true;
                cut_at_all = true;
                start.args_hash = whole.filter(|_| !later).map(digest);
                text.is_some()
            }
            Borrowed::CallEnd(_) => false,
        });
        if let Some(text) = whole.filter(|_| cut_at_all && later) {
            self.digests.arguments(start.call, text.as_bytes());
        }
    }

    fn calls(&mut self, calls: &Ledger) {
        if let Some(slot) = self.slot {
            let lease = clock::boot().saturating_add(self.lease);
            slot.publish(calls.calls(), self.call_sets, lease);
        }
    }

    fn end(&mut self, end: &End) {
        self.ends.push(*end);
    }

    fn note(&mut self, note: Note) {
        let mut gates = super::lock(self.gates);
        let gate = match note.from {
            Side::Client => &mut gates[0],
            Side::Server => &mut gates[1],
        };
        if let Some(untold) = gate.due(clock::boot()) {
            more(self.outbox, note.from, untold);
        }
        if gate.admit() {
            protocol(self.outbox, note);
        }
    }
}

/// The notes that were not told one by one; all of them at the session's end.
pub(super) fn untold(outbox: &Outbox, gates: &Gates, end: bool) {
    let mut gates = super::lock(gates);
    for (gate, side) in gates.iter_mut().zip([Side::Client, Side::Server]) {
        let count = match end {
            true => gate.rest(),
            false => gate.due(clock::boot()),
        };
        if let Some(count) = count {
            more(outbox, side, count);
        }
    }
}

fn more(outbox: &Outbox, from: Side, count: u64) {
    let detail = format!("{count} more notes, too many to tell each");
    let note = Note {
        from,
        reason: "more",
        detail,
        refused: false,
    };
    protocol(outbox, note);
}

fn protocol(outbox: &Outbox, note: Note) {
    let from = match note.from {
        Side::Client => "client",
        Side::Server => "server",
    };
    let mut record = RelayRecord::Protocol(ProtocolNote {
        from: from.to_owned(),
        reason: note.reason.to_owned(),
        detail: note.detail,
        refused: note.refused,
        time: clock::wall(),
    });
    outbox.send(&mut record, |_| false);
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// At most `most` bytes, whole characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
