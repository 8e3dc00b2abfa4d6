//! Policy text to typed sections: TOML syntax, known keys, types. What the
//! strings mean is [`super::resolve`]'s.

use std::sync::Arc;
use std::time::Duration;

use guard_common::matcher::Verdict;
use toml_edit::{Item, TableLike};

use super::error::{Errors, Place, PolicyError, PolicyErrors, Source, Spanned};

/// Bytes of the largest policy file.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// What a document is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Policy,
    Include,
}

/// The lists of `[files]`, in the order of [`FilesSection::lists`].
pub(crate) const FILE_LISTS: [&str; 5] = ["read", "write", "exec", "deny", "approve"];
/// The lists of `[network]`, in the order of [`Document::network`].
pub(crate) const NETWORK_LISTS: [&str; 3] = ["allow", "deny", "approve"];

/// `[files]` as written.
#[derive(Debug, Default)]
pub(crate) struct FilesSection {
    pub(crate) lists: [Vec<Spanned<String>>; 5],
    /// Paths that nothing can start without; only includes say so.
    pub(crate) required: Vec<Spanned<String>>,
}

/// An `[[example]]` as written.
#[derive(Debug)]
pub(crate) struct ExampleText {
    pub(crate) access: Spanned<String>,
    pub(crate) verdict: Verdict,
}

/// Which accesses are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditLog {
    /// All.
    #[default]
    All,
    /// Denied ones.
    Denials,
}

/// What happens to accesses that cannot be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They go on; the loss is counted and reported.
    #[default]
    Continue,
    /// They are denied.
    Deny,
}

/// `[audit]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSettings {
    /// Which accesses are reported.
    pub log: AuditLog,
    /// How long records are kept; `None`: for ever.
    pub retention: Option<Duration>,
    /// When the disk that holds the trail is full.
    pub disk_full: WhenFull,
    /// When the kernel's ring for events is full.
    pub ring_full: WhenFull,
}

/// A policy file, its syntax, keys and types checked.
#[derive(Debug)]
pub struct Document {
    pub(crate) source: Arc<Source>,
    pub(crate) include: Vec<Spanned<String>>,
    pub(crate) files: FilesSection,
    pub(crate) network: [Vec<Spanned<String>>; 3],
    pub(crate) env: Option<Vec<Spanned<String>>>,
    pub(crate) user: Option<String>,
    pub(crate) audit: AuditSettings,
    pub(crate) examples: Vec<ExampleText>,
}

impl Document {
    /// Reads a policy file. `name` is what errors call it.
    ///
    /// # Errors
    /// Everything that is wrong: not UTF-8, empty, over 1 MiB, not TOML,
    /// unknown keys, wrong types, parts that are not supported yet. After an
    /// error of TOML syntax nothing more is looked for.
    pub fn parse(text: &[u8], name: &str) -> Result<Self, PolicyErrors> {
        Self::parse_as(text, name, DocumentKind::Policy)
    }

    pub(crate) fn parse_as(
        text: &[u8],
        name: &str,
        kind: DocumentKind,
    ) -> Result<Self, PolicyErrors> {
        let source = source(text, name)?;
        let parsed = toml_edit::Document::parse(source.text.clone()).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let place = Place {
                source: Arc::clone(&source),
                span,
            };
            PolicyError::at(&place, format!("not TOML: {}", error.message()))
        })?;
        let mut reader = Reader {
            source: Arc::clone(&source),
            kind,
            errors: Errors::default(),
        };
        let document = reader.document(parsed.as_table());
        super::syntax::check(&document, &mut reader.errors);
        reader.errors.finish(document)
    }
}

/// Checks size and encoding; takes off a BOM.
fn source(text: &[u8], name: &str) -> Result<Arc<Source>, PolicyErrors> {
    let make = |text: String| {
        Arc::new(Source {
            name: name.to_owned(),
            text,
        })
    };
    let whole = |message: String| PolicyError::at(&Place::start(&make(String::new())), message);
    if text.len() > MAX_TEXT {
        return Err(whole(format!(
            "the file has {} bytes; a policy has at most {MAX_TEXT}",
            text.len()
        ))
        .into());
    }
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    match std::str::from_utf8(text) {
        Ok(text) if text.trim().is_empty() => Err(whole("the file is empty".to_owned())
            .help("a policy starts with: version = 1")
            .into()),
        Ok(text) => Ok(make(text.to_owned())),
        Err(error) => {
            let at = error.valid_up_to();
            let source = make(String::from_utf8_lossy(text).into_owned());
            let place = Place {
                source,
                span: at..at + 1,
            };
            Err(PolicyError::at(&place, "not UTF-8")
                .help("save the file as UTF-8")
                .into())
        }
    }
}

