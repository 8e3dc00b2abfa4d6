//! The trail's words for what the kernel programs saw.

use guard_common::event::{EscapePayload, Kind, Op as KernelOp};
use nix::sys::signal::Signal;

use super::event::{Escape, EscapeOp, Op};

/// The word for an operation on a file, program or socket. `None` when it does
/// not belong to events of this kind.
pub(super) const fn op_of(kind: Kind, op: KernelOp) -> Option<Op> {
    Some(match (kind, op) {
        // The kernel opens a program before it executes it.
        (Kind::File | Kind::Exec, KernelOp::Open) => Op::Open,
        (Kind::File, KernelOp::Create) => Op::Create,
        (Kind::File, KernelOp::Mkdir) => Op::Mkdir,
        (Kind::File, KernelOp::Rmdir) => Op::Rmdir,
        (Kind::File, KernelOp::Mknod) => Op::Mknod,
        (Kind::File, KernelOp::Unlink) => Op::Unlink,
        (Kind::File, KernelOp::Symlink) => Op::Symlink,
        (Kind::File, KernelOp::Link) => Op::Link,
        (Kind::File, KernelOp::Rename) => Op::Rename,
        (Kind::File, KernelOp::Truncate) => Op::Truncate,
        (Kind::File, KernelOp::Chmod) => Op::Chmod,
        (Kind::File, KernelOp::Chown) => Op::Chown,
        (Kind::File, KernelOp::Xattr) => Op::Xattr,
        (Kind::File, KernelOp::Times) => Op::Times,
        (Kind::File, KernelOp::Watch) => Op::Watch,
        (Kind::File, KernelOp::Receive) => Op::Receive,
        (Kind::Exec, KernelOp::Exec) => Op::Exec,
        (Kind::Exec, KernelOp::MapExec) => Op::MapExec,
        (Kind::Exec, KernelOp::ProtectExec) => Op::ProtectExec,
        (Kind::Network, KernelOp::Socket) => Op::Socket,
        (Kind::Network, KernelOp::Connect) => Op::Connect,
        (Kind::Network, KernelOp::Send) => Op::Send,
        (Kind::Network, KernelOp::Bind) => Op::Bind,
        (Kind::Network, KernelOp::Listen) => Op::Listen,
        (Kind::Network, KernelOp::UnixConnect) => Op::UnixConnect,
        (Kind::Network, KernelOp::UnixSend) => Op::UnixSend,
        _ => return None,
    })
}

/// The body of an attempt to get out; `None` when the operation is none.
pub(super) fn escape(op: KernelOp, payload: &EscapePayload, kseq: u64) -> Option<Escape> {
    let op = match op {
        KernelOp::Ptrace => EscapeOp::Ptrace,
        KernelOp::Signal => EscapeOp::Signal,
        KernelOp::Mount => EscapeOp::Mount,
        KernelOp::Chroot => EscapeOp::Chroot,
        KernelOp::UserNamespace => EscapeOp::UserNamespace,
        KernelOp::Bpf => EscapeOp::Bpf,
        KernelOp::Perf => EscapeOp::Perf,
        KernelOp::Module => EscapeOp::Module,
        KernelOp::Key => EscapeOp::Key,
        KernelOp::Ipc => EscapeOp::Ipc,
        KernelOp::Scheduler => EscapeOp::Scheduler,
        KernelOp::KernelLog => EscapeOp::KernelLog,
        KernelOp::IoUring => EscapeOp::IoUring,
        _ => return None,
    };
    Some(Escape {
        op,
        target: Some(payload.pid).filter(|pid| *pid != 0),
        detail: detail(op, payload.detail),
        kseq: Some(kseq),
    })
}

