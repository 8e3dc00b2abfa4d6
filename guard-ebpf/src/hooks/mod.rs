//! The hooks. Each is thin: pass on an earlier denial, find the subject,
//! judge, report. Each program carries the name of its hook; where a hook's
//! arguments changed between kernels there is one for each form, with the
//! number of arguments behind the name, and the loader takes the one that fits.

mod address;
mod attributes;
mod escape;
mod exec;
mod names;
mod open;
mod redirect;
mod socket;
mod tasks;
mod unix;

use guard_common::event::{EscapePayload, Kind, Op, Reason};

use crate::emit::{Access, conclude_denial, with_target};
use crate::subject::Subject;

/// `-EACCES`.
pub const REFUSED: i32 = -13;

/// Declares a program: `name = "hook"(arguments before the earlier verdict)`.
/// The body says whether to refuse, and is asked only inside a sandbox. With
/// `@if` it is asked for nothing else where that is false.
macro_rules! hook {
    ($(#[$doc:meta])* $name:ident = $hook:literal($args:literal)
     |$ctx:ident, $subject:ident| $(@if $relevant:expr =>)? $body:expr) => {
        $(#[$doc])*
        #[aya_ebpf::macros::lsm(hook = $hook)]
        pub fn $name($ctx: aya_ebpf::programs::LsmContext) -> i32 {
            let earlier: i32 = $ctx.arg($args);
            if earlier != 0 {
                return earlier;
            }
            $(if !$relevant {
                return 0;
            })?
            let mut subject = core::mem::MaybeUninit::uninit();
            match $crate::subject::who(&mut subject) {
                $crate::subject::Who::Outside => 0,
                $crate::subject::Who::Unknown => $crate::hooks::REFUSED,
                $crate::subject::Who::Inside => {
                    // SAFETY: filled for a task that is inside.
                    let $subject = unsafe { subject.assume_init_ref() };
                    if $body { $crate::hooks::REFUSED } else { 0 }
                }
            }
        }
    };
}
pub(crate) use hook;

/// Refuses what no policy can grant, or what is not of this sandbox.
#[inline(always)]
pub fn refuse(subject: &Subject, op: Op, reason: Reason, pid: u32, detail: u32) -> bool {
    let mut access = Access::unjudged(Kind::Escape, op, 0);
    access.reason = reason as u8;
    with_target(&mut access, EscapePayload { pid, detail });
    conclude_denial(subject, &access)
}
