//! `rookery dev`: a whole cluster on this machine, one process per node.
//!
//! Promises  one line `ready <url> …` on standard output when every shard has a leader and every node serves;
//!           all nodes stop when it is asked to stop, and also when it is killed.
//! Never     restarts a node that died: whoever plays with failures wants to see them.

mod place;

use std::time::Duration;

use rookery::config::{Config, Node};
use rustix::process::Signal;

pub(crate) use place::Place;

use super::processes::{Exit, Processes, ending};
use super::signals::StopSignals;
use super::{Failure, Outcome, http, node, say, status};

/// How often the nodes are asked whether they are ready.
const POLL: Duration = Duration::from_millis(50);

/// How long a node may take to answer that.
const POLL_WITHIN: Duration = Duration::from_secs(1);

/// After how long without being ready one says what is being waited for, each time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node may need to stop beyond the time it gives its clients.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Runs the cluster until it is asked to stop.
pub(crate) fn run(place: &Place, nodes: Option<u16>, fresh: bool) -> Outcome {
    let _lock = place.lock()?;
    if fresh {
        place.clear()?;
    }
    let config = place.configuration(nodes)?;
    place.check_ports(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut signals = StopSignals::listen()
            .map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
        let mut cluster = DevCluster { place, config: &config, processes: Processes::default() };
        let ended = match cluster.start_all() {
            Ok(()) => cluster.attend(&mut signals).await,
            failed => failed,
        };
        cluster.stop(&mut signals).await;
        cluster.tell_of_others().await;
        ended
    })
}

/// Runs one node of it again, in the foreground.
pub(crate) fn start(place: &Place, name: &str) -> Outcome {
    place.check_started_before()?;
    node::run(&place.config_file(), name, false)
}

struct DevCluster<'a> {
    place: &'a Place,
    config: &'a Config,
    processes: Processes,
}

impl<'a> DevCluster<'a> {
    fn start_all(&mut self) -> Outcome {
        for node in &self.config.nodes {
            let name = &node.name;
            let log = self.place.log_file(name);
            self.processes.start(name, &self.place.config_file(), &log).map_err(|error| {
                Failure::new(format!("cannot start node {name} (log {}): {error}", log.display()))
            })?;
            eprintln!("node {name}: {}, log {}", node.url, log.display());
        }
        Ok(())
    }

    /// Watches over the nodes until a signal asks to stop.
    async fn attend(&mut self, signals: &mut StopSignals) -> Outcome {
        let started = actors::clock::monotonic();
        let mut waiting = tokio::time::interval(POLL);
        waiting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ready = false;
        let mut complained = 1;
        loop {
            let running = self.running();
            let probe = async {
                waiting.tick().await;
                obstacle(&running).await
            };
            tokio::select! {
                () = signals.received() => return Ok(()),
                exit = self.processes.exited() => self.bury(&exit, ready)?,
                obstacle = probe, if !ready => match obstacle {
                    None => {
                        self.announce();
                        ready = true;
                    }
                    Some(obstacle) if started.elapsed() >= PATIENCE * complained => {
                        eprintln!("not ready after {} s: {obstacle}", started.elapsed().as_secs());
                        complained += 1;
                    }
                    Some(_) => {}
                },
            }
        }
    }

    fn running(&self) -> Vec<&'a Node> {
        self.config.nodes.iter().filter(|node| self.processes.runs(&node.name)).collect()
    }

    fn announce(&self) {
        let urls: Vec<&str> = self.config.nodes.iter().map(|node| node.url.as_str()).collect();
        say(format_args!("ready {}", urls.join(" ")));
        let admin: Vec<String> = self.config.nodes.iter().map(|node| node.admin_url()).collect();
        eprintln!("operator's addresses: {}; Ctrl-C stops all nodes", admin.join(" "));
    }

    /// Tells of a node that ended; before the cluster was ready, too many of these end it.
    fn bury(&self, exit: &Exit, ready: bool) -> Outcome {
        let (name, log) = (&exit.name, self.place.log_file(&exit.name));
        let how = ending(&exit.status);
        eprintln!("node {name} (pid {}) {how}; its log is {}", exit.pid, log.display());
        if !ready && self.processes.count() <= self.config.nodes.len() / 2 {
            eprint!("{}", place::tail(&log));
            let code = exit.status.as_ref().ok().and_then(std::process::ExitStatus::code);
            let code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
            return Err(Failure::with_code(
                code.unwrap_or(1),
                format!("the cluster did not start: node {name} {how}"),
            ));
        }
        eprintln!("start it again with: {}", self.place.start_command(name));
        Ok(())
    }

    /// Names the nodes that go on, for they were started by hand.
    async fn tell_of_others(&self) {
        for node in &self.config.nodes {
            if let Ok((_, view)) = status::ask(&node.admin_url(), POLL_WITHIN).await {
                let known = view.nodes.iter().find(|known| known.name == node.name);
                let pid = known.and_then(|known| known.pid);
                let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                eprintln!("node {}{pid}, started by hand, goes on", node.name);
            }
        }
    }

    /// Asks all nodes to stop, and makes those stop that take too long or when asked again.
    async fn stop(&mut self, signals: &mut StopSignals) {
        if self.processes.count() == 0 {
            return;
        }
        eprintln!("stopping {}", super::check::plural(self.processes.count(), "node"));
        self.processes.signal(Signal::TERM);
        let deadline = tokio::time::sleep(self.config.process.drain_timeout + STOP_GRACE);
        tokio::pin!(deadline);
        let mut forced = false;
        while self.processes.count() > 0 {
            tokio::select! {
                _ = self.processes.exited() => {}
                () = signals.received(), if !forced => forced = true,
                () = &mut deadline, if !forced => forced = true,
            }
            if forced && self.processes.count() > 0 {
                eprintln!("not waiting any longer");
                self.processes.signal(Signal::KILL);
            }
        }
    }
}

/// Says why the cluster is not ready yet; `None` when it is. Nodes that ended are not asked.
async fn obstacle(running: &[&Node]) -> Option<String> {
    let mut unled = None;
    let mut silent = Vec::new();
    for node in running {
        match status::ask(&node.admin_url(), POLL_WITHIN).await {
            Ok((_, view)) if view.shards.is_empty() => silent.push(node.name.as_str()),
            Ok((_, view)) if status::leaderless(&view) == 0 => {}
            Ok((_, view)) => unled = Some((&node.name, status::leaderless(&view))),
            Err(_) => silent.push(node.name.as_str()),
        }
    }
    if !silent.is_empty() {
        return Some(format!("no answer from {}", silent.join(", ")));
    }
    if let Some((name, count)) = unled {
        return Some(format!("node {name} knows no leader of {count} shards"));
    }
    for node in running {
        match http::get(&node.url, "/readyz", POLL_WITHIN).await {
            Ok((status, _)) if status.is_success() => {}
            _ => return Some(format!("node {} does not say it is ready", node.name)),
        }
    }
    None
}
