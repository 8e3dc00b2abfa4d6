//! Times of the trail: the kernel counts from boot, the trail is in UTC.

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Where the kernel gives the boot's id (drivers/char/random.c).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of this boot, a UUID. Two events with one boot id can be compared by
/// the kernel's clock.
///
/// # Errors
/// When procfs is not mounted or does not have the file.
pub fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .map_err(|e| std::io::Error::new(e.kind(), format!("{BOOT_ID}: {e}")))
}

/// Turns `CLOCK_BOOTTIME` into wall-clock time. Make a new one from time to
/// time: the wall clock is set, the boot clock is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Wall clock minus boot clock, nanoseconds.
    offset: i128,
}

impl Clock {
    /// Reads both clocks.
    ///
    /// # Errors
    /// When the kernel refuses to tell the time.
    pub fn now() -> nix::Result<Self> {
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let wall = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let nanos = |t: nix::sys::time::TimeSpec| {
            i128::from(t.tv_sec()) * 1_000_000_000 + i128::from(t.tv_nsec())
        };
        Ok(Self {
            offset: nanos(wall) - nanos(boot),
        })
    }

    /// A clock with a known difference (wall minus boot, nanoseconds).
    #[must_use]
    pub const fn with_offset(offset: i128) -> Self {
        Self { offset }
    }

    /// The wall-clock time of a `CLOCK_BOOTTIME` reading in nanoseconds.
    #[must_use]
    pub fn wall(self, boot_nanos: u64) -> Timestamp {
        from_nanos(i128::from(boot_nanos) + self.offset)
    }
}

/// Nanoseconds since the epoch as a time; what is out of range becomes the
/// nearest time that can be written.
#[must_use]
pub fn from_nanos(nanos: i128) -> Timestamp {
    let range = Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond();
    let clamped = nanos.clamp(*range.start(), *range.end());
    Timestamp::from_nanosecond(clamped).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_becomes_wall_time() {
        let clock = Clock::with_offset(1_763_672_400_000_000_000);
        assert_eq!(
            format!("{:.9}", clock.wall(123_456_789)),
            "2025-11-20T21:00:00.123456789Z"
        );
    }

    #[test]
    fn the_running_clock_agrees_with_the_wall() {
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        let nanos = boot.tv_sec() as u64 * 1_000_000_000 + boot.tv_nsec() as u64;
        let said = Clock::now().unwrap().wall(nanos);
        let distance = Timestamp::now().duration_since(said).abs();
        assert!(distance.as_secs() < 5, "{said} is {distance:?} off");
    }

    #[test]
    fn no_time_is_out_of_range() {
        assert_eq!(from_nanos(i128::MAX), Timestamp::MAX);
        assert_eq!(from_nanos(i128::MIN), Timestamp::MIN);
    }
}
