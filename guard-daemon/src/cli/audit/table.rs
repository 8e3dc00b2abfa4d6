//! Events as a table that fits the terminal.

use std::io::{self, Write};

use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets,
};
use jiff::tz::TimeZone;

use super::describe::{COLUMNS, Row, Tone, row};
use super::filter::Filter;
use super::fold::Fold;
use super::screen::{Screen, printable};
use crate::audit::event::AuditEvent;

/// Rows that are laid out together.
const BATCH: usize = 512;

/// The column of the server.
const SERVER: usize = 1;
/// Terminals narrower than this have the server in the column of the call.
const WIDE: u16 = 100;
/// Columns of the time, the server and the verdict, blanks included.
const FIXED: [(usize, u16); 3] = [(0, 10), (1, 14), (4, 10)];
/// Of the room that the texts share, in hundredths: call, what, why.
const SHARES: [(usize, u16); 3] = [(2, 27), (3, 45), (5, 28)];
/// No column is narrower.
const NARROWEST: u16 = 8;

/// Rows on their way to the screen.
pub(super) struct Rows {
    screen: Screen,
    zone: TimeZone,
    fold: Option<Fold>,
    rows: Vec<Row>,
    head_written: bool,
    /// The day whose heading was written last.
    day: String,
}

impl Rows {
    pub(super) fn new(screen: Screen, zone: TimeZone, fold: bool) -> Self {
        Self {
            screen,
            zone,
            fold: fold.then(Fold::default),
            rows: Vec::new(),
            head_written: false,
            day: String::new(),
        }
    }

    /// Takes the next event of the trail.
    pub(super) fn event(
        &mut self,
        event: &AuditEvent,
        filter: &Filter,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if let Some(folded) = self.fold.as_mut().and_then(|f| f.pass(event)) {
            self.rows.push(folded);
        }
        if !filter.passes(event)
            || self
                .fold
                .as_mut()
                .is_some_and(|f| f.takes(event, &self.zone))
        {
            return Ok(());
        }
        self.rows.push(row(event, &self.zone));
        if self.rows.len() >= BATCH {
            self.flush(out)?;
        }
        Ok(())
    }

    /// Writes the rows so far.
    pub(super) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        for rows in rows.chunk_by(|a, b| a.day == b.day) {
            if self.day != rows[0].day {
                self.day.clone_from(&rows[0].day);
                writeln!(out, "{}", self.day)?;
            }
            for line in self.table(rows).lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
            self.head_written = true;
        }
        Ok(())
    }

    /// Writes everything.
    pub(super) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Some(fold) = &mut self.fold {
            self.rows.extend(fold.rest());
        }
        if self.rows.is_empty() && !self.head_written {
            return writeln!(out, "no events");
        }
        self.flush(out)
    }

    fn table(&self, rows: &[Row]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.screen.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let narrow = self.screen.width.is_some_and(|w| w < WIDE);
        let shown = |index: usize| !narrow || index != SERVER;
        if !self.head_written {
            let head = COLUMNS.iter().enumerate().filter(|(i, _)| shown(*i));
            table.set_header(head.map(|(_, c)| Cell::new(c).add_attribute(Attribute::Bold)));
        }
        for row in rows {
            let cells = row.cells.iter().enumerate().filter(|(i, _)| shown(*i));
            table.add_row(cells.map(|(index, text)| {
                let server = &row.cells[SERVER];
                if narrow && index == SERVER + 1 && !server.is_empty() {
                    styled(format!("{server}: {text}").trim_end_matches(": "), row.tone)
                } else {
                    styled(text, row.tone)
                }
            }));
        }
        if let Some(width) = self.screen.width {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
            for (index, columns) in widths(width, narrow).into_iter().enumerate() {
                if let Some(column) = table.column_mut(index) {
                    column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(columns)));
                }
            }
        }
        table
    }
}

/// The width of each column, blanks included: the same for every batch.
fn widths(terminal: u16, narrow: bool) -> Vec<u16> {
    let shown = |(index, _): &&(usize, u16)| !narrow || *index != SERVER;
    let fixed: u16 = FIXED.iter().filter(shown).map(|(_, columns)| columns).sum();
    let shared = terminal.saturating_sub(fixed);
    let share = |(index, hundredths): &(usize, u16)| {
        let columns = u32::from(shared) * u32::from(*hundredths) / 100;
        let columns = u16::try_from(columns).unwrap_or(u16::MAX);
        (*index, columns.max(NARROWEST))
    };
    let mut widths: Vec<(usize, u16)> = FIXED.iter().filter(shown).copied().collect();
    widths.extend(SHARES.iter().map(share));
    widths.sort_unstable();
    widths.into_iter().map(|(_, columns)| columns).collect()
}

fn styled(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(printable(text));
    match tone {
        Tone::Plain => cell,
        Tone::Denied => cell.fg(Color::Red),
        Tone::Warning => cell.fg(Color::Yellow),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
    }
}
