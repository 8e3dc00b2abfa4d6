//! Where lines go.

pub mod file;
mod storage;
mod tail;

pub use file::{AppendError, FileSink, OpenError};
