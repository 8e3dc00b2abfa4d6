//! The splice: TLS connections go out only with a server name that the policy
//! allows there (`sni = "require"`).
//!
//! The kernel sends such a connection here instead of to its destination. Which
//! one that was is known by the cookie of the program's socket, which the kernel
//! tells for the pair of addresses ([`crate::sys::sock_diag`]), and which the
//! supervisor looks up. Only when the ClientHello has been read and its name
//! passes is the destination connected to, and all bytes are passed on as they
//! are, the hello first. The name in a hello is what the program says: a server
//! may go by another one inside of TLS.

mod hello;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};

use super::wire::{SpliceRefusal, Spliced};
use crate::policy::names::{Name, NameRules};
use crate::sys::sock_diag;
use hello::Hello;

/// How long a hello may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that wait in each direction.
const BUFFER: usize = 16 << 10;
/// Connections at once of one listener; a sandbox has two, for IPv4 and IPv6. The
/// kernel keeps so many destinations for a sandbox (`SPLICES_OF_SLOT`).
const MAX_CONNECTIONS: usize = 128;
/// Alerts (RFC 8446, 6.2).
const HANDSHAKE_FAILURE: u8 = 40;
const UNRECOGNIZED_NAME: u8 = 112;

/// Who knows where a connection was to go, and takes evidence: the supervisor.
pub(crate) trait Origins {
    /// Where the connection was to go that was made by the socket with this
    /// cookie, and the name that opens it.
    fn origin(&self, sandbox: u64, cookie: u64)
    -> impl Future<Output = Option<(SocketAddr, Name)>>;
    /// Takes evidence.
    fn spliced(&self, what: Spliced);
}

/// Serves one sandbox's connections until its task is aborted. Connections are
/// tasks of their own, which go on.
pub(crate) async fn serve<O: Origins + 'static>(
    sandbox: u64,
    listener: TcpListener,
    rules: Rc<NameRules>,
    sets: u64,
    supervisor: Rc<O>,
) {
    let connections = Rc::new(Cell::new(0));
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!("a connection to the splice: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = Connection {
            sandbox,
            rules: Rc::clone(&rules),
            sets,
            supervisor: Rc::clone(&supervisor),
            is_one_too_many: connections.get() >= MAX_CONNECTIONS,
        };
        connections.set(connections.get() + 1);
        let connections = Rc::clone(&connections);
        tokio::task::spawn_local(async move {
            connection.run(client).await;
            connections.set(connections.get() - 1);
        });
    }
}

/// One connection.
struct Connection<O> {
    sandbox: u64,
    rules: Rc<NameRules>,
    sets: u64,
    supervisor: Rc<O>,
    is_one_too_many: bool,
}

impl<O: Origins> Connection<O> {
    async fn run(&self, mut client: TcpStream) {
        let Some(to) = self.destination(&client).await else {
            return reset(client);
        };
        if self.is_one_too_many {
            self.tell(to, None, Some(SpliceRefusal::Busy));
            return reset(client);
        }
        let mut begun = Vec::new();
        let hello = match tokio::time::timeout(PATIENCE, first(&mut client, &mut begun)).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(_)) => Hello::Refused(SpliceRefusal::NoHello, None),
            Err(_) => Hello::Refused(SpliceRefusal::Late, None),
        };
        let name = match hello {
            Hello::Name(name) if passes(&self.rules, self.sets, &name, to.port()) => name,
            Hello::Name(name) => {
                let said = Some(name.as_str().to_owned());
                self.tell(to, said, Some(SpliceRefusal::Name));
                return alert(client, UNRECOGNIZED_NAME).await;
            }
            Hello::Refused(why, said) => {
                self.tell(to, said, Some(why));
                let code = match why {
                    SpliceRefusal::Name => UNRECOGNIZED_NAME,
                    _ => HANDSHAKE_FAILURE,
                };
                return alert(client, code).await;
            }
            Hello::More => return reset(client),
        };
        self.tell(to, Some(name.as_str().to_owned()), None);
        let connecting = TcpStream::connect(to);
        let Ok(Ok(mut server)) = tokio::time::timeout(PATIENCE, connecting).await else {
            return reset(client);
        };
        if server.write_all(&begun).await.is_err() {
            return reset(client);
        }
        // The end of one direction is passed on; an error of one ends both.
        let passed = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER);
        if passed.await.is_err() {
            reset(client);
        }
    }

    /// Where the program wanted to go.
    async fn destination(&self, client: &TcpStream) -> Option<SocketAddr> {
        let (theirs, ours) = (client.peer_addr().ok()?, client.local_addr().ok()?);
        let cookie = sock_diag::cookie(plain(theirs), plain(ours)).ok()?;
        let (to, _) = self.supervisor.origin(self.sandbox, cookie).await?;
        Some(to)
    }

    fn tell(&self, to: SocketAddr, sni: Option<String>, refused: Option<SpliceRefusal>) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        self.supervisor.spliced(Spliced {
            sandbox: self.sandbox,
            time: time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX)),
            to,
            sni,
            refused,
        });
    }
}

/// An IPv4 address that came as IPv4-mapped.
fn plain(at: SocketAddr) -> SocketAddr {
    match at.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), at.port()),
            None => at,
        },
        IpAddr::V4(_) => at,
    }
}

/// Whether the policy allows a name at a port.
fn passes(rules: &NameRules, sets: u64, name: &Name, port: u16) -> bool {
    rules.grants(name).iter().any(|grant| {
        let masks = grant.masks;
        (grant.ports.0..=grant.ports.1).contains(&port)
            && masks.allow & !(masks.deny | masks.approve) & sets != 0
    })
}

/// Reads until the hello is whole; `begun` has all that was read.
async fn first(client: &mut TcpStream, begun: &mut Vec<u8>) -> io::Result<Hello> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = client.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        begun.extend_from_slice(&buffer[..len]);
        match hello::read(begun) {
            Hello::More => {}
            done => return Ok(done),
        }
    }
}

/// Says why in TLS's own words, so that the program fails at once, and closes.
async fn alert(mut client: TcpStream, code: u8) {
    let fatal = [21, 3, 3, 0, 2, 2, code];
    let said = async {
        client.write_all(&fatal).await?;
        client.shutdown().await?;
        // What the program still sends would turn the alert into a reset.
        let mut rest = [0; 1024];
        while client.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
}

/// Closes without a word: nothing was understood, or there is nobody.
fn reset(client: TcpStream) {
    let _ = client.set_zero_linger();
    drop(client);
}

#[cfg(test)]
#[path = "splice/tests.rs"]
mod tests;
