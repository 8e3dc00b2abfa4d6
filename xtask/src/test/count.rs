//! Counts tests by what test programs print.

use anyhow::{Result, bail};
use std::fmt;

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// What one line of `cargo test` adds: `test result: ok. 12 passed; 0 failed; …`.
pub(crate) fn of_cargo(line: &str) -> Count {
    let Some(result) = line.strip_prefix("test result: ") else {
        return Count::default();
    };
    let number = |what: &str| {
        result
            .split(['.', ';'])
            .filter_map(|part| part.trim().strip_suffix(what))
            .find_map(|number| number.trim().parse().ok())
            .unwrap_or(0)
    };
    Count {
        passed: number("passed"),
        failed: number("failed"),
    }
}

/// What the VM tests printed: a line `test NAME ... ok` or `FAILED` for each, and a last line
/// `N passed, N failed`, which counts.
///
/// # Errors
/// When the last line is missing, counts fewer than were shown, or nothing at all, or does not
/// agree with the exit status.
pub(crate) fn of_vm_tests(text: &str, status: i32) -> Result<Count> {
    let tests = || text.lines().filter(|line| line.starts_with("test "));
    let ending = |end: &str| tests().filter(|line| line.ends_with(end)).count() as u64;
    let seen = Count {
        passed: ending("... ok"),
        failed: ending("... FAILED"),
    };
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let Some(count) = closing(last) else {
        bail!("the VM tests showed {seen}, but their last line is {last:?} (exit status {status})");
    };
    if count.passed < seen.passed || count.failed < seen.failed {
        bail!("the VM tests showed {seen}, but counted {count}");
    }
    if count == Count::default() {
        bail!("the VM tests ran no test");
    }
    if (status == 0) != (count.failed == 0) {
        bail!("the VM tests counted {count}, but ended with status {status}");
    }
    Ok(count)
}

/// Reads `N passed, N failed`.
fn closing(line: &str) -> Option<Count> {
    let (passed, failed) = line.trim().split_once(", ")?;
    Some(Count {
        passed: passed.strip_suffix(" passed")?.parse().ok()?,
        failed: failed.strip_suffix(" failed")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Count, of_cargo, of_vm_tests};

    #[test]
    fn cargos_result_line_is_counted_and_no_other() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(
            of_cargo(line),
            Count {
                passed: 12,
                failed: 3
            }
        );
        assert_eq!(of_cargo("test a::b ... ok"), Count::default());
    }

    #[test]
    fn the_last_line_must_agree_with_the_tests() {
        let good = "test a ... ok\nnoise\ntest b ... FAILED\n1 passed, 1 failed\n";
        assert_eq!(
            of_vm_tests(good, 1).unwrap(),
            Count {
                passed: 1,
                failed: 1
            }
        );
        assert!(of_vm_tests(good, 0).is_err());
        assert!(of_vm_tests("test a ... FAILED\n2 passed, 0 failed\n", 0).is_err());
        assert!(of_vm_tests("test a ... ok\n0 passed, 0 failed\n", 0).is_err());
        assert_eq!(
            of_vm_tests("1 passed, 0 failed\n", 0).unwrap(),
            Count {
                passed: 1,
                failed: 0
            }
        );
        assert!(of_vm_tests("test a ... ok\n", 0).is_err());
        assert!(of_vm_tests("0 passed, 0 failed\n", 0).is_err());
    }
}
