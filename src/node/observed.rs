//! Observed: what this node knows of the cluster, gathered each half second for the operator.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use actors::ids::{NodeId, ShardId};
use actors::message::people::Card;
use actors::message::{self, Accepted, Refusal};
use actors::node as chat;
use actors::packet::{Answer, Question, ShardHealth};
use actors::router::{CardsFor, Router};
use actors::shard::lane::ShardStatus;
use actors::store::Journal;

use crate::admin::{
    ClusterView, NodeState, NodeView, Observed, ReplicaView, SessionView, ShardView, WhereView,
    Whom,
};
use crate::auth;
use crate::config::Config;
use crate::gateway::{self, Roll};
use crate::rest::{self, Pending};

/// How often the lanes are asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long a mailbox's home may take to say where its user is.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the cluster.
pub(super) struct View {
    config: Config,
    me: NodeId,
    router: Router,
    roll: Arc<Roll>,
    place: BTreeMap<ShardId, Vec<NodeId>>,
    own: RwLock<Vec<ShardStatus>>,
}

impl View {
    pub(super) fn new(config: Config, me: NodeId, node: &chat::Node, roll: Arc<Roll>) -> Self {
        let (router, place) = (node.router().clone(), node.place().clone());
        Self { config, me, router, roll, place, own: RwLock::default() }
    }

    /// Keeps it up to date, for ever.
    pub(super) async fn keep(self: Arc<Self>, journal: Journal) {
        loop {
            let own = chat::inspect(&self.router).await;
            self.record(&own, &journal);
            let led = own.iter().filter(|shard| shard.role.leads);
            let health = led.map(|shard| ShardHealth {
                shard: shard.shard,
                last: shard.last,
                replicas: shard.progress.iter().map(|(node, at, _)| (*node, *at)).collect(),
            });
            self.router.set_health(health.collect());
            let sockets = u32::try_from(self.roll.sockets()).unwrap_or(u32::MAX);
            self.router.set_connected(sockets);
            *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
            tokio::time::sleep(EVERY).await;
        }
    }

    fn record(&self, own: &[ShardStatus], journal: &Journal) {
        let leads = own.iter().filter(|shard| shard.role.leads).count();
        metrics::gauge!("rookery_shards_led").set(number(leads));
        metrics::gauge!("rookery_sessions").set(number(self.roll.sockets()));
        metrics::gauge!("rookery_mailboxes").set(number(own.iter().map(|s| s.mailboxes).sum()));
        let bytes = own.iter().map(|shard| shard.state_bytes).sum();
        metrics::gauge!("rookery_state_bytes").set(number(bytes));
        let crashed = self.roll.crashed();
        metrics::counter!("rookery_sockets_crashed_total").absolute(crashed);
        let stats = journal.stats();
        metrics::gauge!("rookery_journal_write_p99_seconds").set(stats.write_p99.as_secs_f64());
        for peer in self.router.links().map(actors::cluster::Links::status).unwrap_or_default() {
            let node = peer.node.to_string();
            metrics::gauge!("rookery_link_up", "node" => node.clone()).set(f64::from(peer.up));
            let too_long = metrics::counter!("rookery_link_too_long_total", "node" => node.clone());
            too_long.absolute(peer.too_long);
            metrics::counter!("rookery_link_reaped_total", "node" => node).absolute(peer.reaped);
        }
    }

    fn name(&self, node: NodeId) -> String {
        let at = usize::from(node.0).saturating_sub(1);
        self.config.nodes.get(at).map(|node| node.name.clone()).unwrap_or_default()
    }

    /// The leader of a shard, unless the last one known is out of reach or serves it no longer.
    fn leader(&self, shard: ShardId) -> Option<(u64, NodeId)> {
        self.router.leader(shard).filter(|leader| self.router.still_serves(shard, *leader))
    }

    fn node(&self, id: NodeId, node: &crate::config::Node) -> NodeView {
        let mut view = NodeView {
            name: node.name.clone(),
            url: node.url.clone(),
            admin_url: node.admin_url(),
            state: NodeState::Down,
            pid: None,
            version: None,
            leads: 0,
            sessions: 0,
        };
        let leads =
            self.place.keys().filter(|shard| self.leader(**shard).is_some_and(|l| l.1 == id));
        view.leads = u32::try_from(leads.count()).unwrap_or(u32::MAX);
        if id == self.me {
            let draining = self.router.is_draining();
            view.state = if draining { NodeState::Draining } else { NodeState::Up };
            view.pid = Some(std::process::id());
            view.version = Some(env!("CARGO_PKG_VERSION").to_owned());
            view.sessions = u32::try_from(self.roll.sockets()).unwrap_or(u32::MAX);
            return view;
        }
        let Some(peer) = self.router.peers().remove(&id) else { return view };
        let Some(beat) = peer.beat else { return view };
        view.state = match (peer.up, beat.draining) {
            (false, _) => NodeState::Down,
            (true, true) => NodeState::Draining,
            (true, false) => NodeState::Up,
        };
        view.pid = Some(beat.pid);
        view.version = Some(beat.version.into());
        view.sessions = if peer.up { beat.sessions } else { 0 };
        view
    }

