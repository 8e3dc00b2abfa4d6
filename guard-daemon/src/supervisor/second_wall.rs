//! Answering the calls that a server's system call filter refuses, and writing
//! them into the trail.
//!
//! A filter that answers by itself would hide the attempt from the kernel
//! programs, which come later, and so from the trail. Every call waits in the
//! kernel until it is answered here, so what is looked up of its process is the
//! process's own.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::seccomp::describe;
use super::session::Session;
use super::{Shared, Supervisor, observe};
use crate::audit::AuditEvent;
use crate::audit::enrich::alert;
use crate::audit::event::{Body, Escape, EscapeOp, Mode, Process, Verdict, readable};
use crate::audit::words::Reason;
use crate::sys::fds::watch;
use crate::sys::seccomp::{Call, Waiting, receive, refuse, still_waits, waiting};

/// Events of one sandbox that may come at once.
const BURST: u32 = 64;
/// How often another one may follow.
const EVERY: Duration = Duration::from_millis(100);
/// Calls that are answered before the supervisor looks after others.
const AT_ONCE: usize = 64;
/// How long calls that got no event of their own are counted before they get
/// one together.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// Which calls get an event of their own: a server that tries without end must
/// not fill the trail.
#[derive(Debug)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether there is room for one more.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.since).as_millis() / EVERY.as_millis();
        let new = u32::try_from(passed).unwrap_or(u32::MAX);
        self.since += EVERY * new.min(BURST);
        if self.left.saturating_add(new) >= BURST {
            self.left = BURST;
            self.since = now;
        } else {
            self.left += new;
        }
        let room = self.left > 0;
        self.left = self.left.saturating_sub(1);
        room
    }
}

/// Answers for a sandbox until none of its processes is left.
pub(super) fn attend(shared: &Shared, number: u64, listener: OwnedFd) {
    let listener = match watch(listener) {
        Ok(listener) => listener,
        // Closed: the kernel answers ENOSYS.
        Err(error) => return tracing::error!("cannot watch a system call filter: {error}"),
    };
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        let mut wall = Wall {
            number,
            bucket: Bucket::new(Instant::now()),
            unnamed: BTreeMap::new(),
            first_unnamed: None,
        };
        loop {
            let readable = listener.readable();
            let mut ready = match wall.first_unnamed {
                None => match readable.await {
                    Ok(ready) => ready,
                    Err(_) => return,
                },
                Some(_) => match tokio::time::timeout(COUNTED_FOR, readable).await {
                    Ok(Ok(ready)) => ready,
                    Ok(Err(_)) => return,
                    Err(_) => {
                        wall.report_counted(&shared);
                        continue;
                    }
                },
            };
            match wall.answer(&shared, listener.get_ref()) {
                Ok(Waiting::Call) => tokio::task::yield_now().await,
                Ok(Waiting::Nothing) => ready.clear_ready(),
                Ok(Waiting::Gone) => break,
                Err(error) => {
                    tracing::error!("system call filter of sandbox {number}: {error}");
                    break;
                }
            }
            if wall
                .first_unnamed
                .is_some_and(|first| first.elapsed() >= COUNTED_FOR)
            {
                wall.report_counted(&shared);
            }
        }
        wall.report_counted(&shared);
    });
}

/// One sandbox's second wall.
struct Wall {
    number: u64,
    bucket: Bucket,
    /// Calls without an event of their own, by name: too many, or of a process
    /// that was killed in between.
    unnamed: BTreeMap<String, u64>,
    first_unnamed: Option<Instant>,
}

impl Wall {
    /// Answers what waits, within a bound.
    fn answer(&mut self, shared: &Shared, listener: &OwnedFd) -> std::io::Result<Waiting> {
        let fd = listener.as_fd();
        let mut any = false;
        for _ in 0..AT_ONCE {
            match waiting(fd)? {
                Waiting::Call => {}
                other => {
                    if any {
                        shared.borrow_mut().flush();
                    }
                    return Ok(other);
                }
            }
            let Some(call) = receive(fd)? else { continue };
            any = true;
            let room = self.bucket.take(Instant::now());
            // A number of a thread that was killed may be another's by now.
            let actor = room
                .then(|| Actor::of(call.tid))
                .flatten()
                .filter(|_| still_waits(fd, call.id));
            refuse(fd, call.id)?;
            let Some(actor) = actor else {
                let (name, _) = describe(&call.data);
                *self.unnamed.entry(name).or_default() += 1;
                self.first_unnamed.get_or_insert_with(Instant::now);
                continue;
            };
            shared.borrow_mut().refused(self.number, &call, actor);
        }
        shared.borrow_mut().flush();
        Ok(Waiting::Call)
    }

    /// One event for all that got none.
    fn report_counted(&mut self, shared: &Shared) {
        self.first_unnamed = None;
        let counted = std::mem::take(&mut self.unnamed);
        let Some(detail) = summary(&counted) else {
            return;
        };
        let mut supervisor = shared.borrow_mut();
        let Supervisor {
            sessions, evidence, ..
        } = &mut *supervisor;
        let Some(session) = sessions.get(&self.number) else {
            return;
        };
        let now = jiff::Timestamp::now();
        let name = Some(session.name.clone());
        let event = alert(now, evidence.boot(), name, Reason::SecondWall, detail);
        evidence.push(&session.state.audit_file, event);
        supervisor.flush();
    }
}

