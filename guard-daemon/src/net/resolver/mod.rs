//! The resolver: what one sandbox asks, and what it is told. Judged before
//! anything leaves the host; addresses are opened before they are told.

pub(crate) mod answer;
pub(crate) mod limits;
pub(crate) mod question;
pub(crate) mod sandbox;
pub(crate) mod serve;
pub(crate) mod upstream;

#[cfg(test)]
pub(crate) mod tests;
