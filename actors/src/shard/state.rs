//! State: what all replicas of a shard agree on; commands go in, outcomes and effects come out.
//!
//! Deterministic: the same commands in the same order give the same state on every replica. Time, ids and chance
//! enter only inside commands.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::command::{Batch, Change, Command, Happened, Outcome};
use super::outbox::{Inbox, Outbox};
use crate::codec;
use crate::ids::{Epoch, Number, ShardId, Timestamp, UserId};
use crate::mailbox::image::{self, Changes, Stored};
use crate::mailbox::rules::{LARGE_GROUP, Mailbox, Now, Policy};
use crate::message::Refusal;
use crate::message::group::Call;
use crate::mutant::{Mutant, is_planted};
use crate::packet::Envelope;

/// The cautious clock moves at most this much per command batch.
pub const CLOCK_STEP_MAX: Duration = Duration::from_secs(3600);

/// A mailbox in memory, or only on disk.
enum Slot {
    Warm(Box<Warm>),
    Cold(Cold),
}

/// What is known of a mailbox that is only on disk.
#[derive(Clone, Copy)]
struct Cold {
    /// Its head has this many chunks.
    chunks: u16,
    /// When time next has something to do; `None` when it was never looked at since the start.
    due: Option<Option<Timestamp>>,
}

struct Warm {
    mailbox: Mailbox,
    stored: Stored,
    touched: u64,
}

/// The part of the state that is not in any mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    wall: Timestamp,
    cautious: Timestamp,
    policy: Policy,
    pub(super) outbox: Outbox,
    inbox: Inbox,
}

/// What all replicas of a shard agree on.
pub struct State {
    shard: ShardId,
    pub(super) shards: u16,
    pub(super) head: Head,
    slots: BTreeMap<UserId, Slot>,
    dirty: BTreeSet<UserId>,
    /// The index of the newest entry applied.
    applied: u64,
    applied_term: u64,
    /// From so many members on a group is large; the same on all nodes.
    large: usize,
}

impl State {
    /// Makes the state of a shard that has never applied anything.
    #[must_use]
    pub fn new(shard: ShardId, shards: u16) -> Self {
        Self {
            shard,
            shards,
            head: Head::default(),
            slots: BTreeMap::new(),
            dirty: BTreeSet::new(),
            applied: 0,
            applied_term: 0,
            large: LARGE_GROUP,
        }
    }

    /// Sets from how many members on a group is large: other than usual in simulations, whose groups are small.
    pub const fn set_large(&mut self, members: usize) {
        self.large = members;
    }

    /// Takes up the state a checkpoint holds: its head, and the mailboxes (chunks per head) that lie beside it.
    pub fn restore(
        shard: ShardId,
        shards: u16,
        at: (u64, u64),
        head: &[u8],
        mailboxes: BTreeMap<UserId, u16>,
    ) -> Result<Self, codec::BadBytes> {
        let head = codec::decode_whole(head)?;
        let slots = mailboxes
            .into_iter()
            .map(|(user, chunks)| (user, Slot::Cold(Cold { chunks, due: None })));
        let (applied, applied_term) = at;
        Ok(Self { head, slots: slots.collect(), applied, applied_term, ..Self::new(shard, shards) })
    }

    /// The index and term of the newest entry applied.
    #[must_use]
    pub const fn applied(&self) -> (u64, u64) {
        (self.applied, self.applied_term)
    }

    /// Notes that an entry without commands was applied.
    pub const fn skip(&mut self, index: u64, term: u64) {
        self.applied = index;
        self.applied_term = term;
    }

    /// Mailboxes that must be in memory before this batch can be applied.
    #[must_use]
    pub fn missing(&self, batch: &Batch) -> Vec<(UserId, u16)> {
        let mut missing = BTreeMap::new();
        let mut need = |user: &UserId| {
            if let Some(Slot::Cold(cold)) = self.slots.get(user) {
                missing.insert(user.clone(), cold.chunks);
            }
        };
        for command in &batch.commands {
            match command {
                Command::Mailbox(user, _) => need(user),
                Command::Receive { envelopes, .. } => {
                    envelopes.iter().flat_map(Envelope::owners).for_each(&mut need);
                }
                Command::Taken { .. } | Command::Policy(_) => {}
            }
        }
        missing.into_iter().collect()
    }

