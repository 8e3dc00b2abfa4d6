//! The sockets of one sandbox: questions in, answers out, over UDP and TCP.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::answer::bytes;
use super::question::{self, Asked as Arrived, Question};
use super::sandbox::{Shared, Step, Supervisor, resolve};
use crate::policy::RuleRef;

/// Packets that are taken from one socket before others get their turn: a
/// sandbox that floods leaves the rest their share.
const TURN: usize = 32;
/// Bytes of the largest packet. Longer ones are cut by the kernel and are no
/// questions.
const PACKET: usize = 4096;
/// Bytes of an answer that every program takes (RFC 1035, 4.2.1).
const SMALLEST: u16 = 512;
/// Connections of one sandbox at once.
const MAX_CONNECTIONS: usize = 8;
/// How long a connection may say nothing (RFC 7766, 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// What is done with a packet at once.
enum First {
    Nothing,
    /// An answer, and the bytes that it may have over UDP.
    Answer(Message, u16),
    Ask(Box<Question>, Option<RuleRef>),
}

fn first<S: Supervisor>(packet: &[u8], tcp: bool, sandbox: &Shared, supervisor: &S) -> First {
    match question::read(packet) {
        Arrived::Noise => First::Nothing,
        Arrived::Bad(answer, what) => {
            supervisor.asked(sandbox.borrow().malformed(what, tcp));
            First::Answer(*answer, SMALLEST)
        }
        Arrived::Question(question) => {
            let step = sandbox.borrow_mut().step(&question, tcp, Instant::now());
            match step {
                Step::Answer(answer, asked) => {
                    supervisor.asked(*asked);
                    First::Answer(answer, question.size)
                }
                Step::Ask(rule) => First::Ask(question, rule),
            }
        }
    }
}

/// Answers over UDP until the task is aborted. Questions that wait end with it:
/// none is answered by rules that were replaced, and the socket is free at once.
pub(crate) async fn udp<S: Supervisor + 'static>(
    socket: Rc<UdpSocket>,
    sandbox: Shared,
    supervisor: Rc<S>,
) {
    let mut buffer = vec![0; PACKET];
    let mut asking = JoinSet::new();
    while socket.readable().await.is_ok() {
        for _ in 0..TURN {
            let (len, from) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What an earlier answer met where nobody listens any more.
                Err(_) => continue,
            };
            let packet = &buffer[..len];
            match first(packet, false, &sandbox, &*supervisor) {
                First::Nothing => {}
                First::Answer(answer, size) => send(&socket, &answer, size, from),
                First::Ask(question, rule) => {
                    let (socket, sandbox) = (Rc::clone(&socket), Rc::clone(&sandbox));
                    let supervisor = Rc::clone(&supervisor);
                    asking.spawn_local(async move {
                        let (answer, asked) =
                            resolve(&sandbox, &*supervisor, &question, rule, false).await;
                        supervisor.asked(asked);
                        send(&socket, &answer, question.size, from);
                    });
                }
            }
        }
        while asking.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

/// A socket without room loses the answer, as any network may.
fn send(socket: &UdpSocket, answer: &Message, size: u16, to: SocketAddr) {
    if let Some(bytes) = bytes(answer, Some(size)) {
        let _ = socket.try_send_to(&bytes, to);
    }
}

/// Answers over TCP until the task is aborted; its connections end with it.
pub(crate) async fn tcp<S: Supervisor + 'static>(
    listener: TcpListener,
    sandbox: Shared,
    supervisor: Rc<S>,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection of a question: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if sandbox.borrow().connections >= MAX_CONNECTIONS {
            continue;
        }
        sandbox.borrow_mut().connections += 1;
        let (sandbox, supervisor) = (Rc::clone(&sandbox), Rc::clone(&supervisor));
        connections.spawn_local(async move {
            // An error of one connection is that connection's end.
            let _ = connection(stream, &sandbox, &*supervisor).await;
            sandbox.borrow_mut().connections -= 1;
        });
    }
}

/// One question after the other (RFC 7766 lets answers come in any order, so in
/// this one too).
async fn connection<S: Supervisor>(
    mut stream: TcpStream,
    sandbox: &Shared,
    supervisor: &S,
) -> io::Result<()> {
    let mut packet = Vec::new();
    loop {
        let read = async {
            let len = stream.read_u16().await?;
            packet.resize(usize::from(len), 0);
            stream.read_exact(&mut packet).await
        };
        tokio::time::timeout(IDLE, read).await??;
        let answer = match first(&packet, true, sandbox, supervisor) {
            First::Nothing => return Ok(()),
            First::Answer(answer, _) => answer,
            First::Ask(question, rule) => {
                let (answer, asked) = resolve(sandbox, supervisor, &question, rule, true).await;
                supervisor.asked(asked);
                answer
            }
        };
        let bytes = bytes(&answer, None).ok_or(io::ErrorKind::InvalidData)?;
        let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut framed = len.to_be_bytes().to_vec();
        framed.extend(bytes);
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}
