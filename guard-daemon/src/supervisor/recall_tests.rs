use std::os::fd::AsFd as _;
use std::path::Path;

use nix::sys::socket::{MsgFlags, recv};
use serde_json::{Value, json};

use super::*;
use crate::relay::outbox::{Back, Outbox};
use crate::supervisor::evidence::Evidence;
use crate::supervisor::session::{Heard, Session};
use crate::supervisor::state::{PolicyState, SandboxState};
use crate::sys::fds::accept;
use crate::wire::{Enforcement, MAX_PACKET};

fn state(trail: &Path) -> SandboxState {
    let policy = PolicyState {
        name: "p".into(),
        hash: String::new(),
        generation: 1,
        text: String::new(),
        source: "p".into(),
        home: None,
        cwd: "/".into(),
        command: vec![],
        env: vec![],
        set: vec![],
        own: Vec::new(),
    };
    let id = "0123456789ab".to_owned();
    let [server, token] = ["server", "token"].map(str::to_owned);
    let enforcement = Enforcement::Kernel;
    SandboxState::new(
        1,
        id,
        server,
        enforcement,
        token,
        trail.into(),
        "/t".into(),
        policy,
    )
}

/// The record of a call's start or end.
fn record(call: u64, end: bool) -> Value {
    match end {
        false => json!({"call_start": {"call": call, "id": call.to_string(),
            "method": "tools/call", "tool": "t", "arguments": "{}", "arguments_cut": false,
            "time": 0}}),
        true => json!({"call_end": {"call": call, "outcome": "result", "result_bytes": 0,
            "result_hash": null, "duration": 0, "time": 0}}),
    }
}

/// A supervisor with one session, as far as records and the trail go.
struct Supervisor {
    session: Session,
    evidence: Evidence,
    trail: std::path::PathBuf,
}

impl Supervisor {
    /// Takes over what the trail says.
    fn new(trail: &Path) -> Self {
        let mut evidence = Evidence::new("boot".into());
        evidence.open(trail).unwrap();
        let mut session = Session::new(state(trail), None);
        session.recall(recall(&session.state).unwrap());
        Self {
            session,
            evidence,
            trail: trail.to_owned(),
        }
    }

    /// Takes what waits on the wire.
    fn hear(&mut self) {
        let mut buffer = vec![0; MAX_PACKET];
        let Self {
            session,
            evidence,
            trail,
        } = self;
        let heard = session.hear(&mut buffer, "boot", &mut |e| evidence.push(trail, e));
        assert_eq!(heard, Heard::All);
    }

    /// Writes it, and tells the relay.
    fn write(&mut self, tell: bool) {
        assert!(self.evidence.flush().is_empty());
        assert!(self.evidence.is_whole(&self.trail));
        self.session.written = self.session.heard;
        self.session.acknowledge(tell);
    }
}

