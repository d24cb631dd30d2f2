//! Cluster: real node processes on loopback, linked through the proxy, and never outliving the run.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::chance::Chance;
use crate::proxy::Proxy;

const SECRET: &str = "chaos-only-chaos-only-chaos-only-chaos-only";
const COOKIE: &str = "cookie-for-chaos-only-cookie-for-chaos-only";
const NAME: &str = "chaos";

/// Longest wait for the cluster to be whole.
pub(crate) const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// The nodes of a run.
pub(crate) struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    nodes: Vec<Node>,
    pub(crate) proxy: Proxy,
}

struct Node {
    name: String,
    client: SocketAddr,
    admin: SocketAddr,
    data: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// Lays out a cluster below a directory and starts its nodes.
    pub(crate) async fn start(
        program: &Path,
        dir: &Path,
        count: usize,
        seed: u64,
    ) -> Result<Self, String> {
        let ports = free_ports(3 * count).map_err(|error| format!("no free ports: {error}"))?;
        let address = |row: usize, place: usize| {
            SocketAddr::from((Ipv4Addr::LOCALHOST, ports[row * count + place]))
        };
        let links: Vec<SocketAddr> = (0..count).map(|place| address(2, place)).collect();
        let proxy = Proxy::start(&links, seed).await.map_err(|error| error.to_string())?;
        let node = |place: usize| Node {
            name: char::from(b'a' + u8::try_from(place).unwrap_or(0)).to_string(),
            client: address(0, place),
            admin: address(1, place),
            data: dir.join(format!("data-{place}")),
            process: None,
        };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        let mut cluster = Self { program: program.to_owned(), dir: dir.to_owned(), nodes, proxy };
        for place in 0..count {
            cluster.configure(place, &links).map_err(|error| error.to_string())?;
            cluster.launch(place)?;
        }
        Ok(cluster)
    }

    /// Each node has a configuration of its own, in which it dials the others through the proxy.
    fn configure(&self, place: usize, links: &[SocketAddr]) -> std::io::Result<()> {
        let mut text = format!(
            "[cluster]\nname = \"{NAME}\"\ncookie = \"{COOKIE}\"\n\n\
             [auth]\ntoken_secret = \"{SECRET}\"\n"
        );
        for (other, node) in self.nodes.iter().enumerate() {
            let dial = if other == place { links[other] } else { self.proxy.dial(place, other) };
            text += &format!(
                "\n[[node]]\nname = \"{}\"\nlisten = \"{}\"\nadmin_listen = \"{}\"\n\
                 cluster_listen = \"{}\"\ncluster_dial = \"{dial}\"\ndata = \"{}\"\n",
                node.name,
                node.client,
                node.admin,
                links[other],
                node.data.display(),
            );
        }
        fs::write(self.config(place), text)
    }

    fn config(&self, place: usize) -> PathBuf {
        self.dir.join(format!("{}.toml", self.nodes[place].name))
    }

    /// A token for a user.
    pub(crate) fn token(user: &str) -> String {
        let user = actors::ids::UserId::parse(user).expect("a name of ours");
        let tokens = rookery::auth::Tokens::new(SECRET, NAME);
        tokens.issue(&user, Duration::from_secs(86_400)).expect("a token").token
    }

