//! Node: starts the parts of one node in order and stops them in reverse.

mod taking_part;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rand::Rng;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::birth::{self, Registrar};
use crate::cluster::{Links, LinksConfig, LinksError, Timing};
use crate::ids::{BootId, NodeId, ShardId};
use crate::placement;
use crate::router::Router;
use crate::shard::lane::{self, Disks, Lane, Settings, ShardStatus};
use crate::store::LostJournal;
use crate::store::Wanted;
use crate::store::{Recovery, StoreError};
use crate::store::{Store, StoreOptions};
use taking_part::{Port, Replicas};

/// Replicas of a shard from which on one that is lost can be filled again by the others.
const REPLICAS_TO_SPARE_ONE: usize = 3;

/// What a node needs to start.
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// This node, by its place among the members.
    pub me: NodeId,
    /// Names of all nodes, in order, and where their links are dialled (`host:port`).
    pub members: Vec<(String, String)>,
    /// The secret all nodes share.
    pub cookie: String,
    /// Where other nodes connect to.
    pub listener: TcpListener,
    /// The data directory.
    pub data: PathBuf,
    /// Into how many shards the cluster is divided.
    pub shards: u16,
    /// On how many nodes each shard is kept.
    pub replicas: u16,
    /// Threads that do the work.
    pub lanes: usize,
    /// How shards behave.
    pub settings: Settings,
    /// How the disk is kept.
    pub store: StoreOptions,
    /// How links keep time.
    pub timing: Timing,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory was refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The links could not be started.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// A thread or an actor could not be started.
    #[error("the node's actors could not be started: {0}")]
    Actors(String),
}

/// How a running node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It can go on.
    Well,
    /// A part of it failed for good.
    Failed,
    /// Another data directory has taken its place in the cluster.
    Superseded,
}

/// A running node.
pub struct Node {
    router: Router,
    store: Store,
    handles: Vec<Handle>,
    threads: Vec<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
    root: ActorRef<()>,
    health: watch::Receiver<Health>,
    place: BTreeMap<ShardId, Vec<NodeId>>,
}

/// Watches the lanes, the links and what is known of births. What fails has lost nothing that is not on disk, but only
/// a new start reads it back: the node is told to stop.
struct Root;

impl Actor for Root {
    type Msg = ();
    type State = Arc<watch::Sender<Health>>;
    type Arguments = Arc<watch::Sender<Health>>;

    async fn pre_start(
        &self,
        _myself: ActorRef<()>,
        health: Arc<watch::Sender<Health>>,
    ) -> Result<Arc<watch::Sender<Health>>, ActorProcessingErr> {
        Ok(health)
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<()>,
        event: SupervisionEvent,
        health: &mut Arc<watch::Sender<Health>>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(%error, "a part of the node failed; it stops");
            health.send_replace(Health::Failed);
        }
        Ok(())
    }
}

