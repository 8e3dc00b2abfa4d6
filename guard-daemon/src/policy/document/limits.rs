//! Sizes and limits: `[process]` memory, max_processes, cpu, io_uring, and
//! `[files]` max_write_size.

use toml_edit::TableLike;

use super::reader::Reader;
use crate::policy::error::PolicyError;

/// `[process]` but for user and environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Bytes of memory, swap not among them; `None`: no limit.
    pub memory: Option<u64>,
    /// Processes and threads at once; `None`: no limit.
    pub max_processes: Option<u32>,
    /// Thousandths of a processor; `None`: no limit.
    pub cpu: Option<u32>,
    /// Whether io_uring may be used.
    pub io_uring: bool,
}

impl ProcessLimits {
    /// Whether a cgroup has to limit anything.
    #[must_use]
    pub const fn any(&self) -> bool {
        self.memory.is_some() || self.max_processes.is_some() || self.cpu.is_some()
    }
}

/// A server needs more to start.
const LEAST_MEMORY: u64 = 1 << 20;
/// `PID_MAX_LIMIT` (include/linux/threads.h).
const MOST_PROCESSES: i64 = 1 << 22;
/// Thousandths of a processor: a period of the kernel has 100 ms, and a share
/// of it at least 1.
const CPU: std::ops::RangeInclusive<f64> = 10.0..=1_024_000.0;

impl Reader {
    /// `[process]`.
    pub(super) fn limits(&mut self, process: &dyn TableLike) -> ProcessLimits {
        ProcessLimits {
            memory: self.size(process, "process", "memory", LEAST_MEMORY),
            max_processes: self.max_processes(process),
            cpu: self.cpu(process),
            io_uring: self.io_uring(process),
        }
    }

    /// A size of at least `least` bytes.
    pub(super) fn size(
        &mut self,
        table: &dyn TableLike,
        section: &str,
        key: &str,
        least: u64,
    ) -> Option<u64> {
        let item = table.get(key)?;
        let bytes = item.as_str().and_then(size).filter(|bytes| *bytes >= least);
        if bytes.is_none() {
            let place = self.item_place(table, key, item);
            let least = if least > 1 { ", at least \"1MiB\"" } else { "" };
            self.errors.push(
                PolicyError::at(&place, format!("\"{section}.{key}\" must be a size")).help(
                    format!(
                        "a whole number and B, KiB, MiB, GiB or TiB, such as \"512MiB\"{least}"
                    ),
                ),
            );
        }
        bytes
    }

    fn max_processes(&mut self, process: &dyn TableLike) -> Option<u32> {
        let item = process.get("max_processes")?;
        let count = item
            .as_integer()
            .filter(|count| (1..=MOST_PROCESSES).contains(count))
            .and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            let place = self.item_place(process, "max_processes", item);
            self.errors.push(
                PolicyError::at(&place, "\"process.max_processes\" must be a whole number")
                    .help(format!("from 1 to {MOST_PROCESSES}; threads count too")),
            );
        }
        count
    }

    fn cpu(&mut self, process: &dyn TableLike) -> Option<u32> {
        let item = process.get("cpu")?;
        let number = item
            .as_float()
            .or_else(|| item.as_integer().map(|whole| whole as f64))
            .map(|processors| (processors * 1000.0).round())
            .filter(|thousandths| CPU.contains(thousandths));
        if number.is_none() {
            let place = self.item_place(process, "cpu", item);
            self.errors.push(
                PolicyError::at(&place, "\"process.cpu\" must be a number of processors")
                    .help("from 0.01 to 1024, such as 1.5"),
            );
        }
        number.map(|thousandths| thousandths as u32)
    }

    fn io_uring(&mut self, process: &dyn TableLike) -> bool {
        let Some(item) = process.get("io_uring") else {
            return false;
        };
        let chosen = item.as_bool();
        if chosen.is_none() {
            let place = self.item_place(process, "io_uring", item);
            self.errors.push(PolicyError::at(
                &place,
                "\"process.io_uring\" must be true or false",
            ));
        }
        chosen.unwrap_or(false)
    }
}

/// `10MiB` and the like, in bytes; `None` for anything else, 0 and what overflows.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    // The kernel takes offsets in files and sizes as signed numbers.
    let bytes = number.checked_mul(1 << shift)?;
    (1..=i64::MAX.unsigned_abs())
        .contains(&bytes)
        .then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1B", 1),
            ("4KiB", 4096),
            ("10MiB", 10 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "0B",
            "1",
            "1MB",
            "1 MiB",
            "-1B",
            "+1B",
            "1.5GiB",
            "1mib",
            "99999999999TiB",
            "1é",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
