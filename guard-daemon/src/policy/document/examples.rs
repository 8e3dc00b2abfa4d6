//! `[[example]]` as written.

use guard_common::matcher::Verdict;
use toml_edit::{Item, TableLike};

use super::ExampleText;
use super::keys::EXAMPLE;
use super::reader::Reader;
use crate::policy::error::{Place, PolicyError, Spanned};

impl Reader {
    pub(super) fn examples(&mut self, top: &toml_edit::Table) -> Vec<ExampleText> {
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
