//! Taking part: what follows for the rest of the node from what is agreed about births.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ractor::ActorRef;
use tokio::sync::watch;

use super::{Health, Options};
use crate::birth;
use crate::cluster::Class;
use crate::ids::{Incarnation, NodeId, ReplicaId, ShardId};
use crate::packet::Packet;
use crate::router::Router;
use crate::shard::lane::{self, Disks, Hosted, Settings};
use crate::store::{ShardRecovery, StoreError};

/// How the room that knows births reaches the rest of the node.
pub(super) struct Port {
    pub(super) router: Router,
    pub(super) settled: watch::Sender<Option<Incarnation>>,
    pub(super) health: Arc<watch::Sender<Health>>,
}

impl birth::Port for Port {
    fn tell(&self, node: NodeId, note: Bytes) {
        // What is lost here is said again.
        let _down = self.router.send(node, Class::Control, &[Packet::Birth(note)]);
    }

    fn vetted(&self, node: NodeId, incarnation: Option<Incarnation>) {
        self.router.vet(node, incarnation);
    }

    fn settled(&self, incarnation: Incarnation) {
        self.router.vet(self.router.me(), Some(incarnation));
        self.settled.send_replace(Some(incarnation));
    }

    fn superseded(&self) {
        self.health.send_replace(Health::Superseded);
    }
}

/// What it takes to build this node's replicas.
pub(super) struct Replicas {
    me: NodeId,
    shards: u16,
    place: BTreeMap<ShardId, Vec<NodeId>>,
    disks: Disks,
    settings: Settings,
    lanes: usize,
    /// What the disk holds of them.
    found: BTreeMap<ShardId, ShardRecovery>,
}

impl Replicas {
    pub(super) fn new(
        options: &Options,
        place: BTreeMap<ShardId, Vec<NodeId>>,
        disks: Disks,
        found: BTreeMap<ShardId, ShardRecovery>,
    ) -> Self {
        let (settings, lanes) = (options.settings.clone(), options.lanes.max(1));
        Self { me: options.me, shards: options.shards, place, disks, settings, lanes, found }
    }

    /// For each lane no replica.
    pub(super) fn none(&self) -> Vec<Vec<Hosted>> {
        (0..self.lanes).map(|_| Vec::new()).collect()
    }

    /// Builds them, for each lane its own. Blocks while the disk is read.
    pub(super) fn open(mut self, incarnation: Incarnation) -> Result<Vec<Vec<Hosted>>, StoreError> {
        let me = ReplicaId::of(self.me, incarnation);
        let mut hosted = self.none();
        for (shard, at) in self.place.iter().filter(|(_, at)| at.contains(&self.me)) {
            let found = self.found.remove(shard);
            let place = (me, at.clone(), self.shards);
            let opened = lane::open(*shard, place, found, &self.disks, &self.settings)?;
            hosted[usize::from(shard.0) % self.lanes].push(opened);
        }
        Ok(hosted)
    }

    /// Waits until the node takes part, and gives the lanes their replicas.
    pub(super) async fn follow(
        self,
        mut settled: watch::Receiver<Option<Incarnation>>,
        lanes: Vec<ActorRef<lane::Msg>>,
        health: Arc<watch::Sender<Health>>,
    ) {
        let Ok(incarnation) = settled.wait_for(Option::is_some).await.map(|known| *known) else {
            return;
        };
        let incarnation = incarnation.unwrap_or_default();
        let opened = tokio::task::spawn_blocking(move || self.open(incarnation)).await;
        match opened {
            Ok(Ok(hosted)) => {
                for (lane, shards) in lanes.iter().zip(hosted) {
                    let _stopping = lane.cast(lane::Msg::Host(shards));
                }
            }
            failed => {
                let error = failed.err().map(|error| error.to_string());
                tracing::error!(?error, "the replicas could not be opened; the node stops");
                health.send_replace(Health::Failed);
            }
        }
    }
}
