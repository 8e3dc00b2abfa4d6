//! Questions for names, by every way there is to send one (RFC 1035).

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::Seen;
use super::sockets;
use crate::attack::{At, Failure, nothing};

const PATIENCE: Duration = Duration::from_secs(8);
const TYPES: &[(&str, u16)] = &[
    ("A", 1),
    ("CNAME", 5),
    ("PTR", 12),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("OPT", 41),
    ("HTTPS", 65),
    ("ANY", 255),
];

/// What an answer holds.
pub(crate) struct Answer {
    pub(crate) code: u8,
    pub(crate) records: usize,
    pub(crate) addresses: Vec<IpAddr>,
    /// Text of an extended error (RFC 8914).
    pub(crate) words: Option<String>,
    truncated: bool,
}

/// Asks the server that /etc/resolv.conf names, by UDP.
pub(crate) fn ask_server(name: &str, record: &str) -> Result<Answer, Failure> {
    let text = std::fs::read_to_string("/etc/resolv.conf").at("read resolv.conf")?;
    let server = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .and_then(|address| address.trim().parse::<IpAddr>().ok())
        .ok_or_else(|| nothing("a nameserver in resolv.conf"))?;
    ask("udp", SocketAddr::from((server, 53)), name, record)
}

/// Asks, and says what came.
pub(crate) fn ask_and_tell(way: &str, server: &str, name: &str, record: &str) -> Seen {
    let server = super::target::find(server)?;
    let answer = ask(way, server, name, record)?;
    let mut text = format!("code {} records {}", answer.code, answer.records);
    for address in &answer.addresses {
        let _ = write!(text, " {address}");
    }
    if let Some(words) = &answer.words {
        let _ = write!(text, "; {words}");
    }
    if answer.truncated {
        text.push_str(" truncated");
    }
    // What is not answered is what was refused.
    match answer.code {
        0 => Ok(text),
        _ => Err(nothing(&text)),
    }
}

fn ask(way: &str, server: SocketAddr, name: &str, record: &str) -> Result<Answer, Failure> {
    let question = question(name, record)?;
    let answer = match way {
        "udp" | "udp-connect" | "sendmmsg" | "udp-reconnect" => {
            let bytes = sockets::exchange(way, server, &question)?;
            if bytes.len() < 12 {
                return Err(nothing("a short answer"));
            }
            bytes
        }
        "tcp" => over_stream(TcpStream::connect(server).at("connect")?, &question)?,
        "fast-open" => {
            let framed = framed(&question);
            let mut stream = sockets::fast_open_with(server, &framed)?;
            answer_of(&mut stream)?
        }
        _ => return Err(Failure::Untried(format!("no way {way}"))),
    };
    read(&answer).ok_or_else(|| nothing("an answer that can be read"))
}

/// Sends bytes, given in hex, that need not be a question.
pub(crate) fn raw(server: &str, hex: &str) -> Seen {
    let digits = hex.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok())
        .collect();
    let bytes = bytes.ok_or_else(|| nothing("bytes in hex"))?;
    let answer = sockets::exchange("udp", super::target::find(server)?, &bytes)?;
    let code = answer.get(3).map_or(255, |flags| flags & 15);
    Ok(format!("{} bytes, code {code}", answer.len()))
}

/// Asks for many names under a zone, each with much information in it. Gets
/// through when all are answered.
pub(crate) fn tunnel(zone: &str, count: &str) -> Seen {
    let count: u64 = count.parse().map_err(|_| nothing("a count"))?;
    let (mut answered, mut refused) = (0, 0);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    for _ in 0..count {
        let mut label = String::new();
        while label.len() < 60 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let digit = (state >> 33) as u32 % 36;
            label.push(char::from_digit(digit, 36).unwrap_or('0'));
        }
        match ask_server(&format!("{label}.{zone}"), "TXT") {
            Ok(answer) if answer.code == 0 && answer.records > 0 => answered += 1,
            _ => refused += 1,
        }
    }
    let text = format!("{answered} answered, {refused} refused");
    match refused {
        0 => Ok(text),
        _ => Err(nothing(&text)),
    }
}

fn framed(question: &[u8]) -> Vec<u8> {
    let mut bytes = (question.len() as u16).to_be_bytes().to_vec();
    bytes.extend(question);
    bytes
}

fn over_stream(mut stream: TcpStream, question: &[u8]) -> Result<Vec<u8>, Failure> {
    stream.write_all(&framed(question)).at("write")?;
    answer_of(&mut stream)
}

fn answer_of(stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    stream.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).at("read")?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).at("read")?;
    Ok(bytes)
}

/// A question with EDNS (RFC 6891), so that errors come in words. `\` makes the
/// next character part of a label, a dot too.
fn question(name: &str, record: &str) -> Result<Vec<u8>, Failure> {
    let found = TYPES.iter().find(|(text, _)| *text == record);
    let number = match (found, record.strip_prefix("TYPE")) {
        (Some((_, number)), _) => *number,
        (None, Some(number)) => number.parse().map_err(|_| nothing("a type"))?,
        (None, None) => return Err(nothing("a type of record")),
    };
    let id = std::process::id() as u16;
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question, one additional record.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.trim_end_matches('.').split('.') {
        let label = label.as_bytes();
        if label.is_empty() || label.len() > 63 {
            return Err(nothing("a label"));
        }
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    bytes.extend(number.to_be_bytes());
    bytes.extend([0, 1]);
    // The root, OPT, 1,232 bytes.
    bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    Ok(bytes)
}

/// Reads an answer; `None` when it is none.
pub(crate) fn read(bytes: &[u8]) -> Option<Answer> {
    let count = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *bytes.get(at)?,
            *bytes.get(at + 1)?,
        ])))
    };
    let mut answer = Answer {
        code: bytes.get(3)? & 15,
        records: count(6)?,
        addresses: Vec::new(),
        words: None,
        truncated: bytes.get(2)? & 2 != 0,
    };
    let mut at = 12;
    for _ in 0..count(4)? {
        at = past_name(bytes, at)? + 4;
    }
    for _ in 0..count(6)? + count(8)? + count(10)? {
        at = past_name(bytes, at)?;
        let (kind, length) = (count(at)?, count(at + 8)?);
        let data = bytes.get(at + 10..at + 10 + length)?;
        match (kind, length) {
            (1, 4) => {
                let octets: [u8; 4] = data.try_into().ok()?;
                answer.addresses.push(Ipv4Addr::from(octets).into());
            }
            (28, 16) => {
                let octets: [u8; 16] = data.try_into().ok()?;
                answer.addresses.push(Ipv6Addr::from(octets).into());
            }
            // Option 15, then its length, a code, and the text.
            (41, 6..) if data[..2] == [0, 15] => {
                answer.words = Some(String::from_utf8_lossy(&data[6..]).into_owned());
            }
            _ => {}
        }
        at += 10 + length;
    }
    Some(answer)
}

fn past_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// A bound datagram socket of the family of an address.
pub(crate) fn bound(to: SocketAddr) -> Result<UdpSocket, Failure> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).at("socket")?;
    socket.set_read_timeout(Some(PATIENCE)).at("a timeout")?;
    Ok(socket)
}
