//! A typed reader over a spanned TOML table: it goes on after a problem, so that all are told at once.
//!
//! Not serde: its derive stops at the first problem and loses the line. A key that is asked for is a
//! known key; what was never asked for is refused when a table ends, so no list can fall out of step.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::environment::Environment;
use crate::settings::expansion::expand;
use crate::settings::problem::{Located, MASK, Place, Problems, nearest, shown};

/// One TOML text and what is needed to read it.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    /// As problems shall name it.
    pub(crate) file: Arc<str>,
    /// Relative paths count from here.
    pub(crate) folder: &'a Path,
    pub(crate) text: &'a str,
    pub(crate) environment: &'a Environment,
    pub(crate) problems: &'a Problems,
}

/// One table while it is read.
#[derive(Debug)]
pub(crate) struct Table<'r> {
    document: &'r Document<'r>,
    entries: &'r DeTable<'r>,
    /// Key path, empty for the root.
    path: String,
    line: usize,
    asked: Vec<&'static str>,
    /// Not known, but answered already.
    answered: Vec<&'static str>,
}

// === impl Document ===

impl Document<'_> {
    /// Reads the text with `read`; `None` when it is not TOML. Then only that is told: whatever else
    /// could be said about a text that was half understood would mislead.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&mut Table<'_>) -> T) -> Option<T> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        let mut told = None;
        for error in &errors {
            let line = error.span().map_or(1, |span| self.line(span.start));
            // Recovery stumbles on through the same line; only its first error means something.
            if told != Some(line) {
                // The line's text is not shown: it may hold a secret.
                let expected = "valid TOML: lines such as key = \"text\", each key once, strings in quotes";
                self.problems.add("not TOML", &self.place(line), error.message(), expected);
            }
            told = Some(line);
        }
        if !errors.is_empty() {
            return None;
        }
        let mut table = Table {
            document: self,
            entries: root.get_ref(),
            path: String::new(),
            line: 1,
            asked: Vec::new(),
            answered: Vec::new(),
        };
        let value = read(&mut table);
        table.refuse_unknown();
        Some(value)
    }

    fn place(&self, line: usize) -> Place {
        Place::File { file: Arc::clone(&self.file), line }
    }

    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        memchr::memchr_iter(b'\n', before).count() + 1
    }
}

// === impl Table ===

impl<'r> Table<'r> {
    /// Where the table begins.
    pub(crate) fn place(&self) -> Place {
        self.document.place(self.line)
    }

