//! `cargo xtask bench proxy`: what guard's relay costs a message, beside a
//! relay that does nothing (`cat | SERVER | cat`). Gateway-only, native, the
//! server answers each call with its own parameters. Everything is measured in
//! alternating rounds of one run: only ratios mean anything.
//!
//! Targets: a round trip of 1 KB through guard adds at most twice what two
//! cats add; 1 MB messages pass at no less than half of the cats' throughput.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

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
    _dir: Option<Scratch>,
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The programs that were built.
struct Programs {
    fake: PathBuf,
    relay: PathBuf,
}

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
        let (children, dir) = match side {
            Side::Direct => (vec![piped(&mut server)?], None),
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
                (vec![first, middle, last], None)
            }
            Side::Guard => Self::guard(programs)?,
        };
        let mut children: Vec<Child> = children;
        let input = children.first_mut().and_then(|c| c.stdin.take());
        let output = taken(children.last_mut().and_then(|c| c.stdout.take()))?;
        Ok(Self {
            children,
            input,
            output: BufReader::with_capacity(1 << 16, output),
            _dir: dir,
        })
    }

    /// The relay, with another process that takes its records as the supervisor would.
    fn guard(programs: &Programs) -> Result<(Vec<Child>, Option<Scratch>)> {
        let name = format!("guard-bench-{}-{:?}", std::process::id(), Instant::now());
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let dir = Scratch(std::env::temp_dir().join(name));
        std::fs::create_dir(&dir.0).with_context(|| dir.0.display().to_string())?;
        let (wire, control) = (dir.0.join("wire"), dir.0.join("control"));
        let supervisor = piped(
            Command::new(&programs.fake)
                .arg("--drain")
                .args([&wire, &control]),
        )?;
        let since = Instant::now();
        while !(wire.exists() && control.exists()) {
            ensure!(
                since.elapsed() < Duration::from_secs(5),
                "--drain does not listen"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let config = serde_json::json!({
            "sandbox": 1, "token": "", "server_pid": 0, "call_sets": 0,
            "gateway_only": true, "reconnect": null});
        let null = Path::new("/dev/null");
        let relay = piped(
            Command::new(&programs.fake)
                .arg("--launch")
                .arg(&programs.relay)
                .arg(config.to_string())
                .args([&wire, &control])
                .args([null, null])
                .arg("--")
                .arg(&programs.fake)
                .arg("--echo"),
        )?;
        // The first child has the input, the last the output.
        let mut children = vec![relay, supervisor];
        let output = children[0].stdout.take();
        children[1].stdout = output;
        Ok((children, Some(dir)))
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
            .args(["build", "--quiet", "--release", "-p", "fake-mcp"])
            .args(["--bin", "fake-mcp", "--example", "relay"]),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| crate::project().join("target"), PathBuf::from);
    let release = target.join("release");
    Ok(Programs {
        fake: release.join("fake-mcp"),
        relay: release.join("examples/relay"),
    })
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