    /// Name and client address of each node.
    pub(crate) fn nodes(&self) -> Vec<(String, String)> {
        self.nodes.iter().map(|node| (node.name.clone(), node.client.to_string())).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn name(&self, place: usize) -> String {
        self.nodes[place].name.clone()
    }

    pub(crate) fn data(&self, place: usize) -> &Path {
        &self.nodes[place].data
    }

    /// Starts a node, without waiting for anything.
    pub(crate) fn launch(&mut self, place: usize) -> Result<(), String> {
        let node = &self.nodes[place];
        let log = self.dir.join(format!("{}.log", node.name));
        let start = || -> std::io::Result<Child> {
            let log = OpenOptions::new().create(true).append(true).open(log)?;
            Command::new(&self.program)
                .arg("node")
                .arg("--config")
                .arg(self.config(place))
                .args(["--name", &node.name, "--exit-with-stdin"])
                .env("ROOKERY_CRASH_ON_SIGUSR1", "1")
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
        };
        let child = start();
        let child = child.map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.nodes[place].process = Some(child);
        Ok(())
    }

    fn signal(&self, place: usize, signal: Signal) {
        let child = self.nodes[place].process.as_ref();
        let pid = child.and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(pid) = pid {
            let _gone_already = kill_process(pid, signal);
        }
    }

    /// `kill -9` of all these at once; waits until they are gone.
    pub(crate) fn kill(&mut self, places: &[usize]) {
        places.iter().for_each(|place| self.signal(*place, Signal::KILL));
        for place in places {
            if let Some(mut child) = self.nodes[*place].process.take() {
                let _ended = child.wait();
            }
        }
    }

    /// SIGSTOP, and SIGCONT.
    pub(crate) fn freeze(&self, place: usize, frozen: bool) {
        self.signal(place, if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Lets the actors of some user fail.
    pub(crate) fn crash_actors(&self, place: usize) {
        self.signal(place, Signal::USR1);
    }

    /// SIGTERM; waits until the node has stopped. Answers its exit code.
    pub(crate) async fn terminate(&mut self, place: usize) -> Option<i32> {
        self.signal(place, Signal::TERM);
        let mut child = self.nodes[place].process.take()?;
        for _ in 0..600 {
            if let Ok(Some(status)) = child.try_wait() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let _killed = (child.kill(), child.wait());
        None
    }

    /// Starts all nodes that do not run, also those that have ended by themselves.
    pub(crate) fn launch_missing(&mut self) -> Result<(), String> {
        for place in 0..self.nodes.len() {
            if !self.runs(place) {
                self.launch(place)?;
            }
        }
        Ok(())
    }

    /// Whether a node's process lives.
    pub(crate) fn runs(&mut self, place: usize) -> bool {
        let process = self.nodes[place].process.as_mut();
        process.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until every node serves, every shard has a leader, and no replica is missing or far behind.
    pub(crate) async fn whole(&mut self) -> Result<(), String> {
        let mut missing = String::new();
        for _ in 0..WHOLE_WITHIN.as_millis() / 50 {
            missing = match self.missing().await {
                None => return Ok(()),
                Some(missing) => missing,
            };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("not whole after {} s: {missing}", WHOLE_WITHIN.as_secs()))
    }

    async fn missing(&mut self) -> Option<String> {
        /// About what a shard of 64 takes in some seconds of a busy run.
        const FAR_BEHIND: u64 = 100;
        for place in 0..self.nodes.len() {
            let name = self.name(place);
            if !self.runs(place) {
                return Some(format!("node {name} does not run; see {name}.log"));
            }
            let node = &self.nodes[place];
            let ready = get(node.client, "/readyz").await.is_some();
            let view = get(node.admin, "/admin/cluster").await;
            let Some(view) = view.filter(|_| ready) else {
                return Some(format!("node {name} is not ready"));
            };
            let shards = view["shards"].as_array().cloned().unwrap_or_default();
            let is_whole = |shard: &Value| {
                let replicas = shard["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                let near = |replica: &Value| {
                    replica["behind"].as_u64().is_some_and(|behind| behind < FAR_BEHIND)
                        && replica["joining"] != true
                };
                let voting = replicas.iter().filter(|replica| near(replica)).count();
                shard["leader"].is_string() && voting == self.nodes.len().min(3)
            };
            if let Some(shard) = shards.iter().find(|shard| !is_whole(shard)) {
                return Some(format!("node {name} sees {shard}"));
            }
            if shards.is_empty() {
                return Some(format!("node {name} sees no shards"));
            }
        }
        None
    }

    /// Flips bytes in the middle of a stopped node's journal; answers the file.
    pub(crate) fn corrupt(&self, place: usize, chance: &mut Chance) -> Option<PathBuf> {
        let journal = self.data(place).join("journal");
        let files = fs::read_dir(journal).ok()?.flatten().map(|entry| entry.path());
        let logs = files.filter(|path| path.extension().is_some_and(|name| name == "raftlog"));
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let file = logs.max_by_key(size)?;
        let mut bytes = fs::read(&file).ok()?;
        let used = bytes.iter().rposition(|byte| *byte != 0).filter(|used| *used > 4_096)?;
        for _ in 0..16 {
            let at = used / 4 + chance.below(used / 4);
            bytes[at] ^= 0x5A;
        }
        fs::write(&file, bytes).ok()?;
        Some(file)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.kill(&all);
    }
}

/// The JSON, or an empty object, that a node answers with 200.
async fn get(address: SocketAddr, path: &str) -> Option<Value> {
    let exchange = async {
        let uri = format!("http://{address}{path}").parse().ok()?;
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let response = client.get(uri).await.ok()?;
        let good = response.status().is_success();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        good.then(|| serde_json::from_slice(&bytes).unwrap_or_default())
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.ok()?
}

/// Ports that are free now, below those that the kernel gives to outgoing connections.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    // Not from the seed: two runs at the same time must not meet.
    let mut chance = Chance::new(rand::rng().random());
    let mut ports = BTreeMap::new();
    let mut error = None;
    for _ in 0..10_000 {
        let port = u16::try_from(chance.between(10_000, 32_000)).unwrap_or(10_000);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => drop(ports.insert(port, listener)),
            Err(refused) => error = Some(refused),
        }
        if ports.len() == count {
            return Ok(ports.into_keys().collect());
        }
    }
    Err(error.unwrap_or_else(|| std::io::Error::other("none found")))
}
