//! Cluster: the links between nodes, over which all packets go.
//!
//! Owns      one `ractor_cluster` node server, one router actor, one `Link` actor and one session per peer, all on a
//!           thread of their own, so that a busy node still shows signs of life.
//! Promises  between `up` and `down` packets of one class arrive in order and without gaps; what is under way to a
//!           peer is bounded, and refused beyond that; a silent peer is given up within about a second and dialled
//!           until it is back.
//! Never     stores or resends a packet, or waits: who needs an answer keeps its own deadline.
//! Fails by  losing what was under way when a session ends; that is told by `down`, and `up` when there is a new one.
//!
//! Why the transport is fenced in like this: `ractor_cluster` notices a killed peer at once but never a silent one,
//! queues without bound, answers `Ok` for what it drops, and trusts connections before they are authenticated. Its
//! modules log payloads when debug logs are on: keep `ractor_cluster` at `info` or above.

mod dial;
mod door;
pub mod frame;
mod gate;
mod link;
mod links;
mod net;
pub mod rules;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorRef};
use tokio::sync::{oneshot, watch};

use crate::ids::{BootId, NodeId};
use crate::packet::{Beat, Packet};

pub use rules::{Class, Timing};

/// Threads for name look-ups, which may hang.
const LOOKUP_THREADS_MAX: usize = 4;
/// How long the end of the links waits for such threads.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(100);

/// What links need to know to start.
#[derive(Debug)]
pub struct LinksConfig {
    /// This node.
    pub me: NodeId,
    /// This start of it, drawn at random.
    pub boot: BootId,
    /// The cluster's name: nodes of other clusters are refused even if they know the cookie.
    pub cluster: String,
    /// The secret all nodes share.
    pub cookie: String,
    /// Where other nodes connect to.
    pub listener: TcpListener,
    /// The other nodes: number and `host:port`.
    pub peers: Vec<(NodeId, String)>,
    /// How links keep time.
    pub timing: Timing,
}

/// Who gets what comes over the links. Called on the links' thread: pass it on and return at once.
pub trait Inbound: Send + Sync + 'static {
    /// Packets of one class from a peer, in the order they were sent.
    fn packets(&self, from: NodeId, packets: Vec<Packet>);
    /// A link is up: from now on packets reach this start of the peer.
    fn up(&self, peer: NodeId, boot: BootId);
    /// A link is down: packets sent lately, in either direction, may be lost.
    fn down(&self, peer: NodeId);
    /// What the next sign of life should say.
    fn beat(&self) -> Beat;
}

/// Why packets were not taken. With `TooLong` all but those that are too long will arrive, else none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no link to that node now: wait for `up`.
    #[error("no link to that node")]
    Down,
    /// Too much is under way already: come back later, or refuse new work.
    #[error("too much is under way to that node")]
    NoCredit,
    /// A packet is longer than any link carries: cut it.
    #[error("a packet is too long for a link")]
    TooLong,
}

/// Why links could not start.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No thread or runtime could be made.
    #[error("the links' thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The actors could not be started.
    #[error("the links' actors could not be started")]
    Actors(#[source] Box<ractor::SpawnErr>),
    /// The thread ended before it said anything.
    #[error("the links' thread ended at once")]
    Ended,
}

/// What there is to know about a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// Whether packets can be sent to it.
    pub up: bool,
    /// Which start of it, while up.
    pub boot: Option<BootId>,
    /// The round trip measured last, own waiting times left out.
    pub rtt: Option<Duration>,
    /// Bytes sent or waiting, and not yet taken by the peer.
    pub bytes_queued: u64,
    /// Frames from the peer since the start.
    pub frames_in: u64,
    /// Frames to the peer since the start.
    pub frames_out: u64,
    /// Packets from the peer since the start.
    pub packets_in: u64,
    /// Packets from the peer that could not be read.
    pub undecodable: u64,
    /// Frames of sessions that had been given up already.
    pub stale: u64,
    /// How often the peer fell silent and was given up.
    pub reaped: u64,
    /// How often a send was refused for want of credit.
    pub no_credit: u64,
    /// Packets that were too long for any link; there should be none.
    pub too_long: u64,
}

