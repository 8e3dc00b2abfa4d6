//! What the suite `network` runs to reach the network, one step at a time:
//! `bypass probe STEP …` ends with 0 when it got through, 1 when it was refused,
//! 2 when the kernel has not got what it needs, 3 when it broke.

mod dns;
pub mod lab;
mod options;
mod outside;
mod rows;
mod serve;
mod sockets;
mod target;
mod world;

pub use rows::{Command, Done};

use std::path::Path;
use std::process::ExitCode;

use crate::attack::Failure;

/// What a step saw when it got through.
pub(crate) type Seen = Result<String, Failure>;

/// A step by its words; `None` when there is no such step.
pub(crate) fn step(words: &[&str]) -> Option<Seen> {
    Some(match *words {
        ["tcp", to] => sockets::tcp(to),
        ["fast-open", to] => sockets::fast_open(to),
        ["tcp-reconnect", first, to] => sockets::tcp_reconnect(first, to),
        ["udp", to] => sockets::udp(to),
        ["udp-connect", to] => sockets::udp_connect(to),
        ["sendmmsg", to] => sockets::sendmmsg(to),
        ["udp-reconnect", first, to] => sockets::udp_reconnect(first, to),
        ["unspecified-family", to] => sockets::unspecified_family(to),
        ["multicast", to] => sockets::multicast(to),
        ["listen", at] => sockets::listen(at),
        ["socket", family, kind, protocol] => sockets::family(family, kind, protocol),
        ["ping", to] => sockets::ping(to),
        ["unix", path] => sockets::unix(path),
        ["received", meet] => sockets::received(Path::new(meet)),
        ["expiry", to, seconds] => sockets::expiry(to, seconds),
        ["flow-label", to] => options::flow_label(to),
        ["source-route", over, to] => options::source_route(over, to),
        ["source-route-cmsg", over, to] => options::source_route_cmsg(over, to),
        ["routing-header", over, to] => options::routing_header(over, to),
        ["routing-header-cmsg", over, to] => options::routing_header_cmsg(over, to),
        ["dns", way, server, name, record] => dns::ask_and_tell(way, server, name, record),
        ["dns-raw", server, hex] => dns::raw(server, hex),
        ["tunnel", zone, count] => dns::tunnel(zone, count),
        _ => return None,
    })
}

/// `bypass probe …`.
#[must_use]
pub fn run(words: &[&str]) -> ExitCode {
    let outcome = match *words {
        ["rows", file] => rows::run(Path::new(file)),
        ["serve"] => serve::run(),
        ["world", packets, ref addresses @ ..] => world::run(Path::new(packets), addresses),
        ["outside", meet] => outside::run(Path::new(meet)),
        _ => match step(words) {
            Some(seen) => seen,
            None => {
                eprintln!("bypass: no step {words:?}");
                return ExitCode::from(3);
            }
        },
    };
    let (status, text) = told(&outcome);
    println!("{text}");
    ExitCode::from(status)
}

/// A step's end as a status and in words.
pub(crate) fn told(outcome: &Seen) -> (u8, String) {
    match outcome {
        Ok(seen) => (0, seen.clone()),
        Err(Failure::Stopped { step, errno: 0 }) => (1, format!("refused: {step}")),
        Err(Failure::Stopped { step, errno }) => {
            let error = std::io::Error::from_raw_os_error(*errno);
            (1, format!("refused: {step}: {error}"))
        }
        Err(Failure::Untried(why)) => (2, format!("not in this kernel: {why}")),
    }
}
