//! The kernel itself, and what it offers to all processes of a user.

use std::fs;
use std::io::Read;

use crate::attack::{At, Failure, Outcome, Reached, Technique};
use crate::place::Place;
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("bpf-map", bpf_map),
    Technique::new("bpf-program", bpf_program),
    Technique::new("perf-event", perf_event),
    Technique::new("perf-event-outside", perf_event_outside).outside(),
    Technique::new("keyctl-read", keyctl_read).outside(),
    Technique::new("add-key", add_key),
    Technique::new("request-key", request_key).outside(),
    Technique::new("shm-attach", shm_attach).outside(),
    Technique::new("msg-receive", msg_receive).outside(),
    Technique::new("sem-set", sem_set).outside(),
    Technique::new("posix-queue", posix_queue).outside(),
    Technique::new("posix-shm", posix_shm).outside(),
    Technique::new("syslog", syslog),
    Technique::new("open-kmsg", open_kmsg),
    Technique::new("core-pattern", core_pattern),
    Technique::new("proc-sys", proc_sys),
    Technique::new("modprobe-path", modprobe_path),
    Technique::new("acct", acct),
    Technique::new("finit-module", finit_module),
    Technique::new("swapon", swapon),
    Technique::new("raw-disk", raw_disk),
    Technique::new("prctl-set-mm", prctl_set_mm),
    Technique::new("sethostname", sethostname),
    Technique::new("tiocsti", tiocsti).outside(),
    Technique::new("io-uring-open", crate::uring::open),
];

const DONE: Outcome = Ok(Reached::Done);

/// Makes a BPF map: the way to guard's own.
fn bpf_map(_: &Place) -> Outcome {
    // union bpf_attr of BPF_MAP_CREATE: type array, key 4, value 8, entries 1.
    let mut attributes = [0_u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 8, 1]);
    sys::fd(call!(
        "bpf(BPF_MAP_CREATE)",
        libc::SYS_bpf,
        0,
        Memory::of(&attributes),
        128
    )?);
    DONE
}

/// Loads a BPF program.
fn bpf_program(_: &Place) -> Outcome {
    // r0 = 0; exit
    let program = [0xb7_u64, 0x95];
    // union bpf_attr of BPF_PROG_LOAD: socket filter, 2 instructions, program, licence.
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | 2 << 32;
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    sys::fd(call!(
        "bpf(BPF_PROG_LOAD)",
        libc::SYS_bpf,
        5,
        Memory::of(&attributes),
        128
    )?);
    DONE
}

fn perf(pid: usize) -> Outcome {
    // struct perf_event_attr: software event, size 64, CPU clock, exclude_kernel and _hv.
    let mut attributes = [0_u64; 8];
    attributes[0] = 1 | 64 << 32;
    attributes[5] = 1 << 5 | 1 << 6;
    let at = Memory::of(&attributes);
    sys::fd(call!(
        "perf_event_open",
        libc::SYS_perf_event_open,
        at,
        pid,
        -1,
        -1,
        8
    )?);
    DONE
}

/// Opens a performance counter, a large surface of the kernel.
fn perf_event(_: &Place) -> Outcome {
    perf(0)
}

/// Samples a process outside.
fn perf_event_outside(place: &Place) -> Outcome {
    perf(place.number("pid")?)
}

/// Reads a key of its user that a process outside has put there.
fn keyctl_read(place: &Place) -> Outcome {
    let (key, mut buffer) = (place.number("key")?, [0_u8; 256]);
    // KEYCTL_READ (include/uapi/linux/keyctl.h).
    let length = call!(
        "keyctl(KEYCTL_READ)",
        libc::SYS_keyctl,
        11,
        key,
        Memory::to(&mut buffer),
        256
    )?;
    Ok(Reached::Secret(buffer[..length.min(256)].to_vec()))
}

/// Adds a key to its user's keyring.
fn add_key(place: &Place) -> Outcome {
    let name = sys::path(place.name());
    call!(
        "add_key",
        libc::SYS_add_key,
        c"user",
        name,
        Memory::of(b"x"),
        1,
        -4
    )?;
    DONE
}

/// Finds a key of its user.
fn request_key(place: &Place) -> Outcome {
    let name = sys::path(place.name());
    call!("request_key", libc::SYS_request_key, c"user", name, 0, 0)?;
    DONE
}

/// Attaches shared memory of a process outside.
fn shm_attach(place: &Place) -> Outcome {
    let (id, length) = (place.number("shm")?, place.number("length")?);
    let at = call!("shmat", libc::SYS_shmat, id, 0, libc::SHM_RDONLY)?;
    // SAFETY: the segment was just attached and is at least a page.
    Ok(Reached::Secret(unsafe { sys::bytes_at(at, length) }))
}

/// Takes a message out of its queue.
fn msg_receive(place: &Place) -> Outcome {
    let (id, mut message) = (place.number("msg")?, [0_u8; 264]);
    let to = Memory::to(&mut message);
    let length = call!("msgrcv", libc::SYS_msgrcv, id, to, 256, 0, libc::IPC_NOWAIT)?;
    Ok(Reached::Secret(message[8..8 + length].to_vec()))
}

/// Sets its semaphore.
fn sem_set(place: &Place) -> Outcome {
    call!(
        "semctl",
        libc::SYS_semctl,
        place.number("sem")?,
        0,
        libc::SETVAL,
        7
    )?;
    DONE
}