/// Keys of one table: those that are read, and those that later versions bring.
struct Keys {
    table: &'static str,
    known: &'static [&'static str],
    later: &'static [&'static str],
}

const TOP: Keys = Keys {
    table: "",
    known: &[
        "version", "include", "files", "network", "process", "audit", "example",
    ],
    later: &["startup", "background", "tools", "result", "resources"],
};
const TOP_INCLUDE: Keys = Keys {
    table: "",
    known: &["version", "include", "files", "network", "process"],
    later: &[],
};
const FILES: Keys = Keys {
    table: "files",
    known: &["read", "write", "exec", "deny", "approve"],
    later: &["max_write_size"],
};
const FILES_INCLUDE: Keys = Keys {
    table: "files",
    known: &["read", "write", "exec", "deny", "approve", "required"],
    later: &["max_write_size"],
};
const NETWORK: Keys = Keys {
    table: "network",
    known: &["allow", "deny", "approve"],
    later: &["listen", "unix", "sni", "upstreams"],
};
const PROCESS: Keys = Keys {
    table: "process",
    known: &["user", "env"],
    later: &["io_uring", "memory", "max_processes", "cpu"],
};
const PROCESS_INCLUDE: Keys = Keys {
    table: "process",
    known: &["env"],
    later: &[],
};
const AUDIT: Keys = Keys {
    table: "audit",
    known: &["log", "retention", "disk_full", "ring_full"],
    later: &[],
};
const EXAMPLE: Keys = Keys {
    table: "example",
    known: &["access", "verdict"],
    later: &[],
};

impl Keys {
    fn full(&self, key: &str) -> String {
        if self.table.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.table)
        }
    }
}

struct Reader {
    source: Arc<Source>,
    kind: DocumentKind,
    errors: Errors,
}

impl Reader {
    fn place(&self, span: Option<std::ops::Range<usize>>) -> Place {
        Place {
            source: Arc::clone(&self.source),
            span: span.unwrap_or(0..0),
        }
    }

    fn is_include(&self) -> bool {
        self.kind == DocumentKind::Include
    }

    fn document(&mut self, top: &toml_edit::Table) -> Document {
        let keys = if self.is_include() {
            &TOP_INCLUDE
        } else {
            &TOP
        };
        self.check_keys(top, keys);
        self.version(top);
        let mut document = Document {
            source: Arc::clone(&self.source),
            include: self.strings(top, "include", "include").unwrap_or_default(),
            files: FilesSection::default(),
            network: Default::default(),
            env: None,
            user: None,
            audit: AuditSettings::default(),
            examples: Vec::new(),
        };
        let (files_keys, process_keys) = if self.is_include() {
            (&FILES_INCLUDE, &PROCESS_INCLUDE)
        } else {
            (&FILES, &PROCESS)
        };
        if let Some(files) = self.table(top, files_keys) {
            for (list, key) in document.files.lists.iter_mut().zip(FILE_LISTS) {
                *list = self.rules(files, "files", key);
            }
            if self.is_include() {
                document.files.required = self.rules(files, "files", "required");
            }
        }
        if let Some(network) = self.table(top, &NETWORK) {
            for (list, key) in document.network.iter_mut().zip(NETWORK_LISTS) {
                *list = self.rules(network, "network", key);
            }
        }
        if let Some(process) = self.table(top, process_keys) {
            document.env = self.env(process);
            document.user = self.user(process);
        }
        if !self.is_include() {
            if let Some(audit) = self.table(top, &AUDIT) {
                document.audit = self.audit(audit);
            }
            document.examples = self.examples(top);
        }
        document
    }

    /// Reports keys that nothing reads.
    fn check_keys(&mut self, table: &dyn TableLike, keys: &Keys) {
        for (key, item) in table.iter() {
            if keys.known.contains(&key) {
                continue;
            }
            let span = table.key(key).and_then(toml_edit::Key::span);
            let place = self.place(span.or_else(|| item.span()));
            let full = keys.full(key);
            let error = if keys.later.contains(&key) {
                PolicyError::at(&place, format!("{full:?} is not supported yet"))
                    .help("this version would not enforce it, so it refuses it: take it out")
            } else if self.is_include() && TOP.known.contains(&key) && keys.table.is_empty() {
                PolicyError::at(&place, format!("{full:?} has no meaning in an include"))
                    .help("say it in the policy")
            } else if keys.table == "files" && key == "required" {
                PolicyError::at(&place, format!("{full:?} is for includes only"))
            } else {
                let all = || keys.known.iter().chain(keys.later);
                let help = match all().min_by_key(|known| distance(key, known)) {
                    Some(nearest) if distance(key, nearest) <= 1 + key.len() / 3 => {
                        format!("did you mean {:?}?", keys.full(nearest))
                    }
                    _ => format!("known keys: {}", keys.known.join(", ")),
                };
                PolicyError::at(&place, format!("unknown key {full:?}")).help(help)
            };
            self.errors.push(error);
        }
    }

