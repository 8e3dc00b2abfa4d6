//! How a session ends when its client does: end of input, then SIGTERM, then
//! SIGKILL to the whole sandbox (MCP specification, transports, stdio, shutdown).

/// Nanoseconds from the end of input to SIGTERM.
pub const TERM_AFTER: u64 = 10_000_000_000;
/// Nanoseconds from there to SIGKILL.
pub const KILL_AFTER: u64 = 5_000_000_000;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send SIGTERM to the server.
    Terminate,
    /// Kill everything in its cgroup.
    Kill,
}

/// The clock of an ending session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ending {
    since: Option<u64>,
    terminated: bool,
    killed: bool,
}

impl Ending {
    /// The server's input was closed. The first time counts.
    pub fn begin(&mut self, now: u64) {
        self.since.get_or_insert(now);
    }

    /// The step that is due, each once.
    pub fn due(&mut self, now: u64) -> Option<Step> {
        let passed = now.saturating_sub(self.since?);
        if !self.terminated && passed >= TERM_AFTER {
            self.terminated = true;
            return Some(Step::Terminate);
        }
        if !self.killed && passed >= TERM_AFTER + KILL_AFTER {
            self.killed = true;
            return Some(Step::Kill);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn ten_seconds_then_term_five_more_then_kill_each_once() {
        let mut ending = Ending::default();
        assert_eq!(ending.due(1000 * S), None, "nothing before it began");
        ending.begin(100 * S);
        ending.begin(105 * S);
        assert_eq!(ending.due(109 * S), None);
        assert_eq!(ending.due(110 * S), Some(Step::Terminate));
        assert_eq!(ending.due(114 * S), None);
        assert_eq!(ending.due(115 * S), Some(Step::Kill));
        assert_eq!(ending.due(999 * S), None);
    }

    #[test]
    fn a_late_look_takes_both_steps_in_order() {
        let mut ending = Ending::default();
        ending.begin(0);
        assert_eq!(ending.due(60 * S), Some(Step::Terminate));
        assert_eq!(ending.due(60 * S), Some(Step::Kill));
    }
}
