//! Links' supervisor: starts the node server, the router, the door and a link per peer, and restarts what dies.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{
    IncomingEncryptionMode, NodeEventSubscription, NodeServer, NodeServerMessage,
    NodeSessionMessage, RactorMessage,
};
use tokio::net::TcpListener;

use super::Inbound;
use super::door::{Door, Doorway};
use super::frame::FRAME_BYTES_MAX;
use super::gate::Gate;
use super::link::{self, Link};
use super::net::{self, Net};
use super::rules::Timing;
use crate::clock;
use crate::ids::{BootId, NodeId};
use crate::restart::{Restarts, Verdict};

/// What the transport wraps around a frame, at the most.
const WRAPPING_BYTES: u64 = 1024;
/// The node server's own listener is bound to an address no TCP connection can have, so it accepts nobody.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);
/// Deaths of children within `RESTART_WINDOW` after which the whole room fails.
const RESTARTS_MAX: usize = 10;
const RESTART_WINDOW: Duration = Duration::from_secs(10);

/// What the actors of this room and the handles to it share.
pub(super) struct Shared {
    pub(super) me: NodeId,
    pub(super) boot: BootId,
    pub(super) cluster: String,
    pub(super) timing: Timing,
    pub(super) inbound: Arc<dyn Inbound>,
    pub(super) doorway: Doorway,
    pub(super) peers: BTreeMap<NodeId, Arc<Gate>>,
    /// Frames and sessions refused because they were damaged or came from a stranger.
    pub(super) refused: AtomicU64,
    started: Instant,
    dials: AtomicU64,
    server: Mutex<Option<ActorRef<NodeServerMessage>>>,
}

impl Shared {
    pub(super) fn new(
        me: (NodeId, BootId),
        cluster: String,
        timing: Timing,
        inbound: Arc<dyn Inbound>,
        peers: impl Iterator<Item = NodeId>,
    ) -> Self {
        let (me, boot) = me;
        // Lives of different boots should differ, so that an echo of the last boot is not taken for one of this.
        let first_life = u32::try_from(boot.0 & 0x7fff_ffff).unwrap_or_default();
        let peers = peers.map(|node| (node, Arc::new(Gate::new(node, first_life))));
        Self {
            me,
            boot,
            cluster,
            timing,
            inbound,
            doorway: Doorway::default(),
            peers: peers.collect(),
            refused: AtomicU64::new(0),
            started: clock::monotonic(),
            dials: AtomicU64::new(0),
            server: Mutex::new(None),
        }
    }

    /// The time since this node started.
    pub(super) fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.started)
    }

    /// A label for a dialled connection, unique on this node.
    pub(super) fn label(&self, to: NodeId) -> String {
        let count = self.dials.fetch_add(1, Ordering::Relaxed);
        format!("out {count} to {to}")
    }

    pub(super) fn server(&self) -> Option<ActorRef<NodeServerMessage>> {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.clone()
    }

    /// This node's name and host name, as the transport announces them: `<node>-<boot>` and `<node>.<cluster>`.
    ///
    /// The boot makes a restarted node another one than the dead one, whose sessions its peers may still hold. The
    /// host name makes connection strings differ, which the transport compares to find connections to itself.
    fn names(&self) -> (String, String) {
        let node = self.me;
        (format!("{node}-{:016x}", self.boot.0), format!("{node}.{}", self.cluster))
    }

    /// Reads the name another node announces: one of our peers, in our cluster.
    fn peer(&self, announced: &str) -> Option<(&Arc<Gate>, BootId)> {
        let (name, host) = announced.split_once('@')?;
        let (node, boot) = name.split_once('-')?;
        let node = NodeId(node.parse().ok()?);
        let boot = BootId(u64::from_str_radix(boot, 16).ok()?);
        if host != format!("{node}.{}", self.cluster) {
            return None;
        }
        Some((self.peers.get(&node)?, boot))
    }
}

/// What the node server tells.
#[derive(RactorMessage)]
pub(super) enum Msg {
    /// A session has authenticated, and both ends have told each other their routers.
    Ready(Box<NodeServerSessionInformation>),
    /// A session has ended.
    Gone(ActorId),
}

/// The supervisor.
pub(super) struct Supervisor;

/// What it is started with.
pub(super) struct Arguments {
    pub(super) shared: Arc<Shared>,
    pub(super) cookie: String,
    pub(super) listener: std::net::TcpListener,
    pub(super) addresses: BTreeMap<NodeId, String>,
}

pub(super) struct State {
    myself: ActorRef<Msg>,
    shared: Arc<Shared>,
    cookie: String,
    listener: Arc<TcpListener>,
    addresses: BTreeMap<NodeId, String>,
    children: HashMap<ActorId, Child>,
    /// Ready sessions of peers. Keyed by actor: for a while there may be several to one peer.
    sessions: HashMap<ActorId, (NodeId, ActorRef<NodeSessionMessage>)>,
    restarts: Restarts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Server,
    Net,
    Door,
    Link(NodeId),
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        arguments.listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from_std(arguments.listener)?);
        let mut state = State {
            myself,
            cookie: arguments.cookie,
            listener,
            addresses: arguments.addresses,
            children: HashMap::new(),
            sessions: HashMap::new(),
            restarts: Restarts::new(RESTARTS_MAX, RESTART_WINDOW),
            shared: arguments.shared,
        };
        state.start(Child::Net).await?;
        state.start(Child::Server).await?;
        let links: Vec<_> = state.addresses.keys().copied().collect();
        for node in links {
            state.start(Child::Link(node)).await?;
        }
        state.start(Child::Door).await?;
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Ready(session) => state.ready(&session),
            Msg::Gone(id) => state.gone(id),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, why) => state.died(&cell, &why.to_string()).await,
            SupervisionEvent::ActorTerminated(cell, _, why) => {
                state.died(&cell, why.as_deref().unwrap_or("stopped")).await
            }
            _ => Ok(()),
        }
    }
}

