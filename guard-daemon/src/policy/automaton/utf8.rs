//! UTF-8 as byte ranges, and the rule by which a byte that starts no valid
//! character is one character of its own.

/// Byte sequences of a range of code points (RFC 3629): each is a list of
/// ranges, one for each byte.
pub(crate) fn sequences(lo: u32, hi: u32) -> Vec<Vec<(u8, u8)>> {
    const BANDS: [(u32, u32); 5] = [
        (0, 0x7f),
        (0x80, 0x7ff),
        (0x800, 0xd7ff),
        (0xe000, 0xffff),
        (0x1_0000, 0x10_ffff),
    ];
    let mut out = Vec::new();
    for (first, last) in BANDS {
        let (lo, hi) = (lo.max(first), hi.min(last));
        if lo <= hi {
            split(lo, hi, &mut out);
        }
    }
    out
}

/// Cuts a range until its ends differ in whole continuation bytes only.
fn split(lo: u32, hi: u32, out: &mut Vec<Vec<(u8, u8)>>) {
    let (Some(first), Some(last)) = (char::from_u32(lo), char::from_u32(hi)) else {
        return;
    };
    for byte in 1..first.len_utf8() {
        let low_bits = (1 << (6 * byte)) - 1;
        if lo & !low_bits != hi & !low_bits {
            if lo & low_bits != 0 {
                split(lo, lo | low_bits, out);
                split((lo | low_bits) + 1, hi, out);
                return;
            }
            if hi & low_bits != low_bits {
                split(lo, (hi & !low_bits) - 1, out);
                split(hi & !low_bits, hi, out);
                return;
            }
        }
    }
    let (mut a, mut b) = ([0; 4], [0; 4]);
    let a = first.encode_utf8(&mut a).bytes();
    let b = last.encode_utf8(&mut b).bytes();
    out.push(a.zip(b).collect());
}

/// What must not follow a byte that was taken as a character of its own,
/// because with it the byte would have started a valid one. 0: nothing.
pub(crate) type Pending = u8;

/// Where bytes differ in what they do to a [`Pending`].
pub(crate) const PENDING_CUTS: [u8; 13] = [
    0x80, 0x90, 0xa0, 0xc0, 0xc2, 0xe0, 0xe1, 0xed, 0xee, 0xf0, 0xf1, 0xf4, 0xf5,
];

/// Bits that a pending takes.
pub(crate) const PENDING_BITS: u32 = 3;

/// The bytes that can be a character of their own, by what they leave pending.
pub(crate) const ODD_BYTES: [(u8, u8); 10] = [
    (0x80, 0xc1),
    (0xc2, 0xdf),
    (0xe0, 0xe0),
    (0xe1, 0xec),
    (0xed, 0xed),
    (0xee, 0xef),
    (0xf0, 0xf0),
    (0xf1, 0xf3),
    (0xf4, 0xf4),
    (0xf5, 0xff),
];

/// What taking `byte` (0x80 and up) as a character of its own leaves pending.
pub(crate) fn pending_after(byte: u8) -> Pending {
    match byte {
        0xc2..=0xdf => 1,
        0xe0 => 2,
        0xed => 4,
        0xe1..=0xef => 3,
        0xf0 => 5,
        0xf1..=0xf3 => 6,
        0xf4 => 7,
        _ => 0,
    }
}

/// What is pending after one more byte; `None`: the byte was no character of
/// its own after all.
pub(crate) fn pending_step(pending: Pending, byte: u8) -> Option<Pending> {
    let (range, next) = match pending {
        0 => return Some(0),
        1 => (0x80..=0xbf, None),
        2 => (0xa0..=0xbf, Some(1)),
        4 => (0x80..=0x9f, Some(1)),
        5 => (0x90..=0xbf, Some(3)),
        6 => (0x80..=0xbf, Some(3)),
        7 => (0x80..=0x8f, Some(3)),
        _ => (0x80..=0xbf, Some(1)),
    };
    if range.contains(&byte) { next } else { Some(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_cover_exactly_their_range() {
        for (lo, hi) in [
            (0, 0x10_ffff),
            (0x7f, 0x800),
            (0xe4, 0xfc),
            (0xd700, 0xe001),
        ] {
            let sequences = sequences(lo, hi);
            let step = if hi > 0xffff { 13 } else { 1 };
            for c in (0..=0x10_ffff).step_by(step).filter_map(char::from_u32) {
                let mut buffer = [0; 4];
                let bytes = c.encode_utf8(&mut buffer).as_bytes();
                let hits = sequences
                    .iter()
                    .filter(|s| {
                        s.len() == bytes.len()
                            && s.iter().zip(bytes).all(|((a, b), x)| a <= x && x <= b)
                    })
                    .count();
                assert_eq!(hits, usize::from((lo..=hi).contains(&(c as u32))), "{c:?}");
            }
        }
    }

    #[test]
    fn odd_bytes_leave_the_same_pending_in_their_range() {
        let mut next = 0x80;
        for (lo, hi) in ODD_BYTES {
            assert_eq!(usize::from(lo), next);
            assert!((lo..=hi).all(|b| pending_after(b) == pending_after(lo)));
            next = usize::from(hi) + 1;
        }
        assert_eq!(next, 0x100);
    }

    #[test]
    fn a_lead_byte_is_a_character_only_without_its_continuation() {
        for bytes in [
            &b"\xc3\xa9"[..],
            b"\xe2\x82\xac",
            b"\xf0\x9f\x98\x80",
            b"\xed\x9f\xbf",
        ] {
            let mut pending = Some(pending_after(bytes[0]));
            for byte in &bytes[1..] {
                pending = pending.and_then(|p| pending_step(p, *byte));
            }
            assert_eq!(pending, None, "{bytes:x?}");
        }
        for bytes in [
            &b"\xc3/"[..],
            b"\xe2\x82/",
            b"\xed\xa0\x80",
            b"\xf0\x8f\x80\x80",
            b"\xc0\x80",
        ] {
            let mut pending = Some(pending_after(bytes[0]));
            for byte in &bytes[1..] {
                pending = pending.and_then(|p| pending_step(p, *byte));
            }
            assert_eq!(pending, Some(0), "{bytes:x?}");
        }
    }
}
