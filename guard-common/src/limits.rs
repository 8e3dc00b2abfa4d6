//! Every limit that kernel and compiler share. Over a limit is an error with a
//! place in the policy, never a truncation.

/// Version of the layouts in this crate. Pinned maps and programs of another
/// version are never adopted.
pub const ABI_VERSION: u32 = 4;

/// Rule sets in one policy (server-wide, startup, background, tools): one bit
/// each of the slot's `active` word.
pub const MAX_RULE_SETS: u32 = 64;

/// Sandboxes alive at once on a host.
pub const MAX_SANDBOXES: u32 = 512;

/// Bytes of the longest path that is judged, as the kernel sees it
/// (`PATH_MAX`, include/uapi/linux/limits.h). A longer one is denied.
pub const MAX_PATH: usize = 4096;

/// Bytes of the longest path component (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// Steps of the longest walk: names count one for each eight bytes begun,
/// mounts one. A longer one is denied.
pub const MAX_STEPS: u32 = 1024;

/// Times that a walk is made again because names on the path changed.
pub const MAX_TRIES: u32 = 32;

/// Steps of the DFA, of one byte each, that judging the move of a directory
/// may take; one that would take more is denied. Some milliseconds.
pub const MAX_MOVE_STEPS: u64 = 1 << 20;

/// Bytes of the largest compiled policy.
pub const MAX_TABLE: u32 = 4 << 20;

/// Bytes of the arena that all tables lie in. A table starts at most
/// [`MAX_TABLE`] before its end: what a program adds to a base can never
/// lead out of it.
pub const ARENA_SIZE: u32 = 16 << 20;

/// Steps of eight bytes that are remembered for each sandbox.
pub const MEMO_ENTRIES: usize = 512;

/// Directories that are remembered for each sandbox.
pub const DIRECTORY_ENTRIES: usize = 128;

/// Address rules for connecting in one policy, and such for listening.
pub const MAX_NET_RULES: u32 = 256;

/// Bytes of the longest abstract name of a unix socket (`UNIX_PATH_MAX`, less
/// the zero in front).
pub const MAX_ABSTRACT_NAME: usize = 107;

/// Abstract names that all sandboxes together may connect to.
pub const MAX_ABSTRACT_NAMES: u32 = 1 << 13;

/// Calls in flight that a slot can name. The relay refuses further requests,
/// so that no candidate of an ambiguous event is ever left out.
pub const MAX_CALLS: usize = 64;

/// Bytes of a slot: one page, so that a relay can be handed exactly its own.
pub const SLOT_SIZE: usize = 4096;

const _: () = assert!(ARENA_SIZE.is_power_of_two() && MAX_TABLE < ARENA_SIZE);
const _: () = assert!(MAX_SANDBOXES.is_power_of_two());
