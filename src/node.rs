//! Node: starts the parts of one node in order and stops them in reverse, with deadlines.

mod observed;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actors::cluster::Timing;
use actors::mailbox::rules::Policy;
use actors::node::{self as chat, Health, StartError};
use actors::router::{Peer, Router};
use actors::shard::home::Quota;
use actors::shard::lane::{self, Settings};
use actors::shard::replica::Pace;
use actors::store::{DiskTrust, Durability, StoreError, StoreOptions};
use actors::user::rules::Limits as UserLimits;
use actors::{clock, session};
use axum::Router as Routes;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rand::Rng;
use tokio::sync::{oneshot, watch};

use crate::admin::{self, Recorder};
use crate::auth::{KeysRefused, Tokens};
use crate::config::{self, Config, UnknownNode};
use crate::gateway::{self, GatewayEnv, Roll, Sessions};
use crate::push;
use crate::rest::{self, Rest, Seats};
use observed::View;

/// Why a node stopped other than as asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration has no such node.
    #[error(transparent)]
    Unknown(#[from] UnknownNode),
    /// The keys of the operator's issuer cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysRefused),
    /// The data directory or another part was refused.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An address cannot be listened on: another process has it, or it is not this machine's.
    #[error("cannot listen on {address}: {source}; stop what uses it, or choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Something that should always work did not.
    #[error("cannot start: {0}")]
    Other(String),
    /// A part failed for good while the node ran; what was acknowledged is on disk.
    #[error(
        "a part of the node failed; start it again, nothing acknowledged is lost (see the log)"
    )]
    Failed,
    /// The node came back with other data, and the cluster has filled that: this directory's time is over.
    #[error(
        "another data directory has taken the place of {} in the cluster; move this one away, the node then comes back empty and is filled by the others",
        data.display()
    )]
    Superseded {
        /// The directory whose time is over.
        data: std::path::PathBuf,
    },
}

impl NodeError {
    /// The exit code of the process: 2 configuration, 3 data directory, 1 anything else.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unknown(_) | Self::Keys(_) => 2,
            Self::Start(StartError::Store(_)) | Self::Superseded { .. } => 3,
            _ => 1,
        }
    }
}

/// Runs the node `name` until `stop` is sent (or dropped), then drains it.
pub fn run(config: Config, name: &str, stop: oneshot::Receiver<()>) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NodeError::Other(error.to_string()))?;
    let ended = runtime.block_on(serve(config, name, stop));
    runtime.shutdown_background();
    ended
}

async fn serve(
    config: Config,
    name: &str,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), NodeError> {
    let (me, own) = config.node(name).map(|(id, node)| (id, node.clone()))?;
    let tokens = Arc::new(Tokens::of(&config)?);
    let clients = listen(own.listen)?;
    let operator = listen(own.admin_listen)?;
    let links = listen(own.cluster_listen)?;
    let push = teller(&config)?;
    let node = chat::Node::start(options(&config, me, &own, (links, push))).await?;
    let mut health = node.health();
    let started = clock::monotonic();
    let roll = Roll::new(started);
    let doorkeeper = Doorkeeper::start(&node, &roll).await?;
    let view = Arc::new(View::new(config.clone(), me, &node, Arc::clone(&roll)));
    let key_watch = Arc::clone(&tokens);
    let key_watch = tokio::spawn(async move { key_watch.watch().await });
    let crashing = tokio::spawn(crash_when_told(node.router().clone()));
    let (closing, closed) = watch::channel(false);
    let watching = tokio::spawn(view.clone().keep(node.store().journal.clone()));
    let routes = routes(&config, &own, &node, &roll, &view, &tokens, started)?;
    let (client_routes, admin_routes) = routes;
    let seats = Seats::new(config.limits.connections_max);
    for runtime in node.runtimes() {
        let listener = clients.try_clone().map_err(|e| NodeError::Other(e.to_string()))?;
        runtime.spawn(rest::serve(listener, client_routes.clone(), seats.clone(), closed.clone()));
    }
    let operators = Seats::new(64);
    // The operator's listener stays to the end.
    let (_open, never_closed) = watch::channel(false);
    let admin_served = rest::serve(operator, admin_routes, operators, never_closed);
    let admin_served = tokio::spawn(admin_served);
    tracing::info!(node = name, url = own.url, "node runs");
    let ended = tokio::select! {
        _asked_or_dropped = &mut stop => Ok(()),
        how = health.wait_for(|health| *health != Health::Well) => Err(match how.as_deref() {
            Ok(Health::Superseded) => NodeError::Superseded { data: own.data.clone() },
            _ => NodeError::Failed,
        }),
    };
    if ended.is_ok() {
        drain(&config, &node, &roll, &view, &closing).await;
    }
    watching.abort();
    key_watch.abort();
    crashing.abort();
    admin_served.abort();
    doorkeeper.stop(None);
    node.stop().await;
    tracing::info!(node = name, "node stopped");
    ended
}

