//! JSON-RPC as MCP speaks it over stdio: lines, messages, and the ledger of
//! calls in flight. Pure: no clock, no descriptor, no unsafe. Whatever it
//! judges are exactly the bytes that the other side will parse, and what two
//! parsers could read differently is refused.
#![forbid(unsafe_code)]

pub mod digest;
pub mod fault;
pub mod frame;
pub mod ledger;
pub mod message;
pub mod reply;
pub mod scan;
pub mod session;