    fn version(&mut self, top: &toml_edit::Table) {
        match top.get("version") {
            None => {
                let place = self.place(None);
                self.errors.push(
                    PolicyError::at(&place, "the version is missing")
                        .help("start the file with: version = 1"),
                );
            }
            Some(item) if item.as_integer() == Some(1) => {}
            Some(item) => {
                let place = self.place(item.span());
                self.errors.push(
                    PolicyError::at(&place, "this guard reads version 1 of policy files only")
                        .help("write: version = 1"),
                );
            }
        }
    }

    /// A section, its keys checked.
    fn table<'a>(&mut self, top: &'a toml_edit::Table, keys: &Keys) -> Option<&'a dyn TableLike> {
        let item = top.get(keys.table)?;
        let Some(table) = item.as_table_like() else {
            let place = self.item_place(top, keys.table, item);
            self.errors.push(PolicyError::at(
                &place,
                format!("{:?} must be a table", keys.table),
            ));
            return None;
        };
        self.check_keys(table, keys);
        Some(table)
    }

    fn item_place(&self, table: &dyn TableLike, key: &str, item: &Item) -> Place {
        let span = item
            .span()
            .or_else(|| table.key(key).and_then(toml_edit::Key::span));
        self.place(span)
    }

    /// A list of strings. `None` when the key is absent.
    fn strings(
        &mut self,
        table: &dyn TableLike,
        key: &str,
        full: &str,
    ) -> Option<Vec<Spanned<String>>> {
        let item = table.get(key)?;
        let Some(array) = item.as_array() else {
            let place = self.item_place(table, key, item);
            self.errors.push(
                PolicyError::at(&place, format!("{full:?} must be a list of strings"))
                    .help(format!("write: {key} = [\"…\"]")),
            );
            return Some(Vec::new());
        };
        let mut out = Vec::with_capacity(array.len());
        for value in array {
            let place = self.place(value.span());
            match value.as_str() {
                Some(text) => out.push(Spanned {
                    value: text.to_owned(),
                    place,
                }),
                None => self.errors.push(PolicyError::at(
                    &place,
                    format!("{full:?} takes strings, this is {}", value.type_name()),
                )),
            }
        }
        Some(out)
    }

    /// A list of rules: strings, none of them twice.
    fn rules(&mut self, table: &dyn TableLike, section: &str, key: &str) -> Vec<Spanned<String>> {
        let full = format!("{section}.{key}");
        let list = self.strings(table, key, &full).unwrap_or_default();
        self.refuse_twice(&list, &format!("rule of {full:?}"));
        list
    }

    fn refuse_twice(&mut self, list: &[Spanned<String>], what: &str) {
        let mut seen = std::collections::HashMap::new();
        for entry in list {
            if let Some(first) = seen.insert(&entry.value, &entry.place) {
                let (line, column) = first.line_col();
                self.errors.push(
                    PolicyError::at(
                        &entry.place,
                        format!("{:?} is already a {what}", entry.value),
                    )
                    .help(format!("the first is at {line}:{column}; take one out")),
                );
            }
        }
    }

    fn env(&mut self, process: &dyn TableLike) -> Option<Vec<Spanned<String>>> {
        let env = self.strings(process, "env", "process.env")?;
        for name in &env {
            let text = &name.value;
            if text.is_empty() || text.contains(['=', '\0', '*', '?']) {
                self.errors.push(
                    PolicyError::at(
                        &name.place,
                        format!("{text:?} is not the name of an environment variable"),
                    )
                    .help("names only: no values, no patterns"),
                );
            }
        }
        self.refuse_twice(&env, "name of \"process.env\"");
        Some(env)
    }

    fn user(&mut self, process: &dyn TableLike) -> Option<String> {
        let item = process.get("user")?;
        let user = item.as_str().filter(|name| {
            !name.is_empty() && !name.contains(|c: char| c.is_control() || c == ':' || c == '/')
        });
        if user.is_none() {
            let place = self.item_place(process, "user", item);
            self.errors.push(
                PolicyError::at(&place, "\"process.user\" must be a user's name")
                    .help("for example: user = \"nobody\""),
            );
        }
        user.map(str::to_owned)
    }

    fn audit(&mut self, audit: &dyn TableLike) -> AuditSettings {
        let full = [("continue", WhenFull::Continue), ("deny", WhenFull::Deny)];
        AuditSettings {
            log: self
                .word(
                    audit,
                    "audit",
                    "log",
                    &[("all", AuditLog::All), ("denials", AuditLog::Denials)],
                )
                .unwrap_or_default(),
            retention: self.retention(audit),
            disk_full: self
                .word(audit, "audit", "disk_full", &full)
                .unwrap_or_default(),
            ring_full: self
                .word(audit, "audit", "ring_full", &full)
                .unwrap_or_default(),
        }
    }

    fn retention(&mut self, audit: &dyn TableLike) -> Option<Duration> {
        let item = audit.get("retention")?;
        let duration = item.as_str().and_then(duration);
        if duration.is_none() {
            let place = self.item_place(audit, "retention", item);
            self.errors.push(
                PolicyError::at(&place, "\"audit.retention\" must be a duration")
                    .help("a whole number above 0 and s, m, h, d or w, such as \"365d\""),
            );
        }
        duration
    }

    /// One of a few fixed words.
    fn word<T: Copy>(
        &mut self,
        table: &dyn TableLike,
        section: &str,
        key: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let item = table.get(key)?;
        let found = item
            .as_str()
            .and_then(|text| words.iter().find(|(word, _)| *word == text));
        if found.is_none() {
            let place = self.item_place(table, key, item);
            let choices: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.errors.push(PolicyError::at(
                &place,
                format!("\"{section}.{key}\" must be {}", one_of(&choices)),
            ));
        }
        found.map(|(_, value)| *value)
    }

    fn examples(&mut self, top: &toml_edit::Table) -> Vec<ExampleText> {
        let Some(item) = top.get("example") else {
            return Vec::new();
        };
        let tables: Vec<(Place, &dyn TableLike)> = match item {
            Item::ArrayOfTables(tables) => tables
                .iter()
                .map(|t| (self.place(t.span()), t as &dyn TableLike))
                .collect(),
            Item::Value(toml_edit::Value::Array(array))
                if array.iter().all(toml_edit::Value::is_inline_table) =>
            {
                array
                    .iter()
                    .filter_map(|v| Some((self.place(v.span()), v.as_inline_table()? as _)))
                    .collect()
            }
            _ => {
                let place = self.item_place(top, "example", item);
                self.errors.push(
                    PolicyError::at(&place, "examples are an array of tables")
                        .help("write [[example]], then access = \"…\" and verdict = \"…\""),
                );
                return Vec::new();
            }
        };
        let mut out = Vec::new();
        for (place, table) in tables {
            self.check_keys(table, &EXAMPLE);
            let access = match table.get("access") {
                Some(item) if item.as_str().is_some() => Some(Spanned {
                    value: item.as_str().unwrap_or_default().to_owned(),
                    place: self.place(item.span()),
                }),
                other => {
                    let place = other.map_or(place.clone(), |item| self.place(item.span()));
                    self.errors.push(
                        PolicyError::at(&place, "an example needs an access")
                            .help("for example: access = \"read /srv/project/.env\""),
                    );
                    None
                }
            };
            let words = [
                ("allow", Verdict::Allow),
                ("deny", Verdict::Deny),
                ("approve", Verdict::Approve),
            ];
            let verdict = self.word(table, "example", "verdict", &words);
            if table.get("verdict").is_none() {
                self.errors.push(
                    PolicyError::at(&place, "an example needs a verdict")
                        .help("verdict = \"allow\", \"deny\" or \"approve\""),
                );
            }
            if let Some(access) = access {
                // Without a verdict the document is refused anyway.
                let verdict = verdict.unwrap_or(Verdict::Deny);
                out.push(ExampleText { access, verdict });
            }
        }
        out
    }
}

/// `a, b or c`.
fn one_of(choices: &[String]) -> String {
    match choices {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => choices.concat(),
    }
}

/// `365d` and the like; `None` for anything else, 0 and what overflows.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number = text.strip_suffix(unit)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u32 = number.parse().ok()?;
    (number > 0).then(|| Duration::from_secs(u64::from(number) * seconds))
}

/// Edit distance (insert, delete, replace), for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("365d"), Some(Duration::from_secs(31_536_000)));
        assert_eq!(duration("1w"), Some(Duration::from_secs(604_800)));
        for bad in [
            "",
            "d",
            "0d",
            "-1d",
            "1",
            "1y",
            "1.5h",
            "99999999999d",
            "+1d",
            "1é",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn nearest_key() {
        assert_eq!(distance("raed", "read"), 2);
        assert_eq!(distance("reads", "read"), 1);
        assert_eq!(distance("", "read"), 4);
    }
}
