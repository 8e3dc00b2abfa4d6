//! `guard __bench-names`: what the process that resolves names can do, with this
//! process as its supervisor, its sandbox, and its upstream. For
//! `cargo xtask bench resolver`.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::net::wire::{FromNet, ToNet};
use crate::wire::transport;

/// Questions one after the other, for latency.
const ROUND_TRIPS: usize = 5000;
/// Questions of which several are under way, for throughput.
const STREAM: usize = 60_000;
/// Under way at once.
const WINDOW: usize = 32;
/// `network.allow = ["*.bench.test"]`, as it is sent.
const RULES: &str = r#"[{"id":"network.allow[0]","text":"*.bench.test","kind":"Allow","sets":1,
    "pattern":["*","bench","test"],"ports":[0,65535],"sni":false}]"#;
/// Who the process runs as where this one is root: nobody.
const NOBODY: u32 = 65534;

/// A question for `www.bench.test`, type A, with EDNS as resolvers of libraries
/// send it (RFC 6891).
fn question(id: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    packet.extend(b"\x03www\x05bench\x04test\x00\x00\x01\x00\x01");
    packet.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
    packet
}

/// Answers what upstream is asked: 192.0.2.1, for an hour.
fn upstream(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 1500];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        // Header and question, whose name ends with a zero.
        let name = buffer[12..len].iter().position(|b| *b == 0);
        let end = 12 + name.map_or(0, |at| at + 1) + 4;
        let mut answer = buffer[..end.min(len)].to_vec();
        answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04\xc0\x00\x02\x01");
        socket.send_to(&answer, from)?;
    }
}

/// Opens whatever it is asked to.
fn supervise(wire: &OwnedFd) -> Result<()> {
    while let Some(packet) = transport::receive(wire.as_fd())? {
        if let FromNet::Grant { ticket, .. } = packet.parse()? {
            let open = ToNet::Granted { ticket, open: true };
            transport::send(wire.as_fd(), &open, &[])?;
        }
    }
    Ok(())
}

/// Ends with the measurement.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds of processor time that a process has had (proc(5), fields 14 and 15).
fn processor_time(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.get(at).context("a short stat")?.parse::<f64>()?) };
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?;
    let per_second = per_second.context("no clock ticks")? as f64;
    Ok((ticks(12)? + ticks(13)?) / per_second)
}

fn start(wire: OwnedFd) -> Result<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("__net").env_clear().current_dir("/");
    command.stdin(wire).stdout(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(Process(command.spawn()?))
}

/// Measures and prints.
///
/// # Errors
/// When something does not answer as it should.
pub(super) fn run() -> Result<()> {
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let at = udp.local_addr()?;
    let tcp = TcpListener::bind(at)?;
    let answers = UdpSocket::bind("127.0.0.1:0")?;
    let upstreams = vec![answers.local_addr()?];
    std::thread::spawn(move || upstream(&answers));
    let (ours, theirs) = transport::pair()?;
    let process = start(theirs)?;
    let open = ToNet::Open {
        sandbox: 1,
        rules: serde_json::from_str(RULES)?,
        sets: 1,
        networks: Vec::new(),
        upstreams,
        v6: false,
        splice: false,
        audit_only: false,
    };
    let fds: [BorrowedFd<'_>; 2] = [udp.as_fd(), tcp.as_fd()];
    transport::send(ours.as_fd(), &open, &fds)?;
    drop((udp, tcp));
    std::thread::spawn(move || supervise(&ours));

    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(at)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [0; 1500];
    let mut ask = |id: u16| -> Result<Duration> {
        let begun = Instant::now();
        client.send(&question(id))?;
        let len = client.recv(&mut buffer)?;
        ensure!(
            buffer[..2] == id.to_be_bytes() && buffer[7] == 1,
            "not the answer: {:?}",
            &buffer[..len]
        );
        Ok(begun.elapsed())
    };
    let first = ask(0)?;
    let mut latencies = Vec::with_capacity(ROUND_TRIPS);
    for n in 0..ROUND_TRIPS {
        // As programs ask: now and then.
        std::thread::sleep(Duration::from_micros(200));
        latencies.push(ask(n as u16)?);
    }
    latencies.sort_unstable();
    let at = |share: usize| latencies[ROUND_TRIPS * share / 1000].as_secs_f64() * 1e6;
    println!(
        "first question {:.0} µs; known name: median {:.0} µs, 99 % {:.0} µs, least {:.0} µs",
        first.as_secs_f64() * 1e6,
        at(500),
        at(990),
        at(0)
    );
    let before = processor_time(process.0.id())?;
    let begun = Instant::now();
    let (mut sent, mut received) = (0, 0);
    while received < STREAM {
        while sent < STREAM && sent - received < WINDOW {
            client.send(&question(sent as u16))?;
            sent += 1;
        }
        match client.recv(&mut buffer) {
            // With one record.
            Ok(_) if buffer[7] == 1 => received += 1,
            Ok(len) => bail!("not the answer: {:?}", &buffer[..len]),
            Err(error) => bail!("{received} of {sent} answers came: {error}"),
        }
    }
    let wall = begun.elapsed().as_secs_f64();
    let used = processor_time(process.0.id())? - before;
    println!(
        "{STREAM} questions: {:.0} a second, {:.0} a second of the process's processor time",
        STREAM as f64 / wall,
        STREAM as f64 / used
    );
    Ok(())
}
