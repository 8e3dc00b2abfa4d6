//! Tells the outside what the session decides: the record to the supervisor,
//! then the slot to the kernel, and only then the bytes.

use std::sync::Mutex;

use serde::Serialize;

use super::clock;
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
    result_bytes: u64,
    result_hash: Option<Digest>,
    duration: u64,
    time: u64,
}

/// Writes records and the slot.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    /// The wire. Locked after the session, never before.
    pub outbox: &'a Mutex<Outbox>,
    /// The slot, unless there is no kernel side.
    pub slot: Option<&'a SlotPage>,
    /// Rule sets while calls are in flight.
    pub call_sets: u64,
    /// Nanoseconds of a lease.
    pub lease: u64,
    /// Bytes of arguments in a record.
    pub args_max: usize,
}

impl Recorder<'_> {
    fn send(&self, record: &mut Borrowed<'_>) {
        super::lock(self.outbox).send(record, |record| match record {
            Borrowed::CallStart(start) => {
                let text = start.arguments.filter(|text| !text.is_empty());
                start.arguments = text.map(|text| cut(text, text.len() / 2));
                start.arguments_cut = true;
                text.is_some()
            }
            Borrowed::CallEnd(_) => false,
        });
    }
}

impl Record for Recorder<'_> {
    fn start(&mut self, start: &Start<'_>) {
        let request = start.request;
        let whole = request
            .arguments
            .and_then(|text| std::str::from_utf8(text).ok());
        let arguments = whole.map(|text| cut(text, self.args_max));
        self.send(&mut Borrowed::CallStart(CallStart {
            call: start.call,
            continues: start.continues,
            id: request.id.raw,
            method: &request.method,
            tool: request.tool.as_deref(),
            arguments,
            arguments_cut: arguments.map(str::len) != whole.map(str::len),
            args_hash: start.args_hash,
            time: clock::wall(),
        }));
    }

    fn calls(&mut self, calls: &Ledger) {
        if let Some(slot) = self.slot {
            let lease = clock::boot().saturating_add(self.lease);
            slot.publish(calls.calls(), self.call_sets, lease);
        }
    }

    fn end(&mut self, end: &End) {
        self.send(&mut Borrowed::CallEnd(CallEnd {
            call: end.call,
            outcome: end.outcome,
            result_bytes: end.result_bytes,
            result_hash: end.result_hash,
            duration: end.duration,
            time: clock::wall(),
        }));
    }

    fn note(&mut self, note: Note) {
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
        super::lock(self.outbox).send(&mut record, |_| false);
    }
}

/// At most `most` bytes, whole characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
