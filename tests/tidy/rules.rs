//! The rules themselves: text in, findings out.

use std::fmt;

pub(crate) const LONGEST_FILE: usize = 700;

/// Which rooms each room may import (design.md 13). `app` and `main` may import everything.
const IMPORTS: &[(&str, &[&str])] = &[
    ("balance", &[]),
    ("openai", &[]),
    ("net", &[]),
    ("terminal", &["net"]),
    ("simulator", &["net"]),
    ("telemetry", &["balance"]),
    ("identity", &["net", "telemetry"]),
    ("proxy", &["balance", "openai", "identity", "net", "telemetry"]),
    ("admin", &["balance", "telemetry", "net"]),
    // Only the settings types that each room owns; that is for the reader of a change to see.
    ("settings", &["admin", "balance", "identity", "net", "openai", "proxy", "simulator", "telemetry"]),
];
const EVERYTHING: &[&str] = &["app", "main", "lib"];

const ROOT: &[&str] = &[
    ".ci",
    ".clippy.toml",
    ".deny.toml",
    ".dockerignore",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "Dockerfile",
    "LICENSE",
    "README.md",
    "benches",
    "config",
    "docs",
    "examples",
    "src",
    "tests",
];

/// Words of design.md 1 that are not used, because they hide what a thing is.
const BANNED_WORDS: &[&str] =
    &["manager", "util", "utils", "helper", "helpers", "common", "misc", "circuit", "provider", "eviction"];

const README_COMMANDS: &[&str] = &["cargo run --release -- demo", "cargo test"];

/// Where words stand that operators read in log, metrics and answers: the file, and the function's opening.
pub(crate) const DOCUMENTED: &[(&str, &str)] = &[
    ("src/balance/verdict.rs", "pub fn word(&self)"),
    ("src/proxy/ledger.rs", "pub(super) fn tries("),
    ("src/balance/reason.rs", "impl fmt::Display for AttemptFailure"),
    ("src/proxy/error.rs", "pub fn code(&self)"),
    ("src/identity/entra/mod.rs", "pub fn word(self)"),
    ("src/telemetry/access.rs", "pub fn word(self)"),
    ("src/telemetry/metrics/outcome.rs", "pub(super) fn word(self)"),
    ("src/telemetry/metrics/exposition.rs", "fn kinds("),
    ("src/balance/snapshot.rs", "pub fn word(self)"),
    ("src/balance/explain.rs", "impl Turn"),
    ("src/balance/explain.rs", "impl Obstacle"),
];

pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: String,
    pub(crate) problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.place, self.problem)
    }
}

fn finding(file: &SourceFile, line: usize, problem: impl Into<String>) -> Finding {
    Finding { place: format!("{}:{line}", file.path), problem: problem.into() }
}

pub(crate) fn first_segment(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// The room of a file in `src`: its folder, or the stem of a file directly in `src`.
fn room(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("src/")?;
    let first = first_segment(inner);
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// The source with comments and the contents of strings blanked, line by line as before.
///
/// A small scanner, not a parser: enough for block comments, raw strings, escapes and character literals.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(bytes, at) {
            length
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(rest[..skipped].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at += skipped;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at] != b'r' || (at > 0 && is_word(bytes[at - 1]) && bytes[at - 1] != b'b') {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let start = at + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let inner = &bytes[start + 1..];
    let length = inner
        .windows(end.len())
        .position(|window| window == end)
        .map_or(inner.len(), |found| found + end.len());
    Some(start + 1 + length - at)
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest.iter().skip(3).position(|&byte| byte == b'\'').map_or(0, |found| found + 4);
    }
    let width = rest.iter().skip(2).take(4).position(|&byte| byte == b'\'');
    match width {
        // 'a' or a character of several bytes; `'a, 'b` has a byte that is not a continuation in between.
        Some(0) => 3,
        Some(more) if rest[2..2 + more].iter().all(|&byte| byte & 0xC0 == 0x80) => more + 3,
        _ => 0,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Every `crate::room` of a file with its line, groups such as `crate::{a, b::{c, d}}` included.
pub(crate) fn crate_uses(text: &str) -> Vec<(usize, String)> {
    let code = code_only(text);
    let mut uses = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        // `$crate::` and `self_crate::` are other things.
        if start > 0 && (is_word(code.as_bytes()[start - 1]) || code.as_bytes()[start - 1] == b'$') {
            continue;
        }
        first_names(&code, start + "crate::".len(), &mut uses);
    }
    uses
}

fn first_names(code: &str, start: usize, uses: &mut Vec<(usize, String)>) {
    let after = code[start..].trim_start();
    let at = code.len() - after.len();
    if !after.starts_with('{') {
        push_name(code, at, uses);
        return;
    }
    let mut depth = 0_usize;
    let mut expected = false;
    for (offset, byte) in after.bytes().enumerate() {
        match byte {
            b'{' => {
                depth += 1;
                expected = depth == 1;
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return;
                }
            }
            b',' if depth == 1 => expected = true,
            byte if expected && is_word(byte) => {
                push_name(code, at + offset, uses);
                expected = false;
            }
            _ => {}
        }
    }
}

fn push_name(code: &str, at: usize, uses: &mut Vec<(usize, String)>) {
    let name: String =
        code[at..].chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    let line = code[..at].matches('\n').count() + 1;
    if !name.is_empty() {
        uses.push((line, name));
    }
}

pub(crate) fn imports(file: &SourceFile) -> Vec<Finding> {
    let Some(room) = room(&file.path) else { return Vec::new() };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else { return Vec::new() };
    crate_uses(&file.text)
        .into_iter()
        .filter(|(_, name)| name != room && !allowed.contains(&name.as_str()))
        .filter(|(_, name)| {
            IMPORTS.iter().any(|(known, _)| known == name) || EVERYTHING.contains(&name.as_str())
        })
        .map(|(line, name)| {
            let may = if allowed.is_empty() { "nothing of ours".to_owned() } else { allowed.join(", ") };
            finding(file, line, format!("`{room}` imports `{name}`; it may import {may}"))
        })
        .collect()
}

/// A new folder in `src` must get its line in the table, or its imports would go unchecked.
pub(crate) fn known_room(file: &SourceFile) -> Vec<Finding> {
    match room(&file.path) {
        Some(room) if !EVERYTHING.contains(&room) && !IMPORTS.iter().any(|(name, _)| *name == room) => {
            vec![finding(file, 1, format!("`{room}` is no room of the import table in tests/tidy/rules.rs"))]
        }
        _ => Vec::new(),
    }
}

pub(crate) fn length(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if lines <= LONGEST_FILE {
        return Vec::new();
    }
    vec![finding(file, lines, format!("{lines} lines, at most {LONGEST_FILE}: split it by its nouns"))]
}

pub(crate) fn forbidden_text(file: &SourceFile) -> Vec<Finding> {
    let code = code_only(&file.text);
    let mut findings = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let dense: String = line.chars().filter(|letter| !letter.is_whitespace()).collect();
        if dense.contains("#[allow(") || dense.contains("#![allow(") || dense.contains(",allow(") {
            findings.push(finding(file, index + 1, "`allow`: use `expect` with a reason, or mend the cause"));
        }
        for name in ["todo", "unimplemented", "dbg"] {
            let called = dense
                .match_indices(&format!("{name}!"))
                .any(|(at, _)| at == 0 || !is_word(dense.as_bytes()[at - 1]));
            if called {
                findings.push(finding(
                    file,
                    index + 1,
                    format!("`{name}!` does not belong in the main line"),
                ));
            }
        }
    }
    findings
}

