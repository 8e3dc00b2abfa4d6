//! `guard audit summary`: a trail in numbers.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::filter::Filter;
use super::screen::printable;
use super::{malformed, of_file};
use crate::audit::event::{AuditEvent, Body, Call, Loss, Verdict};
use crate::audit::read::{self, Item};

/// Lines in each list; the rest is one line.
const TOP: usize = 20;

#[derive(Debug, Default)]
struct Server {
    sandboxes: u64,
    calls: BTreeMap<String, u64>,
    allowed: u64,
    denied: u64,
    /// By what was denied and why.
    denials: BTreeMap<(String, String), u64>,
}

#[derive(Debug, Default)]
struct Summary {
    servers: BTreeMap<String, Server>,
    /// Events that are known to be missing.
    lost: u64,
    torn: u64,
    alerts: u64,
}

impl Summary {
    fn add(&mut self, event: &AuditEvent) {
        match &event.body {
            Body::Loss(
                Loss::Kernel { count, .. } | Loss::Relay { count, .. } | Loss::Unwritten { count },
            ) => self.lost = self.lost.saturating_add(*count),
            Body::Loss(Loss::Torn { .. }) => self.torn += 1,
            Body::Alert(_) => self.alerts += 1,
            _ => {}
        }
        let Some(sandbox) = &event.sandbox else {
            return;
        };
        let server = self.servers.entry(sandbox.server.clone()).or_default();
        match &event.body {
            Body::Sandbox(crate::audit::event::Sandbox::Start { .. }) => server.sandboxes += 1,
            Body::Call(Call::Start { tool, method, .. }) => {
                let name = tool.as_ref().unwrap_or(method);
                *server.calls.entry(name.clone()).or_default() += 1;
            }
            Body::File(_) | Body::Exec(_) | Body::Network(_) | Body::Escape(_) => {
                match event.verdict {
                    Some(Verdict::Deny) => {
                        let row = super::describe::row(event, &jiff::tz::TimeZone::UTC);
                        let [_, _, _, what, _, why] = row.cells;
                        server.denied += 1;
                        *server.denials.entry((what, why)).or_default() += 1;
                    }
                    _ => server.allowed += 1,
                }
            }
            _ => {}
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, server) in &self.servers {
            writeln!(
                out,
                "{}: {} starts, {} accesses allowed, {} denied",
                printable(name),
                server.sandboxes,
                server.allowed,
                server.denied
            )?;
            list(out, "calls", &server.calls, Clone::clone)?;
            list(out, "denied", &server.denials, |(what, why)| {
                format!("{what}  ({why})")
            })?;
        }
        writeln!(
            out,
            "missing: {} events that are counted as lost, {} torn lines; alerts: {}",
            self.lost, self.torn, self.alerts
        )
    }
}

/// The most frequent first.
fn list<K: Ord>(
    out: &mut impl Write,
    head: &str,
    counts: &BTreeMap<K, u64>,
    text: impl Fn(&K) -> String,
) -> io::Result<()> {
    let mut order: Vec<(&K, &u64)> = counts.iter().collect();
    order.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    for (key, count) in order.iter().take(TOP) {
        writeln!(out, "  {count:>7} {head:<7} {}", printable(&text(key)))?;
    }
    if let Some(rest) = order.get(TOP..).filter(|r| !r.is_empty()) {
        let count: u64 = rest.iter().map(|(_, n)| **n).sum();
        writeln!(out, "  {count:>7} {head:<7} in {} others", rest.len())?;
    }
    Ok(())
}

/// Counts what passes the filter.
pub(super) fn print(
    file: &Path,
    filter: &Filter,
    out: &mut impl Write,
    problems: &mut impl Write,
) -> io::Result<bool> {
    let named = of_file(file);
    let mut reader = read::open(file).map_err(&named)?;
    let mut summary = Summary::default();
    let mut intact = true;
    let mut take = |item, summary: &mut Summary| match item {
        Item::Event(entry) => {
            if filter.passes(&entry.event) {
                summary.add(&entry.event);
            }
            Ok(())
        }
        Item::Malformed { line, why } => {
            intact = false;
            malformed(file, line, &why, problems)
        }
    };
    while let Some(item) = reader.next_item().map_err(&named)? {
        take(item, &mut summary)?;
    }
    for item in reader.rest() {
        take(item, &mut summary)?;
    }
    summary.write(out)?;
    Ok(intact)
}
