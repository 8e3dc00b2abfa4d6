//! The benchmarks that need a kernel of their own: `load` and `kernel`.

use crate::project;
use crate::vm::{Binaries, Boot, Sink, kernels};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The kernels on which the cost of an access is measured.
const MEASURED: &[&str] = &["6.12", "7.x"];
/// One processor that counts instructions is slow.
const DEADLINE: Duration = Duration::from_secs(1200);

/// Loads all kernel programs on every kernel; guard prints instructions and time by program.
pub(crate) fn load() -> Result<u8> {
    let binaries = Binaries::build()?;
    let mut worst = 0;
    for series in kernels::ALL {
        let mut boot = Boot::new(kernels::fetch(series)?, &[], &binaries)?;
        println!("== kernel {}", boot.release());
        boot.command = ["guard", "__bench-load"].map(str::to_owned).to_vec();
        let status = boot.run()?.status;
        if status != 0 {
            eprintln!("xtask: `guard __bench-load` on {series} ended with status {status}");
            worst = 1;
        }
    }
    Ok(worst)
}

/// What `bench kernel` measures.
#[derive(clap::Args)]
pub(crate) struct KernelArgs {
    /// Kernel series to measure on; all that are measured by default.
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only connects.
    #[arg(long)]
    connect: bool,
}

/// Counts guest instructions per operation; writes `target/bench/kernel.json`, unless only a
/// part was asked for.
///
/// The test program prints a table and, as its last line, the figures as one JSON object.
pub(crate) fn kernel(args: &KernelArgs) -> Result<u8> {
    let binaries = Binaries::build()?;
    let mut all = BTreeMap::new();
    let measured: Vec<&str> = match args.kernel.as_slice() {
        [] => MEASURED.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    for series in measured {
        let mut boot = Boot::new(kernels::fetch(series)?, &[], &binaries)?;
        boot.command = ["vm-tests", "bench-kernel"].map(str::to_owned).to_vec();
        if args.connect {
            boot.command.push("connect".to_owned());
        }
        boot.icount = true;
        boot.timeout = DEADLINE;
        boot.sink = Sink::Capture;
        let finished = boot.run()?;
        eprint!("{}", String::from_utf8_lossy(&finished.stderr));
        let text = String::from_utf8(finished.stdout).context("the figures are not UTF-8")?;
        let (table, figures) = split(&text).with_context(|| {
            format!(
                "`vm-tests bench-kernel` on {series} (status {})",
                finished.status
            )
        })?;
        println!("== kernel {} (guest instructions)\n{table}", boot.release());
        if finished.status != 0 {
            bail!(
                "`vm-tests bench-kernel` on {series} ended with status {}",
                finished.status
            );
        }
        all.insert(boot.release().to_owned(), figures);
    }
    if args.connect || !args.kernel.is_empty() {
        return Ok(0);
    }
    let place = project().join("target/bench/kernel.json");
    fs::create_dir_all(project().join("target/bench")).context("could not create target/bench")?;
    fs::write(&place, serde_json::to_string_pretty(&all)? + "\n")
        .with_context(|| format!("could not write {}", place.display()))?;
    println!("wrote {}", place.display());
    Ok(0)
}

/// The table, and the JSON object of the last line.
fn split(text: &str) -> Result<(&str, serde_json::Value)> {
    let text = text.trim_end();
    let (table, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let figures: serde_json::Value = serde_json::from_str(last)
        .with_context(|| format!("the last line is not JSON: {last:?}"))?;
    if !figures.is_object() {
        bail!("the last line is not a JSON object: {last:?}");
    }
    Ok((table, figures))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn the_last_line_holds_the_figures() {
        let (table, figures) = split("depth  cost\n2  17\n{\"d2\": 17}\n").unwrap();
        assert_eq!(table, "depth  cost\n2  17");
        assert_eq!(figures["d2"], 17);
        assert!(split("depth  cost\n2  17\n").is_err());
        assert!(split("").is_err());
    }
}
