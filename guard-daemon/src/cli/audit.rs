//! `guard audit`: shows a trail, and checks that it is intact.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::audit::read::{self, Item};
use crate::audit::verify::verify;

mod describe;
mod filter;
mod fold;
mod screen;
mod summary;
mod table;

use filter::Filter;
use screen::{Screen, printable};
use table::Rows;

/// Where root's trail is.
pub const DEFAULT_FILE: &str = "/var/log/guard/audit.jsonl";

/// How often `--follow` looks at the file.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Arguments of `guard audit`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of showing events
    #[command(subcommand)]
    command: Option<Command>,
    /// The trail
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
    #[command(flatten)]
    filter: filter::FilterArgs,
    /// Go on as the trail grows, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Print the lines as they are in the file
    #[arg(long)]
    json: bool,
    /// Show each access of a server's start-up too
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Check that no line was changed, removed or added (but for lines removed at the end)
    Verify {
        /// The trail
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// Count calls, denials and losses
    Summary {
        /// The trail
        #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
        file: PathBuf,
        #[command(flatten)]
        filter: filter::FilterArgs,
    },
}

/// Runs `guard audit`. The status is 1 when the trail cannot be read, has
/// malformed lines or is not intact.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let stdout = io::stdout();
    let screen = Screen::of_stdout();
    let mut out = io::BufWriter::new(stdout.lock());
    let mut problems = io::stderr();
    let result = execute(args, &screen, &mut out, &mut problems)
        .and_then(|intact| out.flush().map(|()| intact));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of a pipe has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("guard audit: {}", printable(&e.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn execute(
    args: &Args,
    screen: &Screen,
    out: &mut impl Write,
    problems: &mut impl Write,
) -> io::Result<bool> {
    let filter = |args: &filter::FilterArgs| {
        Filter::new(args, &jiff::Zoned::now())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    };
    match &args.command {
        None => show(args, &filter(&args.filter)?, screen, out, problems),
        Some(Command::Verify { file }) => check(file, out, problems),
        Some(Command::Summary { file, filter: f }) => {
            summary::print(file, &filter(f)?, out, problems)
        }
    }
}

/// Names the file in an error, and says what to do.
fn of_file(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |e| {
        let advice = match e.kind() {
            io::ErrorKind::NotFound => {
                " (a trail is made when the first server starts; --file names another)"
            }
            io::ErrorKind::PermissionDenied => " (root's trail is read by root: use sudo)",
            _ => "",
        };
        io::Error::new(e.kind(), format!("{}: {e}{advice}", path.display()))
    }
}

fn show(
    args: &Args,
    filter: &Filter,
    screen: &Screen,
    out: &mut impl Write,
    problems: &mut impl Write,
) -> io::Result<bool> {
    let named = of_file(&args.file);
    let mut reader = read::open(&args.file).map_err(&named)?;
    let mut rows = Rows::new(screen.clone(), TimeZone::system(), !args.all);
    let mut intact = true;
    loop {
        while let Some(item) = reader.next_item().map_err(&named)? {
            match item {
                Item::Event(entry) if args.json => {
                    if filter.passes(&entry.event) {
                        screen.write_json(out, &entry.raw)?;
                    }
                }
                Item::Event(entry) => rows.event(&entry.event, filter, out)?,
                Item::Malformed { line, why } => {
                    intact = false;
                    rows.flush(out)?;
                    malformed(&args.file, line, &why, problems)?;
                }
            }
        }
        if !args.follow {
            break;
        }
        rows.flush(out)?;
        out.flush()?;
        while !reader.grow().map_err(&named)? {
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
    if !args.json {
        rows.finish(out)?;
    }
    for item in reader.rest() {
        if let Item::Malformed { line, why } = item {
            intact = false;
            malformed(&args.file, line, &why, problems)?;
        }
    }
    Ok(intact)
}

fn malformed(file: &Path, line: u64, why: &str, problems: &mut impl Write) -> io::Result<()> {
    let text = format!(
        "{}: line {line} is not an audit event: {why}",
        file.display()
    );
    writeln!(problems, "guard audit: {}", printable(&text))
}

fn check(file: &Path, out: &mut impl Write, problems: &mut impl Write) -> io::Result<bool> {
    let named = of_file(file);
    let settled = read::open_settled(file).map_err(&named)?;
    let name = printable(&file.display().to_string()).into_owned();
    match verify(settled) {
        Ok(report) => {
            writeln!(out, "{name}: intact, {} events", report.lines)?;
            if report.torn > 0 {
                writeln!(
                    out,
                    "{} torn by a crash, each kept and reported by the event behind it",
                    report.torn
                )?;
            }
            writeln!(
                out,
                "last: seq {}, hash {} (keep it elsewhere: lines removed at the end leave no trace in the file)",
                report.tip.seq,
                report.tip.hash.as_str()
            )?;
            Ok(true)
        }
        Err(e) => {
            writeln!(problems, "{name}: {}", printable(&e.to_string()))?;
            Ok(false)
        }
    }
}

#[cfg(test)]
#[path = "audit/tests.rs"]
mod tests;
