//! `guard explain`: what would a policy say, and why?

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::check::{load, print};
use crate::policy::{Decision, parse_access, verdict_name};

/// Say what a policy makes of an access, and which rule decides
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Name of a policy, or a file
    pub policy: String,
    /// Under the rules of this tool
    #[arg(long, value_name = "TOOL")]
    pub tool: Option<String>,
    /// Give a value to ${KEY}
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::check::key_value)]
    pub set: Vec<(String, String)>,
    /// "read /path", "write /path", "exec /path", "connect NAME:PORT",
    /// "connect ADDRESS:PORT", "connect /path", "connect @name" or "listen
    /// ADDRESS:PORT". A name is judged by the rules for names, an address by
    /// those for addresses: nobody is asked where a name leads
    #[arg(required = true)]
    pub access: Vec<String>,
    /// The command that the policy is for, last of all
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    pub server: Vec<OsString>,
}

/// `read /a` may also be given as two words.
fn accesses(words: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let alone = ["read", "write", "exec", "connect", "listen"].contains(&word.as_str());
        match rest.as_slice().first() {
            Some(next) if alone => {
                out.push(format!("{word} {next}"));
                rest.next();
            }
            _ => out.push(word.clone()),
        }
    }
    out
}

/// Prints verdict and rule of each access. Exit status 0, or 1 when the
/// policy or an access cannot be read; verdicts make no difference.
#[must_use]
pub fn run(args: &ExplainArgs) -> ExitCode {
    if let Some(tool) = &args.tool {
        eprintln!("error: --tool {tool}: rules of single tools are not supported yet");
        return ExitCode::FAILURE;
    }
    let loaded = match load(&args.policy, &args.set, &args.server) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let policy = loaded.policy;
    let active = policy.background();
    let mut status = ExitCode::SUCCESS;
    for text in accesses(&args.access) {
        let decision = match parse_access(&text) {
            Ok(access) => policy.explain(&access, active),
            Err((message, help)) => {
                eprintln!("error: {message}");
                if let Some(help) = help {
                    eprintln!("  help: {help}");
                }
                status = ExitCode::FAILURE;
                continue;
            }
        };
        print(&format!("{}\n", line(&text, &decision)));
    }
    status
}

fn line(text: &str, decision: &Decision) -> String {
    let verdict = verdict_name(decision.verdict);
    let reason = match &decision.rule {
        Some(rule) => format!("{} {:?}", rule.id, rule.text),
        None => "no rule allows it".to_owned(),
    };
    let shown = crate::wire::escape(text.as_bytes());
    format!("{verdict:<8}{shown}   ({reason})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_one_word_or_two() {
        let words = ["read /a", "write", "/b", "connect", "1.2.3.4:5"].map(str::to_owned);
        assert_eq!(
            accesses(&words),
            ["read /a", "write /b", "connect 1.2.3.4:5"]
        );
        assert_eq!(accesses(&["read".to_owned()]), ["read"]);
    }
}
