//! House rules that a program can see: plaques, file sizes, pure rules, and who may know whom.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines, without its tests.
const LINES_MAX: usize = 500;

/// Longest file of tests: a list of promises is read one by one.
const TEST_LINES_MAX: usize = 800;

/// Files that may be longer, and how long: a ratchet, to be lowered and never raised.
const LONGER: &[(&str, usize)] = &[];

/// Which rooms a room of crate `actors` may name besides the leaves. Further down means nearer to the ground.
const ACTORS: &[(&str, &[&str])] = &[
    ("fuzzing", &["birth", "cluster", "mailbox", "shard", "store"]),
    ("node", &["birth", "cluster", "placement", "router", "shard", "store"]),
    ("router", &["birth", "cluster", "shard"]),
    ("birth", &["store"]),
    ("shard", &["cluster", "group", "mailbox", "restart", "router", "store", "user"]),
    ("mailbox", &["group", "shard"]),
    ("group", &[]),
    ("user", &[]),
    ("session", &[]),
    ("cluster", &["restart"]),
    ("store", &[]),
    ("placement", &[]),
    ("restart", &[]),
];

/// What every room of `actors` may name, each only those after it.
const LEAVES: &[&str] = &["packet", "message", "codec", "clock", "ids", "inbox", "mutant"];

/// Which rooms a room of the node may name.
const NODE: &[(&str, &[&str])] = &[
    ("fuzzing", &["auth", "client", "config", "gateway", "rest"]),
    ("cli", &[]),
    ("node", &["admin", "auth", "config", "gateway", "push", "rest"]),
    ("gateway", &["auth", "codes", "config", "shapes"]),
    ("admin", &["rest"]),
    ("rest", &["auth", "codes", "config", "shapes"]),
    ("client", &[]),
    ("push", &[]),
    ("auth", &["config"]),
    ("codes", &[]),
    ("shapes", &[]),
    ("config", &[]),
];

/// What pure rules never say: chance, time of their own, waiting, and orders that differ from run to run.
const IMPURE: &[&str] = &[
    "tokio",
    "ractor",
    "sled",
    "rand",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "async",
    "await",
    "thread",
    "metrics",
    "tracing",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "types", "manager", "misc"];

/// Words split in two, so that this file does not hold them.
const MACHINE: &[[&str; 2]] = &[
    ["/ro", "ot/"],
    ["/ho", "me/"],
    ["/Us", "ers/"],
    ["/wo", "rk/"],
    ["/t", "mp/"],
    ["index.crates", ".io"],
    ["static.crates", ".io"],
    ["registry.npm", "js.org"],
    ["pypi", ".org"],
    ["proxy.gol", "ang.org"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project below `folder`, as path from the root and text; binary files are left out.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            let inside = name.strip_prefix("fuzz/").unwrap_or(&name);
            let made = ["target", "data", ".git", "Cargo.lock", "artifacts", "corpus", "coverage"];
            if made.contains(&inside) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((name, text));
            }
        }
    }
    found
}

fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for folder in ["src", "actors", "examples", "fuzz", "tests", "benches"] {
        sources.extend(files(folder).into_iter().filter(|(name, _)| name.ends_with(".rs")));
    }
    assert!(sources.len() > 10, "the sources were not found");
    sources
}

/// The part before the inline tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The words of the code: without comments, split at everything that no name has.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

#[track_caller]
fn check(complaints: Vec<String>, what: &str) {
    assert!(complaints.is_empty(), "{what}:\n  {}", complaints.join("\n  "));
}

#[test]
fn every_file_begins_with_a_plaque() {
    let bare = sources().into_iter().filter(|(_, text)| {
        !text
            .lines()
            .next()
            .is_some_and(|line| line.len() > "//! ".len() && line.starts_with("//! "))
    });
    check(
        bare.map(|(name, _)| name).collect(),
        "the first line must be `//!` and say what the file is for",
    );
}

#[test]
fn no_file_grows_past_the_limit() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let lines = without_tests(&text).lines().count();
        let exception = LONGER.iter().find(|(long, _)| *long == name);
        let tests = name.contains("tests/") || name.ends_with("tests.rs");
        let usual = if tests { TEST_LINES_MAX } else { LINES_MAX };
        let limit = exception.map_or(usual, |(_, limit)| *limit);
        if lines > limit {
            complaints.push(format!("{name} has {lines} lines, {limit} are allowed"));
        }
        if exception.is_some() && lines <= usual {
            complaints.push(format!("{name} needs no exception any more"));
        }
    }
    check(complaints, "split these by what they do");
}

