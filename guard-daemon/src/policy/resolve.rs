//! A document with its includes, its variables' values and its globs read.

mod network;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use guard_common::table::FileAccess;

use super::document::{AuditSettings, Document, FILE_LISTS, ProcessLimits};
use super::error::{Errors, Place, PolicyError, PolicyErrors, Spanned};
use super::examples::{self, Example};
use super::glob::{self, Pattern};
use super::launch::CommandChain;
use super::lists::{ALL_ACCESS, Kind, List, Rule};
use super::lookup::Lookup;
use super::names::NameRule;
use super::network::{AbstractRule, NetworkRule};
use super::own::{self, Own};
use super::{syntax, variables};

/// Environment variables that a server keeps when no policy says otherwise.
pub const DEFAULT_ENV: [&str; 9] = [
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TERM", "TZ", "USER",
];

/// What a policy's text leaves open.
#[derive(Debug)]
pub struct ResolveContext<'a> {
    /// `${home}` of the user that the server runs as, canonical.
    pub home: Option<PathBuf>,
    /// `${cwd}`, canonical.
    pub cwd: PathBuf,
    /// `${tmp}`: the sandbox's private directory, canonical.
    pub tmp: PathBuf,
    /// `${args.N}`: the command is 0.
    pub args: Vec<OsString>,
    /// `--set KEY=VALUE`.
    pub set: Vec<(String, String)>,
    /// Where includes are found.
    pub includes: &'a Lookup,
    /// The command, followed to the files that it executes; `None` where only
    /// the policy is looked at.
    pub launch: Option<&'a CommandChain>,
    /// What is guard's own.
    pub own: Vec<Own>,
}

/// A policy whose every rule is known.
#[derive(Debug)]
pub struct Resolved {
    pub(crate) lists: Vec<List>,
    pub(crate) network: Vec<NetworkRule>,
    pub(crate) names: Vec<Spanned<NameRule>>,
    /// Servers to ask for names; empty: the host's.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Addresses at which the server may be reached; all of them allow.
    pub(crate) listen: Vec<NetworkRule>,
    pub(crate) abstract_names: Vec<AbstractRule>,
    pub(crate) env: BTreeSet<String>,
    pub(crate) user: Option<String>,
    pub(crate) limits: ProcessLimits,
    pub(crate) max_write_size: Option<u64>,
    pub(crate) audit: AuditSettings,
    pub(crate) examples: Vec<Example>,
    /// For errors about the whole.
    pub(crate) start: Place,
}

impl Resolved {
    /// How many `[[example]]`s there are, one for each value of their variables.
    #[must_use]
    pub fn example_count(&self) -> usize {
        self.examples.len()
    }
}

/// Puts includes and variables into a document.
///
/// # Errors
/// Everything that is wrong with its rules, examples, includes and variables.
pub fn resolve(
    document: &Document,
    context: &ResolveContext<'_>,
) -> Result<Resolved, PolicyErrors> {
    let mut resolver = Resolver {
        context,
        errors: Errors::default(),
        included: Vec::new(),
        required: Vec::new(),
        resolved: Resolved {
            lists: Vec::new(),
            network: Vec::new(),
            names: Vec::new(),
            upstreams: document.network.upstreams.clone(),
            listen: Vec::new(),
            abstract_names: Vec::new(),
            env: BTreeSet::new(),
            user: document.user.clone(),
            limits: document.limits,
            max_write_size: document.files.max_write_size,
            audit: document.audit,
            examples: Vec::new(),
            start: Place::start(&document.source),
        },
    };
    for (key, value) in &context.set {
        if let Some(message) = variables::check_set(key, value) {
            resolver.errors.push(PolicyError::nowhere(message));
        }
    }
    resolver.resolved.lists.extend(own::lists(&context.own));
    resolver.launch();
    resolver.includes(document, 0);
    resolver.sections(document, "", false);
    for example in &document.examples {
        match examples::parse(example, context) {
            Ok(examples) => resolver.resolved.examples.extend(examples),
            Err(error) => resolver.errors.push(error),
        }
    }
    if document.env.is_none() {
        let defaults = DEFAULT_ENV.iter().map(|name| (*name).to_owned());
        resolver.resolved.env.extend(defaults);
    }
    resolver.check_required();
    resolver.errors.finish(resolver.resolved)
}

/// Includes within includes.
const MAX_INCLUDE_DEPTH: usize = 8;

struct Resolver<'a> {
    context: &'a ResolveContext<'a>,
    errors: Errors,
    included: Vec<String>,
    /// Paths that nothing can start without, and the include that says so.
    required: Vec<(Vec<u8>, String)>,
    resolved: Resolved,
}

