//! A session as the tests see it: the client's three pipes, the supervisor's
//! end of the wire, the control socket, the slot's page and `cgroup.kill`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use guard_daemon::wire::{
    ControlMessage, ControlReply, MAX_PACKET, Numbered, RelayNote, RelayRecord,
};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::Value;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A listening `SOCK_SEQPACKET` socket.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub(crate) fn new(path: &Path) -> Self {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&fd, Backlog::new(4).unwrap()).unwrap();
        timeout(&fd);
        Self(fd)
    }

    pub(crate) fn accept(&self) -> Socket {
        let fd = accept(self.0.as_raw_fd()).expect("nobody connected");
        // SAFETY: accept just made it, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        timeout(&fd);
        Socket(fd)
    }
}

fn timeout(fd: &OwnedFd) {
    let time = TimeVal::new(PATIENCE.as_secs() as i64, 0);
    setsockopt(fd, sockopt::ReceiveTimeout, &time).unwrap();
}

/// A connected one.
pub(crate) struct Socket(pub(crate) OwnedFd);

impl Socket {
    /// The next packet as JSON; `None` at the end. Fails the test when nothing comes.
    pub(crate) fn next<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        let mut packet = vec![0; MAX_PACKET];
        let count = match recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Err(nix::errno::Errno::ECONNRESET) => 0,
            other => other.expect("nothing came"),
        };
        (count > 0).then(|| serde_json::from_slice(&packet[..count]).unwrap())
    }

    /// The next record, which is there.
    pub(crate) fn record(&self) -> RelayRecord {
        self.numbered().expect("the relay closed the wire")
    }

    /// The next record; `None` at the end. It is acknowledged, but for `Hello`.
    pub(crate) fn numbered(&self) -> Option<RelayRecord> {
        let packet: Value = self.next()?;
        if packet.get("seq").is_none() {
            return Some(serde_json::from_value(packet).unwrap());
        }
        let Numbered { seq, record } = serde_json::from_value(packet).unwrap();
        self.written(seq);
        Some(record)
    }

    /// Says that the records up to this one are in the trail.
    pub(crate) fn written(&self, through: u64) {
        let note = serde_json::to_vec(&RelayNote::Written { through }).unwrap();
        // A relay that has ended does not hear it.
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let _ = send(self.0.as_raw_fd(), &note, flags);
    }

    pub(crate) fn send(&self, message: &ControlMessage) {
        let packet = serde_json::to_vec(message).unwrap();
        send(self.0.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL).unwrap();
    }
}

/// What a test may want otherwise.
pub(crate) struct Options {
    pub(crate) max_message: usize,
    pub(crate) gateway_only: bool,
    pub(crate) lease_ms: u64,
    pub(crate) args_max: usize,
    pub(crate) server: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message: 1 << 20,
            gateway_only: false,
            lease_ms: 3000,
            args_max: 1024,
            server: vec![env!("CARGO_BIN_EXE_fake-mcp").into()],
        }
    }
}

impl Options {
    /// The scripted server with these flags.
    pub(crate) fn server(flags: &[&str]) -> Self {
        let mut options = Self::default();
        options.server.extend(flags.iter().map(|f| (*f).to_owned()));
        options
    }
}

/// A running session.
pub(crate) struct Session {
    pub(crate) relay: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) output: BufReader<ChildStdout>,
    pub(crate) wire: Socket,
    pub(crate) control: Option<Socket>,
    pub(crate) listener: Option<Listener>,
    pub(crate) dir: tempfile::TempDir,
}

fn relay_program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/relay")
}

impl Session {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let wire = Listener::new(&path("wire"));
        let control = Listener::new(&path("control"));
        std::fs::write(path("slot"), vec![0; 4096]).unwrap();
        std::fs::write(path("kill"), b"").unwrap();
        let config = serde_json::json!({
            "sandbox": 5, "token": "secret", "server_pid": 0, "call_sets": 6,
            "max_message": options.max_message, "gateway_only": options.gateway_only,
            "reconnect": path("wire"), "lease_ms": options.lease_ms,
            "args_max": options.args_max});
        let slot = match options.gateway_only {
            true => PathBuf::from("/dev/null"),
            false => path("slot"),
        };
        let mut relay = Command::new(env!("CARGO_BIN_EXE_fake-mcp"))
            .arg("--launch")
            .arg(relay_program())
            .arg(config.to_string())
            .args([path("wire"), path("control"), slot, path("kill")])
            .arg("--")
            .args(&options.server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: relay.stdin.take(),
            output: BufReader::with_capacity(1 << 16, relay.stdout.take().unwrap()),
            wire: wire.accept(),
            control: Some(control.accept()),
            listener: Some(wire),
            relay,
            dir,
        }
    }

    /// The client writes these bytes.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("closed by the test");
        input.write_all(bytes.as_ref()).unwrap();
    }

    /// The client calls a tool.
    pub(crate) fn call(&mut self, id: impl Into<Value>, tool: &str, arguments: Value) {
        let request = serde_json::json!({"jsonrpc": "2.0", "id": id.into(), "method":
            "tools/call", "params": {"name": tool, "arguments": arguments}});
        self.write(format!("{request}\n"));
    }

    /// The next line that the client gets, raw; empty at the end.
    pub(crate) fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.output.read_until(b'\n', &mut line).unwrap();
        line
    }

    /// The next line as JSON.
    pub(crate) fn answer(&mut self) -> Value {
        let line = self.line();
        assert!(!line.is_empty(), "the client got the end of input");
        serde_json::from_slice(&line)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&line)))
    }

    /// The whole slot, as 64-bit words: epoch, active, lease, in_flight, calls.
    pub(crate) fn slot(&self) -> Vec<u64> {
        let page = std::fs::read(self.dir.path().join("slot")).unwrap();
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap());
        page.chunks_exact(8).map(word).collect()
    }

    /// Numbers of the calls in flight, with the word `active`.
    pub(crate) fn in_flight(&self) -> (u64, Vec<u64>) {
        let slot = self.slot();
        assert_eq!(slot[0] % 2, 0, "epoch");
        (slot[1], slot[4..4 + slot[3] as usize].to_vec())
    }

    /// Whether the sandbox was told to die.
    pub(crate) fn killed(&self) -> bool {
        !std::fs::read(self.dir.path().join("kill"))
            .unwrap()
            .is_empty()
    }

    /// Waits for the relay's end: what it told the client, and all records that
    /// were not read yet.
    pub(crate) fn finish(mut self) -> Finished {
        drop(self.input.take());
        let mut rest = Vec::new();
        let (output, wire) = (&mut self.output, &self.wire);
        // Beside each other: the relay waits for the last acknowledgement.
        let records = std::thread::scope(|scope| {
            scope.spawn(|| output.read_to_end(&mut rest).unwrap());
            std::iter::from_fn(|| wire.numbered()).collect()
        });
        let reply = self.control.as_ref().and_then(Socket::next);
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.relay.try_wait().unwrap() {
                break status;
            }
            assert!(since.elapsed() < PATIENCE, "the relay does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut stderr = Vec::new();
        let mut pipe = self.relay.stderr.take().unwrap();
        pipe.read_to_end(&mut stderr).unwrap();
        Finished {
            rest,
            reply,
            records,
            status: status.code(),
            stderr,
            killed: self.killed(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Only where a test failed; the server follows by the end of its input.
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

/// A session that ended.
pub(crate) struct Finished {
    pub(crate) rest: Vec<u8>,
    pub(crate) reply: Option<ControlReply>,
    pub(crate) records: Vec<RelayRecord>,
    pub(crate) status: Option<i32>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) killed: bool,
}
