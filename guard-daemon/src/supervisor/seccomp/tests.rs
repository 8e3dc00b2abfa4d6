use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::program::model::run;
use super::*;
use crate::sys::seccomp as sys;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fn call(number: libc::c_long, args: [u64; 3]) -> libc::seccomp_data {
    let [a, b, c] = args;
    libc::seccomp_data {
        nr: i32::try_from(number).unwrap(),
        arch: NATIVE.unwrap(),
        instruction_pointer: 0,
        args: [a, b, c, 0, 0, 0],
    }
}

fn judged(number: libc::c_long, args: [u64; 3]) -> u32 {
    run(&filter(false).unwrap(), &call(number, args), false).unwrap()
}

#[test]
fn what_is_hot_is_allowed_without_a_look_at_its_arguments() {
    let program = filter(false).unwrap();
    for number in [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_openat,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_fstat,
        libc::SYS_statx,
        libc::SYS_lseek,
        libc::SYS_pread64,
        libc::SYS_futex,
        libc::SYS_epoll_pwait,
        libc::SYS_execve,
        libc::SYS_connect,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        libc::SYS_pidfd_open,
        libc::SYS_seccomp,
        LAST_KNOWN.into(),
    ] {
        let expected = if number == i64::from(LAST_KNOWN) {
            NOTIFY
        } else {
            ALLOW
        };
        let seen = run(&program, &call(number, [0; 3]), true);
        assert_eq!(seen, Some(expected), "call {number}");
    }
}

#[test]
fn what_is_listed_is_refused() {
    let mut count = 0;
    for entry in refused::entries(false) {
        let seen = judged(entry.number.into(), [u64::MAX; 3]);
        let expected = match entry.check {
            Check::Absent => ABSENT,
            // The question which personality it is, and no command of a file.
            Check::NoneOf(_, values) if values.contains(&u32::MAX) => ALLOW,
            Check::OneOf(..) | Check::Ioctl => ALLOW,
            _ => NOTIFY,
        };
        assert_eq!(seen, expected, "{}", entry.name);
        count += 1;
    }
    assert!(count > 60, "only {count} calls are listed");
}

#[test]
fn arguments_decide() {
    let new_user = 0x1000_0000;
    let vm_and_files = 0x500;
    for (number, args, expected) in [
        (libc::SYS_clone, [0x11, 0, 0], ALLOW),
        (libc::SYS_clone, [0x3d_0f00, 0, 0], ALLOW), // a thread of glibc
        (libc::SYS_clone, [new_user | 0x11, 0, 0], NOTIFY),
        (libc::SYS_clone, [0x0002_0011, 0, 0], NOTIFY), // CLONE_NEWNS
        (libc::SYS_clone, [0x4000_0011, 0, 0], NOTIFY), // CLONE_NEWNET
        (libc::SYS_unshare, [vm_and_files, 0, 0], ALLOW),
        (libc::SYS_unshare, [new_user, 0, 0], NOTIFY),
        (libc::SYS_unshare, [0x80, 0, 0], NOTIFY), // CLONE_NEWTIME
        (libc::SYS_socket, [1, 1, 0], ALLOW),
        (libc::SYS_socket, [2, 1, 6], ALLOW),
        (libc::SYS_socket, [10, 2, 17], ALLOW),
        (libc::SYS_socket, [16, 3, 0], ALLOW),
        (libc::SYS_socket, [16, 3, 9], NOTIFY), // NETLINK_AUDIT
        (libc::SYS_socket, [17, 3, 0], NOTIFY), // AF_PACKET
        (libc::SYS_socket, [38, 5, 0], NOTIFY), // AF_ALG
        (libc::SYS_socket, [40, 1, 0], NOTIFY), // AF_VSOCK
        // The kernel takes an int.
        (libc::SYS_socket, [1 << 32 | 38, 5, 0], NOTIFY),
        (libc::SYS_socketpair, [1, 1, 0], ALLOW),
        (libc::SYS_socketpair, [30, 1, 0], NOTIFY), // AF_TIPC
        (libc::SYS_ioctl, [0, 0x5401, 0], ALLOW),   // TCGETS
        (libc::SYS_ioctl, [0, 0x5412, 0], NOTIFY),  // TIOCSTI
        (libc::SYS_ioctl, [0, 0x8901, 0], NOTIFY),  // FIOSETOWN
        (libc::SYS_fcntl, [0, 8, 0], NOTIFY),       // F_SETOWN
        (libc::SYS_fcntl, [0, 15, 0], NOTIFY),      // F_SETOWN_EX
        (libc::SYS_fcntl, [0, 4, 0], ALLOW),        // F_SETFL
        (libc::SYS_ioctl, [0, 1 << 32 | 0x5412, 0], NOTIFY),
        (libc::SYS_ioctl, [0, 0x8008_6601, 0], ALLOW), // FS_IOC_GETFLAGS
        (libc::SYS_ioctl, [0, 0x4008_6602, 0], NOTIFY), // FS_IOC_SETFLAGS
        (libc::SYS_ioctl, [0, 0x401c_5820, 0], NOTIFY), // FS_IOC_FSSETXATTR
        (libc::SYS_ioctl, [0, 0x4080_6685, 0], NOTIFY), // FS_IOC_ENABLE_VERITY
        (libc::SYS_ioctl, [0, 0xc050_6617, 0], NOTIFY), // FS_IOC_ADD_ENCRYPTION_KEY
        (libc::SYS_ioctl, [0, 0x5000_9401, 0], NOTIFY), // BTRFS_IOC_SNAP_CREATE
        (libc::SYS_ioctl, [0, 0x5000_940e, 0], NOTIFY), // BTRFS_IOC_SUBVOL_CREATE
        (libc::SYS_ioctl, [0, 0x6609, 0], NOTIFY),     // EXT4_IOC_MIGRATE
        (libc::SYS_ioctl, [0, 0x4004_9409, 0], ALLOW), // FICLONE
        (libc::SYS_prctl, [15, 0, 0], ALLOW),
        (libc::SYS_prctl, [35, 0, 0], NOTIFY),
        (libc::SYS_personality, [0, 0, 0], ALLOW),
        (libc::SYS_personality, [0xffff_ffff, 0, 0], ALLOW),
        (libc::SYS_personality, [0x0040_0000, 0, 0], NOTIFY), // READ_IMPLIES_EXEC
        (libc::SYS_personality, [0x0004_0000, 0, 0], NOTIFY), // ADDR_NO_RANDOMIZE
        (libc::SYS_prlimit64, [0, 7, 1], ALLOW),
        (libc::SYS_prlimit64, [4242, 7, 0], ALLOW),
        (libc::SYS_prlimit64, [4242, 7, 1], NOTIFY),
        (libc::SYS_prlimit64, [4242, 7, 1 << 32], NOTIFY),
    ] {
        assert_eq!(judged(number, args), expected, "call {number} {args:x?}");
    }
}

