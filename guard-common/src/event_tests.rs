use super::*;

/// A record as a program writes it: header, room for calls, payload.
fn record(payload: &[u8]) -> Vec<u8> {
    let header = EventHeader {
        sandbox: 7,
        kseq: 3,
        in_flight: 1,
        payload_len: payload.len() as u32,
        kind: Kind::File as u8,
        op: Op::Open as u8,
        payload_kind: PAYLOAD_PATH,
        calls_room: FEW_CALLS as u8,
        ..EventHeader::default()
    };
    // SAFETY: plain numbers without padding, as its size says.
    let bytes: [u8; size_of::<EventHeader>()] = unsafe { core::mem::transmute(header) };
    let mut out = bytes.to_vec();
    out.extend(41_u64.to_ne_bytes());
    out.extend([0xff; 8 * (FEW_CALLS - 1)]);
    out.extend(payload);
    out
}

#[test]
fn a_record_is_its_header_calls_and_payload() {
    let event = decode(&record(b"passwd/etc")).unwrap();
    assert_eq!(event.object, Object::Path(b"/etc/passwd".to_vec()));
    assert_eq!(event.calls, [41]);
    assert_eq!((event.header.sandbox, event.header.kseq), (7, 3));
}

#[test]
fn only_a_short_record_has_something_behind_it() {
    let exact = record(b"passwd/etc");
    let mut padded = exact.clone();
    padded.resize(SHORT_RECORD, b'x');
    assert_eq!(decode(&padded), decode(&exact));
    for len in [
        exact.len() - 1,
        exact.len() + 1,
        SHORT_RECORD - 1,
        SHORT_RECORD + 1,
    ] {
        padded.resize(len, b'x');
        assert_eq!(decode(&padded), Err(DecodeError::Size(len)), "{len} bytes");
    }
}

#[test]
fn more_than_there_is_room_for_is_no_record() {
    let offset = core::mem::offset_of!(EventHeader, in_flight);
    let mut many = record(b"x");
    many[offset] = FEW_CALLS as u8 + 1;
    assert_eq!(
        decode(&many),
        Err(DecodeError::Field("in_flight", FEW_CALLS as u64 + 1))
    );
    let offset = core::mem::offset_of!(EventHeader, payload_len);
    let mut long = record(b"x");
    long.resize(SHORT_RECORD, 0);
    long[offset..offset + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(decode(&long), Err(DecodeError::Size(SHORT_RECORD)));
}
