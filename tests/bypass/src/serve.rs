//! Runs techniques, each in a process of its own, and says how they ended.

use std::io::{Read, Write};
use std::time::Duration;

use crate::attack::{Failure, Outcome, Reached, Technique};
use crate::place::Place;
use crate::sys;

/// How long one technique may take, in seconds.
const LIMIT: u32 = 30;

/// How a technique ended: one line on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The technique.
    pub name: String,
    /// The process that ran it.
    pub pid: u32,
    /// 0 it reached its goal, 1 it was stopped, 2 it could not be tried, 3 it broke.
    pub status: i32,
    /// The bytes that it read.
    pub secret: Option<Vec<u8>>,
    /// The step that failed, and why.
    pub detail: String,
}

/// Marks a report's line.
const MARK: &str = "bypass-report ";

impl Report {
    /// As a line.
    fn line(&self) -> String {
        let secret = self
            .secret
            .as_ref()
            .map_or_else(|| "-".to_owned(), |s| hex(s));
        let detail = self.detail.replace('\n', " ");
        format!(
            "{MARK}{} {} {} {secret} {detail}\n",
            self.name, self.pid, self.status
        )
    }

    /// Reads a line; `None` when it is another.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.splitn(5, ' ');
        let (name, pid, status, secret) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self {
            name: name.to_owned(),
            pid: pid.parse().ok()?,
            status: status.parse().ok()?,
            secret: if secret == "-" {
                None
            } else {
                Some(unhex(secret)?)
            },
            detail: words.next().unwrap_or_default().to_owned(),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok())
        .collect()
}

/// What a technique's end means as a report.
#[must_use]
pub fn report(name: &str, pid: u32, outcome: &Outcome) -> Report {
    let (status, secret, detail) = match outcome {
        Ok(Reached::Secret(bytes)) => (0, Some(bytes.clone()), "read".to_owned()),
        Ok(Reached::Done) => (0, None, "done".to_owned()),
        Err(Failure::Stopped { step, errno: 0 }) => (1, None, step.clone()),
        Err(Failure::Stopped { step, errno }) => {
            let error = std::io::Error::from_raw_os_error(*errno);
            (1, None, format!("{step}: {error}"))
        }
        Err(Failure::Untried(why)) => (2, None, why.clone()),
    };
    Report {
        name: name.to_owned(),
        pid,
        status,
        secret,
        detail,
    }
}

/// Runs one technique in a child with a time limit.
#[must_use]
pub fn run(technique: &Technique, place: &Place) -> Report {
    let name = technique.name;
    let broken = |pid, detail: String| Report {
        name: name.to_owned(),
        pid,
        status: 3,
        secret: None,
        detail,
    };
    let Ok((mut read, mut write)) = std::io::pipe() else {
        return broken(0, "no pipe".into());
    };
    // SAFETY: this program has one thread here.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return broken(0, format!("fork: {}", std::io::Error::last_os_error()));
    }
    if pid == 0 {
        drop(read);
        // SAFETY: takes an integer. Ends a technique that hangs.
        unsafe { libc::alarm(LIMIT) };
        let outcome = (technique.run)(place);
        let line = report(name, std::process::id(), &outcome).line();
        let told = write.write_all(line.as_bytes()).is_ok();
        // SAFETY: ends this process without the parent's destructors.
        unsafe { libc::_exit(if told { 0 } else { 1 }) }
    }
    drop(write);
    let mut text = String::new();
    let heard = read.read_to_string(&mut text).is_ok();
    let status = sys::wait(pid);
    let pid = pid.unsigned_abs();
    let signal = status.ok().filter(|s| *s > 128).map(|s| s - 128);
    match (Report::parse(text.trim_end()), signal) {
        (Some(report), _) if heard => report,
        (_, Some(libc::SIGALRM)) => broken(pid, format!("no end in {LIMIT} s")),
        (_, Some(signal)) => {
            let detail = format!("the process was ended by signal {signal}");
            Report {
                status: 1,
                ..broken(pid, detail)
            }
        }
        _ => broken(pid, format!("it said nothing: {text:?}")),
    }
}

/// Runs techniques one after the other, and reports on stderr.
pub fn serve<'a>(base: &std::path::Path, names: impl Iterator<Item = &'a str>) {
    for name in names {
        let Some(technique) = crate::technique(name) else {
            eprintln!("bypass: no technique {name}");
            continue;
        };
        let begun = std::time::Instant::now();
        let mut report = run(technique, &Place::new(base, name));
        let took = begun.elapsed().as_secs_f64();
        if took > 1.0 {
            report.detail.push_str(&format!(" ({took:.1} s)"));
        }
        // One write for each line: others write there too.
        let _ = std::io::stderr().write_all(report.line().as_bytes());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_written() {
        let outcomes: [Outcome; 3] = [
            Ok(Reached::Secret(b"a\n b".to_vec())),
            Err(Failure::Stopped {
                step: "open".into(),
                errno: 13,
            }),
            Err(Failure::Untried("not here".into())),
        ];
        for outcome in outcomes {
            let told = report("x", 7, &outcome);
            assert_eq!(Report::parse(told.line().trim_end()), Some(told));
        }
        assert_eq!(Report::parse("guard: something"), None);
    }
}
