//! Chaos: real processes, hundreds of real clients, a nemesis, a checker, and a report.
//!
//! ```text
//! cargo run --release --example chaos -- --minutes 10 --report chaos.md
//! cargo run --release --example chaos -- --minutes 10 --group-size 1000
//! cargo run --release --example chaos -- --check chaos.jsonl
//! ```
//!
//! What it is made of is that of the tests (`tests/chaos`). The first checks what it recorded itself; the second does so with
//! a group most of whose members come only when all is posted; the third checks a recorded history, of this program or of
//! any other that writes the same lines.

#![allow(clippy::expect_used, reason = "a broken promise is a panic")]
#![allow(clippy::print_stdout, reason = "a program for the command line")]

#[path = "../../tests/simulation/chance.rs"]
#[expect(dead_code, reason = "simulations draw more of it")]
mod chance;
#[path = "../../tests/chaos/checker.rs"]
mod checker;
#[path = "../../tests/chaos/cluster.rs"]
mod cluster;
#[path = "../../tests/chaos/history.rs"]
mod history;
#[path = "../../tests/chaos/judging.rs"]
mod judging;
#[path = "../../tests/chaos/nemesis.rs"]
mod nemesis;
#[path = "../../tests/chaos/person.rs"]
mod person;
#[path = "../../tests/chaos/proxy.rs"]
mod proxy;
#[path = "../../tests/chaos/recorder.rs"]
mod recorder;
#[path = "../../tests/chaos/report.rs"]
mod report;
#[path = "../../tests/chaos/run.rs"]
mod run;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use rand::Rng;

use run::Plan;

/// Lets a cluster of real processes fail in every way there is, while hundreds of clients chat, and looks for messages
/// that are lost, doubled or out of order
#[derive(Parser)]
struct Arguments {
    /// How long faults happen.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where the report goes; its pictures and the history go beside it.
    #[arg(long, default_value = "data/chaos.md")]
    report: PathBuf,
    /// What chance is drawn from; another one each time by default.
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=5))]
    nodes: u64,
    /// How many users; every fifth has two devices.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(2..=5_000))]
    users: u64,
    /// Messages a second, all users together.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Members of the largest groups; everybody is in one or two of at most twelve. With more than there are users, the
    /// others come only at the end, and get all that was posted.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(2..=1_024))]
    group_size: u64,
    /// Where the nodes' data and logs go; emptied first.
    #[arg(long, default_value = "data/chaos")]
    data: PathBuf,
    /// The program to test; by default it is built.
    #[arg(long)]
    rookery: Option<PathBuf>,
    /// Checks a recorded history instead.
    #[arg(long, conflicts_with_all = ["minutes", "seed", "nodes", "users", "rate", "group_size", "data", "rookery"])]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let judged = match &arguments.check {
        Some(history) => judging::judge(history, &arguments.report, None),
        None => play(&arguments),
    };
    match judged {
        Ok(judgement) => {
            println!("{judgement}");
            println!("report: {}", arguments.report.display());
            if judgement.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<judging::Judgement, String> {
    let program = match &arguments.rookery {
        Some(program) => program.clone(),
        None => build()?,
    };
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::rng().random::<u32>()));
    let dir = std::path::absolute(&arguments.data).map_err(|error| error.to_string())?;
    fresh(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let Arguments { minutes, nodes, users, rate, group_size, .. } = arguments;
    let command = format!(
        "cargo run --release --example chaos -- --minutes {minutes} --seed {seed} --nodes {nodes} \
         --users {users} --rate {rate} --group-size {group_size}"
    );
    println!("{command}");
    let few = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let plan = Plan {
        program,
        dir,
        history: arguments.report.with_extension("jsonl"),
        command,
        seed,
        nodes: few(*nodes),
        users: few(*users),
        rate: *rate,
        group_size: few(*group_size),
        lasts: Duration::from_secs_f64(minutes * 60.0),
    };
    if let Some(beside) = arguments.report.parent() {
        std::fs::create_dir_all(beside)
            .map_err(|error| format!("{}: {error}", beside.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let ended = runtime.block_on(run::run(&plan, |line| println!("{line}")));
    drop(runtime);
    judging::judge(&plan.history, &arguments.report, ended.err())
}

/// The program itself is not built with an example: cargo is asked to, or it must be there.
fn build() -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = here.parent().and_then(Path::parent).map(|dir| dir.join("rookery"));
    let program = program.ok_or("no directory for the program")?;
    if let (Some(cargo), Some(project)) =
        (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    {
        let mut build = Command::new(cargo);
        build.current_dir(project).args(["build", "--locked", "--bin", "rookery"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build.status().map_err(|error| error.to_string())?;
        if !built.success() {
            return Err("the program under test cannot be built".to_owned());
        }
    }
    if program.exists() {
        return Ok(program);
    }
    Err(format!(
        "{} is missing: `cargo build --release`, or name it with --rookery",
        program.display()
    ))
}

/// Where a run's own data goes: an empty directory.
fn fresh(dir: &Path) -> std::io::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)
}