/// The links of this node. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Links {
    shared: Arc<links::Shared>,
    supervisor: ActorRef<links::Msg>,
    ended: watch::Receiver<()>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("status", &self.status()).finish()
    }
}

impl Links {
    /// Starts a thread with the links on it. If they fail beyond repair, `supervisor` is told as of any child.
    pub async fn start(
        config: LinksConfig,
        inbound: Arc<dyn Inbound>,
        supervisor: Option<ActorCell>,
    ) -> Result<Self, LinksError> {
        let (say, started) = oneshot::channel();
        std::thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || thread(config, inbound, supervisor, say))
            .map_err(LinksError::Thread)?;
        started.await.unwrap_or(Err(LinksError::Ended))
    }

    /// Leaves packets for a node. Never blocks; they depart as soon as the link gets to them.
    ///
    /// Control packets are meant to be few and small: they need no credit, only their sum is bounded.
    pub fn send(
        &self,
        to: NodeId,
        class: Class,
        packets: impl AsRef<[Packet]>,
    ) -> Result<(), Refused> {
        let gate = self.shared.peers.get(&to).ok_or(Refused::Down)?;
        gate.send(class, packets.as_ref())
    }

    /// Whether packets can be sent to a node.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.peers.get(&node).is_some_and(|gate| gate.is_up())
    }

    /// What there is to know about each peer.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers.values().map(|g| g.status()).collect()
    }

    /// Frames and sessions refused: damaged, of another version, or from strangers.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Connections, in and out, whose sessions are not ready yet.
    #[must_use]
    pub fn unready(&self) -> usize {
        self.shared.doorway.waiting()
    }

    /// Ends all links and their thread; all clones answer `Down` from then on.
    pub async fn stop(mut self) {
        self.supervisor.stop(Some("links are stopped".to_owned()));
        // The other end of the watch lives as long as the thread.
        while self.ended.changed().await.is_ok() {}
    }
}

type Started = oneshot::Sender<Result<Links, LinksError>>;

/// Runs the links until their supervisor ends.
fn thread(
    config: LinksConfig,
    inbound: Arc<dyn Inbound>,
    supervisor: Option<ActorCell>,
    say: Started,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKUP_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            // Nobody waits any more if this cannot be told.
            let _ = say.send(Err(LinksError::Thread(error)));
            return;
        }
    };
    runtime.block_on(run(config, inbound, supervisor, say));
    runtime.shutdown_timeout(LOOKUP_PATIENCE);
}

async fn run(
    config: LinksConfig,
    inbound: Arc<dyn Inbound>,
    supervisor: Option<ActorCell>,
    say: Started,
) {
    let me = config.me;
    let others = config.peers.into_iter().filter(|(node, _)| *node != me);
    let addresses: std::collections::BTreeMap<_, _> = others.collect();
    let shared = Arc::new(links::Shared::new(
        (me, config.boot),
        config.cluster,
        config.timing,
        inbound,
        addresses.keys().copied(),
    ));
    let arguments = links::Arguments {
        shared: shared.clone(),
        cookie: config.cookie,
        listener: config.listener,
        addresses,
    };
    let spawned = match supervisor {
        Some(above) => Actor::spawn_linked(None, links::Supervisor, arguments, above).await,
        None => Actor::spawn(None, links::Supervisor, arguments).await,
    };
    let (supervisor, handle) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            let _ = say.send(Err(LinksError::Actors(Box::new(error))));
            return;
        }
    };
    let (_ending, ended) = watch::channel(());
    let links = Links { shared: shared.clone(), supervisor, ended };
    let _ = say.send(Ok(links));
    // Ends whether the supervisor stopped, failed or was killed.
    let _ = handle.await;
    for gate in shared.peers.values() {
        if gate.close() {
            shared.inbound.down(gate.node);
        }
    }
}
