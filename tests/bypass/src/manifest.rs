//! `manifest.json`: what each technique is, and what stops it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The manifest's text.
pub const TEXT: &str = include_str!("../manifest.json");

/// All techniques.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// In the order in which they run.
    pub techniques: Vec<Entry>,
}

/// One technique.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// As in the program.
    pub name: String,
    /// In one line.
    pub description: String,
    /// Where it comes from: a CVE, a paper, a peer's fault, a manual page.
    pub source: String,
    /// How it is seen that it got through.
    pub goal: Goal,
    /// Whose process the server is.
    pub uid: Uid,
    /// The hook, or the wall, that stops it.
    pub stopped_by: String,
    /// The events, one of which must be in the trail.
    pub events: Vec<Expected>,
    /// Why there is no event, when none is expected.
    pub no_event: Option<String>,
    /// What not every kernel has.
    pub requires: Option<Requires>,
}

/// How it is seen that an attack got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// It tells the secret's bytes.
    Secret,
    /// A protected file, or what the process outside logs, is not as before.
    Change,
    /// The process outside is not as before.
    Process,
    /// Nothing is to be seen: the system call answered that it was done.
    Claim,
}

/// Whose process the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uid {
    /// An ordinary user.
    User,
    /// Root, as a policy with `user = "root"` allows.
    Root,
}

/// An event of the trail.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// `kind`.
    pub kind: String,
    /// `op`.
    pub op: String,
    /// `reason`; `None` where a rule of the policy decided.
    pub reason: Option<String>,
}

/// What not every kernel has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// What it is.
    pub what: String,
    /// Series of kernels without it: `6.1`, `6.12`, `7`.
    pub not_on: Vec<String>,
}

impl Entry {
    /// The hook that stops it, if it is one of guard's kernel programs.
    #[must_use]
    pub fn hook(&self) -> Option<&str> {
        let by = &self.stopped_by;
        by.strip_prefix("lsm/").or(by.strip_prefix("cgroup/"))
    }
}

impl Requires {
    /// Whether a kernel of this release has not got it.
    #[must_use]
    pub fn lacks(&self, release: &str) -> bool {
        let of = |series: &String| {
            release
                .strip_prefix(series.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.not_on.iter().any(of)
    }
}

/// Reads the manifest.
///
/// # Errors
/// When it is not as these types say.
pub fn read() -> Result<Manifest, serde_json::Error> {
    serde_json::from_str(TEXT)
}

/// What comes of a technique where the hook that stops it is left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// `gets through`, or what stops it: an event, or what the technique was
    /// told. Several, where kernels differ.
    pub outcomes: Vec<String>,
    /// The wall that stops it then, where one does.
    pub wall: Option<String>,
}

/// `left-out.json`, by technique.
///
/// # Errors
/// When it is no such list.
pub fn left_out() -> Result<BTreeMap<String, LeftOut>, serde_json::Error> {
    serde_json::from_str(include_str!("../left-out.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_manifest_names_every_technique_once_and_no_other() {
        let manifest = read().unwrap();
        let listed: BTreeSet<&str> = manifest
            .techniques
            .iter()
            .map(|e| e.name.as_str())
            .collect();
        let coded: BTreeSet<&str> = crate::techniques().map(|t| t.name).collect();
        assert_eq!(listed, coded);
        assert_eq!(
            manifest.techniques.len(),
            listed.len(),
            "one is listed twice"
        );
        assert_eq!(
            crate::techniques().count(),
            coded.len(),
            "two have one name"
        );
        assert!(listed.len() >= 60, "only {}", listed.len());
    }

    #[test]
    fn every_technique_says_what_stops_it_and_leaves_an_event_or_says_why_not() {
        for entry in read().unwrap().techniques {
            let name = &entry.name;
            assert!(
                !entry.description.is_empty() && !entry.source.is_empty(),
                "{name}"
            );
            assert!(!entry.stopped_by.is_empty(), "{name}");
            assert_eq!(entry.events.is_empty(), entry.no_event.is_some(), "{name}");
        }
    }

    #[test]
    fn what_each_hook_stops_is_tried_without_it() {
        let listed: BTreeSet<String> = left_out().unwrap().into_keys().collect();
        let stopped = read().unwrap().techniques;
        let stopped = stopped.iter().filter(|e| e.hook().is_some());
        let stopped: BTreeSet<String> = stopped.map(|e| e.name.clone()).collect();
        assert_eq!(listed, stopped);
        for (name, left_out) in left_out().unwrap() {
            let through = left_out.outcomes == ["gets through"];
            assert_eq!(through, left_out.wall.is_none(), "{name}");
        }
    }

    #[test]
    fn a_series_is_not_another_that_begins_alike() {
        let requires = Requires {
            what: String::new(),
            not_on: vec!["6.1".into(), "7".into()],
        };
        assert!(requires.lacks("6.1.0-40-cloud-amd64"));
        assert!(!requires.lacks("6.12.1"));
        assert!(requires.lacks("7.2.1"));
    }
}
