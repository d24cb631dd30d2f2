//! Storing: a lane's dealings with the disk: checkpoints out, cold mailboxes and old runs in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use raft::eraftpb::ConfState;

use super::children::Children;
use super::hosted::Hosted;
use super::runs::Entries;
use super::{Disks, Msg, Settings, State};
use crate::codec::BadBytes;
use crate::ids::{Incarnation, NodeId, Number, ReplicaId, ShardId, UserId};
use crate::mailbox::image::{self, Opening, Stored};
use crate::mailbox::log::Sealed;
use crate::mailbox::rules::Mailbox;
use crate::shard::home::{For, Home};
use crate::shard::raft_log::{Place, RaftLog};
use crate::shard::replica::Replica;
use crate::shard::state::State as Agreed;
use crate::store::StoreError;
use crate::store::{Checkpoint, Checkpoints, Replicas};
use crate::store::{LogStart, Record};
use crate::store::{ShardRecovery, Wholeness};

/// Entries applied without any mailbox changing before a checkpoint moves its index on, so that the log can go.
const QUIET_ENTRIES: u64 = 256;
/// The part of a shard's head that lies in its image; the rest lies in chunks beside it.
const HEAD_BYTES: usize = 32 * 1024;
/// The chunks beside it, short enough to stay in sled.
const HEAD_CHUNK_BYTES: usize = 15 * 1024;
/// A head in an image: the number of chunks beside it, and its first part.
pub(super) const IMAGE_HEAD_BYTES_MAX: usize = 2 + HEAD_BYTES;
const HEAD_PREFIX: u8 = b'o';

/// Where a shard stands with its checkpoints.
#[derive(Debug, Default)]
pub(super) struct Storing {
    /// The newest durable checkpoint.
    durable: u64,
    /// The one being written.
    running: Option<Running>,
    wanted: bool,
}

#[derive(Debug)]
struct Running {
    at: Place,
    members: ConfState,
    /// How far it lets logs leave memory.
    saved: Vec<(UserId, Number)>,
}

impl Storing {
    pub(super) const fn new(durable: u64) -> Self {
        Self { durable, running: None, wanted: false }
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn restart_at(&mut self, durable: u64) {
        self.durable = durable;
        self.running = None;
    }
}

impl State {
    /// Checkpoints the shards whose turn it is: each once per `checkpoint_every`, evenly spread, since whatever comes
    /// while many are taken waits for all of them.
    pub(super) fn checkpoint_some(&mut self) {
        let tick = self.settings.tick.max(Duration::from_millis(1));
        let round = (self.settings.checkpoint_every.as_millis() / tick.as_millis()).max(1);
        let (turn, count) = (u128::from(self.ticks) % round, self.shards.len() as u128);
        if turn == 0 {
            self.excess = self.excess();
        }
        let (children, excess) = (&self.children, self.excess);
        let mut checkpoints = Vec::new();
        for (at, hosted) in self.shards.values_mut().enumerate() {
            hosted.storing.wanted |= hosted.replica.wants_checkpoint();
            let due = turn == at as u128 * round / count;
            if due && excess > 0 {
                cool(hosted, excess, children);
            }
            if due || hosted.storing.wanted {
                checkpoints.extend(checkpoint(hosted));
            }
        }
        self.store(checkpoints);
    }

    /// Checkpoints every shard that changed, now.
    pub(super) fn checkpoint_all(&mut self) {
        let checkpoints = self.shards.values_mut().filter_map(checkpoint).collect();
        self.store(checkpoints);
    }

    fn store(&self, checkpoints: Vec<Checkpoint>) {
        if checkpoints.is_empty() {
            return;
        }
        let lane = self.myself.clone();
        let done = Box::new(move |stored| {
            let _stopping = lane.cast(Msg::Stored(stored));
        });
        self.disks.checkpoints.write(checkpoints, done);
    }

