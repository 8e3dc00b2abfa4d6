//! The supervisor's way to the trail: which file, and what happens when it
//! cannot be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::held::Waiting;
use super::observe;
use super::session::Session;
use super::state::Mark;
use crate::audit::AuditEvent;
use crate::audit::enrich::alert;
use crate::audit::sink::{AppendError, FileSink, OpenError};
use crate::audit::words::Reason;

/// The open trails.
#[derive(Debug, Default)]
pub struct Evidence {
    boot: String,
    sinks: BTreeMap<PathBuf, FileSink>,
    waiting: Vec<(PathBuf, AuditEvent)>,
}

impl Evidence {
    /// No trail yet.
    #[must_use]
    pub fn new(boot: String) -> Self {
        Self {
            boot,
            ..Self::default()
        }
    }

    /// Id of the boot.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Opens a trail. Idempotent.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&mut self, path: &Path) -> Result<(), OpenError> {
        if !self.sinks.contains_key(path) {
            let sink = FileSink::open(path, &self.boot)?;
            self.sinks.insert(path.to_owned(), sink);
        }
        Ok(())
    }

    /// Whether nothing is missing in a trail that it does not tell of.
    #[must_use]
    pub fn is_whole(&self, trail: &Path) -> bool {
        self.sinks.get(trail).is_some_and(|s| s.unwritten() == 0)
    }

    /// Where a trail ends; `None` when that is not known.
    #[must_use]
    pub fn end(&self, trail: &Path) -> Option<Mark> {
        let (inode, offset) = self.sinks.get(trail)?.end()?;
        Some(Mark {
            inode,
            offset,
            through: 0,
        })
    }

    /// Keeps an event until [`Self::flush`].
    pub fn push(&mut self, trail: &Path, event: AuditEvent) {
        self.waiting.push((trail.to_owned(), event));
    }

    /// Keeps the event of what the kernel saw in a session.
    pub fn push_observed(&mut self, session: &Session, seen: &Waiting) {
        let event = observe::judged(session, &seen.event, seen.exe.as_deref(), &self.boot);
        self.push(&session.state.audit_file, event);
    }

    /// Keeps an alert about a session.
    pub fn alert(&mut self, session: &Session, reason: Reason, detail: String) {
        tracing::warn!("sandbox {}: {detail}", session.state.id);
        let now = jiff::Timestamp::now();
        let event = alert(now, &self.boot, Some(session.name.clone()), reason, detail);
        self.push(&session.state.audit_file, event);
    }

    /// Writes what waits, one write a trail. Gives the trails that lost events.
    pub fn flush(&mut self) -> Vec<PathBuf> {
        let mut by_trail: BTreeMap<PathBuf, Vec<AuditEvent>> = BTreeMap::new();
        for (path, event) in self.waiting.drain(..) {
            by_trail.entry(path).or_default().push(event);
        }
        let mut failed = Vec::new();
        for (path, events) in by_trail {
            let result = match self.sinks.get_mut(&path) {
                Some(sink) => sink.append(&events),
                None => continue, // opened before anything is pushed for it
            };
            if let Err(error) = result {
                tracing::error!("audit trail {}: {error}", path.display());
                if !matches!(error, AppendError::Sync(_)) {
                    failed.push(path);
                }
            }
        }
        failed
    }

    /// Writes one event now.
    ///
    /// # Errors
    /// When it was not written.
    pub fn write_now(&mut self, trail: &Path, event: AuditEvent) -> Result<(), AppendError> {
        match self.sinks.get_mut(trail) {
            Some(sink) => sink.append(&[event]),
            None => Err(AppendError::Open(std::io::Error::from(
                std::io::ErrorKind::NotFound,
            ))),
        }
    }

    /// Syncs what has waited long enough. Call once a second.
    pub fn sync(&mut self) {
        for (path, sink) in &mut self.sinks {
            if let Err(error) = sink.sync_if_due() {
                tracing::error!("audit trail {}: {error}", path.display());
            }
        }
    }

    /// Closes the trails that no sandbox uses any more.
    pub fn keep(&mut self, used: &dyn Fn(&Path) -> bool) {
        self.sinks.retain(|path, sink| {
            let keep = used(path);
            if !keep && let Err(error) = sink.sync() {
                tracing::error!("audit trail {}: {error}", path.display());
            }
            keep
        });
    }
}
