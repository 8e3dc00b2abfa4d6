//! Connections and datagrams.

use std::net::{TcpListener, UdpSocket};

use serde_json::json;

use super::guard::{POLICY, Run, nothing_left};

/// Refused by the kernel, not by nobody listening.
fn refused(what: &str, answer: Result<String, String>) {
    let error = answer.expect_err(what);
    let by_kernel = error.contains("os error 13") || error.contains("os error 1)");
    assert!(by_kernel, "{what}: {error}");
}

/// Nothing leaves without a rule; with one, that address and port and no other.
pub fn connections() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("listen"));
    let [named, unnamed] = [0, 1].map(|i| listeners[i].local_addr().expect("an address"));
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let udp = datagrams.local_addr().expect("an address");
    let port = named.port();

    let mut closed = Run::fake("closed", POLICY).start();
    closed.initialize();
    refused(
        "no rule",
        closed.call("connect", json!({"address": named.to_string()})),
    );
    refused(
        "no socket",
        closed.call("send_datagram", json!({"address": udp.to_string()})),
    );
    let trail = closed.end();
    let events = trail.events();
    let denied = events
        .iter()
        .find(|e| e["op"] == "connect" && e["port"] == port);
    let denied = denied.unwrap_or_else(|| panic!("no connection in {events:#?}"));
    assert_eq!(denied["kind"], "network", "{denied}");
    assert_eq!(denied["verdict"], "deny", "{denied}");
    assert_eq!(denied["address"], "127.0.0.1", "{denied}");
    assert_eq!(denied["call"]["tool"], "connect", "{denied}");
    let socket = events
        .iter()
        .find(|e| e["op"] == "socket" && e["socket_type"] == "dgram");
    let socket = socket.unwrap_or_else(|| panic!("no socket in {events:#?}"));
    assert_eq!(socket["verdict"], "deny", "{socket}");

    let policy = format!("{POLICY}[network]\nallow = [\"{named}\", \"{udp}\"]\n");
    let mut open = Run::fake("open", &policy).start();
    open.initialize();
    let connected = open.call("connect", json!({"address": named.to_string()}));
    assert_eq!(connected.as_deref(), Ok("connected"));
    refused(
        "another port",
        open.call("connect", json!({"address": unnamed.to_string()})),
    );
    let sent = open.call("send_datagram", json!({"address": udp.to_string()}));
    assert_eq!(sent.as_deref(), Ok("sent"));
    refused(
        "another port",
        open.call("send_datagram", json!({"address": unnamed.to_string()})),
    );
    let trail = open.end();
    let allowed = trail
        .events()
        .into_iter()
        .any(|e| e["op"] == "connect" && e["port"] == port && e["verdict"] == "allow");
    assert!(allowed, "{:#?}", trail.events());
    nothing_left();
}
