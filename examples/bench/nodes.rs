//! Nodes: a cluster of real processes on loopback, in a directory of its own, which never outlives the measurement.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use actors::clock;
use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rand::Rng;
use rookery::admin::ClusterView;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Stage;

pub(crate) const SECRET: &str = "bench-only-bench-only-bench-only-bench-only";
pub(crate) const NAME: &str = "bench";
/// How long a cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take until the leaders are spread; then it is measured as it is.
const SPREAD_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// What the kernel counts processor time in; the same on all Linux since it is part of its interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// The nodes of one measurement.
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    dir: TempDir,
}

struct Node {
    name: String,
    client: u16,
    admin: u16,
    process: Option<Child>,
}

/// Resident memory of all nodes together, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    /// What they share is counted once.
    pub(crate) pss: f64,
}

impl Nodes {
    /// Starts so many nodes with default settings, and waits until they serve.
    pub(crate) async fn start(stage: &Stage, count: usize) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix_in("nodes-", &stage.out)?;
        let ports = free_ports(3 * count)?;
        let mut nodes: Vec<Node> = Vec::new();
        for place in 0..count {
            let name = char::from(b'a' + u8::try_from(place)?).to_string();
            let (client, admin) = (ports[3 * place], ports[3 * place + 1]);
            nodes.push(Node { name, client, admin, process: None });
        }
        let config = dir.path().join("cluster.toml");
        fs::write(&config, settings(&nodes, &ports, dir.path())?)?;
        let mut cluster = Self { nodes, dir };
        for place in 0..count {
            cluster.launch(stage, &config, place)?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    fn launch(&mut self, stage: &Stage, config: &Path, place: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[place];
        let log = fs::File::create(self.dir.path().join(format!("{}.log", node.name)))?;
        let mut command = Command::new(&stage.rookery);
        command.arg("node").arg("--config").arg(config);
        // Its end of file is how a node learns that nobody measures it any more, whatever happened to this program.
        command.args(["--name", &node.name, "--exit-with-stdin"]).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", stage.rookery.display()))?;
        node.process = Some(child);
        Ok(())
    }

    /// Waits until every shard has a leader, every node serves, and each leads about as many shards.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let begin = clock::monotonic();
        let mut served = None;
        loop {
            self.check_living()?;
            let view = self.view(0).await;
            let led = view.as_ref().is_some_and(|view| {
                !view.shards.is_empty() && view.shards.iter().all(|shard| shard.leader.is_some())
            });
            if led && self.serve().await {
                let since = *served.get_or_insert_with(clock::monotonic);
                let fair = view.as_ref().map_or(0, |view| view.shards.len() / self.nodes.len());
                let spread = view
                    .is_some_and(|view| view.nodes.iter().all(|n| n.leads as usize >= fair / 2));
                if spread || since.elapsed() > SPREAD_WITHIN {
                    return Ok(());
                }
            }
            anyhow::ensure!(
                begin.elapsed() < READY_WITHIN,
                "the nodes do not serve after {} s: {}",
                READY_WITHIN.as_secs(),
                self.last_words()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn serve(&self) -> bool {
        for node in &self.nodes {
            if get(node.client, "/readyz").await.is_none() {
                return false;
            }
        }
        true
    }

    fn check_living(&mut self) -> anyhow::Result<()> {
        let mut dead = None;
        for node in &mut self.nodes {
            let process = node.process.as_mut();
            if let Some(Ok(Some(status))) = process.map(Child::try_wait) {
                dead = Some((node.name.clone(), status));
            }
        }
        match dead {
            Some((name, status)) => {
                anyhow::bail!("node {name} ended ({status}): {}", self.last_words())
            }
            None => Ok(()),
        }
    }

    /// The last line of each log, since the directory will be gone.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for node in &self.nodes {
            let log = fs::read_to_string(self.dir.path().join(format!("{}.log", node.name)));
            let log = log.unwrap_or_default();
            let _ = write!(words, "\n  {}: {}", node.name, log.lines().last().unwrap_or("-"));
        }
        words
    }

    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> =
            self.nodes.iter().map(|node| format!("http://127.0.0.1:{}", node.client)).collect();
        urls.join(",")
    }

    async fn view(&self, place: usize) -> Option<ClusterView> {
        serde_json::from_slice(&get(self.nodes[place].admin, "/admin/cluster").await?).ok()
    }

    /// The node that leads most shards.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        let view = self.view(0).await.context("a node does not answer its operator")?;
        let leads = |name: &str| {
            view.nodes.iter().find(|node| node.name == name).map_or(0, |node| node.leads)
        };
        let most = (0..self.nodes.len()).max_by_key(|place| leads(&self.nodes[*place].name));
        most.context("no nodes")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, place: usize) -> anyhow::Result<()> {
        if let Some(process) = &mut self.nodes[place].process {
            process.start_kill()?;
        }
        Ok(())
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()?.id())
    }

    /// Processor time of all nodes until now, in seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let mut ticks = 0.0;
        for pid in self.pids() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name, in brackets, may hold anything; user and system time are 12th and 13th behind it.
            let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
            let times = behind.split_whitespace().skip(11).take(2);
            ticks += times.filter_map(|time| time.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(ticks / TICKS_PER_SECOND)
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let mut memory = Memory { rss: 0.0, pss: 0.0 };
        for pid in self.pids() {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            memory.rss += kib(&rollup, "Rss:") * 1_024.0;
            memory.pss += kib(&rollup, "Pss:") * 1_024.0;
        }
        Ok(memory)
    }
}

fn kib(rollup: &str, key: &str) -> f64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

fn settings(nodes: &[Node], ports: &[u16], dir: &Path) -> Result<String, std::fmt::Error> {
    let mut text = format!(
        "[cluster]\nname = \"{NAME}\"\ncookie = \"{SECRET}\"\n\n[auth]\ntoken_secret = \"{SECRET}\"\n"
    );
    for (place, node) in nodes.iter().enumerate() {
        let data = toml::Value::String(dir.join(&node.name).to_string_lossy().into_owned());
        write!(
            text,
            "\n[[node]]\nname = \"{}\"\nlisten = \"127.0.0.1:{}\"\nadmin_listen = \"127.0.0.1:{}\"\n\
             cluster_listen = \"127.0.0.1:{}\"\ndata = {data}\n",
            node.name,
            node.client,
            node.admin,
            ports[3 * place + 2],
        )?;
    }
    Ok(text)
}

/// What a node answers with 200.
async fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let exchange = async {
        let uri = format!("http://127.0.0.1:{port}{path}").parse().ok()?;
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let response = client.get(uri).await.ok()?;
        let good = response.status().is_success();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        good.then(|| bytes.to_vec())
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.ok()?
}

/// Ports that are free now, below those that the kernel gives to outgoing connections.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut chance = rand::rng();
    let mut ports = BTreeSet::new();
    // Held until all are found, so that none is found twice.
    let mut held = Vec::new();
    for _ in 0..10_000 {
        let port = chance.random_range(10_000..32_000);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push(listener);
            ports.insert(port);
        }
        if ports.len() == count {
            return Ok(ports.into_iter().collect());
        }
    }
    anyhow::bail!("no free ports between 10000 and 32000")
}