/// `StreamManager` and `stream_manager` both consist of the words stream and manager.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if !letter.is_alphanumeric() || letter.is_uppercase() {
            words.push(String::new());
        }
        if letter.is_alphanumeric() {
            words.last_mut().expect("there is always a word").extend(letter.to_lowercase());
        }
    }
    words
}

fn banned_word(name: &str) -> Option<&'static str> {
    let words = words(name);
    BANNED_WORDS.iter().copied().find(|banned| words.iter().any(|word| word == banned))
}

pub(crate) fn names(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for segment in file.path.trim_end_matches(".rs").split('/') {
        if let Some(word) = banned_word(segment) {
            findings.push(finding(file, 1, format!("`{word}` in a path: name the file after what it owns")));
        }
    }
    for (index, line) in code_only(&file.text).lines().enumerate() {
        let mut tokens = line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        while let Some(token) = tokens.next() {
            if !["struct", "enum", "trait", "type", "mod", "union"].contains(&token) {
                continue;
            }
            let name = tokens.next().unwrap_or_default();
            if let Some(word) = banned_word(name) {
                findings.push(finding(
                    file,
                    index + 1,
                    format!("`{name}`: `{word}` does not say what it is"),
                ));
            }
        }
    }
    findings
}

/// The file that is a room's door: `src/<room>/mod.rs`, or a room that is one file. Every other file of `src` too.
pub(crate) fn room_opening(file: &SourceFile) -> Vec<Finding> {
    if !file.path.starts_with("src/") || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![finding(file, 1, "begins without `//!`: say what this file owns")]
}

pub(crate) fn root_entries(entries: &[&str]) -> Vec<Finding> {
    let stranger = |entry: &&&str| !ROOT.contains(*entry);
    entries
        .iter()
        .filter(stranger)
        .map(|entry| Finding {
            place: format!("{entry}:1"),
            problem: "does not belong in the root".to_owned(),
        })
        .collect()
}

pub(crate) fn readme(text: &str) -> Vec<Finding> {
    README_COMMANDS
        .iter()
        .filter(|command| !text.contains(*command))
        .map(|command| Finding {
            place: "README.md:1".to_owned(),
            problem: format!("does not show `{command}`"),
        })
        .collect()
}

/// Every word of that function stands in the README as `word`.
pub(crate) fn documented(file: &SourceFile, opening: &str, readme: &str) -> Vec<Finding> {
    let Some((before, rest)) = file.text.split_once(opening) else {
        return vec![finding(file, 1, format!("no `{opening}`: its words are to stand in the README"))];
    };
    let ends = ["\n    }\n", "\n}\n"].iter().filter_map(|end| rest.find(end));
    let function = &rest[..ends.min().unwrap_or(rest.len())];
    let words: Vec<&str> = function.split('"').skip(1).step_by(2).collect();
    let line = before.matches('\n').count() + 1;
    if words.is_empty() {
        return vec![finding(file, line, format!("`{opening}` has no words"))];
    }
    let unknown = words.into_iter().filter(|word| !readme.contains(&format!("`{word}`")));
    unknown.map(|word| finding(file, line, format!("the README does not name `{word}`"))).collect()
}
