//! What guard's kernel programs and user space share.
//!
//! One definition of each limit, layout and decision: the kernel programs, the
//! daemon, `guard explain` and the tests all run the code in this crate.
//! `no_std`, no allocation, no dependencies; the feature `user` adds
//! `aya::Pod` for the types that are stored in BPF maps.
#![cfg_attr(not(feature = "user"), no_std)]

pub mod event;
pub mod limits;
pub mod matcher;
pub mod names;
pub mod offsets;
pub mod sandbox;
pub mod table;