/// `3 more refused system calls without an event of their own: mount 2, bpf 1`.
fn summary(counted: &BTreeMap<String, u64>) -> Option<String> {
    let total: u64 = counted.values().sum();
    if total == 0 {
        return None;
    }
    let each: Vec<String> = counted
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    Some(format!(
        "{total} more refused system calls without an event of their own: {}",
        each.join(", ")
    ))
}

/// The process that made a call.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Actor {
    pid: u32,
    tid: u32,
    ppid: u32,
    uid: u32,
    /// What it runs.
    exe: Option<Vec<u8>>,
}

impl Actor {
    /// Of a thread that is there.
    fn of(tid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let mut actor = Self::read(&status, tid)?;
        actor.exe = observe::program_of(actor.pid);
        Some(actor)
    }

    /// From `/proc/TID/status` (proc(5)); of the uids the effective one.
    fn read(status: &str, tid: u32) -> Option<Self> {
        let field = |name: &str, word: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(word)?.parse().ok()
        };
        Some(Self {
            pid: field("Tgid:", 0)?,
            tid,
            ppid: field("PPid:", 0)?,
            uid: field("Uid:", 1)?,
            exe: None,
        })
    }
}

impl Supervisor {
    /// Writes the event of a refused call.
    fn refused(&mut self, number: u64, call: &Call, actor: Actor) {
        // Which calls are in flight is in the wire before the server hears of
        // them. What ended before we came to look is not among them; the end of
        // one that has just ended may come later, and then it is.
        self.hear(number);
        let candidates = self.calls_in_flight(number);
        let Self {
            sessions, evidence, ..
        } = self;
        let Some(session) = sessions.get(&number) else {
            return;
        };
        let event = event(session, call, actor, &candidates, evidence.boot());
        evidence.push(&session.state.audit_file, event);
    }

    fn calls_in_flight(&self, number: u64) -> BTreeSet<u64> {
        self.sessions
            .get(&number)
            .map(|session| session.calls_in_flight().clone())
            .unwrap_or_default()
    }
}

fn event(
    session: &Session,
    call: &Call,
    actor: Actor,
    candidates: &BTreeSet<u64>,
    boot: &str,
) -> AuditEvent {
    let (name, argument) = describe(&call.data);
    let body = Body::Escape(Escape {
        op: EscapeOp::Syscall,
        target: None,
        detail: Some(match argument {
            Some(value) => format!("{name} {value:#x}"),
            None => name,
        }),
        kseq: None,
    });
    let now = jiff::Timestamp::now();
    let mut event = AuditEvent::new(now, boot, Some(session.name.clone()), body);
    event.call = Some(observe::label(session, candidates));
    let exe = actor.exe.as_deref().map(readable);
    event.process = Some(Process {
        pid: actor.pid,
        tid: actor.tid,
        ppid: actor.ppid,
        uid: actor.uid,
        exe_escaped: exe.as_ref().is_some_and(|(_, escaped)| *escaped),
        exe: exe.map(|(exe, _)| exe),
    });
    event.verdict = Some(Verdict::Deny);
    event.mode = Some(Mode::Enforce);
    event.because(Reason::SecondWall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_few_events() {
        let begun = Instant::now();
        let mut bucket = Bucket::new(begun);
        let taken = |bucket: &mut Bucket, at: Duration, tries: usize| {
            (0..tries).filter(|_| bucket.take(begun + at)).count()
        };
        assert_eq!(taken(&mut bucket, Duration::ZERO, 1000), BURST as usize);
        assert_eq!(taken(&mut bucket, EVERY * 5 / 2, 1000), 2);
        assert_eq!(taken(&mut bucket, EVERY * 3, 1000), 1);
        // However long it is quiet, no more than a burst is saved up.
        let day = Duration::from_secs(86_400);
        assert_eq!(taken(&mut bucket, day, 1000), BURST as usize);
        assert_eq!(taken(&mut bucket, day + EVERY, 1000), 1);
    }

    #[test]
    fn what_is_over_is_counted_by_name() {
        let counted = [("mount".to_owned(), 2), ("bpf".to_owned(), 1)].into();
        let text = summary(&counted).unwrap();
        assert!(text.starts_with("3 more refused"), "{text}");
        assert!(text.ends_with("bpf 1, mount 2"), "{text}");
        assert_eq!(summary(&BTreeMap::new()), None);
    }

    #[test]
    fn a_process_is_read_from_its_status() {
        let text =
            "Name:\tx\nTgid:\t12\nNgid:\t0\nPid:\t13\nPPid:\t4\nUid:\t1000\t1001\t1002\t1001\n";
        let expected = Actor {
            pid: 12,
            tid: 13,
            ppid: 4,
            uid: 1001,
            exe: None,
        };
        assert_eq!(Actor::read(text, 13), Some(expected));
        assert_eq!(Actor::read("Tgid:\t12\n", 13), None);
        let own = Actor::of(std::process::id()).unwrap();
        assert_eq!(own.pid, std::process::id());
        assert_eq!(own.uid, nix::unistd::geteuid().as_raw());
    }
}
