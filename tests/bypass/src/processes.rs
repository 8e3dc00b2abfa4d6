//! Reaching processes outside: their memory, descriptors, signals, limits.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("ptrace-attach", ptrace_attach).outside(),
    Technique::new("ptrace-seize", ptrace_seize).outside(),
    Technique::new("ptrace-traceme", ptrace_traceme),
    Technique::new("process-vm-readv", process_vm_readv).outside(),
    Technique::new("process-vm-writev", process_vm_writev).outside(),
    Technique::new("proc-mem-read", proc_mem_read).outside(),
    Technique::new("proc-mem-write", proc_mem_write).outside(),
    Technique::new("proc-environ", proc_environ).outside(),
    Technique::new("proc-fd", proc_fd).outside(),
    Technique::new("proc-maps", proc_maps).outside(),
    Technique::new("pidfd-getfd", pidfd_getfd).outside(),
    Technique::new("kcmp", kcmp).outside(),
    Technique::new("kill", kill).outside(),
    Technique::new("tgkill", tgkill).outside(),
    Technique::new("sigqueue", sigqueue).outside(),
    Technique::new("pidfd-send-signal", pidfd_send_signal).outside(),
    Technique::new("sigio", sigio).outside(),
    Technique::new("setpriority", setpriority).outside(),
    Technique::new("sched-setscheduler", sched_setscheduler).outside(),
    Technique::new("sched-setaffinity", sched_setaffinity).outside(),
    Technique::new("ioprio-set", ioprio_set).outside(),
    Technique::new("prlimit", prlimit).outside(),
    Technique::new("move-pages", move_pages).outside(),
    Technique::new("proc-oom-score", proc_oom_score).outside(),
    Technique::new("userfaultfd", userfaultfd),
];

const DONE: Outcome = Ok(Reached::Done);

/// Reads the secret word by word from a stopped process.
fn peek(place: &Place, pid: usize) -> Outcome {
    let (address, length) = (place.number("address")?, place.number("length")?);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let mut word = 0_u64;
        let at = address + bytes.len();
        call!(
            "PTRACE_PEEKDATA",
            libc::SYS_ptrace,
            libc::PTRACE_PEEKDATA,
            pid,
            at,
            Memory::to(&mut word)
        )?;
        bytes.extend(word.to_ne_bytes());
    }
    bytes.truncate(length);
    Ok(Reached::Secret(bytes))
}

/// Traces a process outside with `PTRACE_ATTACH`.
fn ptrace_attach(place: &Place) -> Outcome {
    let pid = place.number("pid")?;
    call!(
        "PTRACE_ATTACH",
        libc::SYS_ptrace,
        libc::PTRACE_ATTACH,
        pid,
        0,
        0
    )?;
    wait_for_stop(pid)?;
    peek(place, pid)
}

/// Traces it with `PTRACE_SEIZE` and `PTRACE_INTERRUPT`.
fn ptrace_seize(place: &Place) -> Outcome {
    let pid = place.number("pid")?;
    call!(
        "PTRACE_SEIZE",
        libc::SYS_ptrace,
        libc::PTRACE_SEIZE,
        pid,
        0,
        0
    )?;
    call!(
        "PTRACE_INTERRUPT",
        libc::SYS_ptrace,
        libc::PTRACE_INTERRUPT,
        pid,
        0,
        0
    )?;
    wait_for_stop(pid)?;
    peek(place, pid)
}

fn wait_for_stop(pid: usize) -> Result<(), Failure> {
    let mut status = 0_i32;
    call!(
        "wait4",
        libc::SYS_wait4,
        pid,
        Memory::to(&mut status),
        libc::__WALL,
        0
    )
    .map(drop)
}

/// Has itself traced, as programs do that hide from a tracer or make a helper rewrite them.
fn ptrace_traceme(_: &Place) -> Outcome {
    let code = sys::in_child(|| {
        let traced = call!(
            "PTRACE_TRACEME",
            libc::SYS_ptrace,
            libc::PTRACE_TRACEME,
            0,
            0,
            0
        );
        match traced {
            Ok(_) => 0,
            Err(Failure::Stopped { errno, .. }) => errno,
            Err(Failure::Untried(_)) => 255,
        }
    })?;
    if code == 0 {
        return DONE;
    }
    Err(Failure::Stopped {
        step: "PTRACE_TRACEME".into(),
        errno: code,
    })
}