/// For showing that crashes of actors lose nothing: with this in its environment a node lets the actors of some user fail
/// each time it gets SIGUSR1.
const CRASH_ON_SIGNAL: &str = "ROOKERY_CRASH_ON_SIGUSR1";

async fn crash_when_told(router: Router) {
    use tokio::signal::unix::{SignalKind, signal};
    if std::env::var_os(CRASH_ON_SIGNAL).is_none() {
        return;
    }
    let Ok(mut told) = signal(SignalKind::user_defined1()) else { return };
    while told.recv().await.is_some() {
        chat::crash_one(&router, rand::rng().random());
    }
}

/// Sends goodbye in order: no new clients, no leaderships, then the clients that are here.
async fn drain(
    config: &Config,
    node: &chat::Node,
    roll: &Arc<Roll>,
    view: &View,
    closing: &watch::Sender<bool>,
) {
    const HAND_OVER: Duration = Duration::from_secs(5);
    let within = config.process.drain_timeout;
    tracing::info!("draining");
    roll.refuse_new();
    closing.send_replace(true);
    tokio::select! {
        // In this order: the others must hear that this node goes, too.
        biased;
        () = node.hand_over(HAND_OVER.min(within)) => {}
        () = nobody_stays(node.router()) => {
            tracing::info!("no other node stays: no leadership is handed over");
        }
    }
    let spread = u64::try_from(within.as_millis() / 4).unwrap_or(u64::MAX).clamp(1, 3_000);
    // Each client is told one of the nodes that go on, in turn.
    let elsewhere = view.elsewhere();
    let mut turn = elsewhere.iter().cycle();
    let mut farewell = || (rand::rng().random_range(0..spread), turn.next().cloned());
    node.router().drain_sessions(&mut farewell);
    let gone = async {
        while roll.sockets() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(within, gone).await.is_err() {
        tracing::warn!(sockets = roll.sockets(), "some clients did not go");
    }
}

/// Waits until every other node is gone or goes: when a whole cluster is stopped, nobody is left to lead.
async fn nobody_stays(router: &Router) {
    let goes = |peer: &Peer| !peer.up || peer.beat.as_ref().is_some_and(|beat| beat.draining);
    while !router.peers().values().all(goes) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, NodeError> {
    rest::bind(address).map_err(|source| NodeError::Listen { address, source })
}

/// Who is told of devices that sleep through messages, if anybody.
fn teller(config: &Config) -> Result<Option<lane::Push>, NodeError> {
    let Some(push) = &config.push else { return Ok(None) };
    let settings = push::Settings {
        url: push.url.clone(),
        secret: push.secret.reveal().to_owned(),
        timeout: push.timeout,
    };
    let tell = push::start(&settings).map_err(|error| NodeError::Other(error.to_string()))?;
    Ok(Some(lane::Push { after: push.after, tell }))
}

fn options(
    config: &Config,
    me: actors::ids::NodeId,
    own: &config::Node,
    (listener, push): (std::net::TcpListener, Option<lane::Push>),
) -> chat::Options {
    let mut store = StoreOptions::new(Arc::new(|error: StoreError| {
        tracing::error!(%error, "the disk failed; stopping at once, nothing is answered from memory");
        std::process::exit(1);
    }));
    store.journal.durability = match config.storage.durability {
        config::Durability::Disk => Durability::Disk,
        config::Durability::Memory => Durability::Memory,
    };
    if config.storage.unsafe_disk {
        store.disk = DiskTrust::Unsafe;
    }
    let window = u16::try_from(config.limits.window).unwrap_or(u16::MAX);
    let settings = Settings {
        pace: Pace {
            election_ticks: config.raft.election_ticks as usize,
            heartbeat_ticks: config.raft.heartbeat_ticks as usize,
        },
        tick: config.raft.tick,
        quota: Quota {
            entries_max: u64::from(config.mailbox.entries_max),
            bytes_max: config.mailbox.bytes_max,
            ..Quota::default()
        },
        policy: Policy { expiry: config.mailbox.expiry, history: config.mailbox.history },
        limits: UserLimits { window, ..UserLimits::default() },
        checkpoint_every: config.storage.checkpoint,
        memory_budget: usize::try_from(config.storage.memory_budget).unwrap_or(usize::MAX),
        wall: clock::wall,
        push,
    };
    let members = config.nodes.iter();
    chat::Options {
        cluster: config.cluster.name.clone(),
        me,
        members: members.map(|node| (node.name.clone(), node.cluster_dial.clone())).collect(),
        cookie: config.cluster.cookie.reveal().to_owned(),
        listener,
        data: own.data.clone(),
        shards: config.cluster.shards,
        replicas: u16::try_from(config.replicas()).unwrap_or(u16::MAX),
        lanes: usize::from(config.process.lanes),
        settings,
        store,
        timing: Timing {
            probe: config.link.probe,
            suspect: config.link.suspect,
            ..Timing::default()
        },
    }
}

fn routes(
    config: &Config,
    own: &config::Node,
    node: &chat::Node,
    roll: &Arc<Roll>,
    view: &Arc<View>,
    tokens: &Arc<Tokens>,
    started: std::time::Instant,
) -> Result<(Routes, Routes), NodeError> {
    let other = |error: String| NodeError::Other(error);
    let limits = &config.limits;
    let env = Arc::new(GatewayEnv {
        homes: Arc::new(node.router().clone()),
        tokens: Arc::clone(tokens) as Arc<dyn gateway::Tokens>,
        roll: Arc::clone(roll),
        limits: gateway::Limits {
            frame_bytes_max: limits.frame_bytes_max as usize,
            window: u16::try_from(limits.window).unwrap_or(u16::MAX),
            requests_max: limits.requests_in_flight_max as usize,
            sends_max: limits.sends_in_flight_max as usize,
            frames_per_second: limits.frames_per_second,
            frames_burst: limits.frames_burst,
            sockets_max: limits.connections_max as usize,
            sockets_per_user_max: limits.sockets_per_user_max as usize,
            sockets_per_second: limits.sockets_per_second,
            sockets_burst: limits.sockets_burst,
            strangers_per_address_max: limits.strangers_per_address_max as usize,
            // Told with the next heartbeat: so last seen is true to within half a minute.
            session: Arc::new(session::Limits {
                alive: Duration::from_secs(24),
                ..session::Limits::default()
            }),
            ..gateway::Limits::default()
        },
        server: concat!("rookery/", env!("CARGO_PKG_VERSION")).into(),
        node: own.name.as_str().into(),
        started,
    });
    let homes = Arc::new(node.router().clone());
    let rest =
        Rest::new(config, homes, Arc::clone(tokens)).map_err(|error| other(error.to_string()))?;
    let ready = Arc::clone(view);
    let client_routes = rest::router(
        Arc::new(rest),
        Arc::new(move || admin::Observed::ready(&*ready)),
        rest::Sockets {
            upgrade: Arc::new(move |request| {
                let from = rest::peer_of(&request).map(|peer| peer.ip());
                gateway::upgrade(&env, from, request)
            }),
            document: gateway::asyncapi().to_string().into(),
        },
    );
    let recorder = Recorder::install().map_err(|error| other(error.to_string()))?;
    tokio::spawn(recorder.clone().upkeep());
    let observed: Arc<dyn admin::Observed> = view.clone();
    Ok((client_routes, admin::router(observed, recorder)))
}

/// Keeps the `Sessions` actor running.
struct Doorkeeper;

impl Doorkeeper {
    /// Starts it on the first lane's runtime, where the sockets are.
    async fn start(node: &chat::Node, roll: &Arc<Roll>) -> Result<ActorRef<()>, NodeError> {
        let other = |error: String| NodeError::Other(error);
        let Some(runtime) = node.runtimes().first() else {
            return Err(other("there is no lane".to_owned()));
        };
        let spawned = runtime.spawn(Actor::spawn(None, Self, Arc::clone(roll))).await;
        let (actor, _) =
            spawned.map_err(|e| other(e.to_string()))?.map_err(|e| other(e.to_string()))?;
        Ok(actor)
    }
}

impl Actor for Doorkeeper {
    type Msg = ();
    type State = Arc<Roll>;
    type Arguments = Arc<Roll>;

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        roll: Arc<Roll>,
    ) -> Result<Arc<Roll>, ActorProcessingErr> {
        Actor::spawn_linked(None, Sessions, Arc::clone(&roll), myself.get_cell()).await?;
        Ok(roll)
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<()>,
        event: SupervisionEvent,
        roll: &mut Arc<Roll>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(%error, "the account of sessions failed; it starts again");
            Actor::spawn_linked(None, Sessions, Arc::clone(roll), myself.get_cell()).await?;
        }
        Ok(())
    }
}
