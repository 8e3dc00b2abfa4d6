//! A policy's own tests: `[[example]]`.

use std::net::{IpAddr, SocketAddr};

use guard_common::matcher::Verdict;
use guard_common::table::FileAccess;

use super::document::ExampleText;
use super::error::{Place, PolicyError};
use super::names::Name;
use super::network::number;
use super::resolve::ResolveContext;
use super::variables;

/// Something a server might do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Opening or executing a file.
    File(FileAccess, Vec<u8>),
    /// Connecting or sending to an address; IPv4 as IPv4-mapped.
    Connect(u128, u16),
    /// Connecting or sending to whatever a name leads to.
    Name(Name, u16),
    /// Being reached at an address and port of this host.
    Listen(u128, u16),
    /// Connecting to a unix socket with an abstract name, without the zero in front.
    Abstract(Vec<u8>),
}

/// An access and the verdict that its policy must give.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) text: String,
    pub(crate) access: Access,
    pub(crate) verdict: Verdict,
    pub(crate) place: Place,
}

/// Message and help.
type Bad = (String, Option<String>);

fn bad<T>(message: String, help: &str) -> Result<T, Bad> {
    Err((message, Some(help.to_owned())))
}

/// Reads `read /path`, `write /path`, `exec /path`, `connect NAME:PORT`,
/// `connect ADDRESS:PORT`, `connect /path`, `connect @name` or
/// `listen ADDRESS:PORT`.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse_access(text: &str) -> Result<Access, (String, Option<String>)> {
    read_access(text.as_bytes())
}

const FORM: &str = "write: read /path, write /path, exec /path, connect NAME:PORT, \
                    connect ADDRESS:PORT, connect /path, connect @name or listen ADDRESS:PORT";

fn read_access(text: &[u8]) -> Result<Access, Bad> {
    let shown = String::from_utf8_lossy(text);
    let at = text.iter().position(|b| *b == b' ').unwrap_or(text.len());
    let (word, rest) = text.split_at(at);
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let access = match word {
        b"read" => FileAccess::Read,
        b"write" => FileAccess::Write,
        b"exec" => FileAccess::Exec,
        b"connect" if rest.starts_with(b"@") => return Ok(Access::Abstract(rest[1..].to_vec())),
        b"connect" if rest.starts_with(b"/") => FileAccess::Connect,
        b"connect" => return destination(&String::from_utf8_lossy(rest)),
        b"listen" => {
            let (addr, port) = address(&String::from_utf8_lossy(rest))?;
            return Ok(Access::Listen(addr, port));
        }
        _ => return bad(format!("{shown:?} is not an access"), FORM),
    };
    if !rest.starts_with(b"/") {
        return bad(format!("{shown:?}: the path is not absolute"), FORM);
    }
    let odd = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.contains(&0);
    if rest != b"/" && rest[1..].split(|b| *b == b'/').any(odd) {
        return bad(
            format!("{shown:?}: the path has an empty component, a NUL byte, . or .."),
            "write the path as the kernel sees it, after symlinks",
        );
    }
    Ok(Access::File(access, rest.to_vec()))
}

/// An address as rules have it, and a port.
fn address(text: &str) -> Result<(u128, u16), Bad> {
    match text.parse::<SocketAddr>() {
        Ok(addr) => Ok((number(addr.ip()), addr.port())),
        Err(_) if text.parse::<IpAddr>().is_ok() => bad(format!("{text:?} has no port"), FORM),
        Err(_) => bad(format!("{text:?} is not an address and a port"), FORM),
    }
}

/// `NAME:PORT` or `ADDRESS:PORT`.
fn destination(text: &str) -> Result<Access, Bad> {
    let name = text
        .rsplit_once(':')
        .map(|(host, port)| (Name::parse(host), port));
    match (name, address(text)) {
        (_, Ok((addr, port))) => Ok(Access::Connect(addr, port)),
        (Some((Ok(name), port)), Err(_)) => match port.parse() {
            Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Access::Name(name, number))
            }
            _ => bad(format!("{port:?} is not a port"), FORM),
        },
        (None, Err(_)) if Name::parse(text).is_ok() => bad(format!("{text:?} has no port"), FORM),
        (Some((Err(error), _)), Err(_))
            if text.contains(char::is_alphabetic) && !text.contains('[') =>
        {
            bad(format!("{text:?}: {error}"), FORM)
        }
        (_, Err(error)) => Err(error),
    }
}

/// One example for each combination of its variables' values.
pub(crate) fn parse(
    example: &ExampleText,
    context: &ResolveContext<'_>,
) -> Result<Vec<Example>, PolicyError> {
    let error = |(message, help)| PolicyError {
        place: Some(example.access.place.clone()),
        message,
        help,
    };
    let texts = substitute(&example.access.value, context).map_err(error)?;
    texts
        .iter()
        .map(|text| {
            Ok(Example {
                text: String::from_utf8_lossy(text).into_owned(),
                access: read_access(text).map_err(error)?,
                verdict: example.verdict,
                place: example.access.place.clone(),
            })
        })
        .collect()
}

/// Puts variables in; here everything else is literal.
fn substitute(text: &str, context: &ResolveContext<'_>) -> Result<Vec<Vec<u8>>, Bad> {
    let mut out = vec![Vec::new()];
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            return Err(("a ${ that is never closed".into(), None));
        };
        let values = variables::values(context, false, name)?;
        out = out
            .iter()
            .flat_map(|start| {
                values
                    .iter()
                    .map(move |value| [start, before.as_bytes(), value].concat())
            })
            .collect();
        rest = tail;
        if out.len() > 1024 {
            return Err(("variables make too many examples of this one".into(), None));
        }
    }
    for text in &mut out {
        text.extend_from_slice(rest.as_bytes());
    }
    Ok(out)
}
