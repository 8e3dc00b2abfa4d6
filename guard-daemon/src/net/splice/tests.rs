//! The splice over loopback, with a supervisor of the test's own and an origin
//! that sends back what it gets.

use std::cell::RefCell;

use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::net::resolver::tests::rules;

/// Knows one destination for whoever asks.
struct Fixed {
    to: Option<SocketAddr>,
    told: RefCell<Vec<Spliced>>,
    cookies: RefCell<Vec<u64>>,
}

impl Origins for Fixed {
    async fn origin(&self, sandbox: u64, cookie: u64) -> Option<(SocketAddr, Name)> {
        assert_eq!(sandbox, 7);
        self.cookies.borrow_mut().push(cookie);
        Some((self.to?, Name::parse("api.allowed.test").unwrap()))
    }

    fn spliced(&self, what: Spliced) {
        self.told.borrow_mut().push(what);
    }
}

struct Lab {
    at: SocketAddr,
    supervisor: Rc<Fixed>,
    /// What reached the origin.
    got: Rc<RefCell<Vec<u8>>>,
}

async fn lab(port_rules: impl Fn(u16) -> String, known: bool) -> Lab {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = origin.local_addr().unwrap();
    let got = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&got);
    spawn_local(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut buffer = [0; 4096];
        // Sends back what comes, until the other side has said all.
        loop {
            let len = stream.read(&mut buffer).await.unwrap();
            if len == 0 {
                break;
            }
            seen.borrow_mut().extend_from_slice(&buffer[..len]);
            stream.write_all(&buffer[..len]).await.unwrap();
        }
        stream.write_all(b"end").await.unwrap();
    });
    let supervisor = Rc::new(Fixed {
        to: known.then_some(to),
        told: RefCell::default(),
        cookies: RefCell::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let rules = Rc::new(rules(&port_rules(to.port())));
    spawn_local(serve(7, listener, rules, 1, Rc::clone(&supervisor)));
    Lab {
        at,
        supervisor,
        got,
    }
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test());
}

fn allow(port: u16) -> String {
    format!("sni = 'require'\nallow = ['*.allowed.test:{port}']")
}

fn deny(port: u16) -> String {
    format!("{}\ndeny = ['api.allowed.test:{port}']", allow(port))
}

#[test]
fn a_name_that_passes_goes_out_unchanged() {
    run(async || {
        let lab = lab(allow, true).await;
        let mut client = TcpStream::connect(lab.at).await.unwrap();
        let hello = hello::tests::real();
        // In two pieces, and more behind it.
        client.write_all(&hello[..100]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(lab.got.borrow().is_empty() && lab.supervisor.told.borrow().is_empty());
        client.write_all(&hello[100..]).await.unwrap();
        client.write_all(b"more").await.unwrap();
        // The end of one direction does not end the other.
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        let sent = [&hello[..], b"more"].concat();
        assert_eq!(back, [&sent[..], b"end"].concat());
        assert_eq!(*lab.got.borrow(), sent);
        let told = lab.supervisor.told.borrow().clone();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].sni.as_deref(), Some("api.allowed.test"));
        assert_eq!(
            (told[0].refused, Some(told[0].to)),
            (None, lab.supervisor.to)
        );
        assert_eq!(lab.supervisor.cookies.borrow().len(), 1);
    });
}

#[test]
fn a_name_that_does_not_pass_goes_nowhere() {
    run(async || {
        let lab = lab(deny, true).await;
        let mut client = TcpStream::connect(lab.at).await.unwrap();
        client.write_all(&hello::tests::real()).await.unwrap();
        let mut back = [0; 7];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, [21, 3, 3, 0, 2, 2, 112]);
        assert_eq!(client.read(&mut back).await.unwrap(), 0);
        assert!(lab.got.borrow().is_empty());
        let told = lab.supervisor.told.borrow().clone();
        assert_eq!(told[0].refused, Some(SpliceRefusal::Name));
        assert_eq!(told[0].sni.as_deref(), Some("api.allowed.test"));
    });
}

#[test]
fn what_is_not_tls_goes_nowhere() {
    run(async || {
        let lab = lab(allow, true).await;
        let mut client = TcpStream::connect(lab.at).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut back = [0; 7];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back[6], 40);
        assert!(lab.got.borrow().is_empty());
        let told = lab.supervisor.told.borrow().clone();
        assert_eq!(told[0].refused, Some(SpliceRefusal::NoHello));
    });
}

#[test]
fn a_connection_that_nobody_knows_is_reset() {
    run(async || {
        let lab = lab(allow, false).await;
        let mut client = TcpStream::connect(lab.at).await.unwrap();
        let _ = client.write_all(&hello::tests::real()).await;
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(lab.got.borrow().is_empty() && lab.supervisor.told.borrow().is_empty());
    });
}

#[test]
fn the_port_counts() {
    let of = |port| {
        let name = Name::parse("api.allowed.test").unwrap();
        passes(&rules(&allow(443)), 1, &name, port)
    };
    assert!(of(443) && !of(444));
    let name = Name::parse("api.allowed.test").unwrap();
    assert!(!passes(&rules(&deny(443)), 1, &name, 443));
    assert!(
        !passes(&rules(&allow(443)), 2, &name, 443),
        "not of this set"
    );
}
