//! Mailbox rules: what a mailbox does with a message, an acknowledgement and the passing of time.
//!
//! This is replicated state: every replica of the shard calls the same methods with the same arguments and must end
//! with the same mailbox. Nothing here may depend on what happens to be in memory or on this node's disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cids::Cids;
use super::groups::Membership;
use super::ledger::{Ledger, Row};
use super::log::Log;
use super::marks::{Mark, Waiting, mark};
use super::people::People;
use super::talks::Talks;
use crate::group::{Group, Roster, Watermarks};
use crate::ids::{
    Cid, Conversation, DeviceId, Epoch, GroupId, MessageId, Number, Seq, Timestamp, UserId,
};
use crate::message::group::Call;
use crate::message::{Accepted, CidUse, Entry, Refusal, Send, What};
use crate::mutant::{Mutant, is_planted};
use crate::packet::{Enclosed, Envelope};

/// Devices a user may have.
pub const DEVICES_MAX: usize = 8;

/// How long things are kept; part of the shard's replicated state, so that all replicas agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long an undelivered message waits, a `cid` is remembered, and an unseen device holds entries back.
    pub expiry: Duration,
    /// How long an entry stays after every device has it.
    pub history: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { expiry: 30 * DAY, history: 30 * DAY }
    }
}

/// The moments a command is applied at, the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The newest wall clock any leader proposed; for showing.
    pub wall: Timestamp,
    /// The cautious clock: moves in bounded steps; for deleting.
    pub cautious: Timestamp,
    /// How long things are kept.
    pub policy: Policy,
    /// From so many members on a group is large: the posts to it lie in its own log alone. The same on all nodes.
    pub large: usize,
}

/// A group is large with so many members. Below, each member's mailbox has a post of its own, which costs a body for each,
/// and asks nobody; above, a number, and whoever fetches posts asks a replica of the group's shard.
pub const LARGE_GROUP: usize = 32;

/// What a command did besides changing the mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The log has a new entry: push it to those who are connected.
    Logged(Entry),
    /// Another mailbox must learn something.
    Enclose(Envelope),
    /// A group's members must learn of its next entry.
    Spread(Box<Spreading>),
    /// A device is no longer one of this user's: close its socket.
    DeviceGone(DeviceId),
    /// Whether the owner is seen has changed: for this user, or for all.
    Visibility(Option<UserId>),
}

/// A group's next entry, and who must learn of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spreading {
    /// The members, where their mailboxes are.
    pub roster: Roster,
    /// A post or a change.
    pub what: What,
    /// The sender's id for a post.
    pub cid: Option<Cid>,
    /// Whether the members' mailboxes only refer to it.
    pub refers: bool,
}

/// One of the user's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// It has everything up to here.
    pub acked: Number,
    /// When it was last heard.
    pub seen: Timestamp,
}

/// What is between this user and another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The newest message from them.
    pub received: Seq,
    /// Of theirs, delivered to a device of this user.
    pub delivered: Seq,
    /// Of theirs, read.
    pub read: Seq,
    /// The newest message to them.
    pub sent: Seq,
    /// Of this user's, delivered to them.
    pub sent_delivered: Seq,
    /// Of this user's, read by them.
    pub sent_read: Seq,
}

/// A user's mailbox: the log, the devices that read it, and what is remembered of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub(super) owner: UserId,
    pub(super) epoch: Epoch,
    pub(super) password: Option<Box<str>>,
    pub(super) devices: Vec<Device>,
    pub(super) peers: BTreeMap<UserId, Peer>,
    /// Entries up to here have been acknowledged by at least one device.
    pub(super) delivered: Number,
    /// Bytes of the entries after those.
    pub(super) waiting: Waiting,
    /// When entries had reached every device.
    pub(super) settled: VecDeque<Mark>,
    /// When entries arrived.
    pub(super) arrived: VecDeque<Mark>,
    pub(super) log: Log,
    pub(super) ledger: Ledger,
    pub(super) cids: Cids,
    /// The groups the owner is in.
    pub(super) groups: BTreeMap<GroupId, Membership>,
    /// The group, if the owner is one.
    pub(super) group: Option<Box<Group>>,
    /// Which conversation each entry belongs to.
    pub(super) talks: Talks,
    /// Whether its owner wanted to be forgotten.
    pub(super) erased: bool,
    /// What the owner wants for themselves.
    pub(super) people: Option<Box<People>>,
}

impl Mailbox {
    /// Makes an empty mailbox.
    #[must_use]
    pub fn new(owner: UserId, epoch: Epoch) -> Self {
        Self {
            owner,
            epoch,
            password: None,
            devices: Vec::new(),
            peers: BTreeMap::new(),
            delivered: Number(0),
            waiting: Waiting::default(),
            settled: VecDeque::new(),
            arrived: VecDeque::new(),
            log: Log::default(),
            ledger: Ledger::default(),
            cids: Cids::default(),
            groups: BTreeMap::new(),
            group: None,
            talks: Talks::default(),
            erased: false,
            people: None,
        }
    }

