//! The three threads that move bytes. Each holds one line (or one small
//! buffer) at a time, so that whoever does not read holds up whoever writes.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::later::{IDLE_MS, Later};
use super::{Shared, clock, lock};
use crate::mcp::frame::{Frame, Framer};
use crate::mcp::session::{Action, body};

/// Client → server, until the client's input ends; then the server's does.
pub(super) fn client(shared: &Shared, from: File) {
    let limit = shared.config.max_message;
    let mut framer = Framer::new(Steady(from), limit);
    // Requests end no call.
    let mut none = Vec::new();
    loop {
        let action = match framer.read() {
            Ok(Frame::Line(line)) => {
                let now = clock::boot();
                let action = shared.decide(&mut none, |session, out| {
                    session.client_line(line, now, out)
                });
                if action == Action::Forward {
                    write_or_drop(&shared.server_in, line);
                }
                action
            }
            Ok(Frame::TooLong(prefix)) => shared.decide(&mut none, |session, out| {
                session.client_too_long(prefix, limit, out)
            }),
            Ok(Frame::End) | Err(_) => break,
        };
        if let Action::Withhold(reply) = action {
            to_client(shared, &reply);
        }
    }
    drop(lock(&shared.server_in).take());
    shared.ended(&shared.ends.client_in);
}

/// Server → client, until the server's output ends. When the client is gone
/// it is still read, so that the server can end.
pub(super) fn server(shared: &Shared, from: File) {
    let limit = shared.config.max_message;
    let later = RefCell::new(Later::default());
    let from = Output {
        from: Steady(from),
        shared,
        later: &later,
    };
    let mut framer = Framer::new(from, limit);
    let mut ends = Vec::new();
    loop {
        match framer.read() {
            Ok(Frame::Line(line)) => {
                let now = clock::boot();
                let action = shared.decide(&mut ends, |session, out| {
                    session.server_line(line, now, out)
                });
                match action {
                    Action::Forward => to_client(shared, line),
                    Action::Withhold(reply) => to_client(shared, &reply),
                }
                let line = body(line);
                let mut later = later.borrow_mut();
                later.add(&shared.outbox, &shared.digests, &mut ends, line);
            }
            Ok(Frame::TooLong(prefix)) => {
                let action = shared.decide(&mut ends, |session, out| {
                    session.server_too_long(prefix, limit, clock::boot(), out)
                });
                if let Action::Withhold(reply) = action {
                    to_client(shared, &reply);
                }
                let mut later = later.borrow_mut();
                later.add(&shared.outbox, &shared.digests, &mut ends, b"");
            }
            Ok(Frame::End) | Err(_) => break,
        }
    }
    later.borrow_mut().tell(&shared.outbox, &shared.digests);
    shared.ended(&shared.ends.server_out);
}

/// The server's stderr, unchanged.
pub(super) fn stderr(shared: &Shared, from: File, to: File) {
    let mut from = Steady(from);
    let mut to = Some(Steady(to));
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                // Whoever closed it wants none; the server must not notice.
                if to
                    .as_mut()
                    .is_some_and(|to| to.write_all(&buffer[..count]).is_err())
                {
                    to = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    shared.ended(&shared.ends.server_err);
}

/// Whole lines, one writer at a time.
fn to_client(shared: &Shared, line: &[u8]) {
    if !line.is_empty() && !write_or_drop(&shared.client_out, line) {
        shared.ended(&shared.ends.client_gone);
    }
}

/// Writes it all, or closes what takes no more. Whether it is open still.
fn write_or_drop(to: &Mutex<Option<Steady>>, bytes: &[u8]) -> bool {
    let mut to = lock(to);
    let written = to
        .as_mut()
        .is_some_and(|file| file.write_all(bytes).is_ok());
    if !written {
        *to = None;
    }
    written
}

/// A pipe that waits, also where its other owner made it non-blocking: that
/// is a property of the open file, which whoever handed it over still shares.
pub(super) struct Steady(pub(super) File);

impl Steady {
    fn when_ready(
        &mut self,
        ready: PollFlags,
        mut act: impl FnMut(&mut File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match act(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.0.as_fd(), ready)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                done => return done,
            }
        }
    }
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when_ready(PollFlags::POLLIN, |file| file.read(buffer))
    }
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when_ready(PollFlags::POLLOUT, |file| file.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's output. Says while it waits in `read` (then all that was
/// written so far is through), and uses the first idle moment to tell of the
/// calls that ended.
struct Output<'a> {
    from: Steady,
    shared: &'a Shared,
    later: &'a RefCell<Later>,
}

impl Read for Output<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let waiting = &self.shared.ends.waiting_out;
        if !self.later.borrow().is_empty() {
            let mut fds = [PollFd::new(self.from.0.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::from(IDLE_MS)), Ok(1..)) {
                let Shared {
                    outbox, digests, ..
                } = self.shared;
                self.later.borrow_mut().tell(outbox, digests);
            }
        }
        waiting.store(true, Ordering::Release);
        let result = self.from.read(buffer);
        waiting.store(false, Ordering::Release);
        result
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    #[test]
    fn a_non_blocking_pipe_is_waited_for_on_both_sides() {
        let (from, to) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let (mut from, mut to) = (Steady(from.into()), Steady(to.into()));
        let bytes: Vec<u8> = (0..300_000).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || {
            // Empty at first, then full.
            std::thread::sleep(std::time::Duration::from_millis(50));
            to.write_all(&sent).unwrap();
        });
        let mut read = vec![0; 1000];
        from.read_exact(&mut read).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        from.read_to_end(&mut read).unwrap();
        writer.join().unwrap();
        assert!(read == bytes);
    }
}
