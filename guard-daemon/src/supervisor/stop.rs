//! The end of a sandbox: nothing of it is left behind, and its last events are
//! in the trail.

use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::prepare::Rights;
use super::state::{forget, system_dir};
use super::{Shared, Supervisor, names_file};
use crate::audit::AuditEvent;
use crate::audit::enrich::alert;
use crate::audit::event::{Body, Sandbox};
use crate::audit::words::Reason;
use crate::kernel::Ring;

/// How long killed processes may take to be gone. What hangs in the kernel
/// for longer stays confined and is taken down later.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the kill is repeated.
const REPEAT: Duration = Duration::from_secs(1);

/// Ends a sandbox. The second call for the same one does nothing.
pub(super) async fn stop(shared: &Shared, number: u64) {
    {
        let mut supervisor = shared.borrow_mut();
        let Supervisor {
            sessions, kernel, ..
        } = &mut *supervisor;
        let Some(session) = sessions.get_mut(&number).filter(|s| !s.ending) else {
            return;
        };
        session.ending = true;
        if let (Some(slot), Some(kernel)) = (session.state.slot, kernel.as_mut()) {
            kernel.clear_slot(slot);
        }
        supervisor.busy += 1;
    }
    let gone = end_processes(shared, number).await;
    let mut supervisor = shared.borrow_mut();
    supervisor.busy -= 1;
    if gone {
        supervisor.forget_session(number);
    } else {
        tracing::error!("processes of sandbox {number} cannot be killed; they stay confined");
        if let Some(session) = supervisor.sessions.get_mut(&number) {
            session.ending = false;
        }
        let shared = Rc::clone(shared);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(PATIENCE).await;
            Box::pin(stop(&shared, number)).await;
        });
    }
}

/// Kills the relay and everything in the sandbox. True when all are gone.
async fn end_processes(shared: &Shared, number: u64) -> bool {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut next_kill = begun;
    loop {
        let kill_now = Instant::now() >= next_kill;
        if kill_now {
            next_kill = Instant::now() + REPEAT;
        }
        if shared.borrow_mut().processes_gone(number, kill_now) {
            return true;
        }
        if begun.elapsed() >= PATIENCE {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(50));
    }
}

impl Supervisor {
    fn processes_gone(&mut self, number: u64, kill_now: bool) -> bool {
        let rights = self.rights;
        let Some(session) = self.sessions.get_mut(&number) else {
            return true;
        };
        let mut gone = true;
        if let Some(relay) = &mut session.relay {
            if kill_now {
                // It has ended by itself, or keeps a slot that it must lose.
                let _ = relay.kill();
            }
            match relay.try_wait() {
                Ok(Some(_)) => session.relay = None,
                Ok(None) => gone = false,
                Err(error) => {
                    tracing::error!("cannot wait for the relay: {error}");
                    session.relay = None;
                }
            }
        }
        if let Some(pidfd) = &session.relay_pidfd {
            use std::os::fd::AsFd as _;
            if crate::sys::relay::signal_pidfd(pidfd.as_fd(), libc::SIGKILL).is_ok() {
                gone = false;
            } else {
                session.relay_pidfd = None;
            }
        }
        if let Some(cgroup) = &session.cgroup {
            if kill_now && let Err(error) = cgroup.kill() {
                tracing::error!("{error}");
            }
            match cgroup.populated() {
                Ok(populated) => gone &= !populated,
                Err(error) => tracing::error!("{error}"), // removed: nothing can be in it
            }
        }
        if gone && rights == Rights::Own {
            return kill_orphans();
        }
        gone
    }

    /// The trail's last lines, and everything given back.
    fn forget_session(&mut self, number: u64) {
        self.close_names(number);
        self.hear(number);
        self.drain_kernel();
        self.report_last(number);
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        if let Some(kernel) = &mut self.kernel {
            if let Some(cgroup) = session.state.cgroup_id {
                kernel.unregister(cgroup);
            }
            if let Some(table) = session.table {
                kernel.retire(table);
            }
            if let Some(slot) = session.state.slot {
                kernel.release_slot(slot);
                kernel.forget_names(number);
            }
        }
        if let Some(cgroup) = &session.cgroup
            && let Err(error) = cgroup.remove()
        {
            tracing::error!("{error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&session.state.tmp)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!("{} stays: {error}", session.state.tmp.display());
        }
        if self.rights == Rights::Root {
            forget(system_dir(), &session.state.id);
            names_file::forget(&session.state.id);
        }
        let used: Vec<_> = self
            .sessions
            .values()
            .map(|s| s.state.audit_file.clone())
            .collect();
        self.evidence.keep(&|path| used.iter().any(|u| u == path));
    }

    /// Which limits of `[process]` the server met: that it was killed for one
    /// shows nowhere else.
    fn report_limits(&mut self, number: u64) {
        let Some(session) = self.sessions.get(&number).filter(|s| s.announced) else {
            return;
        };
        for detail in session.cgroup.iter().flat_map(super::limits::met) {
            let now = jiff::Timestamp::now();
            let name = Some(session.name.clone());
            let event = alert(now, self.evidence.boot(), name, Reason::Limit, detail);
            self.evidence.push(&session.state.audit_file, event);
        }
    }

    pub(super) fn report_last(&mut self, number: u64) {
        // No record comes any more.
        if let Some(session) = self.sessions.get_mut(&number) {
            for event in session.held.rest() {
                self.evidence.push_observed(session, &event);
            }
            let early = session.held.early();
            if early > 0 {
                let detail = format!("{early} kernel events were written without their calls");
                self.evidence.alert(session, Reason::UnknownCalls, detail);
            }
        }
        let slot = self.sessions.get(&number).and_then(|s| s.state.slot);
        if let Some((slot, kernel)) = slot.zip(self.kernel.as_ref()) {
            match kernel.counters(slot) {
                Ok(counters) => {
                    for (ring, next) in [Ring::Denials, Ring::Allows].into_iter().zip(counters.kseq)
                    {
                        let ring = super::audit_ring(ring);
                        self.losses.counter(number, ring, next, Instant::now());
                    }
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
        for gap in self.losses.finish(number) {
            self.report_gap(&gap);
        }
        self.report_limits(number);
        let Some(session) = self.sessions.get(&number).filter(|s| s.announced) else {
            self.flush();
            return;
        };
        let (status, signal) = session.exit;
        let body = Body::Sandbox(Sandbox::Stop { status, signal });
        let name = Some(session.name.clone());
        let now = jiff::Timestamp::now();
        let mut event = AuditEvent::new(now, self.evidence.boot(), name, body);
        event.reason = session.swept.then_some(Reason::Swept);
        let trail = session.state.audit_file.clone();
        self.evidence.push(&trail, event);
        self.flush();
    }
}

/// Kills what the session left behind where there is no cgroup to do it: this
/// process is its subreaper (`PR_SET_CHILD_SUBREAPER`), so every orphan is a
/// child of ours, and a child that was not reaped cannot be another process.
/// True when none is left.
fn kill_orphans() -> bool {
    let pid = std::process::id();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let Ok(children) = std::fs::read_to_string(&path) else {
        return true; // a kernel without CONFIG_PROC_CHILDREN
    };
    for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(_) => {}
            Err(Errno::EINTR) => {}
            Err(_) => return true, // ECHILD: no child is left
        }
    }
}
