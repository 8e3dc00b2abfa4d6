//! How many notes of one side are told: whoever writes garbage without end
//! must not bury the trail. What is not told one by one is told as a number.

/// Notes of one side that are told in a second.
pub const NOTES_A_SECOND: u32 = 50;
const SECOND: u64 = 1_000_000_000;

/// Counts the notes of one side.
#[derive(Debug, Default)]
pub struct Gate {
    /// When the second began, nanoseconds.
    since: u64,
    told: u32,
    untold: u64,
}

impl Gate {
    /// Whether a note is told; if not, it is counted.
    pub fn admit(&mut self) -> bool {
        if self.told < NOTES_A_SECOND {
            self.told += 1;
            return true;
        }
        self.untold += 1;
        false
    }

    /// Begins a new second when the last is over. How many notes were not
    /// told until then, if any. Ask before [`Self::admit`], and now and then.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        if now.saturating_sub(self.since) < SECOND {
            return None;
        }
        self.since = now;
        self.told = 0;
        Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0)
    }

    /// How many notes were not told, at the end of the session.
    pub fn rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.untold)).filter(|untold| *untold > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_note_is_told_or_counted() {
        let mut gate = Gate::default();
        assert_eq!(gate.due(5 * SECOND), None);
        let told = (0..200).filter(|_| gate.admit()).count();
        assert_eq!(told, NOTES_A_SECOND as usize);
        assert_eq!(gate.due(6 * SECOND - 1), None);
        assert_eq!(gate.due(6 * SECOND), Some(200 - u64::from(NOTES_A_SECOND)));
        assert!(gate.admit(), "a new second");
        assert_eq!(gate.due(8 * SECOND), None);
        for _ in 0..=NOTES_A_SECOND {
            gate.admit();
        }
        assert_eq!((gate.rest(), gate.rest()), (Some(1), None));
    }
}
