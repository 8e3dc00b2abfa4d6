//! Every limit that kernel and compiler share. Over a limit is an error with a
//! place in the policy, never a truncation.

/// Version of the layouts in this crate. Pinned maps and programs of another
/// version are never adopted.
pub const ABI_VERSION: u32 = 1;

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

/// Most components (and mount crossings) of a path that is judged. A deeper
/// one is denied.
pub const MAX_COMPONENTS: u32 = 256;

/// Bytes of one arena region: the largest compiled policy.
pub const REGION_SIZE: u32 = 4 << 20;

/// Regions in the arena. Tables of several policies share a region.
pub const REGIONS: u32 = 4;

/// Address rules in one policy.
pub const MAX_NET_RULES: u32 = 256;

/// Calls in flight that a slot can name. The relay refuses further requests,
/// so that no candidate of an ambiguous event is ever left out.
pub const MAX_CALLS: usize = 64;

/// Bytes of a slot: one page, so that a relay can be handed exactly its own.
pub const SLOT_SIZE: usize = 4096;

const _: () = assert!(REGION_SIZE.is_power_of_two());
const _: () = assert!(MAX_SANDBOXES.is_power_of_two());
