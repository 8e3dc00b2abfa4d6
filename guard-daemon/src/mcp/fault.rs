//! What can be wrong with a line.

/// Why a line is not one message that every parser reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bytes that are no UTF-8.
    #[error("the message is not valid UTF-8")]
    NotUtf8,
    /// U+FEFF at the start: some parsers skip it, others fail.
    #[error("the message starts with a byte order mark; send it without")]
    ByteOrderMark,
    /// A NUL byte, or `\u0000` in a key or in a string that guard must read.
    #[error("the message has a NUL character in a place where parsers differ")]
    Nul,
    /// A carriage return within the line: some readers end the line there.
    #[error(
        "the message has a carriage return between its tokens; some readers end the line there"
    )]
    CarriageReturn,
    /// Not JSON (RFC 8259).
    #[error("the message is not valid JSON")]
    NotJson,
    /// `\uD800` to `\uDFFF` without its other half.
    #[error("the message has half of a surrogate pair in a string")]
    Surrogate,
    /// Nested deeper than [`super::scan::MAX_DEPTH`].
    #[error("the message is nested deeper than 128 levels")]
    TooDeep,
    /// The same key twice in one object.
    #[error("an object in the message has the same key twice; parsers differ in which one counts")]
    DuplicateKey,
    /// A key that differs from one of the protocol's only in case.
    #[error(
        "a key differs from one of the protocol's only in upper and lower case; some parsers take it for that one"
    )]
    AmbiguousKey,
    /// An id that is no integer within ±2^53 and no string of at most [`super::message::MAX_ID`] bytes.
    #[error("the id is neither a string of at most 1024 bytes nor an integer within 2^53")]
    BadId,
    /// JSON, but no JSON-RPC 2.0 message as MCP has them.
    #[error(
        "the message is not a JSON-RPC 2.0 request, notification or response with object parameters"
    )]
    NotAMessage,
    /// A method or tool name longer than [`super::message::MAX_NAME`].
    #[error("the method or the name in the message is longer than 1024 bytes")]
    NameTooLong,
    /// `tools/call` whose `params.name` is no string.
    #[error("tools/call without a name that is a string")]
    NoToolName,
    /// An array of messages where the protocol revision has none.
    #[error("batches are part of protocol revision 2025-03-26 only")]
    Batch,
    /// A request whose id is that of one in flight.
    #[error("the id is that of a request still in flight")]
    DuplicateId,
    /// As many requests in flight as can be told apart.
    #[error(
        "too many requests are in flight; wait for some to end (cancelled calls and tasks count until they end)"
    )]
    TooManyCalls,
    /// A line longer than the limit.
    #[error("the message is longer than the limit")]
    TooLong,
}

impl Fault {
    /// The fixed word for [`crate::wire::ProtocolNote::reason`].
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not-utf8",
            Self::ByteOrderMark => "byte-order-mark",
            Self::Nul => "nul",
            Self::CarriageReturn => "carriage-return",
            Self::NotJson => "not-json",
            Self::Surrogate => "surrogate",
            Self::TooDeep => "too-deep",
            Self::DuplicateKey => "duplicate-key",
            Self::AmbiguousKey => "ambiguous-key",
            Self::BadId => "bad-id",
            Self::NotAMessage => "not-a-message",
            Self::NameTooLong => "name-too-long",
            Self::NoToolName => "no-tool-name",
            Self::Batch => "batch",
            Self::DuplicateId => "duplicate-id",
            Self::TooManyCalls => "too-many-calls",
            Self::TooLong => "too-long",
        }
    }

    /// The JSON-RPC error code (JSON-RPC 2.0 §5.1). -32000 is the first of the
    /// implementation's own; MCP keeps -32020 to -32099 for itself.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::NotUtf8 | Self::NotJson => -32700,
            Self::NoToolName => -32602,
            Self::TooManyCalls => -32000,
            _ => -32600,
        }
    }

    /// Whether a server's line with this fault is free text that its author
    /// never meant as a message, rather than one that parsers read differently.
    #[must_use]
    pub const fn is_noise(self) -> bool {
        matches!(self, Self::NotJson | Self::NotUtf8 | Self::NotAMessage)
    }
}
