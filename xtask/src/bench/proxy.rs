//! `cargo xtask bench proxy`: what `guard run` costs a message, with its
//! supervisor and its trail, beside a relay that does nothing
//! (`cat | SERVER | cat`). Gateway-only, native, the server answers each call
//! with its own parameters. Everything is measured in
//! alternating rounds of one run: only ratios mean anything.
//!
//! Targets: a round trip of 1 KB through guard adds at most twice what two
//! cats add; 1 MB messages pass at no less than half of the cats' throughput.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Rounds in which all sides take turns.
const ROUNDS: usize = 10;
/// Bytes of the small and of the large message, without the line's end.
const SMALL: usize = 1 << 10;
const LARGE: usize = 1 << 20;
/// Large messages in one throughput measurement.
const STREAM: usize = 64;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Round trips of a 1 KB message per side and round.
    #[arg(long, default_value_t = 3000)]
    trips: usize,
    /// Only report; do not fail when a target is missed.
    #[arg(long)]
    report: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Direct,
    Cats,
    Guard,
}

const SIDES: [(Side, &str); 3] = [
    (Side::Direct, "direct"),
    (Side::Cats, "two cats"),
    (Side::Guard, "guard"),
];

/// What is sent.
#[derive(Clone, Copy)]
enum Kind {
    /// `tools/call`: recorded, hashed, marked in flight.
    Call,
    /// A notification, which the server writes back: framed and judged only.
    Notification,
}

/// A message of `size` bytes with the line's end on top.
fn message(kind: Kind, id: usize, size: usize) -> Vec<u8> {
    let head = match kind {
        Kind::Call => format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":\
             {{\"name\":\"echo\",\"arguments\":{{\"text\":\""
        ),
        Kind::Notification => {
            "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{\"a\":{\"text\":\""
                .to_owned()
        }
    };
    let tail = "\"}}}\n";
    let fill = (size + 1).saturating_sub(head.len() + tail.len());
    let text = "The quick brown fox jumps over the lazy dog. ";
    let mut line = head.into_bytes();
    line.extend_from_slice(&text.repeat(fill / text.len() + 1).as_bytes()[..fill]);
    line.extend_from_slice(tail.as_bytes());
    line
}

/// A server, and what stands before it.
struct Pipeline {
    children: Vec<Child>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The programs that were built, where every user can run them.
struct Programs {
    fake: PathBuf,
    guard: PathBuf,
    dir: Scratch,
}

/// Runs guard where this is root, who needs a policy that names a user.
const NOBODY: u32 = 65534;

fn piped(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", process::line(command)))
}

fn taken<T>(end: Option<T>) -> Result<T> {
    end.context("a pipe of a child is missing")
}

impl Pipeline {
    fn start(side: Side, programs: &Programs) -> Result<Self> {
        let mut server = Command::new(&programs.fake);
        server.arg("--echo");
        let mut children = match side {
            Side::Direct => vec![piped(&mut server)?],
            Side::Cats => {
                let mut first = piped(&mut Command::new("cat"))?;
                let mut middle = server
                    .stdin(taken(first.stdout.take())?)
                    .stdout(Stdio::piped())
                    .spawn()?;
                let last = Command::new("cat")
                    .stdin(taken(middle.stdout.take())?)
                    .stdout(Stdio::piped())
                    .spawn()?;
                vec![first, middle, last]
            }
            Side::Guard => Self::guard(programs)?,
        };
        let input = children.first_mut().and_then(|c| c.stdin.take());
        let output = taken(children.last_mut().and_then(|c| c.stdout.take()))?;
        Ok(Self {
            children,
            input,
            output: BufReader::with_capacity(1 << 16, output),
        })
    }

    /// `guard run` as an ordinary user has it, with its supervisor and its trail.
    fn guard(programs: &Programs) -> Result<Vec<Child>> {
        let mut command = Command::new(&programs.guard);
        let dir = &programs.dir.0;
        command
            .args(["run", "--enforcement", "gateway-only", "--audit-file"])
            .arg(dir.join("audit.jsonl"))
            .arg("--")
            .arg(&programs.fake)
            .arg("--echo")
            .current_dir(dir)
            .env("HOME", dir)
            .env("XDG_RUNTIME_DIR", dir)
            .stderr(Stdio::null());
        if std::fs::metadata("/proc/self")?.uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        Ok(vec![piped(&mut command)?])
    }

    fn send(&mut self, line: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("closed")?;
        input.write_all(line).context("the pipeline takes no more")
    }

    fn receive(&mut self, line: &mut Vec<u8>) -> Result<()> {
        line.clear();
        ensure!(
            self.output.read_until(b'\n', line)? > 0,
            "the pipeline ended"
        );
        Ok(())
    }