    /// Checkpoints are durable: what they hold may leave the log and the memory.
    pub(super) fn stored(&mut self, stored: &[(ShardId, u64)]) {
        let mut records = Vec::new();
        for (shard, index) in stored {
            let Some(hosted) = self.shards.get_mut(shard) else { continue };
            let Some(Running { at, members, saved }) = hosted.storing.running.take() else {
                continue;
            };
            // Another checkpoint is being taken over: the log has begun anew behind it.
            if at.index != *index || hosted.replica.is_installing() {
                continue;
            }
            hosted.storing.durable = *index;
            hosted.replica.state_mut().checkpointed(&saved);
            let start = hosted.replica.checkpointed(at, members);
            let compact = Some(LogStart { index: start.index, term: start.term });
            records.push(Record { shard: *shard, compact, ..Record::default() });
        }
        self.disks.journal.write(records, Arc::new(|_| ()));
    }

    /// How many bytes of mailboxes each shard should let go of, if there are too many in memory.
    fn excess(&mut self) -> usize {
        for hosted in self.shards.values_mut() {
            hosted.bytes = hosted.replica.state().weight();
        }
        let mailboxes: usize = self.shards.values().map(|hosted| hosted.bytes).sum();
        let total = mailboxes + self.runs.weight();
        let lanes = self.router.lanes().len().max(1);
        let over = total.saturating_sub(self.settings.memory_budget / lanes);
        over.div_ceil(self.shards.len().max(1))
    }

    /// Reads a mailbox that is only on disk.
    pub(super) fn load(&mut self, shard: ShardId, user: &UserId, chunks: u16) {
        if !self.children.start_loading(user) {
            return;
        }
        let (lane, disk, user) =
            (self.myself.clone(), self.disks.checkpoints.clone(), user.clone());
        let Some(image) = self.shards.get(&shard).map(|hosted| hosted.images) else { return };
        let keys = image::head_keys(&user, chunks);
        let from = (shard, image);
        let reply = Box::new(move |head| load_rest(lane, &disk, from, user, head));
        self.disks.checkpoints.load(shard, keys, reply);
    }

    /// A mailbox was read: whoever waits for it goes on.
    pub(super) fn warmed(
        &mut self,
        (shard, image): (ShardId, u64),
        read: Result<(Mailbox, Stored), StoreError>,
        user: UserId,
    ) {
        self.children.end_loading(&user);
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        if hosted.images == image {
            match read {
                Ok((mailbox, stored)) => {
                    hosted.replica.state_mut().warm(user.clone(), mailbox, stored);
                }
                Err(StoreError::Replaced { .. }) => {}
                Err(error) => {
                    hosted.home.fetch_lost(&user);
                    return self.damaged(shard, &error);
                }
            }
        }
        // Read, at least in part, from a checkpoint that another has replaced meanwhile: who waits asks once more.
        let mut out = Vec::new();
        hosted.home.fetch_warmed(&hosted.replica, &user, &mut out);
        let waited = hosted.home.warmed(&user);
        self.carry_out(shard, out);
        waited.into_iter().for_each(|ask| self.ask(ask));
        self.touch(shard);
    }

    /// Something of this shard's checkpoint cannot be read: all of it comes again from another replica.
    fn damaged(&mut self, shard: ShardId, error: &StoreError) {
        tracing::error!(%shard, %error, "the checkpoint is damaged; it comes again from another replica");
        if let Some(hosted) = self.shards.get_mut(&shard) {
            hosted.replica.lose_state();
        }
        self.touch(shard);
    }

    /// Reads a run of a log, unless it was read lately.
    pub(super) fn load_run(&mut self, shard: ShardId, user: UserId, run: Sealed, read: For) {
        let lane = self.myself.clone();
        if let Some(entries) = self.runs.find(&user, run) {
            let _stopping = lane.cast(Msg::RunRead(shard, (user, run), Ok(entries), read));
            return;
        }
        let keys = vec![image::log_key(&user, run)];
        let reply = Box::new(move |values: Result<Vec<Option<Vec<u8>>>, StoreError>| {
            let entries = values.and_then(|values| match values.into_iter().next().flatten() {
                Some(bytes) => image::entries(&bytes).map_err(|why| bad(shard, &user, why)),
                // Dropped by history since the page was asked for.
                None => Ok(Vec::new()),
            });
            let entries = entries.map(Arc::new);
            let _stopping = lane.cast(Msg::RunRead(shard, (user, run), entries, read));
        });
        self.disks.checkpoints.load(shard, keys, reply);
    }

