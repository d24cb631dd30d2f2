//! Disk: what a node has written, and how much of it a power cut leaves.

use std::collections::{BTreeMap, VecDeque};

use actors::ids::{ShardId, UserId};
use actors::mailbox::image::{self, Changes};
use actors::shard::raft_log::{Place, RaftLog};
use actors::shard::replica::Write;
use actors::shard::state::State;
use actors::store::{Births, StoreId};
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::around::Plant;
use crate::chance::Chance;

/// One shard's journal.
#[derive(Debug, Clone, Default)]
struct Log {
    hard_state: HardState,
    /// The entry before the first one.
    start: Place,
    entries: Vec<Entry>,
}

/// A shard's checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) at: Place,
    pub(crate) members: ConfState,
    pub(crate) head: Vec<u8>,
    pub(crate) pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a checkpoint changes.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) at: Place,
    pub(crate) members: ConfState,
    pub(crate) head: Vec<u8>,
    pub(crate) changes: Changes,
}

/// What the journal is told of one shard.
#[derive(Debug)]
pub(crate) enum Order {
    Write(Box<Write>),
    /// The log begins behind this entry from now on.
    Compact(Place),
}

/// The disk of one node; it survives the node.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What it knows of births; replaced as a whole, and durable at once.
    pub(crate) births: Births,
    /// Up to which entry of each shard it had everything when it was lost.
    lost: BTreeMap<ShardId, u64>,
    logs: BTreeMap<ShardId, Log>,
    /// Written and not yet durable, oldest first.
    pending: VecDeque<(ShardId, Order)>,
    /// So many of those are in the sync under way.
    syncing: usize,
    /// What a lying disk would undo.
    undo: VecDeque<BTreeMap<ShardId, Log>>,
    lies: bool,
    images: BTreeMap<ShardId, Image>,
    plant: Plant,
    /// The place and head that the newest checkpoint replaced; if it was torn they stay.
    replaced: Option<(ShardId, Place, Vec<u8>)>,
}

impl Disk {
    pub(crate) fn new(plant: Plant, birth: u128) -> Self {
        let lies = plant == Plant::DiskLies;
        Self {
            births: Births::new(StoreId(birth)),
            lost: BTreeMap::new(),
            logs: BTreeMap::new(),
            pending: VecDeque::new(),
            syncing: 0,
            undo: VecDeque::new(),
            lies,
            images: BTreeMap::new(),
            plant,
            replaced: None,
        }
    }

    /// It is replaced by an empty one.
    pub(crate) fn lose(&mut self, birth: u128) {
        let mut lost = std::mem::take(&mut self.lost);
        let logs = self.logs.iter().map(|(shard, log)| (shard, log.last()));
        let images = self.images.iter().map(|(shard, image)| (shard, image.at.index));
        for (shard, last) in logs.chain(images) {
            let known = lost.entry(*shard).or_default();
            *known = last.max(*known);
        }
        *self = Self { lost, ..Self::new(self.plant, birth) };
    }

    /// Takes orders in; answers whether a sync should begin.
    pub(crate) fn write(&mut self, orders: Vec<(ShardId, Order)>) -> bool {
        self.pending.extend(orders);
        let begins = self.syncing == 0 && !self.pending.is_empty();
        if begins {
            self.syncing = self.pending.len();
        }
        begins
    }

    /// The sync has ended: what is durable now, and whether another begins.
    pub(crate) fn synced(&mut self) -> (Vec<(ShardId, u64)>, bool) {
        if self.lies {
            self.undo.push_back(self.logs.clone());
            if self.undo.len() > 3 {
                self.undo.pop_front();
            }
        }
        let mut tickets = Vec::new();
        for _ in 0..std::mem::take(&mut self.syncing) {
            let (shard, order) = self.pending.pop_front().expect("it is being synced");
            if let Order::Write(write) = &order {
                tickets.push((shard, write.ticket));
            }
            self.keep(shard, order);
        }
        self.syncing = self.pending.len();
        (tickets, self.syncing > 0)
    }

    /// The power goes: any prefix of what was not durable may have got there.
    pub(crate) fn cut(&mut self, chance: &mut Chance) {
        for _ in 0..chance.below(self.pending.len() + 1) {
            let (shard, order) = self.pending.pop_front().expect("a prefix");
            self.keep(shard, order);
        }
        self.pending.clear();
        self.syncing = 0;
        if self.lies
            && let Some(before) = self.undo.pop_front()
        {
            self.logs = before;
        }
        self.undo.clear();
        if self.plant == Plant::AppliesTwice {
            for (shard, image) in &mut self.images {
                let log = self.logs.get(shard);
                let before = image.at.index.saturating_sub(20);
                if let Some(term) = log.and_then(|log| log.term(before)) {
                    image.at = Place { index: before, term };
                }
            }
        }
        if self.plant == Plant::TearsCheckpoint
            && let Some((shard, at, head)) = self.replaced.take()
            && let Some(image) = self.images.get_mut(&shard)
            && self.logs.get(&shard).is_some_and(|log| log.start.index <= at.index)
        {
            (image.at, image.head) = (at, head);
        }
    }