    /// Nanoseconds of each round trip.
    fn trips(&mut self, from: usize, count: usize) -> Result<Vec<u64>> {
        let mut answer = Vec::with_capacity(2 * SMALL);
        let mut times = Vec::with_capacity(count);
        for id in from..from + count {
            let line = message(Kind::Call, id, SMALL);
            let since = Instant::now();
            self.send(&line)?;
            self.receive(&mut answer)?;
            times.push(u64::try_from(since.elapsed().as_nanos())?);
            ensure!(
                answer.len() > SMALL / 2,
                "not the answer: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(times)
    }

    /// Bytes a second, one way, of large messages that follow each other.
    fn stream(&mut self, kind: Kind, from: usize) -> Result<f64> {
        let mut input = self.input.take().context("closed")?;
        let lines: Vec<_> = (from..from + STREAM)
            .map(|id| message(kind, id, LARGE))
            .collect();
        let since = Instant::now();
        let writer = std::thread::spawn(move || {
            for line in lines {
                input.write_all(&line)?;
            }
            Ok::<_, std::io::Error>(input)
        });
        let mut answer = Vec::with_capacity(2 * LARGE);
        let mut bytes = 0;
        for _ in 0..STREAM {
            self.receive(&mut answer)?;
            ensure!(
                answer.len() > LARGE / 2,
                "not the answer: {}",
                String::from_utf8_lossy(&answer)
            );
            bytes += answer.len();
        }
        let seconds = since.elapsed().as_secs_f64();
        match writer.join() {
            Ok(input) => self.input = Some(input?),
            Err(_) => bail!("the writer failed"),
        }
        Ok(bytes as f64 / seconds)
    }

    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest)?;
        for child in &mut self.children {
            drop(child.stdin.take());
            child.wait()?;
        }
        ensure!(rest.is_empty(), "bytes after the last answer");
        Ok(())
    }
}

/// The value below which `part` of the samples lie.
fn quantile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * part) as usize;
    samples
        .get(at.min(samples.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn build() -> Result<Programs> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    process::run(
        Command::new(cargo)
            .current_dir(crate::project())
            .args(["build", "--quiet", "--release", "--locked"])
            .args(["-p", "fake-mcp", "-p", "guard-daemon", "--bins"]),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::project().join("target"), PathBuf::from);
    let dir = Scratch(std::env::temp_dir().join(format!("guard-bench-{}", std::process::id())));
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::create_dir(&dir.0)
        .and_then(|()| std::fs::set_permissions(&dir.0, open))
        .with_context(|| dir.0.display().to_string())?;
    let copy = |name: &str| -> Result<PathBuf> {
        let to = dir.0.join(name);
        std::fs::copy(target.join("release").join(name), &to)
            .with_context(|| format!("copy {name}"))?;
        Ok(to)
    };
    let (fake, guard) = (copy("fake-mcp")?, copy("guard")?);
    Ok(Programs { fake, guard, dir })
}

/// Measures, prints, and says by the exit status whether both targets are met.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let programs = build()?;
    let mut sides = Vec::new();
    for (side, name) in SIDES {
        sides.push((
            name,
            Pipeline::start(side, &programs)?,
            Vec::new(),
            [Vec::new(), Vec::new()],
        ));
    }
    let mut next_id = 0;
    for round in 0..=ROUNDS {
        for (_, pipeline, times, streams) in &mut sides {
            let measured = pipeline.trips(next_id, args.trips)?;
            next_id += args.trips;
            let mut rates = [0.0; 2];
            for (rate, kind) in rates.iter_mut().zip([Kind::Notification, Kind::Call]) {
                *rate = pipeline.stream(kind, next_id)?;
                next_id += STREAM;
            }
            if round > 0 {
                // The first round warms up.
                times.extend(measured.into_iter().map(|ns| ns as f64 / 1000.0));
                streams
                    .iter_mut()
                    .zip(rates)
                    .for_each(|(all, rate)| all.push(rate / 1e6));
            }
        }
    }
    println!(
        "{:10} {:>12} {:>12} {:>12} {:>18} {:>14}",
        "", "1 KB p50 µs", "p99 µs", "added µs", "1 MB notes MB/s", "calls MB/s"
    );
    let mut medians = Vec::new();
    for (name, pipeline, mut times, [mut notes, mut calls]) in sides {
        pipeline.end()?;
        let p50 = quantile(&mut times, 0.5);
        let p99 = quantile(&mut times, 0.99);
        let (notes, calls) = (quantile(&mut notes, 0.5), quantile(&mut calls, 0.5));
        medians.push((p50, notes, calls));
        let added = p50 - medians[0].0;
        println!("{name:10} {p50:12.1} {p99:12.1} {added:12.1} {notes:18.0} {calls:14.0}");
    }
    let [direct, cats, guard] = medians.as_slice() else {
        bail!("a side is missing");
    };
    let added = (guard.0 - direct.0) / (cats.0 - direct.0);
    let notes = guard.1 / cats.1;
    let calls = guard.2 / cats.2;
    println!("guard adds {added:.2} times what two cats add (target: at most 2)");
    println!("1 MB messages: {notes:.2} of the cats' throughput (target: at least 0.5)");
    println!(
        "1 MB calls, both ways hashed for the audit trail: {calls:.2} of the cats' throughput"
    );
    let met = added <= 2.0 && notes >= 0.5;
    Ok(u8::from(!met && !args.report))
}
