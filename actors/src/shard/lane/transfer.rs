//! Transfer: sends a shard's checkpoint, piece by piece, to a replica that fell behind, and takes one over.
//!
//! While a checkpoint is sent the shard writes no other, so all pieces are of one moment. Raft's own message that names
//! the checkpoint travels in the last piece: it is stepped only when everything before it is on disk. And only when the
//! other end says that Raft there has taken it (or does not want it) is Raft here told that it arrived: a leader that
//! is told sooner asks at once, finds nothing and begins again.

mod rules;

use bytes::Bytes;
use ractor::ActorProcessingErr;
use raft::eraftpb::{Message, Snapshot};
use serde::{Deserialize, Serialize};

use super::storing;
use super::{Msg, State};
use crate::cluster::Class;
use crate::codec;
use crate::ids::{NodeId, ReplicaId, ShardId};
use crate::packet::Packet;
use crate::shard::replica::carries_image;
use crate::shard::wire;
use crate::store::LogStart;
use crate::store::StoreError;
use crate::store::{Chunk, Last, Pairs, Replicas, ShardImage, VALUE_BYTES_MAX};
use rules::{Answer, Coming, Piece, Sending, Which};

/// Bytes of keys and values in one piece, about; a single value is at most 64 KiB.
const PIECE_BYTES: usize = 64 * 1024;
/// The format of `Note`.
const VERSION: u8 = 1;

/// A checkpoint on its way to a node.
pub(super) struct Transfer {
    rules: Sending,
    /// Tells it from all others there were of this lane.
    number: u64,
    message: Message,
    after: Option<Vec<u8>>,
    reading: bool,
    /// Encoded, and waiting for credit.
    ready: Option<(Bytes, Last)>,
}

/// A checkpoint that is coming in.
pub(super) struct Arrival {
    rules: Coming,
    /// Raft's message and the head of the shard, once all pieces are there.
    last: Option<(Message, Vec<u8>)>,
}

/// What the two ends of a transfer say to each other.
#[derive(Serialize, Deserialize)]
enum Note {
    /// The sender: the next keys and values.
    Piece {
        which: Which,
        number: u32,
        pairs: Pairs,
        /// With the last piece: the shard's head and Raft's message.
        end: Option<(Vec<u8>, Vec<u8>)>,
    },
    /// The receiver: so many pieces are on disk.
    Taken { which: Which, pieces: u32 },
    /// The receiver: it has been taken over, or it will not be.
    Over { which: Which, taken: bool },
}

/// Whether Raft's message names the checkpoint whose pieces came: any other it would take over without its image.
fn is_about(message: &Message, which: Which) -> bool {
    let metadata = message.get_snapshot().get_metadata();
    carries_image(message) && (metadata.index, metadata.term) == (which.index, which.term)
}

/// Whether a piece is as a sender cuts it: what is longer the checkpoints take from nobody.
fn can_be_kept(pairs: &Pairs, head: Option<&Vec<u8>>) -> bool {
    let fits = |(key, value): &(Vec<u8>, Vec<u8>)| key.len().max(value.len()) <= VALUE_BYTES_MAX;
    pairs.iter().all(fits) && head.is_none_or(|head| head.len() <= storing::IMAGE_HEAD_BYTES_MAX)
}

/// For fuzzing: reads a note, and what is in it; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let Some(note) = codec::open_anyway::<Note>(VERSION, bytes) else { return false };
    if let Note::Piece { pairs, end: Some((head, message)), .. } = note {
        let _any =
            wire::decode(&message).map(|message| crate::shard::replica::hearing::fuzz(&message));
        let _state = crate::shard::state::fuzz(head.get(2..).unwrap_or_default());
        for (key, value) in pairs {
            let _any = crate::mailbox::image::fuzz(&key) || crate::mailbox::image::fuzz(&value);
        }
    }
    true
}

/// For fuzzing: notes as they are sent.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut message = Message::default();
    message.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
    (message.to, message.from, message.term) = (1, 2, 4);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (12, 4);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    let which = Which { leadership: 4, index: 12, term: 4 };
    let pairs = crate::mailbox::image::seeds();
    let end = Some((vec![0, 0], wire::encode(&message).to_vec()));
    let notes = [
        Note::Piece { which, number: 0, pairs, end },
        Note::Taken { which, pieces: 3 },
        Note::Over { which, taken: true },
    ];
    notes.iter().map(|note| codec::seal(VERSION, note)).collect()
}

