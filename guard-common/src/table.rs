//! The compiled form of one policy: a byte DFA over paths and a list of
//! address rules, in one relocatable block of bytes.
//!
//! # Input of the DFA
//! A path is fed **leaf component first**, the bytes of each component in
//! their own order, a `/` after every component: `/srv/project/.env` is
//! `.env/project/srv/`, and `/` is the empty input. That is the order in which
//! the kernel can walk dentries, and it keeps names in the order in which they
//! lie in memory. `/proc/PID` of the opening process itself is fed as `self`.
//!
//! # Layout
//! All integers are in the host's byte order. Offsets count from the header.
//! ```text
//! 0                      TableHeader
//! CLASS_MAP_OFFSET       [u16; 256]          byte → offset of its column in a row
//! TRANSITIONS_OFFSET     rows, ROW_UNIT bytes or a multiple each
//! header.outputs         [Output; outputs_len]     8-byte aligned
//! header.net_rules       [NetRule; net_len]        8-byte aligned
//! header.listen_rules    [NetRule; listen_len]     8-byte aligned
//! header.boundaries      [u16; boundaries_len]
//! ```
//! A state *is* its row's number, counted in [`ROW_UNIT`]s, so that a step is
//! two loads, two additions and a shift. A row starts with the index of its
//! output; its other columns are the states that each class of bytes leads to.
//!
//! State 0 is the dead state: it never leaves itself and its output grants
//! nothing. Output 0 is all zero. Byte 0, which no name can contain, leads
//! from every state to itself: the kernel feeds whole words, padded with it.
//!
//! *Boundaries* are the states that what lies below a directory can have led
//! to when the directory's own name comes: all that is to be compared to tell
//! whether a move of the directory gives anything below it more rights.

use crate::limits::MAX_RULE_SETS;

/// First bytes of a table: "GRDT".
pub const TABLE_MAGIC: u32 = 0x5444_5247;

/// Where the byte classes start.
pub const CLASS_MAP_OFFSET: u32 = 64;

/// Where the rows start, a multiple of [`ROW_UNIT`].
pub const TRANSITIONS_OFFSET: u32 = CLASS_MAP_OFFSET + 512;

/// Bytes that rows are counted in: a cache line.
pub const ROW_UNIT: u32 = 1 << ROW_SHIFT;

/// Binary logarithm of [`ROW_UNIT`].
pub const ROW_SHIFT: u32 = 6;

/// Units that the rows of a table may take: 16 bits number them.
pub const MAX_ROW_UNITS: u32 = 1 << 16;

/// The state that nothing leads out of.
pub const DEAD: u32 = 0;

/// Head of a compiled policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableHeader {
    /// [`TABLE_MAGIC`].
    pub magic: u32,
    /// [`crate::limits::ABI_VERSION`].
    pub abi: u32,
    /// Bytes of the whole table, header included; a multiple of 8.
    pub size: u32,
    /// Number of states, at least 1.
    pub states: u32,
    /// [`ROW_UNIT`]s of one row.
    pub stride: u32,
    /// State before the first byte.
    pub start: u32,
    /// Offset of the column of `/` in a row.
    pub slash: u32,
    /// Offset of the outputs.
    pub outputs: u32,
    /// Number of outputs, at least 1.
    pub outputs_len: u32,
    /// Offset of the address rules.
    pub net_rules: u32,
    /// Number of address rules, up to [`crate::limits::MAX_NET_RULES`].
    pub net_len: u32,
    /// Number of rule sets, 1 to [`MAX_RULE_SETS`].
    pub rule_sets: u32,
    /// Offset of the boundaries.
    pub boundaries: u32,
    /// Number of boundaries.
    pub boundaries_len: u32,
    /// Offset of the address rules for binding and listening.
    pub listen_rules: u32,
    /// Number of them, up to [`crate::limits::MAX_NET_RULES`].
    pub listen_len: u32,
}

/// For one kind of access, which rule sets allow, deny, or want a person to
/// approve. Bit *n* is rule set *n*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccessMasks {
    /// Sets with an allow rule that matches.
    pub allow: u64,
    /// Sets with a deny rule that matches.
    pub deny: u64,
    /// Sets with an approve rule that matches.
    pub approve: u64,
}

/// What the DFA knows about a path once its last byte was fed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Output {
    /// Indexed by [`FileAccess`].
    pub by_access: [AccessMasks; FileAccess::COUNT],
}

/// What is asked of a file.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileAccess {
    /// Read contents, list a directory.
    Read = 0,
    /// Write, truncate, create, and later every change of a name.
    Write = 1,
    /// Execute, or map as code.
    Exec = 2,
    /// Connect to a unix socket, or send to one.
    Connect = 3,
}

impl FileAccess {
    /// Number of kinds.
    pub const COUNT: usize = 4;
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Read, Self::Write, Self::Exec, Self::Connect];

    /// The bit that stands for this kind in an event's `access`.
    #[must_use]
    pub const fn bit(self) -> u8 {
        1 << (self as u32)
    }
}

/// One address rule. IPv4 is IPv4-mapped (`::ffff:a.b.c.d`), so that both
/// families, and IPv4 through an IPv6 socket, are one comparison.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetRule {
    /// Network, high 64 bits, host order. Bits outside the mask are zero.
    pub addr_hi: u64,
    /// Network, low 64 bits, host order.
    pub addr_lo: u64,
    /// Prefix mask, high 64 bits.
    pub mask_hi: u64,
    /// Prefix mask, low 64 bits.
    pub mask_lo: u64,
    /// Which sets the rule belongs to, and what it says.
    pub masks: AccessMasks,
    /// First port, host order.
    pub port_first: u16,
    /// Last port, inclusive.
    pub port_last: u16,
    /// Always zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TableHeader>() == 64);
const _: () = assert!(size_of::<AccessMasks>() == 24);
const _: () = assert!(size_of::<Output>() == 96);
const _: () = assert!(size_of::<NetRule>() == 64);
const _: () = assert!(MAX_RULE_SETS == u64::BITS);
const _: () = assert!(size_of::<TableHeader>() <= CLASS_MAP_OFFSET as usize);
const _: () = assert!(TRANSITIONS_OFFSET.is_multiple_of(ROW_UNIT));