    /// Sets the password hash of a new account.
    pub fn set_password(&mut self, hash: Box<str>) {
        self.password = Some(hash);
    }

    /// Puts a password hash in the place of `old`. Repeating a change that was made is done; `Conflict` when the password
    /// is another by now.
    pub fn change_password(&mut self, old: &str, new: Box<str>) -> Result<(), Refusal> {
        if self.password.as_ref() != Some(&new) && self.password.as_deref() != Some(old) {
            return Err(Refusal::Conflict);
        }
        self.password = Some(new);
        Ok(())
    }

    /// Takes a message in. A repeated `(sender, cid)` is answered again, never stored again.
    pub fn append(
        &mut self,
        send: Send,
        mid: MessageId,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<Accepted, Refusal> {
        let fingerprint = send.content.fingerprint(&send.to);
        let forgotten = |row: &Row| row.at.after(Duration::from_millis(300)) < now.wall;
        let known = self.ledger.find(&send.from, &send.cid);
        if let Some(row) = known
            && !(is_planted(Mutant::ForgetsMessages) && forgotten(row))
        {
            if row.fingerprint != fingerprint {
                return Err(Refusal::Conflict);
            }
            return Ok(Accepted { mid: row.mid, seq: row.seq, at: row.at, dup: true });
        }
        if matches!(send.to, Conversation::Group(_)) {
            return self.post(send, mid, now, effects);
        }
        if self.blocks(&send.from) {
            return Err(Refusal::Blocked);
        }
        let peer = self.peers.entry(send.from.clone()).or_default();
        peer.received = peer.received.next();
        let seq = peer.received;
        let at = now.wall.max(self.log.newest_at());
        let n = self.log.head().next();
        self.ledger.push(Row {
            key: Ledger::key(&send.from, &send.cid),
            fingerprint,
            mid,
            seq,
            at,
            n,
            from: send.from.clone(),
        });
        let what = What::Message {
            mid,
            from: send.from.clone(),
            device: send.device.clone(),
            seq,
            content: Arc::clone(&send.content),
        };
        self.record(what, now, effects);
        let copy = Enclosed::Sent {
            mid,
            conv: Conversation::User(self.owner.clone()),
            seq,
            at,
            cid: send.cid,
            device: send.device,
            content: send.content,
        };
        effects.push(Effect::Enclose(Envelope { to: send.from, what: copy }));
        Ok(Accepted { mid, seq, at, dup: false })
    }

    /// Takes in what another mailbox sent. Envelopes come exactly once and in order; the shard sees to that.
    pub fn receive(&mut self, enclosed: Enclosed, now: Now, effects: &mut Vec<Effect>) {
        if self.erased {
            return;
        }
        match enclosed {
            Enclosed::Sent { mid, conv, seq, at, cid, device, content } => {
                if let Conversation::User(user) = &conv {
                    let peer = self.peers.entry(user.clone()).or_default();
                    let before = peer.sent;
                    peer.sent = before.max(seq);
                    if before == Seq(0) {
                        self.first_wrote_to(user, effects);
                    }
                }
                let cid_use = CidUse::new(&cid, &conv, &content);
                self.record(What::Sent { mid, conv, seq, at, cid, device, content }, now, effects);
                self.cids.push(cid_use, self.log.newest_at(), now.policy.expiry);
            }
            Enclosed::Receipt { by, delivered, read } if self.group.is_some() => {
                self.got(&by, delivered, read, effects);
            }
            Enclosed::Receipt { by, delivered, read } => {
                self.receipt(by, delivered, read, now, effects);
            }
            Enclosed::Ticks { group, delivered, read } => {
                self.ticks(group, Watermarks { delivered, read }, now, effects);
            }
            Enclosed::Spread { what, cid, .. } => self.hear(&what, cid.as_ref(), now, effects),
            Enclosed::Left { by } => {
                let _out_already = self.call(&by, &Call::Leave, 0, now, effects);
            }
            Enclosed::Expired { by, mid, seq } => {
                let conv = Conversation::User(by);
                self.record(What::Expired { conv, mid, seq }, now, effects);
            }
        }
    }

    fn receipt(
        &mut self,
        by: UserId,
        delivered: Seq,
        read: Seq,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let peer = self.peers.entry(by.clone()).or_default();
        if delivered <= peer.sent_delivered && read <= peer.sent_read {
            return;
        }
        peer.sent_delivered = peer.sent_delivered.max(delivered);
        peer.sent_read = peer.sent_read.max(read);
        // Invariant: ticks never go back, and nothing is read before it is delivered.
        debug_assert!(peer.sent_read <= peer.sent_delivered);
        let (delivered, read) = (peer.sent_delivered, peer.sent_read);
        let conv = Conversation::User(by.clone());
        self.record(What::Receipt { conv, by: Some(by), delivered, read }, now, effects);
    }

    pub(super) fn record(&mut self, what: What, now: Now, effects: &mut Vec<Effect>) {
        let at = now.wall.max(self.log.newest_at());
        let entry = Entry { n: self.log.head().next(), at, what };
        let last = entry.last();
        mark(&mut self.arrived, at, last, now.policy.expiry);
        self.waiting.push(last, entry.weight());
        self.talks.push((entry.n, last), at, &entry.what);
        effects.push(Effect::Logged(entry.clone()));
        self.log.push(entry);
    }

    /// Makes a device known, starting at the oldest entry still kept; a known one is only seen again.
    pub fn ensure_device(&mut self, device: &DeviceId, now: Now) -> Result<(), Refusal> {
        if let Some(known) = self.devices.iter_mut().find(|d| d.id == *device) {
            known.seen = known.seen.max(now.wall);
            return Ok(());
        }
        if self.devices.len() >= DEVICES_MAX {
            return Err(Refusal::TooManyDevices);
        }
        let acked = self.log.low();
        // Most users have one device, and each of three replicas keeps it.
        self.devices.reserve_exact(1);
        self.devices.push(Device { id: device.clone(), acked, seen: now.wall });
        Ok(())
    }

    /// Forgets a device; it no longer holds entries back.
    pub fn remove_device(
        &mut self,
        device: &DeviceId,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let before = self.devices.len();
        self.devices.retain(|d| d.id != *device);
        if self.devices.len() == before {
            return Err(Refusal::NotFound);
        }
        effects.push(Effect::DeviceGone(device.clone()));
        self.settle(now);
        Ok(())
    }

    /// A device is alive, and has everything up to `n` (cumulative; never goes back).
    pub fn acknowledge(
        &mut self,
        device: &DeviceId,
        n: Number,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let n = n.min(self.log.head());
        let Some(known) = self.devices.iter_mut().find(|d| d.id == *device) else {
            return;
        };
        known.seen = known.seen.max(now.wall);
        if n <= known.acked {
            return;
        }
        known.acked = n;
        if is_planted(Mutant::CursorGoesBack) && n.0.is_multiple_of(5) {
            known.acked = Number(n.0 - 5);
        }
        self.deliver(n, effects);
        self.settle(now);
    }

    /// Tells the senders of everything up to `n` that it has arrived.
    fn deliver(&mut self, n: Number, effects: &mut Vec<Effect>) {
        if n <= self.delivered {
            return;
        }
        let mut newest: BTreeMap<&UserId, Seq> = BTreeMap::new();
        for row in self.ledger.between(self.delivered, n) {
            newest.insert(&row.from, row.seq);
        }
        for (from, seq) in newest {
            let Some(peer) = self.peers.get_mut(from) else {
                continue;
            };
            if seq > peer.delivered && !(is_planted(Mutant::TicksStop) && peer.delivered > Seq(0)) {
                peer.delivered = seq;
                effects.push(receipt_to(from, &self.owner, *peer));
            }
        }
        self.deliver_groups(n, effects);
        self.delivered = n;
        self.waiting.drop_to(n);
    }

    /// The user has read a conversation up to and including `seq`; implies delivered.
    pub fn read(&mut self, conv: &Conversation, seq: Seq, effects: &mut Vec<Effect>) {
        let from = match conv {
            Conversation::User(from) => from,
            Conversation::Group(group) => return self.read_group(group, seq, effects),
        };
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        let seq = seq.min(peer.received);
        if seq <= peer.read {
            return;
        }
        peer.read = seq;
        peer.delivered = peer.delivered.max(seq);
        let peer = *peer;
        effects.push(receipt_to(from, &self.owner, peer));
    }

    /// Up to where every device has the log; without devices, up to where one had it.
    pub(super) fn slowest(&self) -> Number {
        self.devices.iter().map(|d| d.acked).min().unwrap_or(self.delivered)
    }

    /// Keeps the time at which entries had reached every device, and drops what history no longer wants.
    pub(super) fn settle(&mut self, now: Now) {
        let slowest = self.slowest();
        if self.settled.back().is_none_or(|m| slowest > m.n) && slowest > self.log.low() {
            let span = self.kept_for(now.policy);
            mark(&mut self.settled, now.wall, slowest, span);
        }
        self.drop_history(now);
    }

    /// Panics when something that always holds does not.
    pub fn check(&self) {
        let (low, head) = (self.log.low(), self.log.head());
        assert!(low <= head && self.delivered <= head, "watermarks in order");
        self.log.check();
        self.ledger.check();
        self.cids.check();
        self.waiting.check(self.undelivered());
        match &self.group {
            Some(group) => group.check(Seq(head.0)),
            None => self.talks.check(low, head),
        }
        assert!(self.devices.len() <= DEVICES_MAX, "at most {DEVICES_MAX} devices");
        for device in &self.devices {
            assert!(device.acked <= self.delivered.max(low), "delivered covers every device");
        }
        for peer in self.peers.values() {
            assert!(peer.read <= peer.delivered && peer.delivered <= peer.received, "ticks");
            assert!(peer.sent_read <= peer.sent_delivered, "ticks of the other side");
        }
    }
}

fn receipt_to(to: &UserId, by: &UserId, peer: Peer) -> Effect {
    let what = Enclosed::Receipt { by: by.clone(), delivered: peer.delivered, read: peer.read };
    Effect::Enclose(Envelope { to: to.clone(), what })
}
