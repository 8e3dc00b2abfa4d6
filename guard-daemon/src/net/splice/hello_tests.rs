//! Hellos of a real library (OpenSSL, through Python), with and without a name, and
//! what can be made of them.

use super::*;

const TLS13: &str = "\
    1603010200010001fc030327ef3072e825e9f8cf723a00196da147c32fa3bd915bd7b1dab4da92910482e520\
    24ce83cece56b267ff8be44b20a46b2590de1593e3bb74a113012006aaf1a1900024130213031301c02cc030\
    c02bc02fcca9cca8c024c028c023c027009f009e006b006700ff0100018f0000001500130000106170692e61\
    6c6c6f7765642e74657374000b000403000102000a00160014001d0017001e00190018010001010102010301\
    04002300000016000000170000000d002a0028040305030603080708080809080a080b080408050806040105\
    010601030303010302040205020602002b00050403040303002d00020101003300260024001d0020ee78cc63\
    24b44ddef3ac34d91e8c8dedeefaefb6dbaf5fe6f05c4e1eac758d30001500dd000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000";
const TLS12: &str = "\
    16030100b6010000b20303165e050325cca99f80bb2beab2cc865addd80417b2b9b50b60b166b43d0d352d00\
    001ec02cc030c02bc02fcca9cca8c024c028c023c027009f009e006b006700ff0100006b0000001500130000\
    106170692e616c6c6f7765642e74657374000b000403000102000a000c000a001d0017001e00190018002300\
    000016000000170000000d002a0028040305030603080708080809080a080b08040805080604010501060103\
    0303010302040205020602";
const NAMELESS: &str = "\
    1603010200010001fc03032d9d3fb2d0e0c0ddeee0acd2cb844a7fb2d2d777f4f800fd9685153b0d1b49e020\
    2ed403a7dc195568236ed2c860f1cb2af15ff5d8fbac3ba0723a33b2d37612630024130213031301c02cc030\
    c02bc02fcca9cca8c024c028c023c027009f009e006b006700ff0100018f000b000403000102000a00160014\
    001d0017001e0019001801000101010201030104002300000016000000170000000d002a0028040305030603\
    080708080809080a080b080408050806040105010601030303010302040205020602002b0005040304030300\
    2d00020101003300260024001d0020dc2dbc7f55cbae4105e8869df09218903ece5f3bd72d511ba82b494ba9\
    00f405001500f600000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000";

pub(in crate::net::splice) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

pub(in crate::net::splice) fn real() -> Vec<u8> {
    bytes(TLS13)
}

fn name(text: &str) -> Hello {
    Hello::Name(Name::parse(text).unwrap())
}

/// The handshake message of one record.
fn message(record: &[u8]) -> &[u8] {
    &record[HEAD..]
}

/// The message in records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in message.chunks(size) {
        out.extend([22, 3, 1]);
        out.extend((part.len() as u16).to_be_bytes());
        out.extend(part);
    }
    out
}

/// A hello with these extensions in place of its own.
fn with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let real = real();
    let hello = message(&real);
    // Version, random, session id, ciphers, compression.
    let session = 4 + 2 + 32;
    let ciphers = session + 1 + usize::from(hello[session]);
    let compression =
        ciphers + 2 + usize::from(u16::from_be_bytes([hello[ciphers], hello[ciphers + 1]]));
    let end = compression + 1 + usize::from(hello[compression]);
    let mut body = hello[4..end].to_vec();
    let mut block = Vec::new();
    for (kind, extension) in extensions {
        block.extend(kind.to_be_bytes());
        block.extend((extension.len() as u16).to_be_bytes());
        block.extend(*extension);
    }
    body.extend((block.len() as u16).to_be_bytes());
    body.extend(block);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    records(&message, 1 << 14)
}

fn sni(hosts: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    for host in hosts {
        list.push(0);
        list.extend((host.len() as u16).to_be_bytes());
        list.extend(*host);
    }
    let mut body = (list.len() as u16).to_be_bytes().to_vec();
    body.extend(list);
    body
}

fn refused(why: SpliceRefusal) -> Hello {
    Hello::Refused(why, None)
}

#[test]
fn real_hellos_are_read() {
    assert_eq!(read(&bytes(TLS13)), name("api.allowed.test"));
    assert_eq!(read(&bytes(TLS12)), name("api.allowed.test"));
    assert_eq!(read(&bytes(NAMELESS)), refused(SpliceRefusal::NoName));
}

