//! Which events to show.

use jiff::{Timestamp, Zoned, civil};

use crate::audit::event::{Attribution, AuditEvent, Body, Call, CallInfo, Verdict};

/// The options that choose events.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct FilterArgs {
    /// Events of this call: its JSON-RPC id
    #[arg(long, value_name = "ID")]
    pub(super) call: Option<String>,
    /// Events of this server (`guard run --name`)
    #[arg(long, value_name = "S")]
    pub(super) server: Option<String>,
    /// Events during calls of this tool
    #[arg(long, value_name = "T")]
    pub(super) tool: Option<String>,
    /// Events with this verdict
    #[arg(long, value_enum)]
    pub(super) verdict: Option<VerdictArg>,
    /// Events of this kind
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// Events since then: `10m`, `2h`, `3d`, `2026-11-20`, `2026-11-20T21:00` (local), or with a zone
    #[arg(long, value_name = "T")]
    pub(super) since: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum VerdictArg {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Call,
    File,
    Exec,
    Network,
    Dns,
    Escape,
    Policy,
    Sandbox,
    Protocol,
    Loss,
    Alert,
}

/// `--since` that is no time.
#[derive(Debug, thiserror::Error)]
#[error(
    "--since {0}: not a time; write how long ago (10m, 2h, 3d), a local date or time \
     (2026-11-20, 2026-11-20T21:00), or a time with its zone (2026-11-20T21:00:00Z)"
)]
pub(super) struct NotATime(String);

/// The options, understood.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    args: FilterArgs,
    since: Option<Timestamp>,
}

impl Filter {
    pub(super) fn new(args: &FilterArgs, now: &Zoned) -> Result<Self, NotATime> {
        let since = match &args.since {
            None => None,
            Some(text) => Some(since(text, now).ok_or_else(|| NotATime(text.clone()))?),
        };
        Ok(Self {
            args: args.clone(),
            since,
        })
    }

    pub(super) fn passes(&self, event: &AuditEvent) -> bool {
        let FilterArgs {
            call,
            server,
            tool,
            verdict,
            kind,
            since: _,
        } = &self.args;
        let wants = |wanted: &Option<String>, is: fn(&str, &About<'_>) -> bool| {
            wanted
                .as_deref()
                .is_none_or(|w| about(event).iter().any(|a| is(w, a)))
        };
        self.since.is_none_or(|since| event.time >= since)
            && kind.is_none_or(|kind| kind == kind_of(&event.body))
            && verdict.is_none_or(|wanted| match wanted {
                VerdictArg::Allow => event.verdict == Some(Verdict::Allow),
                VerdictArg::Deny => event.verdict == Some(Verdict::Deny),
            })
            && server
                .as_ref()
                .is_none_or(|s| event.sandbox.as_ref().is_some_and(|b| b.server == *s))
            && wants(tool, |w, a| a.tool == Some(w))
            && wants(call, |w, a| a.id.is_some_and(|id| id_is(id, w)))
    }
}

/// An id that is a string is written with its quotes; people leave them out.
fn id_is(id: &str, wanted: &str) -> bool {
    id == wanted || id.strip_prefix('"').and_then(|i| i.strip_suffix('"')) == Some(wanted)
}

/// A call that an event has to do with.
struct About<'a> {
    id: Option<&'a str>,
    tool: Option<&'a str>,
}

/// Every call that an event has to do with: with several candidates, all.
fn about(event: &AuditEvent) -> Vec<About<'_>> {
    match (&event.call, &event.body) {
        (Some(Attribution::Exact(c) | Attribution::Sole(c)), _) => vec![of_info(c)],
        (Some(Attribution::Ambiguous(several)), _) => several.iter().map(of_info).collect(),
        (_, Body::Call(Call::Start { id, tool, .. })) => vec![About {
            id: Some(id),
            tool: tool.as_deref(),
        }],
        (_, Body::Call(Call::End { id, tool, .. })) => vec![About {
            id: id.as_deref(),
            tool: tool.as_deref(),
        }],
        _ => Vec::new(),
    }
}

fn of_info(info: &CallInfo) -> About<'_> {
    About {
        id: info.id.as_deref(),
        tool: info.tool.as_deref(),
    }
}