    pub(super) fn run_read(
        &mut self,
        shard: ShardId,
        (user, run): &(UserId, Sealed),
        entries: Result<Entries, StoreError>,
        read: For,
    ) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                hosted.home.run_lost(read);
                if !matches!(error, StoreError::Replaced { .. }) {
                    self.damaged(shard, &error);
                }
                return;
            }
        };
        self.runs.keep(user, *run, &entries);
        let mut out = Vec::new();
        hosted.home.run_loaded(&hosted.replica, user, &entries, read, &mut out);
        self.carry_out(shard, out);
    }
}

/// Lets cold mailboxes of a shard leave memory.
fn cool(hosted: &mut Hosted, bytes: usize, children: &Children) {
    // What a checkpoint under way holds is not on disk yet, and would be read back as it was before.
    if hosted.storing.is_running() {
        return;
    }
    let state = hosted.replica.state_mut();
    let freed = state.cool(bytes, |user| children.has(user));
    if freed > 0 {
        tracing::debug!(shard = %state.shard(), bytes = freed, "mailboxes left memory");
    }
}

/// What a checkpoint of this shard must write now, if it needs one and none is on its way.
fn checkpoint(hosted: &mut Hosted) -> Option<Checkpoint> {
    let state = hosted.replica.state();
    let (index, term) = state.applied();
    let quiet = index < hosted.storing.durable + QUIET_ENTRIES && !hosted.storing.wanted;
    let busy = hosted.storing.is_running()
        || !hosted.transfers.is_empty()
        || hosted.replica.is_installing()
        || hosted.replica.lacks_state();
    if busy || index == hosted.storing.durable || (quiet && !state.is_dirty()) {
        return None;
    }
    hosted.storing.wanted = false;
    let members = hosted.replica.members().clone();
    let replicas = Replicas { voters: members.voters.clone(), learners: members.learners.clone() };
    let (head, mut changes, saved) = hosted.replica.state_mut().checkpoint();
    let (head, more) = split(head);
    changes.puts.extend(more);
    hosted.storing.running = Some(Running { at: Place { index, term }, members, saved });
    Some(Checkpoint {
        shard: hosted.shard(),
        at: LogStart { index, term },
        replicas,
        head,
        puts: changes.puts,
        deletes: changes.deletes,
    })
}

/// Cuts a shard's head into the part that lies in the image, behind the number of chunks, and those chunks.
fn split(head: Vec<u8>) -> (Vec<u8>, Vec<image::Pair>) {
    let (first, rest) = head.split_at(head.len().min(HEAD_BYTES));
    let chunks: Vec<&[u8]> = rest.chunks(HEAD_CHUNK_BYTES).collect();
    let count = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
    let mut image = count.to_be_bytes().to_vec();
    image.extend(first);
    let pairs = (0..count).zip(chunks).map(|(at, chunk)| (chunk_key(at), chunk.to_vec()));
    (image, pairs.collect())
}

fn chunk_key(at: u16) -> Vec<u8> {
    let [high, low] = at.to_be_bytes();
    vec![HEAD_PREFIX, high, low]
}

/// Puts together what `split` cut.
fn join(image: &[u8], disk: &Checkpoints, shard: ShardId) -> Result<Vec<u8>, StoreError> {
    let Some((count, first)) = image.split_first_chunk::<2>() else {
        return Err(bad_head(shard, BadBytes::Short(image.len())));
    };
    let mut head = first.to_vec();
    if u16::from_be_bytes(*count) > 0 {
        let chunks: BTreeMap<Vec<u8>, Vec<u8>> =
            disk.scan(shard, &[HEAD_PREFIX])?.into_iter().collect();
        for at in 0..u16::from_be_bytes(*count) {
            let chunk = chunks.get(&chunk_key(at));
            head.extend(chunk.ok_or_else(|| bad_head(shard, BadBytes::Malformed))?);
        }
    }
    Ok(head)
}

/// The state a shard's newest checkpoint holds; its mailboxes stay on disk.
pub(super) fn restore(
    shard: ShardId,
    shards: u16,
    disk: &Checkpoints,
) -> Result<Agreed, StoreError> {
    let Some(found) = disk.image(shard) else { return Ok(Agreed::new(shard, shards)) };
    let mut mailboxes: BTreeMap<UserId, u16> = BTreeMap::new();
    for key in disk.scan_keys(shard, &[image::PREFIX])? {
        if let Some(user) = image::head_of(&key) {
            *mailboxes.entry(user).or_default() += 1;
        }
    }
    let head = join(&found.head, disk, shard)?;
    let at = (found.at.index, found.at.term);
    Agreed::restore(shard, shards, at, &head, mailboxes).map_err(|why| bad_head(shard, why))
}

