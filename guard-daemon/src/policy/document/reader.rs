//! TOML tables to a document's sections.

use std::sync::Arc;
use std::time::Duration;

use toml_edit::{Item, TableLike};

use super::keys::{
    AUDIT, FILES, FILES_INCLUDE, Keys, NETWORK, PROCESS, PROCESS_INCLUDE, TOP, TOP_INCLUDE,
    distance,
};
use super::{
    AuditLog, AuditSettings, Document, DocumentKind, FILE_LISTS, FilesSection, NetworkSection,
    ProcessLimits, WhenFull,
};
use crate::policy::error::{Errors, Place, PolicyError, Source, Spanned};

pub(super) struct Reader {
    pub(super) source: Arc<Source>,
    pub(super) kind: DocumentKind,
    pub(super) errors: Errors,
}

impl Reader {
    pub(super) fn place(&self, span: Option<std::ops::Range<usize>>) -> Place {
        Place {
            source: Arc::clone(&self.source),
            span: span.unwrap_or(0..0),
        }
    }

    pub(super) fn is_include(&self) -> bool {
        self.kind == DocumentKind::Include
    }

    pub(super) fn document(&mut self, top: &toml_edit::Table) -> Document {
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
            network: NetworkSection::default(),
            env: None,
            user: None,
            limits: ProcessLimits::default(),
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
            } else {
                document.files.max_write_size = self.size(files, "files", "max_write_size", 1);
            }
        }
        document.network = self.network(top);
        if let Some(process) = self.table(top, process_keys) {
            document.env = self.env(process);
            if !self.is_include() {
                document.user = self.user(process);
                document.limits = self.limits(process);
            }
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
    pub(super) fn check_keys(&mut self, table: &dyn TableLike, keys: &Keys) {
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
            } else if self.is_include() && only_in_policies(keys, key) {
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
    pub(super) fn table<'a>(
        &mut self,
        top: &'a toml_edit::Table,
        keys: &Keys,
    ) -> Option<&'a dyn TableLike> {
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

    pub(super) fn item_place(&self, table: &dyn TableLike, key: &str, item: &Item) -> Place {
        let span = item
            .span()
            .or_else(|| table.key(key).and_then(toml_edit::Key::span));
        self.place(span)
    }

    /// A list of strings. `None` when the key is absent.
    pub(super) fn strings(
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
    pub(super) fn rules(
        &mut self,
        table: &dyn TableLike,
        section: &str,
        key: &str,
    ) -> Vec<Spanned<String>> {
        let full = format!("{section}.{key}");
        let list = self.strings(table, key, &full).unwrap_or_default();
        self.refuse_twice(&list, &format!("rule of {full:?}"));
        list
    }

    pub(super) fn refuse_twice(&mut self, list: &[Spanned<String>], what: &str) {
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
    pub(super) fn word<T: Copy>(
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
}

/// Whether a key that an include does not have is one of a policy's.
fn only_in_policies(keys: &Keys, key: &str) -> bool {
    let of_policies = [&TOP, &NETWORK]
        .into_iter()
        .find(|policies| policies.table == keys.table);
    of_policies.is_some_and(|policies| policies.known.contains(&key))
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
}