#[test]
fn a_hello_may_come_in_any_pieces_and_records() {
    let whole = bytes(TLS13);
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Hello::More, "{end}");
    }
    for size in 1..whole.len() {
        let split = records(message(&whole), size);
        assert_eq!(read(&split), name("api.allowed.test"), "{size}");
        assert_eq!(read(&split[..split.len() - 1]), Hello::More);
    }
}

#[test]
fn a_hello_may_be_long() {
    // As with post-quantum keys, and longer.
    for len in [1216, 4000, 40_000] {
        let key = vec![7; len];
        let hello = with(&[(0x33, &key), (0, &sni(&[b"a.test"]))]);
        assert_eq!(read(&hello), name("a.test"));
        assert_eq!(read(&hello[..1300]), Hello::More);
    }
    let endless = records(&[&[1, 0, 0xff, 0xff], &[0; 70_000][..]].concat(), 1000);
    assert_eq!(read(&endless), NOT_ONE);
}

#[test]
fn what_is_no_hello_is_refused_at_its_first_byte() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x",
        &[21, 3, 3, 0, 2, 2, 40],
        &[20, 3, 3, 0, 1, 1],
        &[23, 3, 3, 0, 1, 1],
        &[0x80, 0x2e, 1, 0, 2],
        &[22, 2],
        &[22, 3, 5],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0xff, 0xff],
        &[22, 3, 1, 0, 4, 2],
    ] {
        assert_eq!(read(bytes), NOT_ONE, "{bytes:?}");
    }
    let mut more = real();
    more.extend([22, 3, 3, 0, 1, 1]);
    assert!(
        matches!(read(&more), Hello::Name(_)),
        "what follows is the server's"
    );
    // A second message in the hello's own record.
    let real = real();
    let two = [message(&real), &[1, 0, 0, 0]].concat();
    assert_eq!(read(&records(&two, 1 << 14)), NOT_ONE);
}

#[test]
fn exactly_one_readable_name() {
    let of = |hosts: &[&[u8]]| read(&with(&[(0, &sni(hosts))]));
    assert_eq!(of(&[b"API.Example.test"]), name("api.example.test"));
    assert_eq!(of(&[]), refused(SpliceRefusal::NoName));
    assert_eq!(of(&[b"a.test", b"b.test"]), refused(SpliceRefusal::NoName));
    assert_eq!(of(&[b""]), refused(SpliceRefusal::NoName));
    for host in [
        &b"192.0.2.1"[..],
        b"a.test.",
        b"a b.test",
        b"a\0.test",
        b"\xff.test",
    ] {
        let said = Some(crate::wire::escape(host));
        assert_eq!(of(&[host]), Hello::Refused(SpliceRefusal::Name, said));
    }
    let one = sni(&[b"a.test"]);
    assert_eq!(read(&with(&[(0, &one), (0, &one)])), NOT_ONE);
    assert_eq!(
        read(&with(&[(0, &one[..one.len() - 1])])),
        refused(SpliceRefusal::NoName)
    );
    assert_eq!(
        read(&with(&[(0, &[&one[..], &[0]].concat())])),
        refused(SpliceRefusal::NoName)
    );
    assert_eq!(read(&with(&[(16, b"x")])), refused(SpliceRefusal::NoName));
}

#[test]
fn a_hello_that_hides_another_is_refused() {
    let one = sni(&[b"a.test"]);
    for kind in HIDING {
        let hello = with(&[(0, &one), (kind, b"\0")]);
        assert_eq!(read(&hello), refused(SpliceRefusal::Encrypted), "{kind:#x}");
    }
}

/// Whatever is changed, no name comes out that is not in the bytes, and nothing
/// panics.
#[test]
fn mutated_hellos() {
    let real = real();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..100_000 {
        let mut hello = records(message(&real), 1 + (random() % 600) as usize);
        for _ in 0..=random() % 3 {
            let at = (random() % hello.len() as u64) as usize;
            match random() % 3 {
                0 => hello[at] = random() as u8,
                1 => hello.truncate(at.max(1)),
                _ => hello.insert(at, random() as u8),
            }
        }
        if let Hello::Name(name) = read(&hello) {
            let lower: Vec<u8> = hello.iter().map(u8::to_ascii_lowercase).collect();
            let start = name.as_str().as_bytes().first().copied().unwrap();
            assert!(lower.contains(&start) && name.as_str().len() <= hello.len());
            // In one record it stands there as it is.
            if hello.len() == real.len() && hello[HEAD] == real[HEAD] {
                let text = name.as_str().as_bytes();
                assert!(lower.windows(text.len()).any(|w| w == text), "{name}");
            }
        }
    }
}
