//! Which LSMs are active, and the `lsm=` that adds `bpf`.

use std::fs;
use std::io::Read;

/// Where the list of LSMs is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/sys/kernel/security/lsm`: what is active.
    Mounted,
    /// The same file of a securityfs that was mounted for this look only.
    Private,
    /// `lsm=` of `/proc/cmdline`: what was asked for.
    CommandLine,
    /// `CONFIG_LSM` of this file: what is asked for without `lsm=`.
    Config(String),
}

/// The LSMs of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lsms {
    /// Their names, in order.
    pub names: Vec<String>,
    /// Who says so.
    pub source: Source,
}

impl Lsms {
    /// Whether `bpf` is among them.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// The `lsm=` that keeps these and puts `bpf` before them, so that what
    /// another one denies is in guard's trail too. `capability` is always there
    /// and not for `lsm=`.
    #[must_use]
    pub fn with_bpf(&self) -> String {
        let others = self
            .names
            .iter()
            .filter(|n| *n != "capability" && *n != "bpf");
        let names: Vec<&str> = ["bpf"]
            .into_iter()
            .chain(others.map(String::as_str))
            .collect();
        format!("lsm={}", names.join(","))
    }

    /// Where Landlock is among them.
    #[must_use]
    pub fn landlock(&self) -> LandlockPlace {
        let place = |name: &str| self.names.iter().position(|n| n == name);
        match (place("landlock"), place("bpf")) {
            (None, _) => LandlockPlace::Absent,
            (Some(landlock), Some(bpf)) if bpf < landlock => LandlockPlace::AfterBpf,
            (Some(_), _) => LandlockPlace::BeforeBpf,
        }
    }
}

/// Where Landlock is in the order in which the kernel asks its LSMs. The first
/// that denies is the last that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LandlockPlace {
    /// Not active, or not known to be.
    Absent,
    /// Before `bpf`: what it denies the kernel programs never see.
    BeforeBpf,
    /// After `bpf`.
    AfterBpf,
}

/// Where Landlock is on this host. Only what the kernel itself says counts.
#[must_use]
pub fn landlock_place() -> LandlockPlace {
    match active("") {
        Some(lsms) if matches!(lsms.source, Source::Mounted | Source::Private) => lsms.landlock(),
        _ => LandlockPlace::Absent,
    }
}

/// Looks where it can; a file that is no securityfs's is not believed.
pub(super) fn active(release: &str) -> Option<Lsms> {
    let from = |text: &str, source| {
        let names = text.trim().split(',').filter(|n| !n.is_empty());
        Some(Lsms {
            names: names.map(str::to_owned).collect(),
            source,
        })
    };
    if let Some(text) = securityfs("lsm") {
        return from(
            &text.0,
            if text.1 {
                Source::Mounted
            } else {
                Source::Private
            },
        );
    }
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(list) = of_command_line(&command_line) {
        return from(list, Source::CommandLine);
    }
    let path = format!("/boot/config-{release}");
    let config = fs::read_to_string(&path).ok()?;
    from(of_config(&config)?, Source::Config(path))
}

/// A file of securityfs, and whether securityfs is mounted where it belongs.
pub(super) fn securityfs(name: &str) -> Option<(String, bool)> {
    /// include/uapi/linux/magic.h
    const SECURITYFS_MAGIC: i64 = 0x7363_6673;
    const PLACE: &str = "/sys/kernel/security";
    let genuine = nix::sys::statfs::statfs(PLACE)
        .is_ok_and(|s| i128::from(s.filesystem_type().0) == i128::from(SECURITYFS_MAGIC));
    if genuine && let Ok(text) = fs::read_to_string(format!("{PLACE}/{name}")) {
        return Some((text, true));
    }
    let root = crate::sys::bpf_probe::mount_detached(c"securityfs").ok()?;
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let file = nix::fcntl::openat(&root, name, flags, nix::sys::stat::Mode::empty()).ok()?;
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).ok()?;
    Some((text, false))
}

/// The last `lsm=` counts, as in security/security.c.
fn of_command_line(text: &str) -> Option<&str> {
    text.split_whitespace()
        .take_while(|word| *word != "--")
        .filter_map(|word| word.strip_prefix("lsm="))
        .last()
}

fn of_config(text: &str) -> Option<&str> {
    let value = text.lines().find_map(|l| l.strip_prefix("CONFIG_LSM="))?;
    Some(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_found() {
        assert_eq!(
            of_command_line("quiet lsm=a lsm=b,bpf root=/"),
            Some("b,bpf")
        );
        assert_eq!(of_command_line("quiet -- lsm=a"), None);
        assert_eq!(
            of_config("# x\nCONFIG_LSM=\"landlock,bpf\"\n"),
            Some("landlock,bpf")
        );
        assert_eq!(of_config("# CONFIG_LSM is not set"), None);
    }

    #[test]
    fn the_line_keeps_what_is_there() {
        let line = |names: &[&str]| {
            Lsms {
                names: names.iter().map(|n| (*n).to_owned()).collect(),
                source: Source::Mounted,
            }
            .with_bpf()
        };
        assert_eq!(
            line(&["capability", "landlock", "yama", "apparmor"]),
            "lsm=bpf,landlock,yama,apparmor"
        );
        assert_eq!(line(&["capability", "yama", "bpf"]), "lsm=bpf,yama");
        assert_eq!(line(&[]), "lsm=bpf");
    }

    #[test]
    fn the_order_decides_who_is_asked_first() {
        for (names, expected) in [
            (&["landlock", "yama", "bpf"][..], LandlockPlace::BeforeBpf),
            (&["bpf", "yama", "landlock"], LandlockPlace::AfterBpf),
            (&["yama", "bpf"], LandlockPlace::Absent),
            (&["landlock"], LandlockPlace::BeforeBpf),
        ] {
            let lsms = Lsms {
                names: names.iter().map(|n| (*n).to_owned()).collect(),
                source: Source::Mounted,
            };
            assert_eq!(lsms.landlock(), expected, "{names:?}");
        }
    }
}