fn vectors(place: &Place, buffer: &mut [u8]) -> Result<(libc::iovec, libc::iovec), Failure> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let address = place.number("address")? as *mut libc::c_void;
    Ok((
        local,
        libc::iovec {
            iov_base: address,
            iov_len: buffer.len(),
        },
    ))
}

/// Reads the memory of a process outside.
fn process_vm_readv(place: &Place) -> Outcome {
    let mut buffer = vec![0; place.number("length")?];
    let (local, remote) = vectors(place, &mut buffer)?;
    let (local, remote) = (Memory::of(&local), Memory::of(&remote));
    call!(
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        place.number("pid")?,
        local,
        1,
        remote,
        1,
        0
    )?;
    Ok(Reached::Secret(buffer))
}

/// Writes it.
fn process_vm_writev(place: &Place) -> Outcome {
    let mut buffer = *b"changed";
    let (local, remote) = vectors(place, &mut buffer)?;
    let (local, remote) = (Memory::of(&local), Memory::of(&remote));
    call!(
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        place.number("pid")?,
        local,
        1,
        remote,
        1,
        0
    )?;
    place.noticed()
}

/// Opens what /proc has of a process outside.
fn of_outside(place: &Place, what: &str, write: bool) -> Result<fs::File, Failure> {
    let path = format!("/proc/{}/{what}", place.number("pid")?);
    let step = format!("open /proc/PID/{what}");
    fs::OpenOptions::new()
        .read(!write)
        .write(write)
        .open(path)
        .at(&step)
}

/// Reads its memory through /proc.
fn proc_mem_read(place: &Place) -> Outcome {
    let mut file = of_outside(place, "mem", false)?;
    let mut buffer = vec![0; place.number("length")?];
    file.seek(SeekFrom::Start(place.number("address")? as u64))
        .at("seek")?;
    file.read_exact(&mut buffer).at("read")?;
    Ok(Reached::Secret(buffer))
}

/// Writes its memory through /proc.
fn proc_mem_write(place: &Place) -> Outcome {
    let mut file = of_outside(place, "mem", true)?;
    file.seek(SeekFrom::Start(place.number("address")? as u64))
        .at("seek")?;
    file.write_all(b"changed").at("write")?;
    place.noticed()
}

/// Reads its environment.
fn proc_environ(place: &Place) -> Outcome {
    let mut bytes = Vec::new();
    of_outside(place, "environ", false)?
        .read_to_end(&mut bytes)
        .at("read")?;
    let variables = bytes.split(|b| *b == 0);
    let found = variables
        .into_iter()
        .find_map(|v| v.strip_prefix(b"BYPASS_SECRET="));
    found
        .map(|v| Reached::Secret(v.to_vec()))
        .ok_or_else(|| nothing("the variable"))
}

/// Opens a file that it has open, by the link of its descriptor.
fn proc_fd(place: &Place) -> Outcome {
    let what = format!("fd/{}", place.number("fd")?);
    let mut bytes = Vec::new();
    of_outside(place, &what, false)?
        .read_to_end(&mut bytes)
        .at("read")?;
    Ok(Reached::Secret(bytes))
}

/// Reads where its memory is: takes its address randomisation away.
fn proc_maps(place: &Place) -> Outcome {
    let mut text = String::new();
    of_outside(place, "maps", false)?
        .read_to_string(&mut text)
        .at("read")?;
    if text.is_empty() {
        Err(nothing("read"))
    } else {
        DONE
    }
}

fn pidfd(place: &Place) -> Result<std::os::fd::OwnedFd, Failure> {
    call!("pidfd_open", libc::SYS_pidfd_open, place.number("pid")?, 0).map(sys::fd)
}

/// Takes a descriptor out of it.
fn pidfd_getfd(place: &Place) -> Outcome {
    let pidfd = pidfd(place)?;
    let fd = call!(
        "pidfd_getfd",
        libc::SYS_pidfd_getfd,
        pidfd,
        place.number("fd")?,
        0
    )?;
    let mut file = fs::File::from(sys::fd(fd));
    file.seek(SeekFrom::Start(0)).at("seek")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).at("read")?;
    Ok(Reached::Secret(bytes))
}

/// Compares its kernel objects with its own.
fn kcmp(place: &Place) -> Outcome {
    call!(
        "kcmp",
        libc::SYS_kcmp,
        std::process::id(),
        place.number("pid")?,
        0,
        0,
        0
    )?;
    DONE
}

/// Kills it.
fn kill(place: &Place) -> Outcome {
    call!("kill", libc::SYS_kill, place.number("pid")?, libc::SIGKILL)?;
    place.gone()
}

