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
    /// Seeds at once; as many as there are cores unless said.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => replay(seed, arguments.faults.as_deref()),
        None if arguments.planted => break_rules(),
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

/// A table, in Markdown, of what was broken and how soon it was noticed.
fn break_rules() -> ExitCode {
    if !cfg!(debug_assertions) {
        eprintln!(
            "note: a release has no rules that can be broken; without --release there are more"
        );
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    println!("| planted | within seeds | noticed in seed | by |\n|---|---|---|---|");
    for one in planted() {
        let (plant, within, _) = one;
        match noticed(one) {
            Some((seed, why)) => {
                let why = why.lines().next().unwrap_or_default().replace('|', "/");
                println!("| {plant:?} | {within} | {seed} | {why} |");
            }
            None => {
                println!("| {plant:?} | {within} | **never** | |");
                missed += 1;
            }
        }
    }
    ExitCode::from(u8::from(missed > 0))
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
    match result {
        Ok(summary) => {
            tell(&summary, begin.elapsed());
            if !summary.counts.nothing_is_missing() {
                eprintln!("note: so few seeds do not show everything: {:?}", summary.counts);
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("seed {}: {}", failure.seed, failure.why);
            eprintln!("play it again with: {}", failure.command());
            ExitCode::FAILURE
        }
    }
}

fn tell(summary: &Summary, took: Duration) {
    let virtual_s = summary.virtual_us as f64 / 1e6;
    let took = took.as_secs_f64();
    println!("{} seeds without a broken promise", summary.seeds);
    println!(
        "{:.1} simulated hours in {took:.0} s: {:.0} simulated seconds per second; {} steps",
        virtual_s / 3600.0,
        virtual_s / took,
        summary.steps
    );
    println!("{} messages sent; {:?}", summary.sends, summary.counts);
    let faults =
        TURNS.iter().zip(summary.faults).map(|((fault, _), count)| format!("{fault:?} {count}"));
    println!("faults: {}", faults.collect::<Vec<_>>().join(", "));
}
