//! The beginning of a TLS connection: bytes to the server name that they ask for.
//! Pure. A hello may come in any pieces and in any records (RFC 8446, 5.1): those
//! with post-quantum keys do not fit into one segment.

use tls_parser::{TlsMessage, TlsMessageHandshake, parse_tls_message_handshake};

use crate::net::wire::SpliceRefusal;
use crate::policy::names::Name;

/// Bytes of the largest hello, its records' heads among them.
const MAX_BYTES: usize = 64 << 10;
/// Bytes of a record's payload (RFC 8446, 5.1, and what older versions add).
const MAX_RECORD: usize = (1 << 14) + 256;
/// Content type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Bytes of a record's head.
const HEAD: usize = 5;
/// Type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// The extension `server_name` (RFC 6066, 3).
const SERVER_NAME: u16 = 0;
/// Extensions that hide the hello that counts: Encrypted Client Hello (RFC 9849)
/// and its drafts. Programs also send it without meaning (GREASE): what hides
/// something cannot be told from what pretends to.
const HIDING: [u16; 5] = [0xfe0d, 0xfe09, 0xff02, 0xff03, 0xffce];

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hello {
    /// The beginning of one.
    More,
    /// One, that asks for this server.
    Name(Name),
    /// Nothing that may pass, with the name as it was written if there is one.
    Refused(SpliceRefusal, Option<String>),
}

const NOT_ONE: Hello = Hello::Refused(SpliceRefusal::NoHello, None);

/// Reads what has come so far, from the connection's first byte on.
pub(super) fn read(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(wanted) = wanted(&message) {
            match wanted {
                Err(refused) => return refused,
                Ok(len) if message.len() >= len => {
                    // What follows the hello is not its own: a program that goes
                    // on at once has sent early data in other records.
                    return match message.len() == len {
                        true => parse(&message),
                        false => NOT_ONE,
                    };
                }
                Ok(_) => {}
            }
        }
        // As far as it is there, it must be the head of a record.
        let fits = [HANDSHAKE, 3].iter().zip(rest).all(|(a, b)| a == b)
            && rest.get(2).is_none_or(|minor| (1..=4).contains(minor));
        if !fits {
            return NOT_ONE;
        }
        let Some(head) = rest.get(..HEAD) else {
            return incomplete(bytes);
        };
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if len == 0 || len > MAX_RECORD {
            return NOT_ONE;
        }
        let payload = &rest[HEAD..rest.len().min(HEAD + len)];
        message.extend_from_slice(payload);
        if payload.len() < len {
            // The first bytes of a record show already what it is not.
            return match wanted(&message) {
                Some(Err(refused)) => refused,
                _ => incomplete(bytes),
            };
        }
        rest = &rest[HEAD + len..];
    }
}

fn incomplete(bytes: &[u8]) -> Hello {
    match bytes.len() < MAX_BYTES {
        true => Hello::More,
        false => NOT_ONE,
    }
}

/// Bytes of the handshake message that begins here; `None` while its head is not
/// whole.
fn wanted(message: &[u8]) -> Option<Result<usize, Hello>> {
    if *message.first()? != CLIENT_HELLO {
        return Some(Err(NOT_ONE));
    }
    let [_, a, b, c, ..] = message else {
        return None;
    };
    let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    Some(match len < MAX_BYTES {
        true => Ok(4 + len),
        false => Err(NOT_ONE),
    })
}

fn parse(message: &[u8]) -> Hello {
    let Ok((&[], TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) =
        parse_tls_message_handshake(message)
    else {
        return NOT_ONE;
    };
    let Some(extensions) = hello.ext.and_then(extensions) else {
        return Hello::Refused(SpliceRefusal::NoName, None);
    };
    if extensions.iter().any(|(kind, _)| HIDING.contains(kind)) {
        return Hello::Refused(SpliceRefusal::Encrypted, None);
    }
    let mut kinds: Vec<u16> = extensions.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        // Which of them a server takes is its own business (RFC 8446, 4.2).
        return NOT_ONE;
    }
    let names = extensions.iter().find(|(kind, _)| *kind == SERVER_NAME);
    let Some(host) = names.and_then(|(_, body)| host_name(body)) else {
        return Hello::Refused(SpliceRefusal::NoName, None);
    };
    match std::str::from_utf8(host).ok().map(Name::parse) {
        // Host names have no trailing dot there (RFC 6066, 3).
        Some(Ok(name)) if !host.ends_with(b".") => Hello::Name(name),
        _ => Hello::Refused(SpliceRefusal::Name, Some(crate::wire::escape(host))),
    }
}

/// Types and bodies; `None` where they do not fill the block.
fn extensions(mut block: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while !block.is_empty() {
        let kind = u16::from_be_bytes([*block.first()?, *block.get(1)?]);
        let len = usize::from(u16::from_be_bytes([*block.get(2)?, *block.get(3)?]));
        all.push((kind, block.get(4..4 + len)?));
        block = &block[4 + len..];
    }
    Some(all)
}

/// The one host name of the extension (RFC 6066, 3); `None` for none, for
/// several, and for other kinds of names.
fn host_name(body: &[u8]) -> Option<&[u8]> {
    let len = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
    let list = body.get(2..)?;
    let [0, hi, lo, name @ ..] = list else {
        return None;
    };
    let name_len = usize::from(u16::from_be_bytes([*hi, *lo]));
    (list.len() == len && name.len() == name_len && !name.is_empty()).then_some(name)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
pub(super) mod tests;
