//! Harness: clusters of real node processes on loopback, which never outlive the tests.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rookery::config::Config;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{ports, web};

/// The program under test.
pub(crate) const ROOKERY: &str = env!("CARGO_BIN_EXE_rookery");

/// Longest wait for a cluster to be ready, for a process to end and for anything else that should be quick: generous,
/// for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The secret the test clusters sign tokens with.
pub(crate) const SECRET: &str = "tests-only-tests-only-tests-only-tests-only";

const COOKIE: &str = "cookie-for-tests-only-cookie-for-tests-only";

/// A cluster in a directory of its own.
pub(crate) struct Cluster {
    dir: TempDir,
    config: Config,
    running: Mutex<BTreeMap<String, Child>>,
}

/// A user with an account.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) token: String,
}

impl User {
    /// The conversation with this user, as others name it.
    pub(crate) fn conv(&self) -> String {
        format!("u:{}", self.name)
    }
}

/// Waits until `condition` answers `Some`; fails with `what` after the deadline.
pub(crate) async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let poll = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            if let Some(found) = condition().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, poll).await;
    found.unwrap_or_else(|_| panic!("waited {} s in vain: {what}", PATIENCE.as_secs()))
}

/// A name nobody else in this run has.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A directory for one test, on the disk that has the build.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("cluster-{}-", std::process::id()))
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a directory for the test")
}

