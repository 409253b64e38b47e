//! Each rule on a bad sample that it must find, and on a good one that it must leave alone.

use crate::rules::{self, Finding, SourceFile};

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}

#[track_caller]
fn found(findings: &[Finding], places: &[&str]) {
    let actual: Vec<&str> = findings.iter().map(|finding| finding.place.as_str()).collect();
    assert_eq!(actual, places, "{findings:?}");
}

#[test]
fn an_import_against_the_table_is_found_with_its_line() {
    found(
        &rules::imports(&file("src/balance/lane.rs", "//! x\nuse crate::net::Peer;\n")),
        &["src/balance/lane.rs:2"],
    );
    found(
        &rules::imports(&file("src/terminal/mod.rs", "fn f() { crate::admin::page() }")),
        &["src/terminal/mod.rs:1"],
    );
    found(&rules::imports(&file("src/net/mod.rs", "use crate::app;")), &["src/net/mod.rs:1"]);
}

#[test]
fn imports_in_groups_are_seen_one_by_one() {
    let text = "use crate::{\n    balance::{Pool, proxy},\n    terminal,\n    net as wire,\n};\n";
    found(&rules::imports(&file("src/admin/mod.rs", text)), &["src/admin/mod.rs:3"]);
    found(
        &rules::imports(&file("src/proxy.rs", "use crate::{ self as us, simulator::Fault };")),
        &["src/proxy.rs:1"],
    );
}

#[test]
fn allowed_imports_comments_and_strings_are_left_alone() {
    let text = "// use crate::app\n/* crate::admin /* nested */ */\nuse crate::net::x;\nlet s = \"crate::admin\";\n\
                let r = r#\"crate::app \" \"#;\nlet c = '\"'; // crate::app\nfn f<'a>(x: &'a str) {}\n";
    found(&rules::imports(&file("src/terminal/view.rs", text)), &[]);
    found(&rules::imports(&file("src/app.rs", "use crate::{terminal, proxy};")), &[]);
    found(&rules::imports(&file("src/balance/pool.rs", "use crate::balance::lane::Lane;")), &[]);
}

#[test]
fn code_after_a_quote_character_or_a_lifetime_is_still_seen() {
    let text = "let c = '\"'; use crate::admin;\nfn f<'a, 'b>() { crate::app::run() }\nlet e = '\\''; crate::proxy::x();\n";
    found(
        &rules::imports(&file("src/net/a.rs", text)),
        &["src/net/a.rs:1", "src/net/a.rs:2", "src/net/a.rs:3"],
    );
}

#[test]
fn a_room_that_the_table_does_not_know_is_found() {
    found(&rules::known_room(&file("src/cache/mod.rs", "")), &["src/cache/mod.rs:1"]);
    found(&rules::known_room(&file("src/proxy/attempt.rs", "")), &[]);
    found(&rules::known_room(&file("src/main.rs", "")), &[]);
}

#[test]
fn line_701_is_one_too_many() {
    let path = "src/proxy/mod.rs";
    found(&rules::length(&file(path, &"x\n".repeat(rules::LONGEST_FILE))), &[]);
    found(&rules::length(&file(path, &"x\n".repeat(rules::LONGEST_FILE + 1))), &["src/proxy/mod.rs:701"]);
}

#[test]
fn switched_off_lints_and_unfinished_code_are_found() {
    let text = "#[allow(dead_code)]\n#![ allow (x)]\n#[cfg_attr(test, allow(y))]\ntodo!();\nunimplemented!()\nlet x = dbg!(1);\n";
    let places: Vec<String> = (1..=6).map(|line| format!("src/a.rs:{line}")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    found(&rules::forbidden_text(&file("src/a.rs", text)), &places);
    let fine = "#[expect(dead_code, reason = \"r\")]\n// todo!()\nlet s = \"dbg!\";\nmy_todo!();\n";
    found(&rules::forbidden_text(&file("src/a.rs", fine)), &[]);
}

#[test]
fn banned_words_are_found_in_paths_and_type_names() {
    found(&rules::names(&file("src/net/utils.rs", "")), &["src/net/utils.rs:1"]);
    found(&rules::names(&file("src/net/pool_manager.rs", "")), &["src/net/pool_manager.rs:1"]);
    let text = "\npub(crate) struct CircuitState;\nenum StreamHelper {}\nmod common {}\n";
    found(&rules::names(&file("src/a.rs", text)), &["src/a.rs:2", "src/a.rs:3", "src/a.rs:4"]);
    let fine = "struct Utilisation;\ntype Commons = u8;\n// struct Manager\n";
    found(&rules::names(&file("src/net/commonplace.rs", fine)), &[]);
}

#[test]
fn a_file_that_does_not_say_what_it_owns_is_found() {
    found(&rules::room_opening(&file("src/net/mod.rs", "use std::io;\n")), &["src/net/mod.rs:1"]);
    found(&rules::room_opening(&file("src/net/mod.rs", "//! Sockets.\n")), &[]);
}

#[test]
fn a_stranger_in_the_root_is_found() {
    found(&rules::root_entries(&["src", "notes.txt", "Cargo.toml"]), &["notes.txt:1"]);
}

#[test]
fn a_readme_without_its_two_commands_is_found() {
    found(&rules::readme("# Sidestep\n"), &["README.md:1", "README.md:1"]);
    found(&rules::readme("`cargo run --release -- demo`, `cargo test`"), &[]);
}

#[test]
fn a_word_that_the_readme_does_not_name_is_found_and_a_function_that_is_gone() {
    let text = "x\n    fn word() {\n        A => \"one\",\n        B => \"two\",\n    }\n    \"three\"\n";
    let documented = |opening, readme| rules::documented(&file("src/a.rs", text), opening, readme);
    found(&documented("fn word()", "`one` and `two`"), &[]);
    found(&documented("fn word()", "`one` and two"), &["src/a.rs:2"]);
    found(&documented("fn words()", "`one`, `two`"), &["src/a.rs:1"]);
    found(&rules::documented(&file("src/a.rs", "fn word() {\n}\n"), "fn word()", "``"), &["src/a.rs:1"]);
}
