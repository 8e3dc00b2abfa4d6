//! The two clocks.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`, nanoseconds: what the kernel compares leases with.
#[must_use]
pub fn boot() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Wall clock, nanoseconds since the epoch.
#[must_use]
pub fn wall() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // Cannot fail for these two; 0 makes every lease run out, which is the safe side.
    clock_gettime(clock).map_or(0, |time| {
        let nanos = time.tv_sec().saturating_mul(1_000_000_000) + time.tv_nsec();
        u64::try_from(nanos).unwrap_or(0)
    })
}