/// Lets this process, and the nodes it starts, have so many files open.
pub(crate) fn raise_file_limit(files: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < files) {
        let current = Some(maximum.map_or(files, |maximum| files.min(maximum)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("up to the hard limit");
    }
}

/// The cluster that tests share which only talk. Each gets a guard that shows the nodes' logs if the test fails.
pub(crate) async fn shared() -> Shared {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    let cluster = CLUSTER.get_or_init(|| async {
        sweep();
        Cluster::start(3).await
    });
    Shared(cluster.await)
}

/// A static is never dropped: its directory stays until the next run. Its processes see the end of their standard
/// input and stop by themselves.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("cluster-").and_then(|rest| rest.split('-').next());
        let gone =
            |pid: &str| Path::new("/proc/self").exists() && !Path::new("/proc").join(pid).exists();
        if pid.is_some_and(gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// See [`shared`].
pub(crate) struct Shared(&'static Cluster);

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.show_logs_of_failure();
    }
}

impl Cluster {
    /// Starts a cluster and waits until it is ready.
    pub(crate) async fn start(nodes: u16) -> Self {
        Self::with(nodes, "").await
    }

    /// Starts a cluster with more settings than the nodes and secrets.
    pub(crate) async fn with(nodes: u16, settings: &str) -> Self {
        let cluster = Self::prepared(nodes, settings);
        cluster.start_all();
        cluster.ready().await;
        cluster
    }

    /// Writes the configuration of a cluster, but starts nothing.
    pub(crate) fn prepared(nodes: u16, settings: &str) -> Self {
        assert!(nodes <= ports::NODES_MAX);
        let dir = scratch();
        let text = Config::dev(nodes, ports::free_block(), dir.path(), SECRET, COOKIE);
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, format!("{text}\n{settings}\n")).unwrap();
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        Self { dir, config, running: Mutex::default() }
    }

    /// Starts all nodes that do not run.
    pub(crate) fn start_all(&self) {
        for name in self.names() {
            if !self.lock().contains_key(&name) {
                self.start_node(&name);
            }
        }
    }

    /// Where the configuration is.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("cluster.toml")
    }

    /// A node's data directory.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.node(name).data.clone()
    }

    /// A node's log so far.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// All nodes, running or not.
    pub(crate) fn names(&self) -> Vec<String> {
        self.config.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// All nodes but this one.
    pub(crate) fn others(&self, name: &str) -> Vec<String> {
        self.names().into_iter().filter(|other| other != name).collect()
    }

    fn node(&self, name: &str) -> &rookery::config::Node {
        self.config.node(name).expect("a node of this cluster").1
    }

    /// Where clients reach a node.
    pub(crate) fn url(&self, name: &str) -> String {
        self.node(name).url.clone()
    }

    /// Where clients reach the first node.
    pub(crate) fn first_url(&self) -> String {
        self.config.nodes[0].url.clone()
    }

    /// Where clients reach all nodes.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.config.nodes.iter().map(|node| node.url.clone()).collect()
    }

    /// Where the operator reaches a node.
    pub(crate) fn admin_url(&self, name: &str) -> String {
        self.node(name).admin_url()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Child>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts a node, without waiting for anything.
    pub(crate) fn start_node(&self, name: &str) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(name)).unwrap();
        let child = Command::new(ROOKERY)
            .arg("node")
            .arg("--config")
            .arg(self.config_file())
            .args(["--name", name, "--exit-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let old = self.lock().insert(name.to_owned(), child);
        assert!(old.is_none(), "node {name} runs already");
    }

    fn signal(&self, name: &str, signal: Signal) {
        let running = self.lock();
        let child = running.get(name).unwrap_or_else(|| panic!("node {name} does not run"));
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).expect("the process is ours and not yet reaped");
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill9(&self, name: &str) {
        self.signal(name, Signal::KILL);
        let mut child = self.lock().remove(name).expect("it was just signalled");
        child.wait().unwrap();
    }

    /// `kill -9` of all at once.
    pub(crate) fn kill9_all(&self) {
        let running: Vec<String> = self.lock().keys().cloned().collect();
        running.iter().for_each(|name| self.signal(name, Signal::KILL));
        running.iter().for_each(|name| self.kill9(name));
    }

    /// Freezes a node (SIGSTOP).
    pub(crate) fn stop(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    /// Lets a frozen node go on (SIGCONT).
    pub(crate) fn cont(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    /// Asks a node to stop and waits until it has.
    pub(crate) async fn terminate(&self, name: &str) -> ExitStatus {
        self.signal(name, Signal::TERM);
        self.exit(name).await
    }

    /// Waits until a node ends by itself.
    pub(crate) async fn exit(&self, name: &str) -> ExitStatus {
        let what = format!("node {name} should end");
        let status = eventually(&what, || async {
            self.lock().get_mut(name).expect("it was started").try_wait().unwrap()
        });
        let status = status.await;
        self.lock().remove(name);
        status
    }

    /// Waits until every running node serves and knows a leader for every shard.
    pub(crate) async fn ready(&self) {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        for name in names {
            self.node_ready(&name).await;
        }
    }

    /// Waits until one node serves and knows a leader for every shard.
    pub(crate) async fn node_ready(&self, name: &str) {
        let (ready, admin) = (format!("{}/readyz", self.url(name)), self.admin_url(name));
        eventually(&format!("node {name} should be ready"), || async {
            let exited = self.lock().get_mut(name).and_then(|child| child.try_wait().unwrap());
            assert!(exited.is_none(), "node {name} ended ({exited:?}):\n{}", self.log_tail(name));
            let answer = web::get(&ready).await.ok()?;
            let view = web::get(&format!("{admin}/admin/cluster")).await.ok()?.body;
            let shards = view["shards"].as_array().filter(|shards| !shards.is_empty())?;
            (answer.status == 200 && shards.iter().all(|shard| shard["leader"].is_string()))
                .then_some(())
        })
        .await;
    }

    /// The answer of `GET /admin/cluster` of a node.
    pub(crate) async fn view(&self, name: &str) -> Value {
        let url = format!("{}/admin/cluster", self.admin_url(name));
        web::get(&url).await.expect("the node answers").body
    }

    /// The node that leads a user's mailbox, as the running node `asked` sees it.
    pub(crate) async fn leader_of(&self, user: &str, asked: &str) -> String {
        let url = format!("{}/admin/where?user={user}", self.admin_url(asked));
        eventually("the user's shard should have a leader", || async {
            web::get(&url).await.ok()?.body["leader"].as_str().map(str::to_owned)
        })
        .await
    }

    /// Makes an account with a new name that begins with `name`.
    pub(crate) async fn user(&self, name: &str) -> User {
        self.user_via(name, &self.first_url()).await
    }

    /// The same through a node of choice.
    pub(crate) async fn user_via(&self, name: &str, url: &str) -> User {
        let name = unique(name);
        let token = web::register(url, &name).await;
        User { name, token }
    }

    /// A user without an account, let in by a token of the operator's.
    pub(crate) fn guest(&self, name: &str) -> User {
        let name = unique(name);
        let user = actors::ids::UserId::parse(&name).expect("a name of ours");
        let tokens = rookery::auth::Tokens::new(SECRET, &self.config.cluster.name);
        let token = tokens.issue(&user, Duration::from_secs(86_400)).expect("a token").token;
        User { name, token }
    }

    /// Bytes of memory that a node has now.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let pid = self.lock().get(name).expect("the node runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("a number of KiB") << 10
    }

    /// Makes an account whose mailbox is led by this node.
    pub(crate) async fn user_led_by(&self, name: &str, leader: &str) -> User {
        for _ in 0..1_000 {
            let candidate = unique(name);
            if self.leader_of(&candidate, leader).await == leader {
                let token = web::register(&self.url(leader), &candidate).await;
                return User { name: candidate, token };
            }
        }
        panic!("node {leader} leads none of 1,000 users' mailboxes");
    }

    fn log_tail(&self, name: &str) -> String {
        let log = self.log(name);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn show_logs_of_failure(&self) {
        if !std::thread::panicking() {
            return;
        }
        for name in self.names() {
            eprintln!("--- node {name} ---\n{}", self.log_tail(&name));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.show_logs_of_failure();
        for child in self.lock().values_mut() {
            let _ = child.kill();
        }
        for child in self.lock().values_mut() {
            let _ = child.wait();
        }
    }
}