/// Builds a shard of this node from what its disk holds.
pub fn open(
    shard: ShardId,
    (me, place, shards): (ReplicaId, Vec<NodeId>, u16),
    recovered: Option<ShardRecovery>,
    disks: &Disks,
    settings: &Settings,
) -> Result<Hosted, StoreError> {
    let recovered = recovered.unwrap_or_default();
    let state = restore(shard, shards, &disks.checkpoints)?;
    let log = recovered.journal.unwrap_or_default();
    let start = Place { index: log.start.index, term: log.start.term };
    let whole = recovered.state == Wholeness::Whole;
    // Members as of what is applied: the log goes on from there. Without the state, the newest there ever were here.
    let image = recovered.image.filter(|_| whole);
    let members = match &image {
        Some(image) => Some(members_of(&image.replicas)),
        None if whole => None,
        None => log.conf_state,
    };
    let members = members.unwrap_or_else(|| at_birth(&place));
    let log = RaftLog::restore(log.hard_state, members, start, log.entries);
    let mut replica = Replica::new(me, log, state, settings.pace);
    if whole {
        if let Some(image) = image {
            let at = Place { index: image.at.index, term: image.at.term };
            replica.checkpointed(at, members_of(&image.replicas));
        }
    } else {
        tracing::warn!(%shard, "the state is gone; it comes again from another replica");
        replica.lose_state();
    }
    let home = Home::new(shards, settings.quota, settings.policy);
    Ok(Hosted::new(replica, home, place))
}

fn members_of(replicas: &Replicas) -> ConfState {
    ConfState::from((replicas.voters.clone(), replicas.learners.clone()))
}

/// Who takes part in a shard before any entry says otherwise: the nodes that keep it, in their first incarnation.
fn at_birth(place: &[NodeId]) -> ConfState {
    let first = |node: &NodeId| ReplicaId::of(*node, Incarnation::FIRST).0;
    ConfState::from((place.iter().map(first).collect::<Vec<_>>(), Vec::new()))
}

/// Reads what a mailbox's head says is needed, and sends the lane the whole.
fn load_rest(
    lane: ActorRef<Msg>,
    disk: &Checkpoints,
    from: (ShardId, u64),
    user: UserId,
    head: Result<Vec<Option<Vec<u8>>>, StoreError>,
) {
    let (shard, _) = from;
    let opening = head.and_then(|chunks| {
        let chunks: Option<Vec<Vec<u8>>> = chunks.into_iter().collect();
        let chunks = chunks.ok_or_else(|| bad(shard, &user, BadBytes::Malformed))?;
        Opening::new(user.clone(), &chunks).map_err(|why| bad(shard, &user, why))
    });
    let opening = match opening {
        Ok(opening) => opening,
        Err(error) => {
            let _stopping = lane.cast(Msg::Warmed(from, Box::new(Err(error)), user));
            return;
        }
    };
    let keys = opening.keys();
    let reply = Box::new(move |values: Result<Vec<Option<Vec<u8>>>, StoreError>| {
        let read = values.and_then(|values| {
            let values: Option<Vec<Vec<u8>>> = values.into_iter().collect();
            let values = values.ok_or_else(|| bad(shard, &user, BadBytes::Malformed))?;
            opening.finish(&values).map_err(|why| bad(shard, &user, why))
        });
        let _stopping = lane.cast(Msg::Warmed(from, Box::new(read), user));
    });
    disk.load(shard, keys, reply);
}

fn bad(shard: ShardId, user: &UserId, why: BadBytes) -> StoreError {
    let key = format!("shard {shard}, mailbox of {user}");
    StoreError::BadValue { dir: "state".into(), key, why }
}

fn bad_head(shard: ShardId, why: BadBytes) -> StoreError {
    StoreError::BadValue { dir: "state".into(), key: format!("shard {shard}, head"), why }
}