impl Arrival {
    /// Whether Raft was told of it and has not taken it.
    pub(super) fn is_handed(&self) -> bool {
        self.rules.is_handed()
    }
}

impl State {
    /// Raft wants these checkpoints sent.
    pub(super) fn start_transfers(&mut self, shard: ShardId, messages: Vec<Message>) {
        for message in messages {
            let (node, now) = (ReplicaId(message.to).node(), self.now());
            let metadata = message.get_snapshot().get_metadata();
            let (index, term) = (metadata.index, metadata.term);
            let Some(hosted) = self.shards.get_mut(&shard) else { return };
            tracing::info!(%shard, %node, index, "sending a checkpoint");
            self.transfers += 1;
            let transfer = Transfer {
                rules: Sending::new(Which { leadership: message.term, index, term }, now),
                number: self.transfers,
                message,
                after: None,
                reading: false,
                ready: None,
            };
            hosted.transfers.insert(node, transfer);
            self.export(shard, node);
        }
    }

    /// Reads the next piece, if the other end may have one more.
    fn export(&mut self, shard: ShardId, node: NodeId) {
        let hosted = self.shards.get_mut(&shard);
        let Some(transfer) = hosted.and_then(|h| h.transfers.get_mut(&node)) else { return };
        if transfer.reading || transfer.ready.is_some() || transfer.rules.next().is_none() {
            return;
        }
        transfer.reading = true;
        let (lane, number) = (self.myself.clone(), transfer.number);
        let reply = Box::new(move |chunk| {
            let _stopping = lane.cast(Msg::Exported(shard, node, number, chunk));
        });
        self.disks.checkpoints.export(shard, transfer.after.clone(), PIECE_BYTES, reply);
    }

    /// A piece was read: it goes as soon as the link takes it.
    pub(super) fn exported(
        &mut self,
        shard: ShardId,
        node: NodeId,
        number: u64,
        chunk: Result<Chunk, StoreError>,
    ) {
        let image = self.disks.checkpoints.image(shard);
        let hosted = self.shards.get_mut(&shard);
        let Some(transfer) = hosted.and_then(|h| h.transfers.get_mut(&node)) else { return };
        if transfer.number != number {
            return;
        }
        transfer.reading = false;
        let (which, piece) = (transfer.rules.which, transfer.rules.next());
        let at = LogStart { index: which.index, term: which.term };
        let chunk = chunk.ok().filter(|chunk| chunk.at == at);
        // A checkpoint that was being written when this began may have replaced it since the piece was read.
        let head = image.filter(|image| image.at == at).map(|image| image.head);
        let (Some(chunk), Some(head), Some(number)) = (chunk, head, piece) else {
            self.end_transfer(shard, node, false);
            return;
        };
        transfer.after = chunk.pairs.last().map(|(key, _)| key.clone());
        let end =
            (chunk.last == Last::Yes).then(|| (head, wire::encode(&transfer.message).to_vec()));
        let piece = Note::Piece { which, number, pairs: chunk.pairs, end };
        transfer.ready = Some((codec::seal(VERSION, &piece).into(), chunk.last));
        self.send_piece(shard, node);
    }

    fn send_piece(&mut self, shard: ShardId, node: NodeId) {
        let now = self.now();
        let hosted = self.shards.get_mut(&shard);
        let Some(transfer) = hosted.and_then(|h| h.transfers.get_mut(&node)) else { return };
        let Some((bytes, last)) = transfer.ready.take() else { return };
        let packets = [Packet::Snapshot(shard, bytes.clone())];
        if self.router.send(node, Class::Bulk, &packets).is_err() {
            transfer.ready = Some((bytes, last));
            return;
        }
        transfer.rules.sent(last == Last::Yes, now);
        self.export(shard, node);
    }

