//! Judges a boot by what came out of it. Only a status that the guest's first process sent, from
//! a kernel that did not complain, is a result; all else is a failure.

use anyhow::{Context, Result, bail};

/// What the guest said on its control port.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Control {
    /// The first process ran.
    pub(crate) init: bool,
    /// The command's exit status.
    pub(crate) status: Option<i32>,
    /// Files that were asked for.
    pub(crate) files: Vec<File>,
    /// Paths that were asked for and were not there.
    pub(crate) missing: Vec<String>,
}

/// A file or directory out of the guest.
#[derive(Debug, PartialEq)]
pub(crate) struct File {
    pub(crate) path: String,
    /// `None` for a directory.
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) mode: u32,
}

impl Control {
    /// Reads the whole transcript. A part that is cut off is not an error here: the status that
    /// would follow it is missing then.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut control = Self::default();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let line =
                std::str::from_utf8(&bytes[..end]).context("a line of control is not UTF-8")?;
            bytes = &bytes[end + 1..];
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "init" => control.init = true,
                "status" => {
                    control.status = Some(
                        rest.parse()
                            .with_context(|| format!("bad status {rest:?}"))?,
                    )
                }
                "missing" => control.missing.push(rest.to_owned()),
                "directory" => {
                    control.files.push(File {
                        path: rest.to_owned(),
                        content: None,
                        mode: 0o755,
                    });
                }
                "file" => {
                    let mut fields = rest.splitn(3, ' ');
                    let (Some(mode), Some(size), Some(path)) =
                        (fields.next(), fields.next(), fields.next())
                    else {
                        bail!("bad line of control {line:?}");
                    };
                    let size: usize = size
                        .parse()
                        .with_context(|| format!("bad size in {line:?}"))?;
                    let mode = u32::from_str_radix(mode, 8)
                        .with_context(|| format!("bad mode in {line:?}"))?;
                    let Some(content) = bytes.get(..size) else {
                        return Ok(control);
                    };
                    control.files.push(File {
                        path: path.to_owned(),
                        content: Some(content.to_vec()),
                        mode,
                    });
                    bytes = &bytes[size..];
                }
                _ => bail!("unknown line of control {line:?}"),
            }
        }
        Ok(control)
    }
}

/// What a boot came to.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The command ran and ended with this status.
    Status(i32),
    /// The kernel died before the first process ran. Only this may be tried again.
    DiedEarly(String),
    /// Anything else.
    Failed(String),
}

/// What a kernel prints when it has broken something.
const COMPLAINTS: &[&str] = &[
    "Kernel panic",
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "general protection fault",
    "double fault",
    "Unable to handle kernel",
    "soft lockup",
    "hung_task",
    "blocked for more than",
    "rcu_sched self-detected stall",
    "vm-init:",
];

/// The verdict on a boot that ended, or was ended by its deadline.
pub(crate) fn judge(control: &Control, console: &str, timed_out: bool) -> Verdict {
    let complaint = console
        .lines()
        .find(|line| COMPLAINTS.iter().any(|text| line.contains(text)));
    if !control.init {
        return Verdict::DiedEarly(match (complaint, timed_out) {
            (Some(line), _) => format!("the kernel died before the first process: {}", line.trim()),
            (None, true) => "the deadline passed before the first process ran".into(),
            (None, false) => "the machine ended before the first process ran".into(),
        });
    }
    if let Some(line) = complaint {
        return Verdict::Failed(format!("the console says: {}", line.trim()));
    }
    match control.status {
        _ if timed_out => Verdict::Failed("the deadline passed".into()),
        Some(status) => Verdict::Status(status),
        None => Verdict::Failed("the machine ended without a verdict".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Control, Verdict, judge};

    #[test]
    fn a_transcript_with_files_is_read() {
        let control =
            Control::parse(b"init\nfile 644 5 /a b\nab\ncddirectory /d\nmissing /x\nstatus 3\n")
                .unwrap();
        assert!(control.init);
        assert_eq!(control.status, Some(3));
        assert_eq!(control.files[0].content.as_deref(), Some(&b"ab\ncd"[..]));
        assert_eq!(control.files[0].path, "/a b");
        assert_eq!(control.files[1].content, None);
        assert_eq!(control.missing, ["/x"]);
    }

    #[test]
    fn a_file_cut_off_leaves_no_status() {
        let control = Control::parse(b"init\nfile 644 500 /a\nabc\nstatus 0\n").unwrap();
        assert_eq!(control.status, None);
        assert_eq!(
            judge(&control, "", false),
            Verdict::Failed("the machine ended without a verdict".into())
        );
    }

    #[test]
    fn a_complaint_of_the_kernel_outweighs_a_good_status() {
        let control = Control {
            init: true,
            status: Some(0),
            ..Control::default()
        };
        assert_eq!(judge(&control, "all well", false), Verdict::Status(0));
        assert!(matches!(
            judge(&control, "[1.0] BUG: unable to handle page fault", false),
            Verdict::Failed(_)
        ));
        assert!(matches!(judge(&control, "", true), Verdict::Failed(_)));
    }

    #[test]
    fn only_a_boot_without_a_first_process_died_early() {
        let panic = "Kernel panic - not syncing";
        assert!(matches!(
            judge(&Control::default(), panic, false),
            Verdict::DiedEarly(_)
        ));
        let control = Control {
            init: true,
            ..Control::default()
        };
        assert!(matches!(judge(&control, panic, false), Verdict::Failed(_)));
    }
}
