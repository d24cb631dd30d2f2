//! Transfer: sends a shard's checkpoint, piece by piece, to a replica that fell behind, and takes one over.
//!
//! While a checkpoint is sent the shard writes no other, so all pieces are of one moment. Raft's own message that names
//! the checkpoint travels in the last piece: it is stepped only when everything before it is on disk.

use bytes::Bytes;
use ractor::ActorProcessingErr;
use raft::eraftpb::{Message, Snapshot};
use serde::{Deserialize, Serialize};

use super::storing;
use super::{Msg, State};
use crate::clock;
use crate::cluster::Class;
use crate::codec;
use crate::ids::{NodeId, ReplicaId, ShardId};
use crate::packet::Packet;
use crate::shard::replica::carries_image;
use crate::shard::wire;
use crate::store::LogStart;
use crate::store::StoreError;
use crate::store::{Chunk, Last, Replicas, ShardImage};

/// Bytes of keys and values in one piece, about; a single value is at most 64 KiB.
const PIECE_BYTES: usize = 64 * 1024;
/// A transfer without progress for this long is given up; Raft asks again.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A checkpoint on its way to a node.
pub(super) struct Transfer {
    message: Message,
    after: Option<Vec<u8>>,
    number: u32,
    /// Encoded, and waiting for credit.
    ready: Option<(Bytes, Last)>,
    progress: std::time::Instant,
}

/// A checkpoint that is coming in.
pub(super) struct Arrival {
    from: NodeId,
    at: LogStart,
    next: u32,
    /// Raft's message and the head of the shard, once all pieces are there.
    last: Option<(Message, Vec<u8>)>,
    /// Steps asked of the disk and not done.
    pending: u32,
    /// Raft was told, and decides at the next flush.
    handed: bool,
    finishing: bool,
}

#[derive(Serialize, Deserialize)]
struct Piece {
    index: u64,
    term: u64,
    number: u32,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// With the last piece: the shard's head and Raft's message.
    end: Option<(Vec<u8>, Vec<u8>)>,
}

impl State {
    /// Raft wants these checkpoints sent.
    pub(super) fn start_transfers(&mut self, shard: ShardId, messages: Vec<Message>) {
        for message in messages {
            let node = ReplicaId(message.to).node();
            let Some(hosted) = self.shards.get_mut(&shard) else { return };
            tracing::info!(%shard, %node, index = message.get_snapshot().get_metadata().index, "sending a checkpoint");
            let progress = clock::monotonic();
            let transfer = Transfer { message, after: None, number: 0, ready: None, progress };
            hosted.transfers.insert(node, transfer);
            self.export(shard, node);
        }
    }

    fn export(&self, shard: ShardId, node: NodeId) {
        let Some(transfer) = self.shards.get(&shard).and_then(|h| h.transfers.get(&node)) else {
            return;
        };
        let lane = self.myself.clone();
        let reply = Box::new(move |chunk| {
            let _stopping = lane.cast(Msg::Exported(shard, node, chunk));
        });
        self.disks.checkpoints.export(shard, transfer.after.clone(), PIECE_BYTES, reply);
    }

    /// A piece was read: it goes as soon as the link takes it.
    pub(super) fn exported(
        &mut self,
        shard: ShardId,
        node: NodeId,
        chunk: Result<Chunk, StoreError>,
    ) {
        let head = self.disks.checkpoints.image(shard).map(|image| image.head);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(transfer) = hosted.transfers.get_mut(&node) else { return };
        let metadata = transfer.message.get_snapshot().get_metadata();
        let at = LogStart { index: metadata.index, term: metadata.term };
        let (Ok(chunk), Some(head)) = (chunk, head) else {
            self.end_transfer(shard, node, false);
            return;
        };
        if chunk.at != at {
            self.end_transfer(shard, node, false);
            return;
        }
        transfer.after = chunk.pairs.last().map(|(key, _)| key.clone());
        let end =
            (chunk.last == Last::Yes).then(|| (head, wire::encode(&transfer.message).to_vec()));
        let piece = Piece {
            index: at.index,
            term: at.term,
            number: transfer.number,
            pairs: chunk.pairs,
            end,
        };
        transfer.number += 1;
        transfer.ready = Some((codec::encode(&piece).into(), chunk.last));
        self.send_piece(shard, node);
    }

