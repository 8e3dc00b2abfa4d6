//! The table.

mod addresses;
mod clients;
mod dns;
mod sni;
mod sockets;

use super::row::Row;

/// All cases, in the order in which they run in their sandboxes.
pub fn all() -> Vec<Row> {
    let families = [
        sockets::ROWS,
        addresses::ROWS,
        dns::ROWS,
        clients::ROWS,
        sni::ROWS,
    ];
    families
        .into_iter()
        .flatten()
        .copied()
        .flatten()
        .copied()
        .collect()
}

/// The words of the kernel's refusals.
const NOT_PERMITTED: &str = "os error 1";