    /// The key path of `key` in this table.
    pub(crate) fn path(&self, key: impl Display) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn problems(&self) -> &'r Problems {
        self.document.problems
    }

    /// The folder that relative paths count from.
    pub(crate) fn folder(&self) -> &'r Path {
        self.document.folder
    }

    /// Where `key` stands, or the table when it does not.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        match self.entries.get_key_value(key) {
            Some((written, _)) => self.document.place(self.document.line(written.span().start)),
            None => self.place(),
        }
    }

    /// Whether `key` stands here, right or wrong.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A table under `key`, read by `read`.
    pub(crate) fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Table<'_>) -> T,
    ) -> Option<T> {
        let (line, value) = self.entry(key)?;
        self.sub_table(self.path(key), line, value, read)
    }

    /// Each table of a list of tables, read by `read`, which also gets the position.
    pub(crate) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(usize, &mut Table<'_>) -> T,
    ) -> Vec<T> {
        let Some((line, value)) = self.entry(key) else { return Vec::new() };
        let path = self.path(key);
        let DeValue::Array(items) = value else {
            let expected = format!("a list of tables, each under its own [[{path}]] or between {{ }}");
            self.problems().add(path, &self.document.place(line), kind(value), expected);
            return Vec::new();
        };
        let read_item = |(index, item): (usize, &'r Spanned<DeValue<'r>>)| {
            let line = self.document.line(item.span().start);
            self.sub_table(format!("{path}[{index}]"), line, item.get_ref(), |table| read(index, table))
        };
        items.iter().enumerate().filter_map(read_item).collect()
    }

    /// A string under `key`, expanded and parsed. Numbers and booleans go through `parse` too, only to
    /// get its sentence: `deadline = 600` is answered by what is right for durations.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let (line, value) = self.entry(key)?;
        self.text(self.path(key), line, value, parse)
    }

    /// A string under `key` that must never be shown.
    pub(crate) fn secret(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<SecretString, String>,
    ) -> Option<Located<SecretString>> {
        let (line, value) = self.entry(key)?;
        let (path, place) = (self.path(key), self.document.place(line));
        let DeValue::String(written) = value else {
            self.problems().add(path, &place, kind(value), "a string in quotes");
            return None;
        };
        let expanded = expand(written, self.document.environment, self.document.folder);
        let count = expanded.as_ref().map_or(0, |text| text.trim().chars().count());
        match expanded {
            // What is between `${` and `}` names a secret and is none, but a broken one may be a secret.
            Err(expected) => self.problems().add(path, &place, MASK, expected),
            Ok(text) => match parse(&text) {
                Ok(value) => return Some(Located { value, key: path, place, found: MASK.to_owned() }),
                Err(expected) => {
                    self.problems().add(path, &place, format!("{MASK} ({count} characters)"), expected);
                }
            },
        }
        None
    }

    /// A list of strings under `key`, each parsed.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<Located<T>> {
        let Some((line, value)) = self.entry(key) else { return Vec::new() };
        let DeValue::Array(items) = value else {
            let place = self.document.place(line);
            self.problems().add(self.path(key), &place, kind(value), "a list of strings, between [ ]");
            return Vec::new();
        };
        let item = |(index, item): (usize, &'r Spanned<DeValue<'r>>)| {
            let line = self.document.line(item.span().start);
            self.text(format!("{}[{index}]", self.path(key)), line, item.get_ref(), &parse)
        };
        items.iter().enumerate().filter_map(item).collect()
    }

    /// A table under `key` whose keys are the user's, both sides parsed by `parse`. `None` as well when
    /// anything in it is wrong.
    pub(crate) fn names(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Option<Located<BTreeMap<String, String>>> {
        let (line, value) = self.entry(key)?;
        let (path, place) = (self.path(key), self.document.place(line));
        let DeValue::Table(entries) = value else {
            self.problems().add(
                path,
                &place,
                kind(value),
                "a table such as { \"gpt-4o\" = \"gpt-4o-west\" }",
            );
            return None;
        };
        let mut names = BTreeMap::new();
        for (left, right) in entries {
            let line = self.document.line(left.span().start);
            let path = format!("{path}.{}", left.get_ref().escape_debug());
            match parse(left.get_ref()) {
                Err(expected) => {
                    let found = shown(left.get_ref());
                    self.problems().add(path, &self.document.place(line), found, expected);
                }
                Ok(_) if matches!(right.get_ref(), DeValue::Table(_)) => {
                    let expected = "a string; a name with dots stands in quotes: \"gpt-4.1\" = \"gpt-4.1\"";
                    self.problems().add(path, &self.document.place(line), kind(right.get_ref()), expected);
                }
                Ok(left) => {
                    names.extend(
                        self.text(path, line, right.get_ref(), &parse).map(|there| (left, there.value)),
                    );
                }
            }
        }
        let found = if names.is_empty() { "an empty table" } else { "a table" }.to_owned();
        (names.len() == entries.len()).then_some(Located { value: names, key: path, place, found })
    }

    /// `true` or `false` under `key`.
    pub(crate) fn boolean(&mut self, key: &'static str) -> Option<Located<bool>> {
        let (line, value) = self.entry(key)?;
        let (path, place) = (self.path(key), self.document.place(line));
        if let DeValue::Boolean(flag) = value {
            return Some(Located { value: *flag, key: path, place, found: flag.to_string() });
        }
        self.problems().add(path, &place, scalar(value), "true or false, without quotes");
        None
    }

    /// A whole number within `range` under `key`.
    pub(crate) fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Located<u64>> {
        let (line, value) = self.entry(key)?;
        let (path, place) = (self.path(key), self.document.place(line));
        let number = value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        match number {
            Some(number) if range.contains(&number) => {
                Some(Located { value: number, key: path, place, found: number.to_string() })
            }
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.problems().add(path, &place, scalar(value), expected);
                None
            }
        }
    }

    /// A number above 0 and at most 1 under `key`.
    pub(crate) fn share(&mut self, key: &'static str) -> Option<Located<f64>> {
        let (line, value) = self.entry(key)?;
        let (path, place) = (self.path(key), self.document.place(line));
        let written = scalar(value);
        let number = match value {
            DeValue::Integer(_) | DeValue::Float(_) => written.parse::<f64>().ok(),
            _ => None,
        };
        match number.filter(|number| *number > 0.0 && *number <= 1.0) {
            Some(number) => Some(Located { value: number, key: path, place, found: written }),
            None => {
                self.problems().add(path, &place, written, "a number above 0 and at most 1, such as 0.1");
                None
            }
        }
    }

    /// `"auto"`, or a whole number within `range`, under `key`.
    pub(crate) fn integer_or_auto(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Located<Option<u64>>> {
        if let Some(DeValue::Integer(_)) = self.entries.get(key).map(Spanned::get_ref) {
            let number = self.integer(key, range)?;
            let Located { value, key, place, found } = number;
            return Some(Located { value: Some(value), key, place, found });
        }
        let expected = format!("\"auto\" or a whole number from {} to {}", range.start(), range.end());
        self.parsed(key, |text| if text == "auto" { Ok(None) } else { Err(expected) })
    }

    fn entry(&mut self, key: &'static str) -> Option<(usize, &'r DeValue<'r>)> {
        self.asked.push(key);
        let (written, value) = self.entries.get_key_value(key)?;
        Some((self.document.line(written.span().start), value.get_ref()))
    }

    fn sub_table<T>(
        &self,
        path: String,
        line: usize,
        value: &DeValue<'_>,
        read: impl FnOnce(&mut Table<'_>) -> T,
    ) -> Option<T> {
        let DeValue::Table(entries) = value else {
            self.problems().add(path, &self.document.place(line), kind(value), "a table of keys and values");
            return None;
        };
        let mut table =
            Table { document: self.document, entries, path, line, asked: Vec::new(), answered: Vec::new() };
        let value = read(&mut table);
        table.refuse_unknown();
        Some(value)
    }

    fn text<T>(
        &self,
        path: String,
        line: usize,
        value: &DeValue<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let place = self.document.place(line);
        let DeValue::String(written) = value else {
            let expected = match value {
                DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => parse(&scalar(value)).err(),
                _ => None,
            };
            let expected = expected.unwrap_or_else(|| "a string in quotes".to_owned());
            self.problems().add(path, &place, scalar(value), expected);
            return None;
        };
        // As written, not as expanded: what a variable or a file holds may be a secret.
        let found = shown(written);
        match expand(written, self.document.environment, self.document.folder).and_then(|text| parse(&text)) {
            Ok(value) => Some(Located { value, key: path, place, found }),
            Err(expected) => {
                self.problems().add(path, &place, found, expected);
                None
            }
        }
    }

    fn refuse_unknown(&self) {
        for key in self.entries.keys() {
            let written = key.get_ref().as_ref();
            if self.asked.contains(&written) || self.answered.contains(&written) {
                continue;
            }
            let expected = match nearest(written, self.asked.iter().copied()) {
                Some(known) => format!("a known key; the nearest is `{known}`"),
                None => format!("one of the known keys: {}", self.asked.join(", ")),
            };
            let place = self.document.place(self.document.line(key.span().start));
            self.problems().add(self.path(written.escape_debug()), &place, "an unknown key", expected);
        }
    }
}

/// What a value is, in words, without showing it.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false, without quotes",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A scalar as it was written; only for keys that are no secret.
fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => kind(value).to_owned(),
    }
}