    fn keep(&mut self, shard: ShardId, order: Order) {
        let log = self.logs.entry(shard).or_default();
        let write = match order {
            Order::Write(write) => *write,
            Order::Compact(start) => return log.compact(start),
        };
        if let Some(start) = write.reset {
            (log.start, log.entries) = (start, Vec::new());
        }
        if let Some(hard_state) = write.hard_state {
            log.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            let keep = usize::try_from(first.index - 1 - log.start.index).unwrap();
            assert!(keep <= log.entries.len(), "a journal has no gaps");
            log.entries.truncate(keep);
            log.entries.extend(write.entries);
        }
    }

    /// The log and the state that a node that starts finds, and the place of the checkpoint in it. An image is committed
    /// state, so it wins over the log.
    pub(crate) fn open(
        &mut self,
        shard: ShardId,
        shards: u16,
        members: ConfState,
    ) -> (RaftLog, State, Option<(Place, ConfState)>) {
        let log = self.logs.entry(shard).or_default();
        let image = self.images.get(&shard);
        if let Some(Image { at, .. }) = image {
            assert!(log.start.index <= at.index, "a checkpoint is durable before the log goes");
            if log.hard_state.term < at.term {
                log.hard_state = HardState { term: at.term, ..HardState::default() };
            }
            log.hard_state.commit = log.hard_state.commit.max(at.index);
            if log.term(at.index) != Some(at.term) {
                // An image was taken over, and then the power went before the log was told.
                (log.start, log.entries) = (*at, Vec::new());
                log.hard_state.commit = at.index;
            }
        }
        assert!(log.hard_state.commit <= log.last(), "what is committed is in the log");
        let Log { hard_state, start, entries } = log.clone();
        let members = image.map_or(members, |image| image.members.clone());
        let log = RaftLog::restore(hard_state, members, start, entries);
        let at = image.map(|image| (image.at, image.members.clone()));
        (log, self.state(shard, shards), at)
    }

    /// The state that the newest checkpoint holds; its mailboxes stay on disk.
    pub(crate) fn state(&self, shard: ShardId, shards: u16) -> State {
        let Some(found) = self.images.get(&shard) else { return State::new(shard, shards) };
        let mut mailboxes: BTreeMap<UserId, u16> = BTreeMap::new();
        for user in found.pairs.keys().filter_map(|key| image::head_of(key)) {
            *mailboxes.entry(user).or_default() += 1;
        }
        let at = (found.at.index, found.at.term);
        State::restore(shard, shards, at, &found.head, mailboxes).unwrap()
    }

    /// A checkpoint is written: all of it at once.
    pub(crate) fn checkpoint(&mut self, shard: ShardId, checkpoint: Checkpoint) {
        let Checkpoint { at, members, head, changes } = checkpoint;
        let before = self.images.remove(&shard);
        assert!(before.as_ref().is_none_or(|b| b.at.index <= at.index), "only forward");
        self.replaced = before.as_ref().map(|before| (shard, before.at, before.head.clone()));
        let mut pairs = before.map(|before| before.pairs).unwrap_or_default();
        for key in &changes.deletes {
            pairs.remove(key);
        }
        pairs.extend(changes.puts);
        self.images.insert(shard, Image { at, members, head, pairs });
    }

    /// An image from another node takes the place of this one's.
    pub(crate) fn install(&mut self, shard: ShardId, image: Image) {
        self.images.insert(shard, image);
    }

    pub(crate) fn image(&self, shard: ShardId) -> Option<&Image> {
        self.images.get(&shard)
    }

    /// The values of these keys, if all are there.
    pub(crate) fn load(&self, shard: ShardId, keys: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        let pairs = &self.images.get(&shard)?.pairs;
        keys.iter().map(|key| pairs.get(key).cloned()).collect()
    }

    /// Whether it may have held an entry when it was lost.
    pub(crate) fn has_lost(&self, shard: ShardId, index: u64) -> bool {
        self.lost.get(&shard).is_some_and(|last| index <= *last)
    }

    /// Whether an entry, or what it did, is durable here.
    pub(crate) fn holds(&self, shard: ShardId, index: u64, term: u64) -> bool {
        let in_image = self.images.get(&shard).is_some_and(|image| index <= image.at.index);
        in_image || self.logs.get(&shard).is_some_and(|log| log.term(index) == Some(term))
    }
}

impl Log {
    fn compact(&mut self, start: Place) {
        if let Some(gone) = start.index.checked_sub(self.start.index) {
            let gone = usize::try_from(gone).unwrap();
            assert!(gone <= self.entries.len(), "only what is in the log can be compacted");
            self.entries.drain(..gone);
            self.start = start;
        }
    }

    fn last(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        let at = index.checked_sub(self.start.index + 1)?;
        self.entries.get(usize::try_from(at).unwrap()).map(|entry| entry.term)
    }
}
