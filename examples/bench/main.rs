//! Bench: everything that is promised about speed and memory, measured on this machine with one command.
//!
//! It starts clusters and single nodes of its own, lets the load example talk to them in a process of its own, and writes
//! `bench.md` with a table, the goals beside it, and pictures. What an installed ejabberd does is measured in the same
//! run, side by side.
//!
//! ```text
//! cargo run --release --example bench -- --all
//! cargo run --release --example bench -- --all --quick
//! cargo run --release --example bench -- --only throughput,idle --runs 5
//! ```

#![allow(clippy::print_stdout, reason = "a program for the command line")]

mod ejabberd;
mod figures;
mod generator;
mod machine;
mod nodes;
mod parts;
#[path = "../../tests/chaos/report/pen.rs"]
mod pen;
mod plot;
mod report;
mod xmpp;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use actors::clock;
use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::parts::Part;
use self::report::{Page, Section};

/// Measures speed and memory of clusters that it starts itself, and writes a page about it.
///
/// One of --all and --only must be given. All of it takes about a quarter of an hour, with --quick three minutes.
#[derive(Parser)]
#[command(group = clap::ArgGroup::new("parts").required(true))]
struct Arguments {
    /// Measures everything.
    #[arg(long, group = "parts")]
    all: bool,
    /// Measures these parts.
    #[arg(long, group = "parts", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each figure is measured, 1 to 99 times; the median is told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// How many seconds a single measurement lasts, 0.5 to 600.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Each figure once, shorter, and fewer points: to see whether all is well, not to be quoted.
    #[arg(long, conflicts_with_all = ["runs", "seconds"])]
    quick: bool,
    /// Where page and pictures go; the nodes' data, too, while they run: it should be on the disk to be measured.
    #[arg(long, default_value = "data/bench")]
    out: PathBuf,
    /// The program to measure; by default it is built.
    #[arg(long)]
    rookery: Option<PathBuf>,
    /// The load example; by default it is built.
    #[arg(long)]
    load: Option<PathBuf>,
    /// Talks over the server at this port, whatever the parts: how this program starts itself. Not one of their group,
    /// or it would be in the usage.
    #[arg(long, hide = true)]
    xmpp: Option<u16>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.5..=600.0).contains(&value) { Ok(value) } else { Err("0.5 to 600 seconds".to_owned()) }
}

/// What all parts need to know.
pub(crate) struct Stage {
    pub(crate) rookery: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) runs: usize,
    pub(crate) seconds: f64,
    pub(crate) quick: bool,
    /// Files that each process may open.
    pub(crate) files: u64,
}

impl Stage {
    /// Says what is being done, on standard error.
    #[expect(clippy::unused_self, reason = "whoever is on a stage may speak")]
    pub(crate) fn say(&self, what: &str) {
        eprintln!("    {what}");
    }

    /// How many users can be connected of those wanted: each is a file to the generator, and a third of one to a node.
    pub(crate) fn users(&self, wanted: u64) -> u64 {
        wanted.min(self.files.saturating_sub(FILES_SPARE))
    }
}

/// Files for other things than users.
const FILES_SPARE: u64 = 512;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.xmpp {
        Some(port) => parts::talk(port, arguments.seconds).map(|()| true),
        None => run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False if a part could not be measured; that a goal was missed is no failure.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("{} cannot be made", arguments.out.display()))?;
    let stage = stage(arguments)?;
    let parts = if arguments.all { Part::ALL.to_vec() } else { arguments.only.clone() };
    let mut page = Page {
        command: command(arguments),
        runs: stage.runs,
        machine: machine::describe(),
        sections: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut whole, mut stopped) = (true, false);
    for (at, part) in parts.iter().enumerate() {
        eprintln!("[{}/{}] {}", at + 1, parts.len(), part.title());
        let begin = clock::monotonic();
        let found = runtime.block_on(async {
            tokio::select! {
                found = part.measure(&stage) => Some(found),
                _ = tokio::signal::ctrl_c() => None,
            }
        });
        let Some(found) = found else {
            stopped = true;
            break;
        };
        let seconds = begin.elapsed().as_secs_f64();
        let found = found.map_err(|error| format!("{error:#}"));
        match &found {
            Ok(found) => parts::tell(found),
            Err(why) => eprintln!("    failed: {why}"),
        }
        whole &= found.is_ok();
        page.sections.push(Section { title: part.title(), what: part.what(), found, seconds });
    }
    let path = page.write(&stage.out)?;
    println!("{}", path.display());
    anyhow::ensure!(!stopped, "stopped; what was measured before is in {}", path.display());
    Ok(whole)
}

fn stage(arguments: &Arguments) -> anyhow::Result<Stage> {
    let (rookery, load) = match (&arguments.rookery, &arguments.load) {
        (Some(rookery), Some(load)) => (rookery.clone(), load.clone()),
        (rookery, load) => {
            let built = build()?;
            let or = |given: &Option<PathBuf>, built: PathBuf| given.clone().unwrap_or(built);
            (or(rookery, built.0), or(load, built.1))
        }
    };
    for program in [&rookery, &load] {
        anyhow::ensure!(program.is_file(), "{} is missing", program.display());
    }
    Ok(Stage {
        rookery: std::path::absolute(rookery)?,
        load: std::path::absolute(load)?,
        out: std::path::absolute(&arguments.out)?,
        runs: if arguments.quick { 1 } else { usize::try_from(arguments.runs)? },
        seconds: if arguments.quick { 1.5 } else { arguments.seconds },
        quick: arguments.quick,
        files: raise_file_limit(),
    })
}

/// How to repeat it.
fn command(arguments: &Arguments) -> String {
    let mut command = "cargo run --release --example bench --".to_owned();
    if arguments.all {
        command += " --all";
    } else {
        let parts: Vec<String> = arguments.only.iter().map(|part| part.name()).collect();
        command += &format!(" --only {}", parts.join(","));
    }
    if arguments.quick {
        return command + " --quick";
    }
    command + &format!(" --runs {} --seconds {}", arguments.runs, arguments.seconds)
}

/// Neither the program itself nor another example is built with an example: cargo is asked to, or they must be there.
fn build() -> anyhow::Result<(PathBuf, PathBuf)> {
    let here = std::env::current_exe()?;
    let examples = here.parent().context("a program is somewhere")?;
    let target = examples.parent().context("an example is below its target directory")?;
    if let (Some(cargo), Some(project)) =
        (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    {
        let mut build = Command::new(cargo);
        build.current_dir(Path::new(&project));
        build.args(["build", "--locked", "--bin", "rookery", "--example", "load"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        anyhow::ensure!(build.status()?.success(), "rookery and its load example cannot be built");
    }
    Ok((target.join("rookery"), examples.join("load")))
}

/// Each user is a file to the kernel. Answers how many a process may have; children inherit it.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let reached = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = reached.unwrap_or(u64::MAX);
    if files < parts::FILES_WANTED {
        eprintln!(
            "a process may open {files} files here, {} are wanted (`ulimit -Hn`): fewer users are connected",
            parts::FILES_WANTED
        );
    }
    files
}
