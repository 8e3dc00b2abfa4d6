use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};

use super::*;
use crate::wire::{CallEnd, MAX_PACKET, Numbered, Outcome, RelayRecord, transport};

fn end(call: u64, whole: bool) -> End {
    End {
        call,
        outcome: Outcome::Result,
        result_bytes: 0,
        whole,
        duration: 0,
    }
}

fn ends(wire: &OwnedFd) -> Vec<CallEnd> {
    let mut packet = vec![0; MAX_PACKET];
    std::iter::from_fn(|| {
        let count = recv(wire.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).ok()?;
        let numbered: Numbered = serde_json::from_slice(&packet[..count]).unwrap();
        match numbered.record {
            RelayRecord::CallEnd(end) => Some(end),
            other => panic!("{other:?}"),
        }
    })
    .collect()
}

fn hash(bytes: &[u8]) -> Option<String> {
    Some(Digest::of(bytes).to_string())
}

/// A queue whose thread runs, or does not yet.
fn started(running: bool) -> (Arc<(Digests, Outbox)>, OwnedFd) {
    let (ours, theirs) = transport::pair().unwrap();
    let both = Arc::new((Digests::default(), Outbox::new(ours, None)));
    if running {
        run(&both);
    }
    (both, theirs)
}

fn run(both: &Arc<(Digests, Outbox)>) {
    let both = Arc::clone(both);
    std::thread::spawn(move || both.0.run(&both.1));
}

#[test]
fn short_ends_are_told_at_once_and_behind_what_waits_in_order() {
    let (both, wire) = started(false);
    let (digests, outbox) = &*both;
    digests.tell(outbox, &mut vec![end(1, true)], 5, b"short");
    let told = ends(&wire);
    assert_eq!((told[0].call, told[0].time), (1, 5));
    assert_eq!(told[0].result_hash, hash(b"short"));

    let long = vec![b'x'; SHORT + 1];
    digests.tell(outbox, &mut vec![end(2, true), end(3, false)], 6, &long);
    digests.tell(outbox, &mut vec![end(4, true)], 7, b"short");
    assert!(ends(&wire).is_empty(), "nobody makes digests yet");
    run(&both);
    digests.finish();
    let told = ends(&wire);
    let calls: Vec<u64> = told.iter().map(|end| end.call).collect();
    assert_eq!(calls, [2, 3, 4]);
    assert_eq!(told[0].result_hash, hash(&long));
    assert_eq!(told[1].result_hash, None);
    assert_eq!(told[2].result_hash, hash(b"short"));
    // All is told: short ones need not wait any more.
    digests.tell(outbox, &mut vec![end(5, true)], 8, b"");
    assert_eq!(ends(&wire)[0].call, 5);
}

#[test]
fn the_digest_of_long_arguments_comes_with_the_calls_end() {
    let (both, wire) = started(true);
    let (digests, outbox) = &*both;
    let texts: Vec<Vec<u8>> = (1..=40_u8).map(|n| vec![n; 200_000]).collect();
    for (call, text) in (1..).zip(&texts) {
        digests.arguments(call, text);
    }
    for (call, text) in (1..).zip(&texts) {
        digests.tell(outbox, &mut vec![end(call, true)], call, text);
    }
    digests.tell(outbox, &mut vec![end(41, true)], 41, b"none were long");
    digests.finish();
    let told = ends(&wire);
    assert_eq!(told.len(), 41);
    for (end, text) in told.iter().zip(&texts) {
        assert_eq!(
            (&end.args_hash, &end.result_hash),
            (&hash(text), &hash(text))
        );
    }
    assert_eq!((told[40].call, &told[40].args_hash), (41, &None));
    assert_eq!(digests.pending.load(Ordering::Acquire), 0);
}

#[test]
fn what_waits_is_bounded() {
    let (both, _wire) = started(false);
    let text = vec![0; 1 << 20];
    let pusher = {
        let both = Arc::clone(&both);
        let text = text.clone();
        std::thread::spawn(move || {
            for call in 0..40 {
                both.0.arguments(call, &text);
            }
        })
    };
    std::thread::sleep(Duration::from_millis(500));
    assert!(!pusher.is_finished());
    assert_eq!(lock(&both.0.queue).bytes, MOST);
    run(&both);
    pusher.join().unwrap();
    both.0.finish();
    let queue = lock(&both.0.queue);
    assert_eq!((queue.bytes, queue.arguments.len()), (0, 40));
    assert!(queue.spare_bytes <= MOST);
    drop(queue);
    // One that is larger than all room goes when nothing else waits.
    both.0.arguments(99, &vec![0; MOST + 1]);
    both.0.finish();
}