    fn send_piece(&mut self, shard: ShardId, node: NodeId) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(transfer) = hosted.transfers.get_mut(&node) else { return };
        let Some((bytes, last)) = transfer.ready.take() else { return };
        let packets = [Packet::Snapshot(shard, bytes.clone())];
        if self.router.send(node, Class::Bulk, &packets).is_err() {
            transfer.ready = Some((bytes, last));
            return;
        }
        transfer.progress = clock::monotonic();
        match last {
            Last::Yes => self.end_transfer(shard, node, true),
            Last::No => self.export(shard, node),
        }
    }

    fn end_transfer(&mut self, shard: ShardId, node: NodeId, arrived: bool) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        hosted.transfers.remove(&node);
        hosted.replica.snapshot_sent(node, arrived);
        if !arrived {
            tracing::warn!(%shard, %node, "a checkpoint could not be sent; Raft asks again");
        }
        self.touch(shard);
    }

    /// Pieces that waited for credit try again; transfers that have stood still for too long end.
    pub(super) fn continue_transfers(&mut self) {
        let now = clock::monotonic();
        let mut all = Vec::new();
        for (shard, hosted) in &self.shards {
            for (node, transfer) in &hosted.transfers {
                let stuck = now.saturating_duration_since(transfer.progress) > PATIENCE;
                all.push((*shard, *node, stuck));
            }
        }
        for (shard, node, stuck) in all {
            if stuck {
                self.end_transfer(shard, node, false);
            } else {
                self.send_piece(shard, node);
            }
        }
    }

    /// A piece of a checkpoint came in.
    pub(super) fn piece(&mut self, from: NodeId, shard: ShardId, bytes: &[u8]) {
        let Ok(piece) = codec::decode::<Piece>(bytes) else {
            tracing::warn!(%shard, node = %from, "a piece of a checkpoint was refused");
            return;
        };
        let at = LogStart { index: piece.index, term: piece.term };
        let lane = self.myself.clone();
        let done = move || {
            let lane = lane.clone();
            Box::new(move |done| {
                let _stopping = lane.cast(Msg::Imported(shard, done));
            })
        };
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let undecided = self.due.contains(&shard);
        let complete = |a: &Arrival| a.finishing || (a.handed && undecided);
        if hosted.replica.is_installing() || hosted.arrival.as_ref().is_some_and(complete) {
            return;
        }
        if piece.number == 0 {
            let mut arrival = Arrival {
                from,
                at,
                next: 0,
                last: None,
                pending: 0,
                handed: false,
                finishing: false,
            };
            arrival.pending += 1;
            hosted.arrival = Some(arrival);
            self.disks.checkpoints.import_begin(shard, done());
        }
        let Some(arrival) = hosted.arrival.as_mut() else { return };
        if (arrival.from, arrival.at, arrival.next) != (from, at, piece.number) {
            tracing::warn!(%shard, node = %from, "a checkpoint came in out of order; it is dropped");
            hosted.arrival = None;
            self.disks.checkpoints.import_abort(shard);
            return;
        }
        arrival.next += 1;
        arrival.pending += 1;
        if let Some((head, message)) = piece.end {
            let sender = self.router.replica(from);
            let message = wire::decode(&message).ok().filter(|message| {
                carries_image(message) && sender == Some(ReplicaId(message.from))
            });
            arrival.last = message.map(|message| (message, head));
        }
        self.disks.checkpoints.import_chunk(shard, piece.pairs, done());
    }

    /// The disk has done a step.
    pub(super) fn imported(
        &mut self,
        shard: ShardId,
        done: Result<(), StoreError>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(hosted) = self.shards.get_mut(&shard) else { return Ok(()) };
        let Some(arrival) = hosted.arrival.as_mut() else { return Ok(()) };
        if let Err(error) = done {
            tracing::error!(%shard, %error, "a checkpoint could not be taken over");
            if arrival.finishing {
                return Err(error.into());
            }
            hosted.arrival = None;
            self.disks.checkpoints.import_abort(shard);
            return Ok(());
        }
        arrival.pending = arrival.pending.saturating_sub(1);
        if arrival.finishing {
            return self.finish_install(shard);
        }
        if arrival.pending > 0 {
            return Ok(());
        }
        let Some((message, _)) = arrival.last.clone() else { return Ok(()) };
        // All is on disk: Raft decides whether it still wants this checkpoint (`install`), or drops it.
        arrival.handed = true;
        hosted.replica.step(message);
        self.touch(shard);
        Ok(())
    }

    /// Raft takes the checkpoint that came in: it becomes this shard's own in one step.
    pub(super) fn install(&mut self, shard: ShardId, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        let at = LogStart { index: metadata.index, term: metadata.term };
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(arrival) = hosted.arrival.as_mut().filter(|arrival| arrival.at == at) else {
            // Invariant: Raft was told of a checkpoint only after its pieces were here.
            unreachable!("a checkpoint is installed after it came in");
        };
        arrival.finishing = true;
        let head = arrival.last.take().map(|(_, head)| head).unwrap_or_default();
        let conf = metadata.get_conf_state();
        let replicas = Replicas { voters: conf.voters.clone(), learners: conf.learners.clone() };
        let image = ShardImage { generation: 0, at, replicas, head };
        let lane = self.myself.clone();
        let reply = Box::new(move |done| {
            let _stopping = lane.cast(Msg::Imported(shard, done));
        });
        self.disks.checkpoints.import_finish(shard, image, reply);
    }

    fn finish_install(&mut self, shard: ShardId) -> Result<(), ActorProcessingErr> {
        let state = storing::restore(shard, self.router.shards(), &self.disks.checkpoints)?;
        let Some(hosted) = self.shards.get_mut(&shard) else { return Ok(()) };
        tracing::info!(%shard, index = state.applied().0, "took over a checkpoint");
        hosted.storing.restart_at(state.applied().0);
        hosted.replica.installed(state);
        hosted.arrival = None;
        self.touch(shard);
        Ok(())
    }
}