    /// Where clients reach the other nodes that are up and not being drained.
    pub(super) fn elsewhere(&self) -> Vec<Arc<str>> {
        let others = self.config.ids().filter(|(id, _)| *id != self.me);
        let views = others.map(|(id, node)| self.node(id, node));
        views.filter(|view| view.state == NodeState::Up).map(|view| view.url.into()).collect()
    }

    fn shard(&self, shard: ShardId, health: &BTreeMap<ShardId, ShardHealth>) -> ShardView {
        let leader = self.leader(shard);
        let health = health.get(&shard).filter(|_| leader.is_some());
        let replica = |node: &NodeId| {
            let known = health.and_then(|h| h.replicas.iter().find(|(known, _)| known == node));
            let applied = known.filter(|_| self.router.is_up(*node)).map(|(_, matched)| *matched);
            // Its leader counts it when it votes.
            let joining = health.is_some() && known.is_none();
            ReplicaView {
                node: self.name(*node),
                applied,
                joining,
                behind: applied.zip(health).map(|(at, health)| health.last.saturating_sub(at)),
            }
        };
        ShardView {
            shard: shard.0,
            leader: leader.map(|(_, node)| self.name(node)),
            replicas: self.place.get(&shard).into_iter().flatten().map(replica).collect(),
            term: leader.map_or(0, |(term, _)| term),
        }
    }

    /// What the leaders say of their shards: this node's own word, and the others' last signs of life.
    fn health(&self) -> BTreeMap<ShardId, ShardHealth> {
        let mut all = BTreeMap::new();
        let mut take = |node: NodeId, health: Vec<ShardHealth>| {
            for shard in health {
                if self.leader(shard.shard).is_some_and(|(_, leader)| leader == node) {
                    all.insert(shard.shard, shard);
                }
            }
        };
        take(self.me, self.router.health());
        for (node, peer) in self.router.peers() {
            take(node, peer.beat.map(|beat| beat.health).unwrap_or_default());
        }
        all
    }
}

impl Observed for View {
    fn cluster(&self) -> ClusterView {
        let health = self.health();
        ClusterView {
            cluster: self.config.cluster.name.clone(),
            nodes: self.config.ids().map(|(id, node)| self.node(id, node)).collect(),
            shards: self.place.keys().map(|shard| self.shard(*shard, &health)).collect(),
        }
    }

    fn where_is(&self, whom: Whom) -> Pending<'_, Result<WhereView, Refusal>> {
        Box::pin(async move {
            let user = match whom {
                Whom::User(user) => user,
                Whom::Group(group) => actors::ids::UserId::of_group(&group),
            };
            let shard = self.shard(self.router.shard_of(&user), &self.health());
            let sessions = match self.router.ask(&user, Question::Sessions, PATIENCE).await {
                Ok(Answer::Sessions(sessions)) => sessions,
                _ => Vec::new(),
            };
            let session = |(node, device): (NodeId, actors::ids::DeviceId)| SessionView {
                node: self.name(node),
                device: device.to_string(),
            };
            Ok(WhereView {
                shard: shard.shard,
                leader: shard.leader,
                replicas: shard.replicas,
                sessions: sessions.into_iter().map(session).collect(),
            })
        })
    }

    fn ready(&self) -> bool {
        // A leadership that is being handed over is missing for a moment only: the last leader counts until there is
        // another, but neither without a link to it nor without most of the cluster.
        let known = |shard: &ShardId| self.router.leader(*shard).map(|(_, leader)| leader);
        let ids = (1..).map(NodeId).take(self.config.nodes.len());
        let most =
            ids.filter(|node| self.router.is_up(*node)).count() > self.config.nodes.len() / 2;
        let led =
            self.place.keys().all(|s| known(s).is_some_and(|leader| self.router.is_up(leader)));
        most && led && !self.router.is_draining()
    }
}

impl rest::Homes for Router {
    fn ask<'a>(
        &'a self,
        user: &'a actors::ids::UserId,
        question: Question,
        within: Duration,
    ) -> Pending<'a, Result<Answer, Refusal>> {
        Box::pin(self.ask(user, question, within))
    }

    fn unknown_of(
        &self,
        users: Vec<actors::ids::UserId>,
        within: Duration,
    ) -> Pending<'_, Result<Option<actors::ids::UserId>, Refusal>> {
        Box::pin(self.unknown_of(users, within))
    }

    fn cards<'a>(
        &'a self,
        users: Vec<actors::ids::UserId>,
        by: &'a actors::ids::UserId,
        what: CardsFor,
    ) -> Pending<'a, BTreeMap<actors::ids::UserId, Card>> {
        Box::pin(self.cards(users, by, what))
    }

    fn send_once(
        &self,
        send: message::Send,
        within: Duration,
    ) -> Pending<'_, Result<Accepted, Refusal>> {
        Box::pin(self.send_once(send, within))
    }
}

impl gateway::Tokens for auth::Tokens {
    fn verify(&self, token: &str) -> Result<gateway::Verified, gateway::TokenRefused> {
        self.verify(token)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn number(count: usize) -> f64 {
    count as f64
}