/// Kills it by one of its threads.
fn tgkill(place: &Place) -> Outcome {
    let pid = place.number("pid")?;
    call!("tgkill", libc::SYS_tgkill, pid, pid, libc::SIGKILL)?;
    place.gone()
}

/// Kills it with a queued signal.
fn sigqueue(place: &Place) -> Outcome {
    let mut info = [0_i32; 32];
    (info[0], info[2]) = (libc::SIGTERM, libc::SI_QUEUE);
    let info = Memory::of(&info);
    call!(
        "rt_sigqueueinfo",
        libc::SYS_rt_sigqueueinfo,
        place.number("pid")?,
        libc::SIGTERM,
        info
    )?;
    place.gone()
}

/// Kills it by a pidfd.
fn pidfd_send_signal(place: &Place) -> Outcome {
    let pidfd = pidfd(place)?;
    call!(
        "pidfd_send_signal",
        libc::SYS_pidfd_send_signal,
        pidfd,
        libc::SIGKILL,
        0,
        0
    )?;
    place.gone()
}

/// Names it the owner of a pipe, which then has the kernel signal it: no `kill` at all.
fn sigio(place: &Place) -> Outcome {
    use std::os::fd::AsRawFd;
    let (reader, mut writer) = std::io::pipe().at("pipe")?;
    let fd = reader.as_raw_fd();
    call!(
        "F_SETOWN",
        libc::SYS_fcntl,
        fd,
        libc::F_SETOWN,
        place.number("pid")?
    )?;
    // F_SETSIG (include/uapi/asm-generic/fcntl.h).
    call!("F_SETSIG", libc::SYS_fcntl, fd, 10, libc::SIGTERM)?;
    call!("F_SETFL", libc::SYS_fcntl, fd, libc::F_SETFL, libc::O_ASYNC)?;
    writer.write_all(b"x").at("write")?;
    place.gone()
}

/// Lowers its priority.
fn setpriority(place: &Place) -> Outcome {
    call!(
        "setpriority",
        libc::SYS_setpriority,
        libc::PRIO_PROCESS,
        place.number("pid")?,
        19
    )?;
    DONE
}

/// Gives it another scheduling class.
fn sched_setscheduler(place: &Place) -> Outcome {
    let parameter = Memory::of(&0_i32);
    let pid = place.number("pid")?;
    call!(
        "sched_setscheduler",
        libc::SYS_sched_setscheduler,
        pid,
        libc::SCHED_BATCH,
        parameter
    )?;
    DONE
}

/// Ties it to one processor.
fn sched_setaffinity(place: &Place) -> Outcome {
    let mask = Memory::of(&1_u64);
    call!(
        "sched_setaffinity",
        libc::SYS_sched_setaffinity,
        place.number("pid")?,
        8,
        mask
    )?;
    DONE
}

/// Gives it the lowest class of disk access.
fn ioprio_set(place: &Place) -> Outcome {
    // IOPRIO_WHO_PROCESS, IOPRIO_CLASS_IDLE (include/uapi/linux/ioprio.h).
    call!(
        "ioprio_set",
        libc::SYS_ioprio_set,
        1,
        place.number("pid")?,
        3 << 13
    )?;
    DONE
}

/// Lowers one of its limits.
fn prlimit(place: &Place) -> Outcome {
    let limit = Memory::of(&[16_u64, 16]);
    let pid = place.number("pid")?;
    call!(
        "prlimit64",
        libc::SYS_prlimit64,
        pid,
        libc::RLIMIT_NOFILE,
        limit,
        0
    )?;
    DONE
}

/// Asks where its pages are.
fn move_pages(place: &Place) -> Outcome {
    let (page, mut status) = (place.number("address")? & !4095, -1_i32);
    let (pages, to) = (Memory::of(&page), Memory::to(&mut status));
    call!(
        "move_pages",
        libc::SYS_move_pages,
        place.number("pid")?,
        1,
        pages,
        0,
        to,
        0
    )?;
    DONE
}

/// Has it killed first when memory runs out.
fn proc_oom_score(place: &Place) -> Outcome {
    of_outside(place, "oom_score_adj", true)?
        .write_all(b"1000")
        .at("write")?;
    DONE
}

/// Handles page faults by hand, which makes races in the kernel easy to win.
fn userfaultfd(_: &Place) -> Outcome {
    sys::fd(call!(
        "userfaultfd",
        libc::SYS_userfaultfd,
        libc::O_CLOEXEC
    )?);
    DONE
}
