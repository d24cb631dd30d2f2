//! Command line: what an operator types, and what the shell gets back.
//!
//! Owns      the arguments of every command and the meaning of every exit code.
//! Promises  0 stopped as asked, 1 it did not work (or is not well), 2 bad configuration or arguments,
//!           3 data directory refused; every error says what to do next.
//! Never     decides anything about chat: it starts nodes, asks them and prints.
//! Fails by  exiting; `dev` takes its nodes with it, and a node whose `dev` was killed stops by itself.

mod check;
mod dev;
mod http;
mod node;
mod processes;
mod signals;
mod status;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Why a command ended badly: what to print, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It did not work.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// The configuration or the arguments are wrong.
    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// It did not work, and this code says how.
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What is printed: each line is an error of its own, but those that are indented belong to the one before.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.message.lines().map(|line| match line.starts_with(' ') {
            true => line.to_owned(),
            false => format!("error: {line}"),
        })
    }
}

/// What every command returns.
pub(crate) type Outcome = Result<(), Failure>;

#[derive(Parser)]
#[command(name = "rookery", version, about = "A self-hosted chat cluster.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster on this machine: one process per node, on loopback.
    Dev(Dev),
    /// Run one node in the foreground.
    Node(Node),
    /// Read a configuration and say what is wrong with it.
    Check {
        /// The configuration, usually cluster.toml.
        config: PathBuf,
    },
    /// Show nodes, shards and leaders; exits 1 while something is missing.
    Status(Status),
    /// Print a token for a user.
    Token(Token),
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Dev {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// How many nodes, 1 to 25 [default: 3, or as many as the data directory has].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=25))]
    nodes: Option<u16>,
    #[command(flatten)]
    place: DevPlace,
    /// Throw the data of earlier runs away first.
    #[arg(long)]
    fresh: bool,
}

#[derive(Subcommand)]
enum DevCommand {
    /// Start one node of the development cluster again, in the foreground.
    Start {
        /// The node: a, b, c …
        node: String,
        #[command(flatten)]
        place: DevPlace,
    },
}

#[derive(Args, Clone)]
struct DevPlace {
    /// Clients' port of the first node, 1 to 65000; the next ones have the ports after it, the operator's are 100 higher.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65000))]
    port: u16,
    /// Where the configuration, the logs and the nodes' data are.
    #[arg(long, default_value = "./data/dev")]
    data: PathBuf,
}

#[derive(Args)]
struct Node {
    /// The cluster's configuration.
    #[arg(long)]
    config: PathBuf,
    /// Which of its nodes to be.
    #[arg(long)]
    name: String,
    /// Stop when standard input ends: `dev` holds the other end, so its death is noticed.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

#[derive(Args)]
struct Status {
    /// Operator's address of a node (repeatable; the first that answers is used) [default: those of `rookery dev`].
    #[arg(long)]
    url: Vec<String>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Token {
    /// The cluster's configuration, which holds the secret that signs.
    #[arg(long)]
    config: PathBuf,
    /// The user the token is for.
    #[arg(long)]
    user: String,
    /// How many days it is good for, 1 to 3650.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

/// Runs the command that was typed.
pub(crate) fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Dev(dev) => run_dev(dev),
        Command::Node(node) => node::run(&node.config, &node.name, node.exit_with_stdin),
        Command::Check { config } => check::run(&config),
        Command::Status(status) => status::run(&status.url, status.json),
        Command::Token(token) => token::run(&token.config, &token.user, token.days),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.lines().for_each(|line| eprintln!("{line}"));
            ExitCode::from(failure.code)
        }
    }
}

fn run_dev(dev: Dev) -> Outcome {
    match dev.command {
        None => dev::run(&dev::Place::new(dev.place.port, &dev.place.data), dev.nodes, dev.fresh),
        Some(DevCommand::Start { node, place }) => {
            dev::start(&dev::Place::new(place.port, &place.data), &node)
        }
    }
}

/// Prints a line for the shell.
#[expect(clippy::print_stdout, reason = "the command line is what talks to people")]
pub(crate) fn say(line: impl std::fmt::Display) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Arguments, Failure};

    #[test]
    fn each_line_is_an_error_and_what_is_indented_belongs_to_it() {
        let failure = Failure::new("a: wrong\nb: wrong\n  see there\n");
        let lines: Vec<String> = failure.lines().collect();
        assert_eq!(lines, ["error: a: wrong", "error: b: wrong", "  see there"]);
        assert_eq!(Failure::new("").lines().count(), 0);
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