fn lines(trail: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(trail).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Where the first supervisor dies.
#[derive(Clone, Copy, Debug)]
enum Dies {
    BeforeItReads,
    BeforeItWrites,
    BeforeItTells,
    After,
}

#[tokio::test]
async fn no_record_is_lost_or_doubled_wherever_a_supervisor_dies() {
    for dies in [
        Dies::BeforeItReads,
        Dies::BeforeItWrites,
        Dies::BeforeItTells,
        Dies::After,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let trail = dir.path().join("audit.jsonl");
        let socket = dir.path().join("socket");
        let back = Back {
            path: socket.to_str().unwrap().into(),
            sandbox: 1,
            token: "token".into(),
        };
        let listener = std::os::unix::net::UnixListener::bind(&socket);
        drop(listener); // of another type: nobody can connect
        let (ours, theirs) = crate::wire::transport::pair().unwrap();
        crate::supervisor::launch::set_nonblocking(&theirs).unwrap();
        let outbox = Outbox::new(ours, Some(back));
        let post = |call, end| outbox.send(&mut record(call, end), |_| false);

        let mut first = Supervisor::new(&trail);
        first.session.welcome(theirs, 0);
        post(1, false);
        post(1, true);
        first.hear();
        first.write(true);
        post(2, false);
        post(3, false);
        post(2, true);
        if !matches!(dies, Dies::BeforeItReads) {
            first.hear();
        }
        if matches!(dies, Dies::BeforeItTells | Dies::After) {
            first.write(matches!(dies, Dies::After));
        }
        drop(first);
        post(4, false); // into the void

        std::fs::remove_file(&socket).unwrap();
        let listener = seqpacket(&socket);
        let mut second = Supervisor::new(&trail);
        outbox.flush();
        let wire = accept(listener.as_fd()).unwrap().unwrap();
        let told = hello(&wire);
        second.session.welcome(wire, told);
        post(4, true);
        second.hear();
        second.write(true);
        outbox.flush();
        assert!(outbox.is_empty(), "{dies:?}");

        let written: Vec<(u64, String, u64)> = lines(&trail)
            .iter()
            .map(|line| {
                assert_eq!(line["kind"], "call", "{dies:?}: {line}");
                let op = line["op"].as_str().unwrap().to_owned();
                (
                    line["rseq"].as_u64().unwrap(),
                    op,
                    line["number"].as_u64().unwrap(),
                )
            })
            .collect();
        let expected: Vec<(u64, String, u64)> = [
            (1, "start", 1),
            (2, "end", 1),
            (3, "start", 2),
            (4, "start", 3),
            (5, "end", 2),
            (6, "start", 4),
            (7, "end", 4),
        ]
        .map(|(rseq, op, number)| (rseq, op.to_owned(), number))
        .to_vec();
        assert_eq!(written, expected, "{dies:?}");
        // The calls of the first are known, and the one that still runs is in flight.
        assert_eq!(second.session.in_flight(), 1);
        assert_eq!(second.session.calls[&1].tool.as_deref(), Some("t"));
    }
}

fn seqpacket(path: &Path) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
    };
    use std::os::fd::AsRawFd as _;
    let kind = SockType::SeqPacket;
    let made = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
    bind(made.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&made, Backlog::new(4).unwrap()).unwrap();
    made
}

/// Reads a relay's first packet: up to where it was told.
fn hello(wire: &std::os::fd::OwnedFd) -> u64 {
    use std::os::fd::AsRawFd as _;
    let mut packet = [0; 512];
    let count = recv(wire.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
    let hello: Value = serde_json::from_slice(&packet[..count]).unwrap();
    hello["hello"]["written"].as_u64().unwrap()
}

#[test]
fn only_the_own_whole_lines_behind_the_mark_count() {
    let line = |id: &str, rseq: u64, server: &str| {
        json!({"v": 1, "seq": 1, "sandbox": {"id": id, "server": server}, "kind": "call",
            "op": "start", "id": "1", "number": rseq, "method": "m", "tool": null, "rseq": rseq})
        .to_string()
    };
    let own = "0123456789ab";
    let mut text = String::new();
    for (id, rseq, server) in [
        (own, 3, "s"),
        ("ffffffffffff", 9, own), // another's, with our id for a name
        (own, 4, "s"),
    ] {
        text.push_str(&line(id, rseq, server));
        text.push('\n');
    }
    text.push_str("{\"sandbox\":null,\"rseq\":70}\n");
    let whole = text.len() as u64;
    text.push_str(&line(own, 5, "s")[..100]); // torn
    let dir = tempfile::tempdir().unwrap();
    let trail = dir.path().join("audit.jsonl");
    std::fs::write(&trail, &text).unwrap();

    let mut state = state(&trail);
    let recalled = recall(&state).unwrap();
    assert_eq!(recalled.through, 4);
    let numbers: Vec<u64> = recalled.calls.iter().map(|(call, _)| call.number).collect();
    assert_eq!(numbers, [3, 4]);

    // Behind the mark nothing is left; what it says itself stays.
    state.mark.inode = std::fs::metadata(&trail).unwrap().ino();
    state.mark.offset = whole;
    state.mark.through = 4;
    let recalled = recall(&state).unwrap();
    assert_eq!((recalled.through, recalled.calls.len()), (4, 0));
    // Another file is read whole, and the mark is not of it.
    state.mark.inode += 1;
    state.mark.through = 40;
    assert_eq!(recall(&state).unwrap().through, 4);
    std::fs::remove_file(&trail).unwrap();
    assert_eq!(recall(&state).unwrap(), Recalled::default());
}
