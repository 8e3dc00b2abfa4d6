//! The trail in a file.
//!
//! Every [`FileSink::append`] is one `write(2)` under the file's lock, so lines
//! are in the kernel's hands when it returns and survive the death of guard.
//! They survive the death of the machine once they were synced:
//! `fdatasync(2)` runs at most every [`SYNC_INTERVAL`], by
//! [`FileSink::append`] and [`FileSink::sync_if_due`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::chain::{SealError, Tip, seal};
use super::super::enrich::alert;
use super::super::event::{AuditEvent, Body, Loss};
use super::super::words::Reason;
use super::storage::{Disk, Storage};
use super::tail::{self, Rest, Tail, TailError};

/// Longest time that written lines wait for `fdatasync`, as long as the caller
/// calls [`FileSink::sync_if_due`] that often.
pub const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Why a trail cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("audit trail {path}: {source}")]
pub struct OpenError {
    /// The file.
    pub path: PathBuf,
    /// What failed.
    pub source: AppendError,
}

/// Why events could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The file cannot be opened or made.
    #[error("cannot open or make it: {0}")]
    Open(io::Error),
    /// Another writer has it.
    #[error("cannot lock it: {0}")]
    Lock(io::Error),
    /// Its end cannot be continued.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// Lines were not written. They are counted, and the next line that can be
    /// written says so.
    #[error("{lost} events were not written: {source}")]
    Write {
        /// How many of this batch.
        lost: u64,
        /// Why.
        source: io::Error,
    },
    /// An event cannot be a line. It is counted as lost, the others are written.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Lines were written but may not survive a power failure.
    #[error("cannot sync it: {0}")]
    Sync(io::Error),
}

/// An open trail. Several processes can have the same file open: each append
/// locks it, and continues what the others wrote.
#[derive(Debug)]
pub struct FileSink {
    trail: Trail<Disk>,
    path: PathBuf,
    inode: u64,
}

impl FileSink {
    /// Opens a trail, or makes it (0640; its directories 0700), and continues
    /// its chain. What a crash left of a line is kept, and the next line says so.
    ///
    /// # Errors
    /// When it cannot be opened, locked within 2 s, or its end was changed.
    pub fn open(path: &Path, boot: &str) -> Result<Self, OpenError> {
        let error = |source| OpenError {
            path: path.to_owned(),
            source,
        };
        let disk = Disk::open(path).map_err(|e| error(AppendError::Open(e)))?;
        let inode = disk.inode().map_err(|e| error(AppendError::Open(e)))?;
        let mut trail = Trail::new(disk, boot);
        trail.append(&[]).map_err(error)?;
        Ok(Self {
            trail,
            path: path.to_owned(),
            inode,
        })
    }

    /// Writes events, in this order, as one batch.
    ///
    /// Whether the server may go on without its evidence is the policy's
    /// `disk_full`: the caller denies, or goes on. Lost events are counted
    /// here in both cases.
    ///
    /// # Errors
    /// When not all of them were written, or not synced.
    pub fn append(&mut self, events: &[AuditEvent]) -> Result<(), AppendError> {
        self.trail.append(events)
    }

    /// Syncs when lines have waited for [`SYNC_INTERVAL`]. Call it that often.
    ///
    /// # Errors
    /// When `fdatasync` fails.
    pub fn sync_if_due(&mut self) -> Result<(), AppendError> {
        self.trail.sync_if_due()
    }

    /// Syncs now.
    ///
    /// # Errors
    /// When `fdatasync` fails.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.trail.sync()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Inode and length, as of the last append; `None` when it is not known.
    #[must_use]
    pub fn end(&self) -> Option<(u64, u64)> {
        Some((self.inode, self.trail.known.as_ref()?.len))
    }

    /// Events that were lost since the last line that says so.
    #[must_use]
    pub const fn unwritten(&self) -> u64 {
        self.trail.unwritten
    }
}

#[derive(Debug)]
struct Trail<S: Storage> {
    storage: S,
    boot: String,
    /// The end as we know it; `None` before the first look.
    known: Option<Known>,
    unwritten: u64,
    /// When the oldest unsynced line was written.
    unsynced_since: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Known {
    tip: Tip,
    len: u64,
}

impl<S: Storage> Trail<S> {
    fn new(storage: S, boot: &str) -> Self {
        Self {
            storage,
            boot: boot.to_owned(),
            known: None,
            unwritten: 0,
            unsynced_since: None,
        }
    }

    fn append(&mut self, events: &[AuditEvent]) -> Result<(), AppendError> {
        if let Err(e) = self.storage.lock() {
            self.unwritten += events.len() as u64;
            return Err(AppendError::Lock(e));
        }
        let result = self.append_locked(events);
        let unlocked = self.storage.unlock().map_err(AppendError::Lock);
        result.and(unlocked)?;
        self.sync_if_due()
    }

