//! `guard status` and `guard reload`: short questions to the supervisor.

use std::os::fd::AsFd as _;

use super::connect::{self, ConnectError};
use crate::supervisor::paths::SANDBOXES;
use crate::wire::{Enforcement, ReloadReply, Request, StatusReply, transport};

/// Nobody to ask (as `systemctl status` of a unit that does not run).
const NOT_RUNNING: u8 = 3;

fn ask<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, ConnectError> {
    let socket = connect::running()?;
    transport::send(socket.as_fd(), request, &[])?;
    let packet = transport::receive(socket.as_fd())?.ok_or(ConnectError::Nobody)?;
    Ok(packet.parse()?)
}

fn failed(error: &ConnectError) -> u8 {
    eprintln!("guard: {error}");
    match error {
        ConnectError::Nobody => NOT_RUNNING,
        _ => 1,
    }
}

pub(super) fn status() -> u8 {
    match ask::<StatusReply>(&Request::Status) {
        Ok(reply) => {
            print!("{}", render(&reply));
            0
        }
        Err(error) => {
            let code = failed(&error);
            let left = std::fs::read_dir(SANDBOXES).map_or(0, Iterator::count);
            if code == NOT_RUNNING && left > 0 {
                eprintln!(
                    "guard: {left} sandboxes of an earlier supervisor stay confined; the next \
                     `guard run` or `guard daemon` takes them over"
                );
            }
            code
        }
    }
}

pub(super) fn reload() -> u8 {
    match ask::<ReloadReply>(&Request::Reload) {
        Ok(ReloadReply::Refused { reason }) => {
            eprintln!("guard: {reason}");
            1
        }
        Err(error) => failed(&error),
    }
}

fn render(reply: &StatusReply) -> String {
    let kernel = if reply.kernel {
        "kernel programs loaded"
    } else {
        "kernel programs not loaded"
    };
    let mut text = format!(
        "guard {}, supervisor {}, {kernel}, {} sandboxes\n",
        reply.version,
        reply.pid,
        reply.sandboxes.len()
    );
    if reply.sandboxes.is_empty() {
        return text;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "SANDBOX",
        "SERVER",
        "POLICY",
        "ENFORCEMENT",
        "UID",
        "PID",
        "AGE",
        "CALLS",
    ]);
    for s in &reply.sandboxes {
        let enforcement = match s.enforcement {
            Enforcement::Kernel => "kernel",
            Enforcement::GatewayOnly => "gateway-only",
        };
        table.add_row([
            s.id.clone(),
            s.server.clone(),
            s.policy.clone(),
            format!("{enforcement}{}", if s.adopted { " (adopted)" } else { "" }),
            s.uid.to_string(),
            s.pid.to_string(),
            format!("{} s", s.age),
            s.calls.to_string(),
        ]);
    }
    text.push_str(&table.to_string());
    text.push('\n');
    text
}