#[test]
fn rules_are_pure() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        if !name.ends_with("/rules.rs") && !name.contains("/rules/") {
            continue;
        }
        let said: BTreeSet<&str> =
            words(without_tests(&text)).filter(|word| IMPURE.contains(word)).collect();
        complaints.extend(said.into_iter().map(|word| format!("{name} says `{word}`")));
    }
    check(complaints, "rules decide; the actor around them acts");
}

/// The rooms of its own crate that a text names: what follows `crate::`, also inside braces.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join(" ");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => rooms.extend(first_name(rest)),
            Some(group) => rooms.extend(first_names(group)),
        }
    }
    rooms
}

fn first_name(path: &str) -> Option<String> {
    let name: String =
        path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// First names of the paths in a group, up to the brace that closes it.
fn first_names(group: &str) -> Vec<String> {
    let mut names = vec![first_name(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(first_name(&group[at + 1..])),
            _ => {}
        }
    }
    names.into_iter().flatten().collect()
}

/// Complaints about one crate: rooms that are not in the table, and rooms that name one they may not.
fn against(table: &[(&str, &[&str])], leaves: &[&str], folder: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, text) in files(folder) {
        let inside = name.strip_prefix(folder).unwrap().trim_start_matches('/');
        let room = inside.split(['/', '.']).next().unwrap();
        if matches!(inside, "lib.rs" | "main.rs") || !name.ends_with(".rs") {
            continue;
        }
        let allowed: Vec<&str> = match (
            leaves.iter().position(|leaf| *leaf == room),
            table.iter().find(|row| row.0 == room),
        ) {
            (Some(at), _) => leaves[at + 1..].to_vec(),
            (None, Some((_, rooms))) => rooms.iter().chain(leaves).copied().collect(),
            (None, None) => {
                complaints.push(format!(
                    "{name}: room `{room}` is missing in the table of tests/tidy.rs"
                ));
                continue;
            }
        };
        let known = |other: &str| leaves.contains(&other) || table.iter().any(|row| row.0 == other);
        for other in rooms_named(&text) {
            if known(&other) && other != room && !allowed.contains(&other.as_str()) {
                complaints.push(format!("{name}: `{room}` may not know `{other}`"));
            }
        }
    }
    complaints
}

#[test]
fn dependencies_point_down() {
    let mut complaints = against(ACTORS, LEAVES, "actors/src");
    complaints.extend(against(NODE, &[], "src"));
    check(complaints, "a lower room never names an upper one ");
}

#[test]
fn names_in_braces_are_seen() {
    let text = "use crate::{ids::{UserId, Cid}, store::Journal};\nfn f() { crate::mailbox::x() } // crate::user";
    let rooms: Vec<String> = rooms_named(text).into_iter().collect();
    assert_eq!(rooms, ["ids", "mailbox", "store"]);
}

#[test]
fn the_chat_has_never_heard_of_the_outside() {
    const OUTSIDE: &[&str] = &[
        "axum",
        "hyper",
        "serde_json",
        "rmp_serde",
        "clap",
        "tokio_tungstenite",
        "jsonwebtoken",
        "rookery",
    ];
    let mut complaints = Vec::new();
    for (name, text) in files("actors/src") {
        let said: BTreeSet<&str> = words(&text).filter(|word| OUTSIDE.contains(word)).collect();
        complaints.extend(said.into_iter().map(|word| format!("{name} says `{word}`")));
    }
    check(complaints, "crate `actors` knows no HTTP, WebSocket, JSON or command line");
}

#[test]
fn every_name_says_something() {
    let empty = sources().into_iter().map(|(name, _)| name).filter(|name| {
        name.trim_end_matches(".rs").split('/').any(|part| EMPTY_NAMES.contains(&part))
    });
    check(empty.collect(), "call it after what it does");
}

#[test]
fn nothing_depends_on_the_machine_it_was_written_on() {
    let mut complaints = Vec::new();
    for (name, text) in files("") {
        for word in MACHINE.iter().map(|halves| halves.concat()) {
            let lines = text.lines().enumerate().filter(|(_, line)| line.contains(&word));
            complaints.extend(lines.map(|(at, _)| format!("{name}:{} holds `{word}`", at + 1)));
        }
    }
    check(complaints, "no absolute paths and no registries");
}
