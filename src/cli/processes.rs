//! Processes: the nodes that `rookery dev` has started, each in a process of its own.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinSet;

/// The processes that run, by node.
#[derive(Default)]
pub(crate) struct Processes {
    living: BTreeMap<String, Process>,
    exits: JoinSet<Exit>,
}

struct Process {
    pid: u32,
    /// Its end of file is how an orphaned node learns that it is one.
    _stdin: Option<ChildStdin>,
}

/// A process that has ended.
pub(crate) struct Exit {
    /// The node it was.
    pub(crate) name: String,
    /// Its number while it lived.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) status: std::io::Result<ExitStatus>,
}

impl Processes {
    /// Starts a node; what it logs is added to `log`.
    pub(crate) fn start(&mut self, name: &str, config: &Path, log: &Path) -> std::io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = Command::new(program()?)
            .arg("node")
            .arg("--config")
            .arg(config)
            .args(["--name", name, "--exit-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for `dev`, which stops its nodes in order.
            .process_group(0)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        let process = Process { pid, _stdin: child.stdin.take() };
        self.living.insert(name.to_owned(), process);
        let name = name.to_owned();
        self.exits.spawn(async move { Exit { name, pid, status: child.wait().await } });
        Ok(())
    }

    /// Waits for the next process that ends; for ever when none runs.
    pub(crate) async fn exited(&mut self) -> Exit {
        loop {
            match self.exits.join_next().await {
                Some(Ok(exit)) => {
                    self.living.remove(&exit.name);
                    return exit;
                }
                Some(Err(error)) => tracing::error!(%error, "lost sight of a process"),
                None => std::future::pending::<()>().await,
            }
        }
    }

    /// How many run.
    pub(crate) fn count(&self) -> usize {
        self.living.len()
    }

    /// Whether this node's process runs.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.living.contains_key(name)
    }

    /// Sends a signal to each that runs.
    pub(crate) fn signal(&self, signal: Signal) {
        for process in self.living.values() {
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
            // It may be gone already; then `exited` says so.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }
}

/// The program to start: this one.
fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// Says how a process ended, as part of a sentence.
pub(crate) fn ending(status: &std::io::Result<ExitStatus>) -> String {
    match status {
        Err(error) => format!("ended in an unknown way ({error})"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}{}", signal_name(signal)),
            (None, None) => "ended".to_owned(),
        },
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
