//! The house rules that no lint knows (design.md 13): which room may import which, sizes, names, the root's entries.
//!
//! Every rule is a function from text to findings, so that each is also tried on a bad sample at the end of
//! `samples.rs`: a check that cannot fail is a defect.

mod rules;
mod samples;

use std::path::{Path, PathBuf};
use std::process::Command;

use rules::{Finding, SourceFile};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `src`, `tests` and `benches`, with paths relative to the root.
fn rust_files() -> Vec<SourceFile> {
    let mut pending: Vec<PathBuf> =
        ["src", "tests", "benches"].iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder of the repository is readable").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && name != "node_modules" {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
                let relative = path.strip_prefix(root()).expect("the file is below the root");
                files.push(SourceFile { path: relative.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[track_caller]
fn assert_tidy(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn each(check: fn(&SourceFile) -> Vec<Finding>) -> Vec<Finding> {
    let files = rust_files();
    assert!(
        files.iter().any(|file| file.path == "src/lib.rs"),
        "the scan found no src/lib.rs below {}",
        root().display()
    );
    files.iter().flat_map(check).collect()
}

#[test]
fn imports_point_one_way() {
    assert_tidy(&each(rules::imports));
}

#[test]
fn no_file_grows_beyond_700_lines() {
    assert_tidy(&each(rules::length));
}

#[test]
fn no_lint_is_switched_off_and_nothing_is_left_to_do() {
    assert_tidy(&each(rules::forbidden_text));
}

#[test]
fn files_and_types_are_named_after_the_domain() {
    assert_tidy(&each(rules::names));
}

#[test]
fn every_room_opens_by_saying_what_it_owns() {
    assert_tidy(&each(rules::room_opening));
}

#[test]
fn every_room_of_the_source_tree_stands_in_the_import_table() {
    assert_tidy(&each(rules::known_room));
}

#[test]
fn the_root_holds_only_what_belongs_there() {
    let Ok(output) = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output() else {
        return;
    };
    // Without git, or unpacked from a source archive, there is no list to check.
    if !output.status.success() || !root().join(".git").exists() {
        return;
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    let mut entries: Vec<&str> =
        listing.split('\0').filter(|path| !path.is_empty()).map(rules::first_segment).collect();
    entries.dedup();
    assert!(entries.contains(&"Cargo.toml"), "git lists no Cargo.toml: the check looked in the wrong place");
    assert_tidy(&rules::root_entries(&entries));
}

#[test]
fn the_readme_shows_the_first_run_and_the_tests() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap_or_default();
    assert_tidy(&rules::readme(&text));
}

#[test]
fn the_readme_names_every_word_that_operators_read() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap_or_default();
    let files = rust_files();
    let of = |(path, opening): &(&str, &str)| {
        let file =
            files.iter().find(|file| file.path == *path).expect("the table names a file that there is");
        rules::documented(file, opening, &readme)
    };
    assert_tidy(&rules::DOCUMENTED.iter().flat_map(of).collect::<Vec<_>>());
}