impl State {
    async fn died(&mut self, cell: &ActorCell, why: &str) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.remove(&cell.get_id()) else {
            return Ok(());
        };
        tracing::error!(?child, why, "an actor of the links died");
        if self.restarts.allow(self.shared.now()) == Verdict::GiveUp {
            return Err(format!("{child:?} dies too often: {why}").into());
        }
        self.tidy_after(child);
        self.start(child).await?;
        Ok(())
    }

    /// Ends what rested on a dead child, so that both ends of each session start afresh.
    fn tidy_after(&mut self, child: Child) {
        match child {
            Child::Server => {
                self.sessions.clear();
                for gate in self.shared.peers.values() {
                    gate.tell(link::Msg::AllLost);
                }
            }
            Child::Net => self.stop_sessions(|_| true),
            Child::Link(dead) => self.stop_sessions(|node| node == dead),
            Child::Door => {}
        }
    }

    fn stop_sessions(&self, whose: impl Fn(NodeId) -> bool) {
        for (node, session) in self.sessions.values() {
            if whose(*node) {
                session.stop(Some("restart".to_owned()));
            }
        }
    }

    async fn start(&mut self, child: Child) -> Result<(), SpawnErr> {
        let me = self.myself.get_cell();
        let shared = self.shared.clone();
        let cell = match child {
            Child::Net => {
                let name = Some(net::name(shared.boot));
                let (net, _) = Actor::spawn_linked(name, Net, shared, me).await?;
                net.get_cell()
            }
            Child::Server => self.start_server().await?.get_cell(),
            Child::Door => {
                let arguments = (self.listener.clone(), shared);
                let (door, _) = Actor::spawn_linked(None, Door, arguments, me).await?;
                door.get_cell()
            }
            Child::Link(node) => {
                let (Some(gate), Some(address)) =
                    (shared.peers.get(&node).cloned(), self.addresses.get(&node))
                else {
                    return Ok(());
                };
                let arguments = link::Arguments { shared, gate, address: address.clone() };
                let (link, _) = Actor::spawn_linked(None, Link, arguments, me).await?;
                link.get_cell()
            }
        };
        self.children.insert(cell.get_id(), child);
        Ok(())
    }

    async fn start_server(&self) -> Result<ActorRef<NodeServerMessage>, SpawnErr> {
        let me = self.myself.get_cell();
        let nowhere = self.node_server(NOWHERE);
        let server = match Actor::spawn_linked(None, nowhere, (), me.clone()).await {
            Ok((server, _)) => server,
            // Not every system binds to a broadcast address; then at least nobody outside can connect.
            Err(_) => {
                let loopback = self.node_server(IpAddr::V4(Ipv4Addr::LOCALHOST));
                Actor::spawn_linked(None, loopback, (), me).await?.0
            }
        };
        let subscription =
            Box::new(Events { shared: self.shared.clone(), supervisor: self.myself.clone() });
        let subscribed = server
            .cast(NodeServerMessage::SubscribeToEvents { id: "links".to_owned(), subscription });
        subscribed.map_err(|_| SpawnErr::StartupFailed("node server died at once".into()))?;
        let mut shared = self.shared.server.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = Some(server.clone());
        Ok(server)
    }

    fn node_server(&self, listen: IpAddr) -> NodeServer {
        let (name, host) = self.shared.names();
        NodeServer::new(
            0,
            self.cookie.clone(),
            name,
            host,
            Some(IncomingEncryptionMode::Raw),
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(listen)
        .with_max_inbound_frame_size(FRAME_BYTES_MAX as u64 + WRAPPING_BYTES)
    }

    fn ready(&mut self, session: &NodeServerSessionInformation) {
        let announced = session.peer_name.as_ref().map(|name| name.name.as_str());
        match announced.and_then(|name| self.shared.peer(name)) {
            Some((gate, boot)) => {
                let actor = session.actor.clone();
                self.sessions.insert(actor.get_id(), (gate.node, actor.clone()));
                gate.tell(link::Msg::SessionReady { session: actor, boot });
            }
            None => {
                tracing::warn!(node = announced, "a stranger knows the cookie; refused");
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                session.actor.stop(Some("stranger".to_owned()));
            }
        }
    }

    fn gone(&mut self, id: ActorId) {
        if let Some((node, _)) = self.sessions.remove(&id)
            && let Some(gate) = self.shared.peers.get(&node)
        {
            gate.tell(link::Msg::SessionLost(id));
        }
    }
}

/// Passes on what the node server tells.
struct Events {
    shared: Arc<Shared>,
    supervisor: ActorRef<Msg>,
}

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, _session: NodeServerSessionInformation) {}

    fn node_session_authenticated(&self, _session: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        self.shared.doorway.pass(&session.peer_addr);
        // If the supervisor is gone, all its children are about to go too.
        let _ = self.supervisor.cast(Msg::Ready(Box::new(session)));
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        let _ = self.supervisor.cast(Msg::Gone(session.actor.get_id()));
    }
}