    /// Puts a mailbox that was only on disk into memory.
    pub fn warm(&mut self, user: UserId, mailbox: Mailbox, stored: Stored) {
        if let Some(slot @ Slot::Cold(_)) = self.slots.get_mut(&user) {
            let touched = self.applied;
            *slot = Slot::Warm(Box::new(Warm { mailbox, stored, touched }));
        }
    }

    /// Whether a mailbox is only on disk, and in how many chunks its head is.
    #[must_use]
    pub fn cold(&self, user: &UserId) -> Option<u16> {
        match self.slots.get(user) {
            Some(Slot::Cold(cold)) => Some(cold.chunks),
            _ => None,
        }
    }

    /// A mailbox that is in memory.
    #[must_use]
    pub fn mailbox(&self, user: &UserId) -> Option<&Mailbox> {
        match self.slots.get(user) {
            Some(Slot::Warm(warm)) => Some(&warm.mailbox),
            _ => None,
        }
    }

    /// Whether there is such a user, in memory or on disk.
    #[must_use]
    pub fn knows(&self, user: &UserId) -> bool {
        self.slots.contains_key(user)
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        self.slots.keys()
    }

    /// The users behind this one, in order.
    pub fn users_after(&self, after: Option<&UserId>) -> impl Iterator<Item = &UserId> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.slots.range::<UserId, _>((start, Bound::Unbounded)).map(|(user, _)| user)
    }

    /// Applies one batch. Every mailbox it touches must be in memory (`missing`).
    pub fn apply(
        &mut self,
        index: u64,
        term: u64,
        batch: Batch,
        happened: &mut Vec<Happened>,
    ) -> Vec<Outcome> {
        // Invariant: entries are applied once each, in the order of the log.
        debug_assert_eq!(index, self.applied + 1);
        self.skip(index, term);
        self.advance_clock(batch.wall);
        batch.commands.into_iter().map(|command| self.execute(command, happened)).collect()
    }

    /// A clock that jumps cannot make anything expire early: the cautious clock only moves forward, in bounded steps.
    fn advance_clock(&mut self, wall: Timestamp) {
        let head = &mut self.head;
        head.wall = head.wall.max(wall);
        let believed = head.cautious == Timestamp(0) || is_planted(Mutant::ExpiresByLocalClock);
        head.cautious = if believed {
            wall
        } else {
            head.cautious.max(wall.min(head.cautious.after(CLOCK_STEP_MAX)))
        };
    }

    /// The moment commands are applied at.
    #[must_use]
    pub const fn now(&self) -> Now {
        let Head { wall, cautious, policy, .. } = self.head;
        Now { wall, cautious, policy, large: self.large }
    }

    fn execute(&mut self, command: Command, happened: &mut Vec<Happened>) -> Outcome {
        match command {
            Command::Mailbox(user, change) => match self.change(user, change, happened) {
                Ok(outcome) => outcome,
                Err(refusal) => Outcome::Refused(refusal),
            },
            Command::Receive { from, first, envelopes } => {
                for envelope in self.head.inbox.admit(from, first, envelopes) {
                    self.receive(envelope, happened);
                }
                happened.push(Happened::Received(from, self.head.inbox.applied(from)));
                Outcome::Done
            }
            Command::Taken { by, upto } => {
                self.head.outbox.taken(by, upto);
                Outcome::Done
            }
            Command::Policy(policy) => {
                self.head.policy = policy;
                Outcome::Done
            }
        }
    }

    pub(super) fn touch(&mut self, user: &UserId) -> Option<&mut Mailbox> {
        let index = self.applied;
        match self.slots.get_mut(user) {
            Some(Slot::Warm(warm)) => {
                warm.touched = index;
                if !self.dirty.contains(user) {
                    self.dirty.insert(user.clone());
                }
                Some(&mut warm.mailbox)
            }
            // Invariant: the caller has warmed what the batch names.
            Some(Slot::Cold(_)) => unreachable!("a mailbox is in memory before it is changed"),
            None => None,
        }
    }

    pub(super) fn create(&mut self, user: &UserId, epoch: Epoch) {
        let mailbox = Mailbox::new(user.clone(), epoch);
        let warm = Warm { mailbox, stored: Stored::default(), touched: self.applied };
        self.slots.insert(user.clone(), Slot::Warm(Box::new(warm)));
    }

    fn change(
        &mut self,
        user: UserId,
        change: Change,
        happened: &mut Vec<Happened>,
    ) -> Result<Outcome, Refusal> {
        let now = self.now();
        match &change {
            Change::Register { .. } if self.knows(&user) => return Err(Refusal::Taken),
            Change::Register { epoch, .. }
            | Change::Connect { epoch, .. }
            | Change::Open { epoch }
                if !self.knows(&user) =>
            {
                self.create(&user, *epoch);
            }
            Change::Group { call, epoch, .. }
                if matches!(**call, Call::Create { .. }) && !self.knows(&user) =>
            {
                self.create(&user, *epoch);
            }
            _ => {}
        }
        let shards = self.shards;
        let mailbox = self.touch(&user).ok_or(Refusal::NotFound)?;
        let passes = matches!(
            change,
            Change::Acknowledge { .. } | Change::Read { .. } | Change::Expire | Change::Erase
        );
        if mailbox.is_erased() && !passes {
            return Err(Refusal::Gone);
        }
        let mut effects = Vec::new();
        let mut outcome = Outcome::Done;
        match change {
            Change::Append { mid, send } => {
                outcome = Outcome::Accepted(mailbox.append(*send, mid, now, &mut effects)?);
            }
            Change::Register { password, .. } => mailbox.set_password(password),
            Change::Open { .. } => {}
            Change::Password { old, new } => mailbox.change_password(&old, new)?,
            Change::Connect { device, .. } => mailbox.ensure_device(&device, now)?,
            Change::Acknowledge { device, n } => {
                mailbox.acknowledge(&device, n, now, &mut effects);
            }
            Change::Read { conv, seq } => mailbox.read(&conv, seq, &mut effects),
            Change::RemoveDevice(device) => mailbox.remove_device(&device, now, &mut effects)?,
            Change::Expire => mailbox.expire(now, &mut effects),
            Change::Erase => mailbox.erase(&mut effects),
            Change::People(call) => mailbox.wants(call, &mut effects)?,
            Change::Group { by, call, .. } => {
                mailbox.call(&by, &call, shards, now, &mut effects)?;
            }
        }
        self.spread(&user, effects, happened);
        Ok(outcome)
    }

    /// Envelopes waiting for other shards.
    #[must_use]
    pub const fn outbox(&self) -> &Outbox {
        &self.head.outbox
    }

    /// The newest envelope applied of those from another shard.
    #[must_use]
    pub fn received(&self, from: ShardId) -> u64 {
        self.head.inbox.applied(from)
    }

    /// How long things are kept.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.head.policy
    }

    /// Users behind `after` for whom time has something to do, at most `most`; of those only on disk that were never
    /// looked at, a few. The last one looked at comes second, unless the end was reached.
    #[must_use]
    pub fn due(&self, after: Option<&UserId>, most: usize) -> (Vec<UserId>, Option<UserId>) {
        const UNKNOWN_MAX: usize = 4;
        let (policy, clock) = (self.head.policy, self.head.cautious);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut due, mut unknown) = (Vec::new(), 0);
        for (user, slot) in self.slots.range::<UserId, _>((start, Bound::Unbounded)) {
            let at = match slot {
                Slot::Warm(warm) => warm.mailbox.due(policy),
                Slot::Cold(Cold { due: Some(due), .. }) => *due,
                Slot::Cold(Cold { due: None, .. }) => {
                    unknown += 1;
                    Some(clock)
                }
            };
            if at.is_some_and(|at| at <= clock) {
                due.push(user.clone());
            }
            if due.len() >= most || unknown >= UNKNOWN_MAX {
                return (due, Some(user.clone()));
            }
        }
        (due, None)
    }

    /// Whether anything changed since the last checkpoint was taken.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What a checkpoint at the applied index must write; `(head, changes, mailboxes and how far their logs are sealed)`.
    pub fn checkpoint(&mut self) -> (Vec<u8>, Changes, Vec<(UserId, Number)>) {
        let mut all = Changes::default();
        let mut saved = Vec::new();
        for user in std::mem::take(&mut self.dirty) {
            let Some(Slot::Warm(warm)) = self.slots.get_mut(&user) else {
                continue;
            };
            let changes = image::save(&mut warm.mailbox, &mut warm.stored);
            all.puts.extend(changes.puts);
            all.deletes.extend(changes.deletes);
            saved.push((user, image::sealed_to(&warm.mailbox)));
        }
        (codec::encode(&self.head), all, saved)
    }

    /// A checkpoint with these mailboxes is durable: entries in sealed runs leave memory.
    pub fn checkpointed(&mut self, saved: &[(UserId, Number)]) {
        for (user, sealed_to) in saved {
            if let Some(Slot::Warm(warm)) = self.slots.get_mut(user) {
                image::cool(&mut warm.mailbox, *sealed_to);
            }
        }
    }

    /// Drops from memory clean mailboxes untouched for the longest, until about `bytes` are free; `keep` stay.
    pub fn cool(&mut self, bytes: usize, keep: impl Fn(&UserId) -> bool) -> usize {
        let mut clean: Vec<(u64, &UserId)> = self
            .slots
            .iter()
            .filter_map(|(user, slot)| match slot {
                Slot::Warm(warm) if !self.dirty.contains(user) && !keep(user) => {
                    (warm.stored != Stored::default()).then_some((warm.touched, user))
                }
                _ => None,
            })
            .collect();
        clean.sort_unstable();
        let clean: Vec<UserId> = clean.into_iter().map(|(_, user)| user.clone()).collect();
        let mut freed = 0;
        for user in clean {
            if freed >= bytes {
                break;
            }
            let Some(slot @ Slot::Warm(_)) = self.slots.get_mut(&user) else {
                continue;
            };
            let Slot::Warm(warm) = &*slot else { continue };
            freed += weight(&warm.mailbox);
            let due = Some(warm.mailbox.due(self.head.policy));
            *slot = Slot::Cold(Cold { chunks: warm.stored.chunks(), due });
        }
        freed
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let of = |slot: &Slot| match slot {
            Slot::Warm(warm) => weight(&warm.mailbox),
            Slot::Cold(_) => 64,
        };
        self.slots.values().map(of).sum::<usize>() + self.head.outbox.weight()
    }

    /// A hash of what replicas must agree on; only meaningful while all mailboxes are in memory.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut bytes = codec::encode(&self.head);
        for (user, slot) in &self.slots {
            codec::append(&mut bytes, user);
            if let Slot::Warm(warm) = slot {
                codec::append(&mut bytes, &image::digest(&warm.mailbox));
            }
        }
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// Panics when something that always holds does not.
    pub fn check(&self) {
        assert!(self.head.cautious <= self.head.wall, "the cautious clock stays behind");
        self.head.outbox.check();
        for slot in self.slots.values() {
            if let Slot::Warm(warm) = slot {
                warm.mailbox.check();
            }
        }
    }

    /// The shard's id.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.shard
    }
}

fn weight(mailbox: &Mailbox) -> usize {
    const FIXED: usize = 640;
    FIXED + mailbox.log().weight() + mailbox.weight_of_memory()
}

/// For fuzzing: reads what a checkpoint or an entry may hold of a shard; answers whether it was any of it.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let state = State::restore(ShardId(0), 1, (1, 1), bytes, BTreeMap::new());
    let batch = codec::decode::<Batch>(bytes);
    state.map(|state| state.weight()).is_ok() || batch.is_ok()
}

/// For fuzzing: the head of a checkpoint, and an entry, as they are written.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let command = Command::Taken { by: ShardId(2), upto: 9 };
    let batch = Batch { wall: Timestamp(1), commands: vec![command] };
    vec![codec::encode(&Head::default()), codec::encode(&batch)]
}
