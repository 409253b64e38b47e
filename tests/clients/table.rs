//! Every client and every call, and the table of them that stands in the README.

use std::path::Path;
use std::process::Command;

use super::{root, run_suite, say};

/// Folder (with its own environment), interpreter in or for it, and the suite in `tests/clients`. Columns in this order.
const CLIENTS: [(&str, &str, &str); 9] = [
    ("python", ".venv/bin/python", "python/matrix_suite.py"),
    ("openai-1", ".venv/bin/python", "python/matrix_suite.py"),
    ("javascript", "node", "openai.mjs"),
    ("javascript-4", "node", "openai.mjs"),
    ("langchain", ".venv/bin/python", "langchain/suite.py"),
    ("semantic-kernel", ".venv/bin/python", "semantic-kernel/suite.py"),
    ("litellm", ".venv/bin/python", "litellm/suite.py"),
    ("vercel-ai", "node", "vercel-ai/suite.mjs"),
    ("curl", "python3", "curl/suite.py"),
];
const BEGIN: &str = "<!-- clients: written by tests/clients -->\n";
const END: &str = "<!-- clients end -->";

#[expect(
    clippy::disallowed_methods,
    reason = "a test binary has no settings: the environment says what is wanted"
)]
fn wanted(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Client, version, call, verdict.
type Cell = [String; 4];

fn cells(folder: &str, interpreter: &str, suite: &str) -> Vec<Cell> {
    let clients = root().join("tests/clients");
    let own = clients.join(folder).join(interpreter);
    let program = if interpreter.contains('/') { own } else { interpreter.into() };
    let mut command = Command::new(program);
    command.current_dir(clients.join(folder)).arg(clients.join(suite)).env("PYTHONUNBUFFERED", "1");
    let printed = run_suite(command);
    let cells = printed.lines().filter_map(|line| {
        let mut parts = line.strip_prefix("cell|")?.split('|').map(str::to_owned);
        Some([parts.next()?, parts.next()?, parts.next()?, parts.next()?])
    });
    cells.collect()
}

fn table(cells: &[Cell]) -> String {
    let (mut clients, mut calls) = (Vec::new(), Vec::new());
    for [client, version, call, _] in cells {
        let column = (client, version);
        if !clients.contains(&column) {
            clients.push(column);
        }
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    let heads =
        clients.iter().map(|(client, version)| format!(" {} |", format!("{client} {version}").trim_end()));
    let mut text = format!("| |{}\n|---|{}\n", heads.collect::<String>(), "---|".repeat(clients.len()));
    for call in calls {
        let row = clients.iter().map(|(client, version)| {
            let offered = cells.iter().any(|cell| cell[..3] == [*client, *version, call].map(String::as_str));
            if offered { " ✓ |" } else { " – |" }
        });
        text.push_str(&["| ", call, " |", &row.collect::<String>(), "\n"].concat());
    }
    text
}

#[track_caller]
fn compare_with_readme(path: &Path, table: &str) {
    let readme = std::fs::read_to_string(path).expect("the README stands there");
    let begin = readme.find(BEGIN).expect("the README has a place for the table") + BEGIN.len();
    let end = readme.find(END).expect("the place has an end");
    if wanted("SIDESTEP_CLIENTS_TABLE") == "write" {
        let text = [&readme[..begin], table, &readme[end..]].concat();
        std::fs::write(path, text).expect("the README is writable");
        return;
    }
    assert_eq!(
        &readme[begin..end],
        table,
        "run again with SIDESTEP_CLIENTS_TABLE=write to renew the README's table"
    );
}

#[test]
fn every_call_that_a_client_offers_arrives_though_the_first_backend_throttles() {
    let wanted = wanted("SIDESTEP_CLIENTS");
    let all = wanted == "all";
    let chosen = CLIENTS.iter().filter(|(folder, ..)| all || wanted.split(',').any(|name| name == *folder));
    let cells: Vec<Cell> =
        chosen.flat_map(|(folder, interpreter, suite)| cells(folder, interpreter, suite)).collect();
    let failed: Vec<&Cell> = cells.iter().filter(|cell| cell[3] != "pass").collect();
    assert!(failed.is_empty(), "{failed:?}");
    if !all {
        say(
            "SIDESTEP_CLIENTS=all runs every client, after tests/clients/install, and looks at the README's table",
        );
        return;
    }
    let table = table(&cells);
    let file = root().join("target/clients.md");
    std::fs::write(file, &table).expect("the target folder is writable");
    compare_with_readme(&root().join("README.md"), &table);
}
