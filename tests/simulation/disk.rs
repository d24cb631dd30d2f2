//! Disk: what a node has written, and how much of it a power cut leaves.

use std::collections::{BTreeMap, VecDeque};

use actors::ids::ShardId;
use actors::shard::raft_log::{Place, RaftLog};
use actors::shard::replica::Write;
use actors::store::{Births, StoreId};
use raft::eraftpb::{ConfState, Entry, HardState};

use crate::chance::Chance;

/// One shard's journal.
#[derive(Debug, Clone, Default)]
struct Log {
    hard_state: HardState,
    entries: Vec<Entry>,
}

/// The disk of one node; it survives the node.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What it knows of births; replaced as a whole, and durable at once.
    pub(crate) births: Births,
    /// Whether it ever was lost, with everything on it.
    pub(crate) was_lost: bool,
    logs: BTreeMap<ShardId, Log>,
    /// Written and not yet durable, oldest first.
    pending: VecDeque<(ShardId, Write)>,
    /// So many of those are in the sync under way.
    syncing: usize,
    /// What a lying disk would undo.
    undo: VecDeque<BTreeMap<ShardId, Log>>,
    lies: bool,
}

impl Disk {
    pub(crate) fn new(lies: bool, birth: u128) -> Self {
        Self {
            births: Births::new(StoreId(birth)),
            was_lost: false,
            logs: BTreeMap::new(),
            pending: VecDeque::new(),
            syncing: 0,
            undo: VecDeque::new(),
            lies,
        }
    }

    /// It is replaced by an empty one.
    pub(crate) fn lose(&mut self, birth: u128) {
        *self = Self { was_lost: true, ..Self::new(self.lies, birth) };
    }

    /// Takes writes in; answers whether a sync should begin.
    pub(crate) fn write(&mut self, writes: Vec<(ShardId, Write)>) -> bool {
        self.pending.extend(writes);
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
            let (shard, write) = self.pending.pop_front().expect("it is being synced");
            tickets.push((shard, write.ticket));
            self.keep(shard, write);
        }
        self.syncing = self.pending.len();
        (tickets, self.syncing > 0)
    }

    /// The power goes: any prefix of what was not durable may have got there.
    pub(crate) fn cut(&mut self, chance: &mut Chance) {
        for _ in 0..chance.below(self.pending.len() + 1) {
            let (shard, write) = self.pending.pop_front().expect("a prefix");
            self.keep(shard, write);
        }
        self.pending.clear();
        self.syncing = 0;
        if self.lies
            && let Some(before) = self.undo.pop_front()
        {
            self.logs = before;
        }
        self.undo.clear();
    }

    fn keep(&mut self, shard: ShardId, write: Write) {
        let log = self.logs.entry(shard).or_default();
        assert!(write.reset.is_none(), "logs are never compacted here");
        if let Some(hard_state) = write.hard_state {
            log.hard_state = hard_state;
        }
        if let Some(first) = write.entries.first() {
            let keep = usize::try_from(first.index - 1).unwrap();
            assert!(keep <= log.entries.len(), "a journal has no gaps");
            log.entries.truncate(keep);
            log.entries.extend(write.entries);
        }
    }

    /// The log a node that starts finds.
    pub(crate) fn open(&self, shard: ShardId, members: ConfState) -> RaftLog {
        let Log { hard_state, entries } = self.logs.get(&shard).cloned().unwrap_or_default();
        assert!(hard_state.commit <= entries.len() as u64, "what is committed is in the log");
        RaftLog::restore(hard_state, members, Place::default(), entries)
    }

    /// Whether an entry is durable here.
    pub(crate) fn holds(&self, shard: ShardId, index: u64, term: u64) -> bool {
        let at = usize::try_from(index - 1).unwrap();
        let entry = self.logs.get(&shard).and_then(|log| log.entries.get(at));
        entry.is_some_and(|entry| entry.term == term)
    }
}