/// Opens its POSIX message queue, which no path leads to.
fn posix_queue(place: &Place) -> Outcome {
    // The system call takes the name without the slash.
    let name = sys::path(place.told("queue")?.trim_start_matches('/'));
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let queue = sys::fd(call!("mq_open", libc::SYS_mq_open, name, flags, 0, 0)?);
    let mut buffer = vec![0_u8; 8192];
    let to = Memory::to(&mut buffer[..]);
    let length = call!(
        "mq_timedreceive",
        libc::SYS_mq_timedreceive,
        queue,
        to,
        8192,
        0,
        0
    )?;
    buffer.truncate(length);
    Ok(Reached::Secret(buffer))
}

/// Opens its POSIX shared memory.
fn posix_shm(place: &Place) -> Outcome {
    let path = format!("/dev/shm{}", place.told("queue")?);
    fs::read(path).at("open").map(Reached::Secret)
}

/// Reads the kernel's log.
fn syslog(_: &Place) -> Outcome {
    let mut buffer = [0_u8; 512];
    // SYSLOG_ACTION_READ_ALL (include/linux/syslog.h).
    call!("syslog", libc::SYS_syslog, 3, Memory::to(&mut buffer), 512)?;
    DONE
}

/// Reads the kernel's log by its device.
fn open_kmsg(_: &Place) -> Outcome {
    let fd = sys::open("/dev/kmsg", libc::O_RDONLY | libc::O_NONBLOCK)?;
    let mut buffer = [0_u8; 8192];
    (&fs::File::from(fd)).read(&mut buffer).at("read")?;
    DONE
}

/// Writes a setting back as it is: what could write that could write another.
fn rewrite(path: &str) -> Outcome {
    let text = fs::read(path).at("open for reading")?;
    fs::write(path, text).at("open for writing")?;
    DONE
}

/// Names the program that the kernel runs as root when one crashes.
fn core_pattern(_: &Place) -> Outcome {
    rewrite("/proc/sys/kernel/core_pattern")
}

/// Changes a setting of the kernel.
fn proc_sys(_: &Place) -> Outcome {
    rewrite("/proc/sys/fs/protected_hardlinks")
}

/// Names the program that the kernel runs as root to load a module.
fn modprobe_path(_: &Place) -> Outcome {
    rewrite("/proc/sys/kernel/modprobe")
}

/// Has the kernel write a file that this process may not: process accounting.
fn acct(place: &Place) -> Outcome {
    call!("acct", libc::SYS_acct, sys::path(place.secret()))?;
    // Without guard it is on now. The host is to stay as it was.
    call!("acct", libc::SYS_acct, 0)?;
    DONE
}

/// Loads a kernel module. That its file is none is seen later than who may.
fn finit_module(place: &Place) -> Outcome {
    let fd = sys::open(place.at("open/note.txt"), libc::O_RDONLY)?;
    match call!("finit_module", libc::SYS_finit_module, fd, c"", 0) {
        Err(Failure::Stopped {
            errno: libc::ENOEXEC,
            ..
        }) => DONE,
        other => other.map(|_| Reached::Done),
    }
}

/// Has the kernel swap to a file. That it is too small is seen later than who may.
fn swapon(place: &Place) -> Outcome {
    match call!(
        "swapon",
        libc::SYS_swapon,
        sys::path(place.at("open/note.txt")),
        0
    ) {
        Err(Failure::Stopped {
            errno: libc::EINVAL,
            ..
        }) => DONE,
        other => other.map(|_| Reached::Done),
    }
}

/// Reads the disk below the file system.
fn raw_disk(_: &Place) -> Outcome {
    let mut block = [0_u8; 4096];
    fs::File::open("/dev/vda")
        .at("open")?
        .read_exact(&mut block)
        .at("read")?;
    DONE
}

/// Moves what the kernel says is its command line.
fn prctl_set_mm(_: &Place) -> Outcome {
    let line = c"guard".as_ptr();
    // PR_SET_MM_ARG_START (include/uapi/linux/prctl.h).
    call!(
        "prctl(PR_SET_MM)",
        libc::SYS_prctl,
        libc::PR_SET_MM,
        8,
        line as usize,
        0,
        0
    )?;
    DONE
}

/// Sets the host's name to what it is.
fn sethostname(_: &Place) -> Outcome {
    let name = fs::read("/proc/sys/kernel/hostname").at("open")?;
    let name = name.trim_ascii_end();
    call!(
        "sethostname",
        libc::SYS_sethostname,
        Memory::of(name),
        name.len()
    )?;
    DONE
}

/// Types a command into a terminal outside.
fn tiocsti(place: &Place) -> Outcome {
    let terminal = place.told("terminal")?;
    let typed = sys::in_child(|| {
        // SAFETY: takes nothing. Without a session it cannot have the terminal.
        unsafe { libc::setsid() };
        let opened = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&terminal);
        let file = match opened {
            Ok(file) => file,
            Err(error) => return error.raw_os_error().unwrap_or(255),
        };
        for byte in *b"id\n" {
            match call!(
                "TIOCSTI",
                libc::SYS_ioctl,
                file,
                libc::TIOCSTI,
                Memory::of(&byte)
            ) {
                Ok(_) => {}
                Err(Failure::Stopped { errno, .. }) => return errno,
                Err(_) => return 255,
            }
        }
        // The terminal is hung up when its session ends: only after it was read.
        if place.noticed().is_ok() { 0 } else { 255 }
    })?;
    if typed != 0 {
        let step = "type into a terminal".into();
        return Err(Failure::Stopped { step, errno: typed });
    }
    DONE
}
