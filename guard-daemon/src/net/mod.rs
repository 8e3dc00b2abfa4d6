//! Names: the process that resolves them for sandboxes, and what it says to the
//! supervisor.
//!
//! ```text
//! sandbox ── questions ──▶ `guard __net` ── allowed ones ──▶ upstream resolvers
//!                              │    ▲
//!                      grants, evidence, acknowledgements
//!                              ▼    │
//!                            supervisor ──▶ NAMED_ADDRESSES, trail
//! ```
//! Questions and answers are hostile bytes, so they are parsed in a process of
//! its own, without privileges, that can reach no kernel map. The supervisor
//! judges each name again before it opens an address for it.

pub mod addresses;
mod confine;
mod link;
pub mod process;
mod resolver;
mod splice;
pub mod wire;
