//! Which kernel this really is. Debian and Ubuntu name a kernel 6.1.0-38 that
//! has the fixes of 6.1.147, and say so elsewhere.

/// Major, minor, patch.
pub(super) type Version = (u32, u32, u32);

/// The oldest kernel that never skips an LSM program that is entered again on
/// the same CPU (shared with no older fix).
pub(super) const FLOOR: Version = (6, 1, 54);

/// The version a kernel has, from `uname -r`, `uname -v` and Ubuntu's
/// `/proc/version_signature`. The highest patch of the same series counts.
pub(super) fn of(release: &str, build: &str, signature: Option<&str>) -> Option<Version> {
    let said = parse(release)?;
    let words = build
        .split_whitespace()
        .chain(signature.unwrap_or_default().split_whitespace());
    words
        .filter_map(parse)
        .filter(|v| (v.0, v.1) == (said.0, said.1))
        .chain([said])
        .max()
}

/// The three numbers that a text starts with; the third may be missing.
fn parse(text: &str) -> Option<Version> {
    let mut parts = text.split('.');
    let mut number = || {
        let part = parts.next()?;
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        part[..digits].parse::<u32>().ok()
    };
    Some((number()?, number()?, number().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_version_is_found() {
        for (release, build, signature, expected) in [
            ("6.18.44-fc-v595", "#1 SMP @0", None, Some((6, 18, 44))),
            ("6.12-rc3", "#1", None, Some((6, 12, 0))),
            (
                "6.1.0-38-cloud-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.147-1 (2025-08-02)",
                None,
                Some((6, 1, 147)),
            ),
            (
                "6.8.0-45-generic",
                "#45-Ubuntu SMP",
                Some("Ubuntu 6.8.0-45.45-generic 6.8.12"),
                Some((6, 8, 12)),
            ),
            (
                "6.1.0-9-amd64",
                "#1 SMP Debian 6.1.27-1",
                None,
                Some((6, 1, 27)),
            ),
            ("5.15.0", "#1 built by 6.1.99", None, Some((5, 15, 0))),
            ("weird", "#1", None, None),
        ] {
            assert_eq!(of(release, build, signature), expected, "{release}");
        }
    }
}
