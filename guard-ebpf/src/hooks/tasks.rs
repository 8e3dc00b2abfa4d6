//! Acting on other processes.

use guard_common::event::{Op, Reason};

use super::{hook, refuse};
use crate::kernel::{Object, load};
use crate::subject::{Subject, same_sandbox};

/// `PTRACE_MODE_NOAUDIT` (include/linux/ptrace.h): asked only to leave
/// numbers out of `/proc/PID/stat` and the like.
const PTRACE_MODE_NOAUDIT: u32 = 4;

hook! {
    /// `int security_ptrace_access_check(struct task_struct *child, unsigned
    /// int mode)`: also for memory, descriptors and links below `/proc/PID`,
    /// `process_vm_readv` and `pidfd_getfd`.
    ptrace_access_check = "ptrace_access_check"(2) |ctx, subject| {
        let task: Object = ctx.arg(0);
        if same_sandbox(task) {
            false
        } else if ctx.arg::<u32>(1) & PTRACE_MODE_NOAUDIT != 0 {
            !subject.audit_only()
        } else {
            on(subject, Op::Ptrace, task, 0)
        }
    }
}

hook! {
    /// `int security_ptrace_traceme(struct task_struct *parent)`.
    ptrace_traceme = "ptrace_traceme"(1)
    |ctx, subject| foreign(subject, Op::Ptrace, ctx.arg(0), 0)
}

hook! {
    /// `int security_task_kill(struct task_struct *p, struct kernel_siginfo
    /// *info, int sig, const struct cred *cred)`.
    task_kill = "task_kill"(4)
    |ctx, subject| foreign(subject, Op::Signal, ctx.arg(0), ctx.arg(2))
}

hook! {
    /// `int security_task_setscheduler(struct task_struct *p)`.
    task_setscheduler = "task_setscheduler"(1)
    |ctx, subject| foreign(subject, Op::Scheduler, ctx.arg(0), 0)
}

hook! {
    /// `int security_task_setnice(struct task_struct *p, int nice)`.
    task_setnice = "task_setnice"(2)
    |ctx, subject| foreign(subject, Op::Scheduler, ctx.arg(0), 1)
}

hook! {
    /// `int security_task_setioprio(struct task_struct *p, int ioprio)`.
    task_setioprio = "task_setioprio"(2)
    |ctx, subject| foreign(subject, Op::Scheduler, ctx.arg(0), 2)
}

hook! {
    /// `int security_task_setrlimit(struct task_struct *p, unsigned int
    /// resource, struct rlimit *new_rlim)`.
    task_setrlimit = "task_setrlimit"(3)
    |ctx, subject| foreign(subject, Op::Scheduler, ctx.arg(0), 3)
}

hook! {
    /// `int security_task_movememory(struct task_struct *p)`.
    task_movememory = "task_movememory"(1)
    |ctx, subject| foreign(subject, Op::Scheduler, ctx.arg(0), 4)
}

/// Refuses when the process is not of this sandbox.
#[inline(always)]
fn foreign(subject: &Subject, op: Op, task: Object, detail: u32) -> bool {
    !same_sandbox(task) && on(subject, op, task, detail)
}

#[inline(always)]
fn on(subject: &Subject, op: Op, task: Object, detail: u32) -> bool {
    let pid = load!(task, task_tgid as u32);
    refuse(subject, op, Reason::OutsideSandbox, pid, detail)
}
