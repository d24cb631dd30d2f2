//! Counts: how many instructions each piece of a message's way takes, which does not depend on the machine's mood.
//!
//! ```text
//! cargo bench --bench counts
//! ```
//!
//! Callgrind (of `valgrind`, which must be installed) counts this program twice for each piece, once doing it more often;
//! the difference is the piece.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "strokes/mod.rs"]
mod strokes;

use std::process::{Command, ExitCode};

/// As a node has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Before what is counted begins, to fill caches and buffers.
const LESS: u64 = 512;
const MORE: u64 = 1_536;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (name, times) = (arguments.next(), arguments.next());
    match (name, times.and_then(|times| times.parse().ok())) {
        (Some(name), Some(times)) => repeat(&name, times),
        (name, _) => count(name.as_deref().unwrap_or_default()),
    }
}

/// What callgrind watches.
fn repeat(name: &str, times: u64) -> ExitCode {
    let found = strokes::all().into_iter().find(|stroke| stroke.name == name);
    let Some(mut stroke) = found else {
        eprintln!("there is no `{name}`");
        return ExitCode::FAILURE;
    };
    (0..times).for_each(|_| (stroke.run)());
    ExitCode::SUCCESS
}

/// Counts all pieces whose name has these words in it.
fn count(words: &str) -> ExitCode {
    println!("| piece | instructions per message |\n|---|---:|");
    for stroke in strokes::all().iter().filter(|stroke| stroke.name.contains(words)) {
        match (instructions(stroke.name, LESS), instructions(stroke.name, MORE)) {
            (Ok(less), Ok(more)) => {
                let each = more.saturating_sub(less) / (MORE - LESS) / stroke.messages;
                println!("| {} | {each} |", stroke.name);
            }
            (Err(why), _) | (_, Err(why)) => {
                eprintln!("{}: {why}", stroke.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn instructions(name: &str, times: u64) -> Result<u64, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(this).args([name, &times.to_string()]);
    let output = valgrind.output().map_err(|error| format!("valgrind cannot be run: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected :"));
    let collected = collected.and_then(|(_, count)| count.trim().parse().ok());
    collected.filter(|_| output.status.success()).ok_or_else(|| told.into_owned())
}