    fn end_transfer(&mut self, shard: ShardId, node: NodeId, arrived: bool) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        hosted.transfers.remove(&node);
        hosted.replica.snapshot_sent(node, arrived);
        if !arrived {
            tracing::warn!(%shard, %node, "a checkpoint did not arrive; Raft asks again");
        }
        self.touch(shard);
    }

    /// The link to a node is gone, and with it what was under way.
    pub(super) fn end_transfers_to(&mut self, node: NodeId) {
        let all = self.shards.iter().filter(|(_, hosted)| hosted.transfers.contains_key(&node));
        for shard in all.map(|(shard, _)| *shard).collect::<Vec<_>>() {
            self.end_transfer(shard, node, false);
        }
    }

    /// Pieces that waited for credit try again; transfers that have stood still for too long end.
    pub(super) fn continue_transfers(&mut self) {
        let now = self.now();
        let mut all = Vec::new();
        for (shard, hosted) in &self.shards {
            for (node, transfer) in &hosted.transfers {
                all.push((*shard, *node, transfer.rules.is_stuck(now)));
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

    /// The other end of a transfer says something.
    pub(super) fn transfer_note(&mut self, from: NodeId, shard: ShardId, bytes: &[u8]) {
        let note = match codec::open::<Note>(VERSION, bytes) {
            Ok(note) => note,
            Err(error) => {
                tracing::warn!(%shard, node = %from, %error, "a piece of a checkpoint was refused");
                return;
            }
        };
        let now = self.now();
        let (about, pieces, over) = match note {
            Note::Piece { which, number, pairs, end } => {
                return self.piece(from, shard, (which, number), pairs, end);
            }
            Note::Taken { which, pieces } => (which, pieces, None),
            Note::Over { which, taken } => (which, 0, Some(taken)),
        };
        let hosted = self.shards.get_mut(&shard);
        let transfer = hosted.and_then(|hosted| hosted.transfers.get_mut(&from));
        let Some(transfer) = transfer.filter(|transfer| transfer.rules.which == about) else {
            return;
        };
        transfer.rules.taken(pieces, now);
        match over {
            Some(taken) => self.end_transfer(shard, from, taken),
            None => self.export(shard, from),
        }
    }

    /// A word to the sender. Control, because it is small and nobody repeats it; it is lost only with the link.
    fn answer(&self, to: NodeId, shard: ShardId, note: &Note) {
        let packets = [Packet::Snapshot(shard, codec::seal(VERSION, note).into())];
        let _link_lost = self.router.send(to, Class::Control, &packets);
    }

    fn piece(
        &mut self,
        from: NodeId,
        shard: ShardId,
        (which, number): (Which, u32),
        pairs: Pairs,
        end: Option<(Vec<u8>, Vec<u8>)>,
    ) {
        if !can_be_kept(&pairs, end.as_ref().map(|(head, _)| head)) {
            tracing::warn!(%shard, node = %from, number, "a piece that no disk holds was refused");
            return;
        }
        let sender = self.router.replica(from);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let known = hosted.arrival.as_ref().map(|arrival| &arrival.rules);
        if known.is_none() && hosted.replica.is_installing() {
            return;
        }
        match (rules::judge(known, from, which, number), known) {
            (Piece::Begins, _) => {
                self.transfers += 1;
                let rules = Coming::new(from, which, self.transfers);
                hosted.arrival = Some(Arrival { rules, last: None });
                self.disks.checkpoints.import_begin(shard, Box::new(|_| ()));
            }
            (Piece::GoesOn, _) => {}
            (Piece::Repeats, Some(known)) => {
                let pieces = known.taken();
                return self.answer(from, shard, &Note::Taken { which, pieces });
            }
            (Piece::Repeats | Piece::Strays, _) => {
                tracing::debug!(%shard, node = %from, number, "a piece of nothing that is wanted");
                return;
            }
        }
        let Some(arrival) = hosted.arrival.as_mut() else { return };
        arrival.rules.goes_on(end.is_some());
        if let Some((head, message)) = end {
            let message = wire::decode(&message).ok().filter(|message| {
                is_about(message, which) && sender == Some(ReplicaId(message.from))
            });
            arrival.last = message.map(|message| (message, head));
        }
        let (lane, number) = (self.myself.clone(), arrival.rules.number());
        let done = Box::new(move |done| {
            let _stopping = lane.cast(Msg::Imported(shard, number, done));
        });
        self.disks.checkpoints.import_chunk(shard, pairs, done);
    }

    /// The disk has done a step of taking over the checkpoint with this number.
    pub(super) fn imported(
        &mut self,
        shard: ShardId,
        number: u64,
        done: Result<(), StoreError>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(hosted) = self.shards.get_mut(&shard) else { return Ok(()) };
        let Some(arrival) = hosted.arrival.as_mut() else { return Ok(()) };
        if arrival.rules.number() != number {
            return Ok(());
        }
        if let Err(error) = done {
            tracing::error!(%shard, %error, "a checkpoint could not be taken over");
            if arrival.rules.is_finishing() {
                return Err(error.into());
            }
            self.drop_arrival(shard);
            return Ok(());
        }
        let (from, which) = (arrival.rules.from, arrival.rules.which);
        match arrival.rules.done(number) {
            Answer::Stale => {}
            Answer::Taken(pieces) => self.answer(from, shard, &Note::Taken { which, pieces }),
            Answer::Whole(pieces) => match arrival.last.clone() {
                // Raft decides whether it still wants this checkpoint (`install`), or drops it.
                Some((message, _)) => {
                    hosted.replica.step(message);
                    self.answer(from, shard, &Note::Taken { which, pieces });
                    self.touch(shard);
                }
                None => self.drop_arrival(shard),
            },
            Answer::Finished => return self.finish_install(shard),
        }
        Ok(())
    }

    /// What came in is not taken over: its sender need not wait, and Raft there asks what is needed now.
    pub(super) fn drop_arrival(&mut self, shard: ShardId) {
        let arrival = self.shards.get_mut(&shard).and_then(|hosted| hosted.arrival.take());
        let Some(Arrival { rules, .. }) = arrival else { return };
        self.disks.checkpoints.import_abort(shard);
        self.answer(rules.from, shard, &Note::Over { which: rules.which, taken: false });
    }

    /// Raft takes the checkpoint that came in: it becomes this shard's own in one step.
    pub(super) fn install(&mut self, shard: ShardId, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        let at = LogStart { index: metadata.index, term: metadata.term };
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let here = |which: Which| (which.index, which.term) == (at.index, at.term);
        let Some(arrival) = hosted.arrival.as_mut().filter(|arrival| here(arrival.rules.which))
        else {
            // Invariant: Raft was told of a checkpoint only after its pieces were here.
            unreachable!("a checkpoint is installed after it came in");
        };
        arrival.rules.finish();
        let head = arrival.last.take().map(|(_, head)| head).unwrap_or_default();
        let conf = metadata.get_conf_state();
        let replicas = Replicas { voters: conf.voters.clone(), learners: conf.learners.clone() };
        let image = ShardImage { generation: 0, at, replicas, head };
        let (lane, number) = (self.myself.clone(), arrival.rules.number());
        let reply = Box::new(move |done| {
            let _stopping = lane.cast(Msg::Imported(shard, number, done));
        });
        self.disks.checkpoints.import_finish(shard, image, reply);
    }

    fn finish_install(&mut self, shard: ShardId) -> Result<(), ActorProcessingErr> {
        let state = storing::restore(shard, self.router.shards(), &self.disks.checkpoints)?;
        let Some(hosted) = self.shards.get_mut(&shard) else { return Ok(()) };
        tracing::info!(%shard, index = state.applied().0, "took over a checkpoint");
        hosted.storing.restart_at(state.applied().0);
        hosted.replica.installed(state);
        hosted.images += 1;
        if let Some(Arrival { rules, .. }) = hosted.arrival.take() {
            self.answer(rules.from, shard, &Note::Over { which: rules.which, taken: true });
        }
        self.touch(shard);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_about_another_checkpoint_than_the_one_that_came_is_not_raft_s_to_take() {
        let seeds = seeds();
        let Note::Piece { which, end: Some((_, message)), .. } =
            codec::open(VERSION, &seeds[0]).unwrap()
        else {
            panic!("a piece");
        };
        let message = wire::decode(&message).unwrap();
        assert!(is_about(&message, which));
        assert!(!is_about(&message, Which { index: which.index + 1, ..which }));
        assert!(!is_about(&message, Which { term: which.term - 1, ..which }));
        let mut other = message;
        other.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
        assert!(!is_about(&other, which));
    }

    #[test]
    fn what_is_too_long_for_the_checkpoints_is_refused() {
        let pairs = |key: usize, value: usize| vec![(vec![1; key], vec![1; value])];
        assert!(can_be_kept(&pairs(70, VALUE_BYTES_MAX), None));
        assert!(!can_be_kept(&pairs(70, VALUE_BYTES_MAX + 1), None));
        assert!(!can_be_kept(&pairs(VALUE_BYTES_MAX + 1, 0), None));
        let head = |bytes: usize| vec![0; bytes];
        assert!(can_be_kept(&Vec::new(), Some(&head(storing::IMAGE_HEAD_BYTES_MAX))));
        assert!(!can_be_kept(&Vec::new(), Some(&head(VALUE_BYTES_MAX))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_note_panic(
            seed in prop::sample::select(seeds()),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = seed;
            hits.iter().for_each(|(at, value)| *at.get_mut(&mut bytes) ^= value);
            let _note = fuzz(&bytes);
            let _cut = fuzz(&bytes[..cut.index(bytes.len())]);
        }
    }
}