impl Node {
    /// Opens the disk, starts the lanes, then the links.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let ids: Vec<NodeId> = (1..).map(NodeId).take(options.members.len()).collect();
        let me = options.me;
        let (store, recovery) = open_store(&options).await?;
        let boot = BootId(rand::rng().random());
        let others: Vec<NodeId> = ids.iter().copied().filter(|node| *node != me).collect();
        let router = Router::new(me, boot, options.shards, others.iter().copied());
        let place = placement::place(options.shards, &ids, options.replicas);
        let disks =
            Disks { journal: store.journal.clone(), checkpoints: store.checkpoints.clone() };
        let replicas = Replicas::new(&options, place.clone(), disks.clone(), recovery.shards);
        let (hosted, later) = match store.births.incarnation {
            Some(incarnation) => {
                // Before anything is sent: a leader that knows itself must know itself by this.
                router.vet(me, Some(incarnation));
                (replicas.open(incarnation)?, None)
            }
            None => (replicas.none(), Some(replicas)),
        };
        let (health_tx, health) = watch::channel(Health::Well);
        let health_tx = Arc::new(health_tx);
        let (root, _) = Actor::spawn(None, Root, Arc::clone(&health_tx)).await.map_err(text)?;
        let mut node = Self {
            router: router.clone(),
            store,
            handles: Vec::new(),
            threads: Vec::new(),
            root,
            health,
            place,
        };
        let mut lanes = Vec::new();
        for shards in hosted {
            let arguments = lane::Arguments {
                shards,
                disks: disks.clone(),
                router: router.clone(),
                settings: options.settings.clone(),
            };
            lanes.push(node.start_lane(arguments).await?);
        }
        router.set_lanes(lanes.clone());
        let (settled_tx, settled) = watch::channel(None);
        let port =
            Port { router: router.clone(), settled: settled_tx, health: Arc::clone(&health_tx) };
        let name = |node: NodeId| options.members[usize::from(node.0) - 1].0.clone();
        let named = others.iter().map(|node| (*node, name(*node)));
        node.start_births(boot, named, options.replicas, port).await?;
        if let Some(replicas) = later {
            tokio::spawn(replicas.follow(settled, lanes, health_tx));
        }
        let dial = |node: NodeId| options.members[usize::from(node.0) - 1].1.clone();
        let config = LinksConfig {
            me,
            boot,
            cluster: options.cluster,
            cookie: options.cookie,
            listener: options.listener,
            peers: others.iter().map(|node| (*node, dial(*node))).collect(),
            timing: options.timing,
        };
        let root = node.root.get_cell();
        let links = Links::start(config, Arc::new(router.clone()), Some(root)).await?;
        router.set_links(links);
        Ok(node)
    }

    /// Starts what knows births. Before the links: every link that comes up is news for it.
    async fn start_births(
        &self,
        boot: BootId,
        others: impl Iterator<Item = (NodeId, String)>,
        replicas: u16,
        port: Port,
    ) -> Result<(), StartError> {
        let others: BTreeMap<NodeId, String> = others.collect();
        let arguments = birth::Arguments {
            me: self.router.me(),
            boot,
            replicas: usize::from(replicas).min(others.len() + 1),
            others,
            births: self.store.births.clone(),
            book: self.store.book.clone(),
            port: Arc::new(port),
        };
        let root = self.root.get_cell();
        let (births, _) =
            Actor::spawn_linked(None, Registrar, arguments, root).await.map_err(text)?;
        self.router.set_births(births);
        Ok(())
    }

    /// Starts a thread with a runtime of its own, and a lane on it.
    async fn start_lane(
        &mut self,
        arguments: lane::Arguments,
    ) -> Result<ActorRef<lane::Msg>, StartError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let name = format!("lane-{}", self.threads.len());
        let body = move || {
            let _dropped_is_stop_too = runtime.block_on(stopped);
            runtime.shutdown_background();
        };
        let joined = thread::Builder::new().name(name).spawn(body).map_err(text)?;
        self.threads.push((stop, joined));
        let root = self.root.get_cell();
        let spawned = handle.spawn(Actor::spawn_linked(None, Lane, arguments, root));
        let (lane, _) = spawned.await.map_err(text)?.map_err(text)?;
        self.handles.push(handle);
        Ok(lane)
    }

    /// How the node's parts reach each other.
    #[must_use]
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// The lanes' runtimes: sockets served on them are served without changing threads.
    #[must_use]
    pub fn runtimes(&self) -> &[Handle] {
        &self.handles
    }

    /// The open data directory.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the node can go on.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The nodes that keep each shard, the preferred leader first.
    #[must_use]
    pub const fn place(&self) -> &BTreeMap<ShardId, Vec<NodeId>> {
        &self.place
    }

    /// Gives all leaderships away; done when there are none left or `within` is over.
    pub async fn hand_over(&self, within: Duration) {
        self.router.set_draining();
        self.router.announce();
        for lane in self.router.lanes() {
            let _stopping = lane.cast(lane::Msg::Drain);
        }
        let anybody = || self.router.peers().values().any(|peer| peer.up);
        let gone = async {
            while anybody() && inspect(&self.router).await.iter().any(|shard| shard.role.leads) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(within, gone).await.is_err() {
            tracing::warn!("some leaderships could not be handed over");
        }
    }

    /// Stops everything: lanes, then the disk, with a last checkpoint.
    pub async fn stop(self) {
        for lane in self.router.lanes() {
            let _stopping = lane.cast(lane::Msg::Checkpoint);
        }
        // Answered behind the checkpoint: from here on the disk has it in its queue.
        let _status = inspect(&self.router).await;
        self.root.stop(None);
        for (stop, joined) in self.threads {
            let _thread_ended = stop.send(());
            let _joined = tokio::task::spawn_blocking(move || joined.join()).await;
        }
        let store = self.store;
        let _closed = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

/// Makes the actors of some user fail in each lane; `chance` decides whose. They are healed as after any crash.
pub fn crash_one(router: &Router, chance: u64) {
    for lane in router.lanes() {
        let _stopping = lane.cast(lane::Msg::CrashOne(chance));
    }
}

/// What all lanes of a node say of their shards.
pub async fn inspect(router: &Router) -> Vec<ShardStatus> {
    const PATIENCE_MS: u64 = 2_000;
    let mut all = Vec::new();
    for lane in router.lanes() {
        if let Ok(status) = ractor::call_t!(lane, lane::Msg::Inspect, PATIENCE_MS) {
            all.extend(status);
        }
    }
    all.sort_by_key(|status| status.shard);
    all
}

/// Opens the data directory. A lost journal is no end where the others can fill this node again.
async fn open_store(options: &Options) -> Result<(Store, Recovery), StartError> {
    let wanted = Wanted {
        cluster: options.cluster.clone(),
        node: options.members[usize::from(options.me.0) - 1].0.clone(),
        node_id: options.me,
        shards: options.shards,
        members: options.members.iter().map(|(name, _)| name.clone()).collect(),
    };
    let (data, mut store) = (options.data.clone(), options.store.clone());
    if usize::from(options.replicas).min(options.members.len()) >= REPLICAS_TO_SPARE_ONE {
        store.lost_journal = LostJournal::BearAgain;
    }
    let opened = tokio::task::spawn_blocking(move || Store::open(&data, &wanted, store)).await;
    Ok(opened.map_err(text)??)
}

fn text(error: impl ToString) -> StartError {
    StartError::Actors(error.to_string())
}
