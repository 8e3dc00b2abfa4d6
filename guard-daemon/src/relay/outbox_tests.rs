use nix::sys::socket::{Backlog, accept, bind, listen, recv, socketpair};
use serde_json::{Value, json};

use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap()
}

fn post(outbox: &Outbox, mut value: Value) {
    outbox.send(&mut value, |_| false);
}

fn next(socket: &impl AsRawFd) -> Option<Value> {
    let mut packet = vec![0; MAX_PACKET];
    match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(_) => None,
        Ok(count) => Some(serde_json::from_slice(&packet[..count]).unwrap()),
    }
}

#[test]
fn packets_arrive_whole_and_in_order() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    for n in 0..3 {
        post(&outbox, json!(n));
    }
    for n in 0..3 {
        assert_eq!(next(&theirs), Some(json!(n)));
    }
}

#[test]
fn what_is_over_the_bound_is_counted_and_told_after_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let hello = RelayRecord::Hello {
        sandbox: 1,
        token: "t".into(),
    };
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, Some((path.to_str().unwrap().into(), hello)));
    outbox.write().most = 25;
    drop(theirs);
    for n in 0..5 {
        post(&outbox, json!(format!("record {n}"))); // 10 bytes each
    }
    outbox.flush();
    assert!(!outbox.is_empty(), "nobody listens");
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::empty(),
        None,
    );
    let listener = listener.unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    outbox.flush();
    assert!(outbox.is_empty());
    let theirs = accept(listener.as_raw_fd()).unwrap();
    post(&outbox, json!("after"));
    assert_eq!(
        next(&theirs),
        Some(json!({"hello": {"sandbox": 1, "token": "t"}}))
    );
    assert_eq!(next(&theirs), Some(json!("record 0")));
    assert_eq!(next(&theirs), Some(json!("record 1")));
    assert_eq!(next(&theirs), Some(json!({"lost": {"records": 3}})));
    assert_eq!(next(&theirs), Some(json!("after")));
}

#[test]
fn a_record_over_a_packet_is_shortened_or_lost() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    let mut long = "x".repeat(MAX_PACKET + 10);
    outbox.send(&mut long, |text| {
        text.truncate(5);
        true
    });
    assert_eq!(next(&theirs), Some(json!("xxxxx")));
    post(&outbox, json!("x".repeat(MAX_PACKET)));
    outbox.flush();
    assert_eq!(next(&theirs), Some(json!({"lost": {"records": 1}})));
}

#[test]
fn a_full_socket_holds_nobody_up_for_long() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    let since = std::time::Instant::now();
    for n in 0..200 {
        post(&outbox, json!([n, "x".repeat(10_000)]));
    }
    assert!(since.elapsed().as_secs() < 5, "waits once, not for each");
    let mut read = 0;
    while read < 200 {
        match next(&theirs) {
            Some(value) => {
                assert_eq!(value[0], read);
                read += 1;
            }
            None => outbox.flush(),
        }
    }
    assert!(outbox.is_empty());
}
