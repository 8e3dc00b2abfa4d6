//! The host's side of the ports that a guest has to it.

use super::boot::Sink;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// The ports between guest and host, in the order of [`Channels`].
pub(super) const PORTS: [&str; 3] = ["guard.out", "guard.err", "guard.control"];

/// The host's ends of the ports, each read by a thread of its own.
pub(super) struct Channels {
    readers: [JoinHandle<std::io::Result<Vec<u8>>>; 3],
    sockets: [PathBuf; 3],
}

impl Channels {
    /// Listens below `directory`, where QEMU is to connect.
    pub(super) fn listen(directory: &Path, sink: Sink) -> Result<Self> {
        let sockets = PORTS.map(|port| directory.join(port));
        let listener = |index: usize| {
            UnixListener::bind(&sockets[index])
                .with_context(|| format!("could not listen on {}", sockets[index].display()))
        };
        let readers = [
            read(
                listener(0)?,
                (sink == Sink::Inherit)
                    .then(|| Box::new(std::io::stdout()) as Box<dyn Write + Send>),
            ),
            read(
                listener(1)?,
                (sink == Sink::Inherit)
                    .then(|| Box::new(std::io::stderr()) as Box<dyn Write + Send>),
            ),
            read(listener(2)?, None),
        ];
        Ok(Self { readers, sockets })
    }

    /// What came, to the end. QEMU must have ended.
    pub(super) fn finish(self) -> Result<[Vec<u8>; 3]> {
        for socket in &self.sockets {
            // Frees a reader whose port QEMU never opened.
            drop(std::os::unix::net::UnixStream::connect(socket));
        }
        let mut parts = Vec::new();
        for reader in self.readers {
            let part = match reader.join() {
                Ok(part) => part.context("could not read from the guest")?,
                Err(_) => bail!("a reader of the guest's output died"),
            };
            parts.push(part);
        }
        parts
            .try_into()
            .map_err(|_| anyhow::anyhow!("three ports were expected"))
    }
}

/// Passes on what comes from the first peer, or keeps it.
fn read(
    listener: UnixListener,
    pass: Option<Box<dyn Write + Send>>,
) -> JoinHandle<std::io::Result<Vec<u8>>> {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut kept = Vec::new();
        let Some(mut pass) = pass else {
            stream.read_to_end(&mut kept)?;
            return Ok(kept);
        };
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(kept);
            }
            pass.write_all(&buffer[..length])?;
            pass.flush()?;
        }
    })
}