/// What exactly was tried, in the words of the kernel's headers; a number that
/// has none stays one.
fn detail(op: EscapeOp, number: u32) -> Option<String> {
    let words: &[&str] = match op {
        EscapeOp::Signal => return Some(signal(number)),
        // enum bpf_cmd (include/uapi/linux/bpf.h)
        EscapeOp::Bpf => &[
            "map-create",
            "map-lookup-elem",
            "map-update-elem",
            "map-delete-elem",
            "map-get-next-key",
            "prog-load",
            "obj-pin",
            "obj-get",
            "prog-attach",
            "prog-detach",
            "prog-test-run",
            "prog-get-next-id",
            "map-get-next-id",
            "prog-get-fd-by-id",
            "map-get-fd-by-id",
            "obj-get-info-by-fd",
            "prog-query",
            "raw-tracepoint-open",
            "btf-load",
            "btf-get-fd-by-id",
            "task-fd-query",
            "map-lookup-and-delete-elem",
            "map-freeze",
            "btf-get-next-id",
            "map-lookup-batch",
            "map-lookup-and-delete-batch",
            "map-update-batch",
            "map-delete-batch",
            "link-create",
            "link-update",
            "link-get-fd-by-id",
            "link-get-next-id",
            "enable-stats",
            "iter-create",
            "link-detach",
            "prog-bind-map",
            "token-create",
        ],
        // enum key_need_perm (include/linux/key.h)
        EscapeOp::Key => &[
            "", "view", "read", "write", "search", "link", "setattr", "unlink",
        ],
        // In the order of guard's own hooks.
        EscapeOp::Scheduler => &["policy", "nice", "io-priority", "limits", "memory-nodes"],
        // SYSLOG_ACTION_* (include/linux/syslog.h)
        EscapeOp::KernelLog => &[
            "close",
            "open",
            "read",
            "read-all",
            "read-clear",
            "clear",
            "console-off",
            "console-on",
            "console-level",
            "size-unread",
            "size-buffer",
        ],
        // enum kernel_load_data_id (include/linux/kernel_read_file.h); later
        // ones have other numbers in other kernels.
        EscapeOp::Module => &["", "firmware", "module"],
        _ => &[""],
    };
    match words.get(number as usize) {
        Some(&"") => None,
        Some(word) => Some((*word).to_owned()),
        None => Some(number.to_string()),
    }
}

fn signal(number: u32) -> String {
    let known = i32::try_from(number)
        .ok()
        .and_then(|n| Signal::try_from(n).ok());
    match (known, number) {
        (Some(signal), _) => signal.as_str().to_owned(),
        (None, 0) => "0".to_owned(), // only whether the process is there
        (None, 34..=64) => format!("SIGRTMIN+{}", number - 34),
        (None, _) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_belongs_to_its_kind() {
        assert_eq!(op_of(Kind::File, KernelOp::Rename), Some(Op::Rename));
        assert_eq!(op_of(Kind::Exec, KernelOp::Open), Some(Op::Open));
        for (kind, op) in [
            (Kind::File, KernelOp::Connect),
            (Kind::Exec, KernelOp::Rename),
            (Kind::Network, KernelOp::Open),
            (Kind::Escape, KernelOp::Open),
            (Kind::File, KernelOp::Ptrace),
        ] {
            assert_eq!(op_of(kind, op), None, "{kind:?} {op:?}");
        }
    }

    #[test]
    fn details_are_the_kernels_words() {
        let said = |op, pid, number| {
            let payload = EscapePayload {
                pid,
                detail: number,
            };
            let escape = escape(op, &payload, 7).unwrap();
            assert_eq!(escape.kseq, Some(7));
            (escape.target, escape.detail.unwrap_or_default())
        };
        for (op, pid, number, target, detail) in [
            (KernelOp::Signal, 1, 9, Some(1), "SIGKILL"),
            (KernelOp::Signal, 1, 0, Some(1), "0"),
            (KernelOp::Signal, 1, 36, Some(1), "SIGRTMIN+2"),
            (KernelOp::Bpf, 0, 5, None, "prog-load"),
            (KernelOp::Bpf, 0, 36, None, "token-create"),
            (KernelOp::Bpf, 0, 999, None, "999"),
            (KernelOp::Mount, 0, 0, None, ""),
            (KernelOp::Key, 0, 2, None, "read"),
            (KernelOp::Scheduler, 9, 1, Some(9), "nice"),
            (KernelOp::KernelLog, 0, 3, None, "read-all"),
            (KernelOp::Module, 0, 2, None, "module"),
        ] {
            assert_eq!(said(op, pid, number), (target, detail.to_owned()));
        }
        assert!(escape(KernelOp::Open, &EscapePayload::default(), 0).is_none());
    }
}
