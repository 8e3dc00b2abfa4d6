//! Renders `docs/bypass.md` from the manifest and the results of the last run.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::manifest::{Entry, Manifest, Uid};

/// The results that `docs/bypass.md` was made from.
pub const RESULTS: &str = include_str!("../results.json");

/// What came of a run on one kernel.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Run {
    /// The kernel's release.
    pub release: String,
    /// By technique.
    pub rows: Vec<Row>,
}

/// What came of one technique.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// The technique.
    pub name: String,
    /// It worked without guard, was stopped by it, and left its event.
    pub stopped: bool,
    /// What the kernel has not got.
    pub lacking: Option<String>,
    /// What is not as it should be.
    pub faults: Vec<String>,
}

/// Results by kernel series.
pub type Results = BTreeMap<String, Run>;

/// Reads results.
///
/// # Errors
/// When they are not as these types say.
pub fn results(text: &str) -> Result<Results, serde_json::Error> {
    serde_json::from_str(text)
}

const HEAD: &str = "# Ways around guard that are tried

Made by `cargo xtask test --suite bypass --write-docs` from
`tests/bypass/manifest.json` and that run. Do not edit.

Each technique runs without guard first, where it must reach its goal, and then
under guard, where it must not, and must leave the event that is named here. An
event is `kind/op/reason`; `rule` stands for a rule of the policy. What a
technique has read or changed is judged from outside, by a secret that only the
test knows and by the state of every protected file.
";

/// The page.
#[must_use]
pub fn render(manifest: &Manifest, results: &Results) -> String {
    let mut page = HEAD.to_owned();
    if results.is_empty() {
        page.push_str("\nNo results of a run are kept yet.\n");
    } else {
        outcome(&mut page, results);
    }
    let _ = write!(
        page,
        "\n## The techniques\n\n{} of them.\n\n| Technique | What it does | Source | As | Stopped by | Event |\n|---|---|---|---|---|---|\n",
        manifest.techniques.len()
    );
    for entry in &manifest.techniques {
        page.push_str(&line(entry));
    }
    page
}

/// What came of the runs.
fn outcome(page: &mut String, results: &Results) {
    page.push_str("\n## The last run\n\n| Kernel | Stopped and logged | Not on this kernel | Open |\n|---|---|---|---|\n");
    for run in results.values() {
        let stopped = run.rows.iter().filter(|row| row.stopped).count();
        let lacking = run.rows.iter().filter(|row| row.lacking.is_some()).count();
        let open = run.rows.len() - stopped - lacking;
        let _ = writeln!(page, "| {} | {stopped} | {lacking} | {open} |", run.release);
    }
    page.push_str("\n## Open\n\n");
    let mut none = true;
    for run in results.values() {
        for row in run.rows.iter().filter(|row| !row.stopped) {
            let lacking = row
                .lacking
                .as_ref()
                .map(|what| format!("cannot be tried: no {what}"));
            let why = lacking.unwrap_or_else(|| row.faults.join("; "));
            let _ = writeln!(page, "- `{}` on {}: {}", row.name, run.release, cell(&why));
            none = false;
        }
    }
    if none {
        page.push_str("Nothing.\n");
    }
}

fn line(entry: &Entry) -> String {
    let events: Vec<String> = entry
        .events
        .iter()
        .map(|e| {
            format!(
                "{}/{}/{}",
                e.kind,
                e.op,
                e.reason.as_deref().unwrap_or("rule")
            )
        })
        .collect();
    let events = match &entry.no_event {
        Some(why) => format!("none: {why}"),
        None => events.join(" or "),
    };
    let user = match entry.uid {
        Uid::User => "user",
        Uid::Root => "root",
    };
    format!(
        "| `{}` | {} | {} | {user} | {} | {} |\n",
        entry.name,
        cell(&entry.description),
        cell(&entry.source),
        cell(&entry.stopped_by),
        cell(&events)
    )
}

/// Text as a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current_with_the_manifest_and_the_results() {
        let page = include_str!("../../../docs/bypass.md");
        let manifest = crate::manifest::read().unwrap();
        let rendered = render(&manifest, &results(RESULTS).unwrap());
        assert!(
            page == rendered,
            "run `cargo run -p bypass -- docs > docs/bypass.md`"
        );
    }
}
