//! Hearing one client and answering it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{getsockopt, sockopt};

use super::{Shared, Supervisor, start};
use crate::sys::fds::watch;
use crate::wire::transport::{self, TransportError};
use crate::wire::{ReloadReply, Request, RunReply, SandboxStatus, StatusReply};

/// How long a connection may take to say what it wants.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The first packet of a connection. `None` when none comes in time.
pub(super) async fn first_packet(socket: OwnedFd) -> Option<(OwnedFd, transport::Packet)> {
    let socket = watch(socket).ok()?;
    let packet = tokio::time::timeout(REQUEST_PATIENCE, async {
        loop {
            let mut ready = socket.readable().await.ok()?;
            match transport::receive(socket.get_ref().as_fd()) {
                Ok(packet) => return packet,
                Err(TransportError::System { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::warn!("a client's packet: {error}");
                    return None;
                }
            }
        }
    })
    .await
    .ok()??;
    Some((socket.into_inner(), packet))
}

/// Hears one client and answers it.
pub(super) async fn answer(shared: &Shared, client: OwnedFd) {
    let own = nix::unistd::geteuid().as_raw();
    let peer = getsockopt(&client, sockopt::PeerCredentials).map(|p| p.uid());
    if peer != Ok(own) {
        tracing::warn!("a client that is not uid {own} was turned away: {peer:?}");
        return;
    }
    let Some((client, packet)) = first_packet(client).await else {
        return;
    };
    let request = packet.parse::<Request>();
    let sent = match request {
        Ok(Request::Run(request)) => {
            let reply = start::run(shared, &request, packet.fds).await;
            if let RunReply::Started { .. } = reply {
                start::fill_pool(shared);
            }
            transport::send(client.as_fd(), &reply, &[])
        }
        Ok(Request::Status) => {
            let reply = shared.borrow().status();
            transport::send(client.as_fd(), &reply, &[])
        }
        Ok(Request::Reload) => {
            let reason = "guard reload is not supported yet: restart the server to use a changed \
                          policy";
            let reply = ReloadReply::Refused {
                reason: reason.into(),
            };
            transport::send(client.as_fd(), &reply, &[])
        }
        Ok(Request::Relay { .. }) => Ok(()), // relays have a socket of their own
        Err(error) => {
            let reply = RunReply::Refused {
                status: 125,
                reason: format!("the supervisor does not understand the request: {error}"),
            };
            transport::send(client.as_fd(), &reply, &[])
        }
    };
    if let Err(error) = sent {
        // The session, if there is one, does not need its client's supervisor socket.
        tracing::info!("a client left before its answer: {error}");
    }
}

impl Supervisor {
    fn status(&self) -> StatusReply {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            kernel: self.kernel.is_some(),
            sandboxes: self
                .sessions
                .values()
                .map(|s| SandboxStatus {
                    id: s.state.id.clone(),
                    server: s.state.server.clone(),
                    policy: s.state.policy.name.clone(),
                    enforcement: s.state.enforcement,
                    uid: s.state.uid,
                    pid: s.state.pid.unsigned_abs(),
                    age: now.saturating_sub(s.state.started),
                    calls: s.in_flight(),
                    adopted: s.adopted.is_some(),
                })
                .collect(),
        }
    }
}
