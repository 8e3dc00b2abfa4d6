//! The unsafe of this crate: system calls that no well-kept crate wraps safely.

pub mod bpf_map;
pub mod bpf_probe;
pub mod caps;
pub mod child;
pub mod fds;
pub mod landlock;
pub mod mapping;
pub mod pidfd;
pub mod probe;
pub mod relay;
pub mod seccomp;
pub mod sha256;
pub mod signals;
pub mod slot;
pub mod sock_diag;
