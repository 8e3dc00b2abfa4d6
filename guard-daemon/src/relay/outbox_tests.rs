use nix::sys::socket::{Backlog, bind, listen, recv, socketpair};
use serde_json::{Value, json};

use super::*;
use crate::sys::fds::accept;
use crate::wire::Numbered;

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

fn packet(socket: &impl AsRawFd) -> Option<Value> {
    let mut packet = vec![0; MAX_PACKET];
    match recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(_) => None,
        Ok(count) => Some(serde_json::from_slice(&packet[..count]).unwrap()),
    }
}

/// The next record with its number.
fn next(socket: &impl AsRawFd) -> Option<(u64, Value)> {
    let mut packet = packet(socket)?;
    Some((packet["seq"].as_u64().unwrap(), packet["record"].take()))
}

fn acknowledge(socket: &impl AsRawFd, through: u64) {
    let note = serde_json::to_vec(&RelayNote::Written { through }).unwrap();
    send(socket.as_raw_fd(), &note, MsgFlags::MSG_NOSIGNAL).unwrap();
}

/// A supervisor's socket, for relays that come back.
struct Supervisor {
    listener: OwnedFd,
    dir: tempfile::TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = listener(&dir.path().join("socket"));
        Self { listener, dir }
    }

    fn back(&self) -> Option<Back> {
        Some(Back {
            path: self.dir.path().join("socket").to_str().unwrap().into(),
            sandbox: 1,
            token: "t".into(),
        })
    }

    /// Dies with all connections that nobody accepted; the next one listens.
    fn replace(&mut self) {
        let path = self.dir.path().join("socket");
        std::fs::remove_file(&path).unwrap();
        self.listener = listener(&path);
    }

    /// Takes the connection of a relay that came back, and its `written`.
    fn accept(&self) -> (OwnedFd, u64) {
        let fd = accept(self.listener.as_fd()).unwrap().unwrap();
        let hello = packet(&fd).unwrap();
        assert_eq!(hello["hello"]["sandbox"], 1);
        assert_eq!(hello["hello"]["token"], "t");
        let written = hello["hello"]["written"].as_u64().unwrap();
        (fd, written)
    }
}

fn listener(path: &std::path::Path) -> OwnedFd {
    let kind = SockType::SeqPacket;
    let made = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
    bind(made.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&made, Backlog::new(4).unwrap()).unwrap();
    made
}

#[test]
fn a_packet_is_a_numbered_record() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    let mut record = RelayRecord::Lost { records: 7 };
    outbox.send(&mut record, |_| false);
    let mut bytes = vec![0; MAX_PACKET];
    let count = recv(theirs.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
    let read: Numbered = serde_json::from_slice(&bytes[..count]).unwrap();
    assert_eq!(read.seq, 1);
    assert!(matches!(read.record, RelayRecord::Lost { records: 7 }));
    // The largest number has room.
    let blank = &HEAD[NUMBER_AT..NUMBER_AT + u64::MAX.to_string().len()];
    assert!(blank.iter().all(|b| *b == b' '));
}

#[test]
fn packets_arrive_whole_and_in_order() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    for n in 0..3 {
        post(&outbox, json!(n));
    }
    for n in 0..3 {
        assert_eq!(next(&theirs), Some((n + 1, json!(n))));
    }
    assert!(!outbox.is_empty(), "nothing was acknowledged");
    acknowledge(&theirs, 3);
    outbox.flush();
    assert!(outbox.is_empty());
}

#[test]
fn what_is_not_acknowledged_comes_again_wherever_the_supervisor_died() {
    // It has read `read` of the five records, and acknowledged `told`; the
    // next one dies before it accepts anybody.
    for read in 0..=5 {
        for told in 0..=read {
            let mut supervisor = Supervisor::new();
            let (ours, theirs) = pair();
            let outbox = Outbox::new(ours, supervisor.back());
            for n in 1..=5 {
                post(&outbox, json!(n));
            }
            for n in 1..=read {
                assert_eq!(next(&theirs), Some((n, json!(n))));
            }
            if told > 0 {
                acknowledge(&theirs, told);
            }
            drop(theirs);
            outbox.flush();
            post(&outbox, json!(6));
            supervisor.replace();
            outbox.flush();
            let (theirs, written) = supervisor.accept();
            assert_eq!(written, told, "read {read}");
            post(&outbox, json!(7));
            for n in told + 1..=7 {
                assert_eq!(
                    next(&theirs),
                    Some((n, json!(n))),
                    "read {read} told {told}"
                );
            }
            assert_eq!(next(&theirs), None);
            acknowledge(&theirs, 7);
            outbox.flush();
            assert!(outbox.is_empty());
        }
    }
}

#[test]
fn what_is_over_the_bound_is_counted_and_told_when_there_is_room() {
    let supervisor = Supervisor::new();
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, supervisor.back());
    let one = HEAD.len() + "\"record 0\"}".len();
    outbox.lock().most = 2 * one + 20;
    drop(theirs);
    for n in 0..5 {
        post(&outbox, json!(format!("record {n}")));
    }
    outbox.flush();
    let (theirs, written) = supervisor.accept();
    assert_eq!(written, 0);
    assert_eq!(next(&theirs), Some((1, json!("record 0"))));
    assert_eq!(next(&theirs), Some((2, json!("record 1"))));
    post(&outbox, json!("before"));
    assert_eq!(next(&theirs), None, "no room for it");
    acknowledge(&theirs, 2);
    post(&outbox, json!("after"));
    let lost = json!({"lost": {"records": 4}});
    assert_eq!(next(&theirs), Some((3, lost)));
    assert_eq!(next(&theirs), Some((4, json!("after"))));
    assert_eq!(next(&theirs), None);
}

#[test]
fn a_supervisor_that_never_acknowledges_costs_no_more_than_the_bound() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    outbox.lock().most = 100_000;
    let mut read = 0;
    for n in 0..1000 {
        post(&outbox, json!([n, "x".repeat(1000)]));
        while let Some((seq, _)) = next(&theirs) {
            read += 1;
            assert_eq!(seq, read);
        }
        assert!(outbox.lock().kept.bytes() <= 100_000);
    }
    assert!((90..100).contains(&read), "{read}");
    assert_eq!(outbox.lock().lost, 1000 - read);
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
    assert_eq!(next(&theirs), Some((1, json!("xxxxx"))));
    post(&outbox, json!("x".repeat(MAX_PACKET)));
    outbox.flush();
    assert_eq!(next(&theirs), Some((2, json!({"lost": {"records": 1}}))));
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
            Some((seq, value)) => {
                assert_eq!((seq, &value[0]), (read + 1, &json!(read)));
                read += 1;
                acknowledge(&theirs, read);
            }
            None => outbox.flush(),
        }
    }
    outbox.flush();
    assert!(outbox.is_empty());
}

#[test]
fn threads_send_in_the_order_of_the_numbers() {
    let (ours, theirs) = pair();
    let outbox = Outbox::new(ours, None);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let outbox = &outbox;
            scope.spawn(move || (0..500).for_each(|n| post(outbox, json!([thread, n]))));
        }
        let mut last = [None::<u64>; 4];
        let mut read = 0;
        while read < 2000 {
            let Some((seq, value)) = next(&theirs) else {
                outbox.flush();
                continue;
            };
            read += 1;
            assert_eq!(seq, read);
            let (thread, n) = (value[0].as_u64().unwrap(), value[1].as_u64());
            assert!(last[thread as usize] < n, "each thread's own order stays");
            last[thread as usize] = n;
        }
    });
}
