//! Reads a parsed TOML table key by key and notes what it does not know.
//!
//! Not serde: serde stops at the first mistake and cannot say "did you mean".

use std::{fmt::Display, ops::Range, str::FromStr};

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// A value with the place where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Bytes of the file.
    pub span: Range<usize>,
}

/// One table of the file while it is being read.
pub struct Section<'a> {
    name: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Starts reading `table`, which the user knows as `[name]`.
    pub fn new(name: impl Into<String>, span: Range<usize>, table: &'a DeTable<'a>) -> Self {
        Section {
            name: name.into(),
            span,
            table,
            known: Vec::new(),
        }
    }

    /// Where the table is.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The table under `key`, if it was written.
    pub fn table(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Section<'a>> {
        let value = self.get(key)?;
        let name = self.name_of(key);
        as_section(name, value, problems)
    }

    /// All tables below `key`, with their names: `[groups.NAME]`.
    pub fn tables(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Vec<(Located<String>, Section<'a>)> {
        let Some(outer) = self.table(key, problems) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in outer.table {
            let located = Located {
                value: name.get_ref().to_string(),
                span: name.span(),
            };
            let section = as_section(format!("{key}.{}", located.value), value, problems);
            found.extend(section.map(|section| (located, section)));
        }
        found
    }

    /// An optional string value, parsed.
    pub fn optional<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Located<T>> {
        let value = self.get(key)?;
        let text = expect_str(key, value, problems)?;
        match text.parse() {
            Ok(parsed) => Some(Located {
                value: parsed,
                span: value.span(),
            }),
            Err(error) => {
                problems.push(Problem::at(value.span(), format!("{key}: {error}")));
                None
            }
        }
    }

    /// A string value that must be there.
    pub fn required<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Located<T>> {
        if !self.table.contains_key(key) {
            let message = format!("[{}] lacks `{key}`", self.name);
            let fix = format!("add a line such as: {key} = {example}");
            problems.push(Problem::at(self.span.clone(), message).fix(fix));
        }
        self.optional(key, problems)
    }

    /// A list of strings, each parsed.
    pub fn list<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Located<T>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            problems.push(wrong_type(key, value, "a list of strings"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for item in items {
            let Some(text) = expect_str(key, item, problems) else {
                continue;
            };
            match text.parse() {
                Ok(parsed) => found.push(Located {
                    value: parsed,
                    span: item.span(),
                }),
                Err(error) => problems.push(Problem::at(item.span(), format!("{key}: {error}"))),
            }
        }
        found
    }

    /// One string, or a list of strings, each parsed.
    pub fn some<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Located<T>> {
        match self.get(key).map(|value| value.get_ref().is_str()) {
            Some(true) => self.optional(key, problems).into_iter().collect(),
            _ => self.list(key, problems),
        }
    }

    /// Every table of the list under `key`: `[[dhcp.subnets]]`.
    pub fn array(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let name = self.name_of(key);
        let Some(items) = value.get_ref().as_array() else {
            let fix = format!("write [[{name}]], with two brackets");
            problems.push(wrong_type(key, value, "a list of tables").fix(fix));
            return Vec::new();
        };
        let sections = items.iter();
        sections
            .filter_map(|item| as_section(name.clone(), item, problems))
            .collect()
    }

    /// All that this table holds, each value a string: for tables whose keys are not known beforehand.
    pub fn pairs(self, problems: &mut Vec<Problem>) -> Vec<(Located<String>, Located<String>)> {
        let mut found = Vec::new();
        for (key, value) in self.table {
            let Some(text) = expect_str(key.get_ref(), value, problems) else {
                continue;
            };
            let located = |value: &str, span| Located {
                value: value.to_owned(),
                span,
            };
            found.push((
                located(key.get_ref(), key.span()),
                located(text, value.span()),
            ));
        }
        found
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<bool> {
        let value = self.get(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            problems.push(wrong_type(key, value, "true or false"));
        }
        found
    }

    /// A whole number within `range`.
    pub fn integer(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
        problems: &mut Vec<Problem>,
    ) -> Option<u64> {
        let value = self.get(key)?;
        let number = value.get_ref().as_integer();
        let parsed = number.and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        if let Some(number) = parsed.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        problems.push(wrong_type(key, value, &wanted));
        None
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self, problems: &mut Vec<Problem>) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = if self.name.is_empty() {
                "at the top".into()
            } else {
                format!("in [{}]", self.name)
            };
            let message = format!("unknown key `{name}` {place}");
            problems.push(Problem::at(key.span(), message).fix(suggestion(name, &self.known)));
        }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

fn as_section<'a>(
    name: String,
    value: &'a Spanned<DeValue<'a>>,
    problems: &mut Vec<Problem>,
) -> Option<Section<'a>> {
    match value.get_ref().as_table() {
        Some(table) => Some(Section::new(name, value.span(), table)),
        None => {
            problems.push(wrong_type(&name, value, "a table"));
            None
        }
    }
}

fn expect_str<'a>(
    key: &str,
    value: &'a Spanned<DeValue<'a>>,
    problems: &mut Vec<Problem>,
) -> Option<&'a str> {
    let text = value.get_ref().as_str();
    if text.is_none() {
        problems.push(wrong_type(key, value, "a string in quotes"));
    }
    text
}

fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Problem {
    let found = value.get_ref().type_str();
    Problem::at(
        value.span(),
        format!("{key} must be {wanted}, this is of type {found}"),
    )
}

fn suggestion(name: &str, known: &[&'static str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// The candidate that was probably meant.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}