#[test]
fn io_uring_is_the_policys_choice() {
    for number in [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ] {
        let call = call(number, [0; 3]);
        for (chosen, expected) in [(false, NOTIFY), (true, ALLOW)] {
            assert_eq!(run(&filter(chosen).unwrap(), &call, true), Some(expected));
        }
    }
}

#[test]
fn other_abis_and_unknown_calls() {
    let program = filter(true).unwrap();
    let mut read = call(libc::SYS_read, [0; 3]);
    assert_eq!(run(&program, &read, true), Some(ALLOW));
    read.arch = 0x4000_0003;
    assert_eq!(run(&program, &read, true), Some(NOTIFY));
    assert_eq!(describe(&read), (format!("i386-{}", libc::SYS_read), None));
    let x32 = call(libc::SYS_mount | 0x4000_0000, [0; 3]);
    assert_eq!(run(&program, &x32, true), Some(NOTIFY));
    assert_eq!(describe(&x32).0, format!("x32-{}", libc::SYS_mount));
    let new = call(i64::from(LAST_KNOWN) + 1, [0; 3]);
    assert_eq!(run(&program, &new, true), Some(ABSENT));
}

#[test]
fn refused_calls_are_described() {
    for (number, args, name, value) in [
        (libc::SYS_mount, [0; 3], "mount", None),
        (libc::SYS_socket, [38, 5, 0], "socket", Some(38)),
        (libc::SYS_ioctl, [0, 0x5412, 0], "ioctl", Some(0x5412)),
        (467, [0; 3], "open_tree_attr", None),
    ] {
        assert_eq!(describe(&call(number, args)), (name.to_owned(), value));
    }
}

/// Installs the filter in a thread of its own (a filter is a thread's), makes
/// these calls there, and returns their errors and what the listener heard.
/// Without `answer` the listener is closed at once.
fn tried(attempts: &'static [(libc::c_long, [u64; 3])], answer: bool) -> (Vec<i32>, Vec<String>) {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        send.send(sys::install(&filter(false).unwrap()).unwrap())
            .unwrap();
        attempts
            .iter()
            .map(|(n, args)| sys::attempt(*n, *args))
            .collect()
    });
    let listener = receive.recv().unwrap();
    let mut heard = Vec::new();
    if !answer {
        drop(listener);
        return (thread.join().unwrap(), heard);
    }
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_secs(20), "{heard:?}");
        match sys::waiting(listener.as_fd()).unwrap() {
            sys::Waiting::Gone => return (thread.join().unwrap(), heard),
            sys::Waiting::Nothing => std::thread::sleep(Duration::from_millis(1)),
            sys::Waiting::Call => {
                let call = sys::receive(listener.as_fd()).unwrap().unwrap();
                assert!(sys::still_waits(listener.as_fd(), call.id));
                sys::refuse(listener.as_fd(), call.id).unwrap();
                assert!(!sys::still_waits(listener.as_fd(), call.id));
                heard.push(describe(&call.data).0);
            }
        }
    }
}

/// Each would fail with another error without the filter: `EFAULT`, `EINVAL`
/// or none.
const ATTEMPTS: &[(libc::c_long, [u64; 3])] = &[
    (libc::SYS_getpid, [0; 3]),
    (libc::SYS_fsopen, [0; 3]),
    (libc::SYS_clone3, [0; 3]),
    (libc::SYS_personality, [0x0004_0000, 0, 0]),
    (libc::SYS_keyctl, [0; 3]),
];

#[test]
fn the_listener_hears_what_is_refused() {
    let (errors, heard) = tried(ATTEMPTS, true);
    let (refused, absent) = (libc::EPERM, libc::ENOSYS);
    assert_eq!(errors, [0, refused, absent, refused, refused]);
    assert_eq!(heard, ["fsopen", "personality", "keyctl"]);
}

#[test]
fn without_a_supervisor_it_is_refused_too() {
    let (errors, _) = tried(ATTEMPTS, false);
    let absent = libc::ENOSYS;
    assert_eq!(errors, [0, absent, absent, absent, absent]);
}
