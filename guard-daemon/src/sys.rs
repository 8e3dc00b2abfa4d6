//! The unsafe of this crate: system calls that no well-kept crate wraps safely.

pub mod bpf_probe;
pub mod mapping;
pub mod probe;
pub mod relay;
pub mod slot;
