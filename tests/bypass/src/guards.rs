//! Guard's own things. The policy of these lets the attacker write all of them.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::attack::{At, Failure, Outcome, Reached, Technique, nothing};
use crate::place::{GUARDS, Place};
use crate::sys::{self, Memory, call};

/// All of this family.
pub(crate) const ALL: &[Technique] = &[
    Technique::new("guard-socket", guard_socket),
    Technique::new("guard-relay-socket", guard_relay_socket),
    Technique::new("guard-policy-write", guard_policy_write),
    Technique::new("guard-policy-replace", guard_policy_replace),
    Technique::new("guard-policy-delete", guard_policy_delete),
    Technique::new("guard-policy-directory", guard_policy_directory),
    Technique::new("guard-trail-write", guard_trail_write),
    Technique::new("guard-trail-truncate", guard_trail_truncate),
    Technique::new("guard-trail-replace", guard_trail_replace),
    Technique::new("guard-run-directory", guard_run_directory),
    Technique::new("bpffs-mkdir", bpffs_mkdir),
    Technique::new("guard-pins", guard_pins),
    Technique::new("guard-signal", guard_signal),
];

const DONE: Outcome = Ok(Reached::Done);

/// Connects to a socket of either type that keeps order.
fn connect(path: &str) -> Outcome {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend(path.as_bytes());
    address.push(0);
    let of_type = |kind: i32| {
        let kind = kind | libc::SOCK_CLOEXEC;
        let socket = sys::fd(call!("socket", libc::SYS_socket, libc::AF_UNIX, kind, 0)?);
        let at = Memory::of(&address[..]);
        call!("connect", libc::SYS_connect, socket, at, address.len())
    };
    match of_type(libc::SOCK_SEQPACKET) {
        Err(Failure::Stopped {
            errno: libc::EPROTOTYPE,
            ..
        }) => of_type(libc::SOCK_STREAM)?,
        other => other?,
    };
    DONE
}

/// Connects to the supervisor's socket and could have it start anything.
fn guard_socket(_: &Place) -> Outcome {
    connect("/run/guard/guard.sock")
}

/// Connects to the socket that relays come back to.
fn guard_relay_socket(_: &Place) -> Outcome {
    connect("/run/guard/relay.sock")
}

fn policy() -> std::path::PathBuf {
    Path::new(GUARDS).join("policies/policy.toml")
}

fn trail() -> std::path::PathBuf {
    Path::new(GUARDS).join("trail.jsonl")
}

fn append(path: &Path) -> Outcome {
    let file = fs::OpenOptions::new().append(true).open(path).at("open");
    file?.write_all(b"# PLANTED\n").at("write")?;
    DONE
}

/// Adds to the policy in use.
fn guard_policy_write(_: &Place) -> Outcome {
    append(&policy())
}

/// Puts another file in the policy's place.
fn guard_policy_replace(place: &Place) -> Outcome {
    fs::write(place.at("open/PLANTED"), b"# PLANTED\n").at("write its own")?;
    fs::rename(place.at("open/PLANTED"), policy()).at("rename")?;
    DONE
}

/// Deletes the policy.
fn guard_policy_delete(_: &Place) -> Outcome {
    fs::remove_file(policy()).at("unlink")?;
    // It is gone: that is the goal, whether or not another can be put there.
    let _ = fs::write(policy(), b"# PLANTED\n");
    DONE
}

/// Moves the directory that the policy is in, and puts its own there.
fn guard_policy_directory(_: &Place) -> Outcome {
    let dir = Path::new(GUARDS).join("policies");
    let moved = Path::new(GUARDS).join("moved");
    fs::rename(&dir, &moved).at("rename")?;
    fs::rename(&moved, &dir).at("rename back")?;
    DONE
}

/// Adds to the trail.
fn guard_trail_write(_: &Place) -> Outcome {
    append(&trail())
}

/// Empties the trail.
fn guard_trail_truncate(_: &Place) -> Outcome {
    call!("truncate", libc::SYS_truncate, sys::path(trail()), 0)?;
    DONE
}

/// Moves the trail away: its writer goes on with a file that nobody reads.
fn guard_trail_replace(_: &Place) -> Outcome {
    let moved = Path::new(GUARDS).join("moved.jsonl");
    fs::rename(trail(), &moved).at("rename")?;
    fs::rename(moved, trail()).at("rename back")?;
    DONE
}

/// Plants a file among guard's own.
fn guard_run_directory(_: &Place) -> Outcome {
    let file = "/run/guard/PLANTED";
    fs::write(file, b"x").at("open")?;
    fs::remove_file(file).at("unlink")?;
    DONE
}

/// Makes a directory below bpffs.
fn bpffs_mkdir(_: &Place) -> Outcome {
    let dir = "/sys/fs/bpf/planted";
    fs::create_dir(dir).at("mkdir")?;
    fs::remove_dir(dir).at("rmdir")?;
    DONE
}

/// Moves guard's pins, so that the next supervisor does not find them.
fn guard_pins(_: &Place) -> Outcome {
    let (pins, moved) = ("/sys/fs/bpf/guard", "/sys/fs/bpf/moved");
    fs::rename(pins, moved).at("rename")?;
    fs::rename(moved, pins).at("rename back")?;
    DONE
}

/// Signals guard's processes.
fn guard_signal(_: &Place) -> Outcome {
    let pid = fs::read_to_string(Path::new(GUARDS).join("supervisor.pid")).at("open")?;
    let pid: i32 = pid.trim().parse().map_err(|_| nothing("a process id"))?;
    call!("kill", libc::SYS_kill, pid, libc::SIGCONT)?;
    DONE
}