impl Resolver<'_> {
    /// The command's own files may always be executed and read.
    fn launch(&mut self) {
        let Some(chain) = self.context.launch else {
            return;
        };
        let rules = chain
            .files
            .iter()
            .enumerate()
            .map(|(index, file)| {
                use std::os::unix::ffi::OsStrExt;
                Rule {
                    id: format!("launch[{index}]"),
                    text: file.display().to_string(),
                    negated: false,
                    patterns: vec![Pattern::literal(file.as_os_str().as_bytes())],
                    place: None,
                }
            })
            .collect();
        self.resolved.lists.push(List {
            kind: Kind::Allow,
            access: FileAccess::Read.bit() | FileAccess::Exec.bit(),
            sets: 1,
            rules,
        });
    }

    fn includes(&mut self, document: &Document, depth: usize) {
        for name in &document.include {
            if self.included.contains(&name.value) {
                continue;
            }
            self.included.push(name.value.clone());
            if depth == MAX_INCLUDE_DEPTH {
                self.errors.push(PolicyError::at(
                    &name.place,
                    format!("includes nested deeper than {MAX_INCLUDE_DEPTH}"),
                ));
                continue;
            }
            match self.context.includes.include(name) {
                Ok(included) => {
                    self.includes(&included, depth + 1);
                    self.sections(&included, &format!("{}:", name.value), true);
                    self.required(&included, &name.value);
                }
                Err(errors) => self.errors.extend(errors),
            }
        }
    }

    fn sections(&mut self, document: &Document, prefix: &str, include: bool) {
        for (list, key) in document.files.lists.iter().zip(FILE_LISTS) {
            self.file_list(list, key, prefix, include);
        }
        self.network(&document.network, prefix, include);
        let names = document.env.iter().flatten();
        self.resolved
            .env
            .extend(names.map(|name| name.value.clone()));
    }

    fn file_list(&mut self, texts: &[Spanned<String>], key: &str, prefix: &str, include: bool) {
        let (kind, access) = match key {
            "read" => (Kind::Allow, FileAccess::Read.bit()),
            "write" => (Kind::Allow, FileAccess::Write.bit()),
            "exec" => (Kind::Allow, FileAccess::Exec.bit()),
            "deny" => (Kind::Deny, ALL_ACCESS),
            _ => (Kind::Approve, ALL_ACCESS),
        };
        let mut rules = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let (negated, patterns) = self.patterns(text, key, include);
            rules.push(Rule {
                id: format!("{prefix}files.{key}[{index}]"),
                text: text.value.clone(),
                negated,
                patterns,
                place: Some(text.place.clone()),
            });
        }
        if !rules.is_empty() {
            self.resolved.lists.push(List {
                kind,
                access,
                sets: 1,
                rules,
            });
        }
    }

    fn patterns(
        &mut self,
        text: &Spanned<String>,
        key: &str,
        include: bool,
    ) -> (bool, Vec<Pattern>) {
        let (negated, glob) = match text.value.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text.value.as_str()),
        };
        let lookup = |name: &str| variables::values(self.context, include, name);
        match glob::parse(glob, syntax::list_kind(key), &lookup) {
            Ok(patterns) => (negated, patterns),
            Err(error) => {
                self.errors.push(syntax::glob_error(text, error));
                (negated, Vec::new())
            }
        }
    }

    fn required(&mut self, include: &Document, name: &str) {
        for text in &include.files.required {
            let plain = text.value.starts_with('/')
                && !text.value.contains(['*', '?', '[', '{', '\\', '$', '!']);
            if plain {
                let path = text.value.clone().into_bytes();
                self.required.push((path, name.to_owned()));
            } else {
                self.errors.push(PolicyError::at(
                    &text.place,
                    "what is required must be a plain absolute path",
                ));
            }
        }
    }

    /// A deny or approve rule over what nothing can start without is a mistake.
    fn check_required(&mut self) {
        for list in &self.resolved.lists {
            if list.kind == Kind::Allow {
                continue;
            }
            for rule in list.rules.iter().filter(|rule| !rule.negated) {
                let Some(place) = &rule.place else { continue };
                let covered: Vec<_> = self
                    .required
                    .iter()
                    .filter(|(path, _)| rule.matches(path) && list.find(path).is_some())
                    .collect();
                let [(first, include), ..] = covered[..] else {
                    continue;
                };
                let globs: Vec<_> = covered
                    .iter()
                    .map(|(path, _)| format!("\"!{}\"", String::from_utf8_lossy(path)))
                    .collect();
                self.errors.push(
                    PolicyError::at(
                        place,
                        format!(
                            "{:?} covers {}, which the include {include:?} needs for any program to start",
                            rule.text,
                            String::from_utf8_lossy(first),
                        ),
                    )
                    .help(format!("add to the same list: {}", globs.join(", "))),
                );
            }
        }
    }
}

impl Spanned<String> {
    /// The place of a part of the string's value, `skip` bytes further on. The
    /// whole string where its spelling has escapes.
    pub(crate) fn within(&self, part: std::ops::Range<usize>, skip: usize) -> Place {
        let span = &self.place.span;
        let written = self.place.source.text.get(span.clone()).unwrap_or("");
        let plain = written.len() == self.value.len() + 2 && written.contains(&self.value);
        if !plain {
            return self.place.clone();
        }
        Place {
            source: std::sync::Arc::clone(&self.place.source),
            span: span.start + 1 + skip + part.start..span.start + 1 + skip + part.end,
        }
    }
}