    fn append_locked(&mut self, events: &[AuditEvent]) -> Result<(), AppendError> {
        let mut batch = match self.begin() {
            Ok(batch) => batch,
            Err(e) => {
                self.unwritten += events.len() as u64;
                return Err(e);
            }
        };
        let own = batch.ends.len();
        let mut unsealed = None;
        for event in events {
            if let Err(e) = batch.push(event) {
                unsealed = Some(e);
            }
        }
        let (kept, failure) = self.write(&batch);
        if kept >= own {
            self.unwritten = 0; // the notice, if there was one, is written
        }
        let lost = (events.len() - kept.saturating_sub(own)) as u64;
        self.unwritten += lost;
        match (failure, unsealed) {
            (Some(source), _) => Err(AppendError::Write { lost, source }),
            (None, Some(e)) => Err(e.into()),
            (None, None) => Ok(()),
        }
    }

    /// A batch that starts with what guard itself has to say.
    fn begin(&mut self) -> Result<Batch, AppendError> {
        let mut batch = self.catch_up()?;
        if self.unwritten > 0 {
            let count = self.unwritten;
            let event = self.own(Body::Loss(Loss::Unwritten { count }));
            batch.push(&event.because(Reason::WriteFailed))?;
        }
        Ok(batch)
    }

    /// A batch that continues the file as it is now: other writers may have
    /// appended, a crash may have torn the last line, somebody may have cut it.
    fn catch_up(&mut self) -> Result<Batch, AppendError> {
        let len = self.storage.len().map_err(TailError::Read)?;
        match &self.known {
            Some(known) if known.len == len => Ok(Batch::after(known.tip.clone(), len)),
            Some(known) if len < known.len => {
                // Our own number and hash go on: the gap stays visible.
                let detail = format!("the trail had {} bytes, now it has {len}", known.len);
                let tip = known.tip.clone();
                let now = jiff::Timestamp::now();
                let mut batch = Batch::after(tip, len);
                let mut last = [b'\n'];
                if let Some(at) = len.checked_sub(1) {
                    self.storage
                        .read_at(&mut last, at)
                        .map_err(TailError::Read)?;
                }
                if last != *b"\n" {
                    batch.bytes.push(b'\n');
                }
                batch.push(&alert(now, &self.boot, None, Reason::TrailShrunk, detail))?;
                Ok(batch)
            }
            _ => {
                let Tail { tip, rest } = tail::find(&self.storage)?;
                let mut batch = Batch::after(tip, len);
                match rest {
                    Rest::Clean => {}
                    Rest::NoNewline => batch.bytes.push(b'\n'),
                    Rest::Torn { bytes, digest } => {
                        batch.bytes.push(b'\n');
                        let event = self.own(Body::Loss(Loss::Torn {
                            bytes,
                            fragment_hash: digest,
                        }));
                        batch.push(&event.because(Reason::TornLine))?;
                    }
                }
                Ok(batch)
            }
        }
    }

    fn own(&self, body: Body) -> AuditEvent {
        AuditEvent::new(jiff::Timestamp::now(), &self.boot, None, body)
    }

    /// Writes a batch; of a partial write the whole lines stay. Says how many
    /// lines that are, and why not all.
    fn write(&mut self, batch: &Batch) -> (usize, Option<io::Error>) {
        let mut written = 0;
        let mut failure = None;
        while written < batch.bytes.len() && failure.is_none() {
            match self.storage.append(&batch.bytes[written..]) {
                Ok(0) => failure = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => failure = Some(e),
            }
        }
        if written > 0 {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        let kept = batch.ends.iter().filter(|(end, _)| *end <= written).count();
        let (end, tip) = match kept.checked_sub(1) {
            Some(last) => batch.ends[last].clone(),
            None => (0, batch.first.clone()),
        };
        // An end of line alone (after a whole last line) is not in `ends`.
        let end = if failure.is_none() {
            batch.bytes.len()
        } else {
            end
        };
        let len = batch.start + end as u64;
        let settled = failure.is_none() || self.storage.cut(len).is_ok();
        // Unsettled: the next append looks at the end of the file anew.
        self.known = settled.then_some(Known { tip, len });
        (kept, failure)
    }

    fn sync_if_due(&mut self) -> Result<(), AppendError> {
        match self.unsynced_since {
            Some(since) if since.elapsed() >= SYNC_INTERVAL => self.sync(),
            _ => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), AppendError> {
        if self.unsynced_since.is_some() {
            self.storage.sync().map_err(AppendError::Sync)?;
            self.unsynced_since = None;
        }
        Ok(())
    }
}

/// Lines that are not written yet.
struct Batch {
    start: u64,
    first: Tip,
    bytes: Vec<u8>,
    /// Where each line ends in `bytes`, and the tip it makes.
    ends: Vec<(usize, Tip)>,
}

impl Batch {
    const fn after(tip: Tip, start: u64) -> Self {
        Self {
            start,
            first: tip,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn tip(&self) -> &Tip {
        self.ends.last().map_or(&self.first, |(_, tip)| tip)
    }

    fn push(&mut self, event: &AuditEvent) -> Result<(), SealError> {
        let (line, tip) = seal(event, self.tip())?;
        self.bytes.extend_from_slice(&line);
        self.bytes.push(b'\n');
        self.ends.push((self.bytes.len(), tip));
        Ok(())
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
