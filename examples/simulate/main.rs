//! A campaign of simulated clusters: seeds, replays, planted faults, and a report.
//!
//! The simulation itself is that of the tests (`tests/simulation`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a panic")]
#![allow(clippy::print_stdout, reason = "a program for the command line")]

#[path = "../../tests/simulation/around.rs"]
mod around;
#[path = "../../tests/simulation/campaign.rs"]
mod campaign;
#[path = "../../tests/simulation/chance.rs"]
mod chance;
#[path = "../../tests/simulation/clients.rs"]
mod clients;
#[path = "../../tests/simulation/clubs.rs"]
mod clubs;
#[path = "../../tests/simulation/disk.rs"]
mod disk;
#[path = "../../tests/simulation/faults.rs"]
mod faults;
#[path = "../../tests/simulation/host.rs"]
mod host;
#[path = "../../tests/simulation/network.rs"]
mod network;
#[path = "../../tests/simulation/oracle.rs"]
mod oracle;
#[path = "../../tests/simulation/storing.rs"]
mod storing;
#[path = "../../tests/simulation/turns.rs"]
mod turns;
#[path = "../../tests/simulation/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use actors::clock;
use around::Plant;
use campaign::{Summary, all_but, campaign, noticed, outcome, planted};
use clap::Parser;
use faults::TURNS;
use world::Scenario;

/// Simulates whole clusters with faults, one for each seed, and looks for broken promises
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plays this seed only, and tells each fault as it happens.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: only these faults happen, by number.
    #[arg(long, value_delimiter = ',', requires = "seed")]
    faults: Option<Vec<String>>,
    /// Breaks rules on purpose instead, one after the other, and tells in which seed each was noticed.
    #[arg(long)]
    planted: bool,
    /// Does both, and writes what came of it to this file, as Markdown.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "planted"])]
    report: Option<PathBuf>,
    /// Seeds at once; as many as there are cores unless said.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => replay(seed, arguments.faults.as_deref()),
        None if arguments.planted => {
            let (table, missed) = break_rules();
            println!("{table}");
            ExitCode::from(u8::from(missed))
        }
        None => many(&arguments),
    }
}

fn replay(seed: u64, faults: Option<&[String]>) -> ExitCode {
    let numbers = |faults: &[String]| {
        let given = faults.iter().filter(|fault| !fault.is_empty());
        given.map(|fault| fault.parse()).collect::<Result<Vec<u64>, _>>()
    };
    let faults = match faults.map(numbers).transpose() {
        Ok(faults) => faults,
        Err(error) => {
            eprintln!("error: --faults takes numbers such as 3,5 ({error})");
            return ExitCode::from(2);
        }
    };
    let skip = faults.map(|faults| all_but(&faults)).unwrap_or_default();
    let scenario = Scenario { skip, told: true, ..Scenario::new(seed, Plant::Nothing) };
    match outcome(&scenario) {
        Ok(report) => {
            println!("seed {seed}: all promises held; {report:?}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("seed {seed}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A table, in Markdown, of what was broken and how soon it was noticed, and whether something never was.
fn break_rules() -> (String, bool) {
    if !cfg!(debug_assertions) {
        eprintln!(
            "note: in a release only what is around the rules is broken (links, disks, clients and so on); \
             without --release the rules are, too"
        );
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = false;
    let row = |one| {
        let (plant, within, _) = one;
        let Some((seed, why)) = noticed(one) else {
            missed = true;
            return format!("| {plant:?} | {within} | **never** | |");
        };
        let why = why.lines().next().unwrap_or_default().replace('|', "/");
        format!("| {plant:?} | {within} | {seed} | {why} |")
    };
    let rows: Vec<String> = planted().into_iter().map(row).collect();
    drop(std::panic::take_hook());
    let head = "| planted | within seeds | noticed in seed | by |\n|---|---|---|---|";
    (format!("{head}\n{}", rows.join("\n")), missed)
}

fn many(arguments: &Arguments) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let begin = clock::monotonic();
    let every = (arguments.seeds / 20).max(1);
    let progress = |summary: &Summary| {
        if summary.seeds.is_multiple_of(every) {
            eprintln!("{} seeds, {:.0} s", summary.seeds, begin.elapsed().as_secs_f64());
        }
    };
    // A seed that fails says so once, at the end.
    std::panic::set_hook(Box::new(|_| {}));
    let result = campaign(seeds, arguments.threads.unwrap_or(cores), progress);
    drop(std::panic::take_hook());
    let found = match &result {
        Ok(summary) => {
            if !summary.counts.nothing_is_missing() {
                eprintln!("note: so few seeds do not show everything: {:?}", summary.counts);
            }
            told(summary, begin.elapsed())
        }
        Err(failure) => {
            let (seed, why, command) = (failure.seed, &failure.why, failure.command());
            format!("seed {seed}: {why}\nplay it again with: {command}")
        }
    };
    println!("{found}");
    let mut failed = result.is_err();
    if let Some(file) = &arguments.report {
        let (table, missed) = break_rules();
        failed |= missed;
        if let Err(error) = write_report(file, &found, &table) {
            eprintln!("error: {}: {error}", file.display());
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}

fn write_report(file: &Path, found: &str, table: &str) -> std::io::Result<()> {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let profile = if cfg!(debug_assertions) { "" } else { "--release " };
    let fewer = match cfg!(debug_assertions) {
        true => "",
        false => {
            " In a release only what is around the rules is broken: without `--release` the rules are, too."
        }
    };
    let text = format!(
        "# Simulation\n\nMade with `cargo run {profile}--example simulate -- {command}`.\n\n\
         ## Nothing broken\n\n```text\n{found}\n```\n\n\
         ## Rules broken on purpose\n\nEach must be noticed within so many seeds, counted from 0.{fewer}\n\n{table}\n"
    );
    std::fs::write(file, text)
}

fn told(summary: &Summary, took: Duration) -> String {
    let virtual_s = summary.virtual_us as f64 / 1e6;
    let took = took.as_secs_f64();
    let faults =
        TURNS.iter().zip(summary.faults).map(|((fault, _), count)| format!("{fault:?} {count}"));
    [
        format!("{} seeds without a broken promise", summary.seeds),
        format!(
            "{:.1} simulated hours in {took:.0} s: {:.0} simulated seconds per second; {} steps",
            virtual_s / 3600.0,
            virtual_s / took,
            summary.steps
        ),
        format!("{} messages sent; {:?}", summary.sends, summary.counts),
        format!("faults: {}", faults.collect::<Vec<_>>().join(", ")),
    ]
    .join("\n")
}
