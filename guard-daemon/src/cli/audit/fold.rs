//! A runtime opens hundreds of files before its server does anything. People
//! see these as one line.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::describe::{Row, Tone, row};
use crate::audit::event::{Attribution, AuditEvent, Body, Call, CallInfo, Sandbox, Verdict};

/// What of each sandbox was folded.
#[derive(Debug, Default)]
pub(super) struct Fold {
    sandboxes: BTreeMap<String, StartUp>,
}

#[derive(Debug, Default)]
struct StartUp {
    over: bool,
    folded: u64,
    /// The first folded event's row.
    row: Option<Row>,
}

impl Fold {
    /// An event that may end a start-up: the first call of a tool does, and so
    /// does the server's end. Returns the line that stands for what was folded.
    pub(super) fn pass(&mut self, event: &AuditEvent) -> Option<Row> {
        let ends = match &event.body {
            Body::Call(Call::Start { tool, .. }) => tool.is_some(),
            Body::Sandbox(Sandbox::Stop { .. }) => true,
            _ => false,
        };
        let id = &event.sandbox.as_ref().filter(|_| ends)?.id;
        let start_up = self.sandboxes.entry(id.clone()).or_default();
        start_up.over = true;
        start_up.line()
    }

    /// Takes an event of a start-up: an allowed access during no tool's call.
    pub(super) fn takes(&mut self, event: &AuditEvent, zone: &TimeZone) -> bool {
        let Some(sandbox) = &event.sandbox else {
            return false;
        };
        let toolless = match &event.call {
            Some(Attribution::None) => true,
            Some(Attribution::Sole(call) | Attribution::Exact(call)) => is_toolless(call),
            Some(Attribution::Ambiguous(several)) => {
                !several.is_empty() && several.iter().all(is_toolless)
            }
            None => false,
        };
        if !toolless || event.verdict != Some(Verdict::Allow) {
            return false;
        }
        let start_up = self.sandboxes.entry(sandbox.id.clone()).or_default();
        if start_up.over {
            return false;
        }
        start_up.folded += 1;
        start_up.row.get_or_insert_with(|| row(event, zone));
        true
    }

    /// The lines for start-ups that have not ended.
    pub(super) fn rest(&mut self) -> Vec<Row> {
        self.sandboxes
            .values_mut()
            .filter_map(StartUp::line)
            .collect()
    }
}

/// A call whose record says that it is no tool's (`initialize`, `tools/list`).
fn is_toolless(call: &CallInfo) -> bool {
    call.method.is_some() && call.tool.is_none()
}

impl StartUp {
    fn line(&mut self) -> Option<Row> {
        let mut row = self.row.take()?;
        row.cells[2] = "start-up".to_owned();
        row.cells[3] = match std::mem::take(&mut self.folded) {
            1 => "1 access (--all shows it)".to_owned(),
            n => format!("{n} accesses (--all shows them)"),
        };
        row.cells[5].clear();
        row.tone = Tone::Dim;
        Some(row)
    }
}