pub(super) const fn kind_of(body: &Body) -> Kind {
    match body {
        Body::Call(_) => Kind::Call,
        Body::File(_) => Kind::File,
        Body::Exec(_) => Kind::Exec,
        Body::Network(_) => Kind::Network,
        Body::Dns(_) => Kind::Dns,
        Body::Escape(_) => Kind::Escape,
        Body::Policy(_) => Kind::Policy,
        Body::Sandbox(_) => Kind::Sandbox,
        Body::Protocol(_) => Kind::Protocol,
        Body::Loss(_) => Kind::Loss,
        Body::Alert(_) => Kind::Alert,
    }
}

fn since(text: &str, now: &Zoned) -> Option<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let local = |time: civil::DateTime| {
        let zoned = time.to_zoned(now.time_zone().clone()).ok()?;
        Some(zoned.timestamp())
    };
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return local(time);
    }
    let span: jiff::Span = text.parse().ok()?;
    let span = if span.is_negative() { -span } else { span };
    Some(now.checked_sub(span).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::samples;

    fn count(args: FilterArgs) -> usize {
        let filter = Filter::new(&args, &Zoned::now()).unwrap();
        samples::all().iter().filter(|e| filter.passes(e)).count()
    }

    #[test]
    fn options_choose_events() {
        let some = |s: &str| Some(s.to_owned());
        let all = samples::all().len();
        assert_eq!(count(FilterArgs::default()), all);
        assert_eq!(
            count(FilterArgs {
                server: some("filesystem"),
                ..FilterArgs::default()
            }),
            all
        );
        assert_eq!(
            count(FilterArgs {
                server: some("other"),
                ..FilterArgs::default()
            }),
            0
        );
        assert_eq!(
            count(FilterArgs {
                tool: some("other"),
                ..FilterArgs::default()
            }),
            0
        );
        assert_eq!(
            count(FilterArgs {
                call: some("99"),
                ..FilterArgs::default()
            }),
            0
        );
        // One event has two candidates, of which 4 is one; no other names it.
        assert_eq!(
            count(FilterArgs {
                call: some("4"),
                ..FilterArgs::default()
            }),
            1
        );
        assert_eq!(
            count(FilterArgs {
                since: some("2100-01-01"),
                ..FilterArgs::default()
            }),
            0
        );
        let by = |f: fn(&AuditEvent) -> bool| samples::all().iter().filter(|e| f(e)).count();
        assert_eq!(
            count(FilterArgs {
                verdict: Some(VerdictArg::Deny),
                ..FilterArgs::default()
            }),
            by(|e| e.verdict == Some(Verdict::Deny))
        );
        assert_eq!(
            count(FilterArgs {
                kind: Some(Kind::Loss),
                ..FilterArgs::default()
            }),
            by(|e| matches!(e.body, Body::Loss(_)))
        );
    }

    #[test]
    fn string_ids_need_no_quotes() {
        assert!(id_is("3", "3") && id_is("\"a\"", "a") && id_is("\"a\"", "\"a\""));
        assert!(!id_is("3", "\"3\"") && !id_is("33", "3"));
    }

    #[test]
    fn times_are_understood_or_refused() {
        let now: Zoned = "2026-11-21T10:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, expected) in [
            ("10m", Some("2026-11-21T08:50:00Z")),
            ("2h", Some("2026-11-21T07:00:00Z")),
            ("3d", Some("2026-11-18T09:00:00Z")),
            ("2h ago", Some("2026-11-21T07:00:00Z")),
            ("2026-11-20", Some("2026-11-19T23:00:00Z")),
            ("2026-11-20T21:00", Some("2026-11-20T20:00:00Z")),
            ("2026-11-20T21:00:00Z", Some("2026-11-20T21:00:00Z")),
            ("yesterday", None),
            ("", None),
        ] {
            let said = since(text, &now).map(|t| t.to_string());
            assert_eq!(said.as_deref(), expected, "{text:?}");
        }
        let args = FilterArgs {
            since: Some("soon".into()),
            ..FilterArgs::default()
        };
        assert!(Filter::new(&args, &now).is_err());
    }
}
