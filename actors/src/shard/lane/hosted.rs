//! Hosted: one shard on this node, and the steps a lane takes with it.

use std::collections::BTreeMap;

use rand::Rng;

use super::storing::Storing;
use super::transfer::{Arrival, Transfer};
use super::{ShardStatus, State};
use crate::ids::{DeviceId, NodeId, Number, ShardId, UserId};
use crate::mailbox::desk;
use crate::message::Entry;
use crate::packet::{Answer, Ask, Fetch, Packet, Question, Tell, ToHome};
use crate::shard::home::{Home, Output, Read, Source};
use crate::shard::replica::{Origin, Outputs, Replica, Role, carries_image};
use crate::shard::state::{Change, Command};
use crate::shard::wire;
use crate::store::{LogStart, Record};
use crate::user::presence::Watchers;
use crate::user::rules as user;

/// One shard on this node.
pub struct Hosted {
    pub(super) replica: Replica,
    pub(super) home: Home,
    /// The nodes that keep the shard, the preferred leader first.
    pub(super) place: Vec<NodeId>,
    pub(super) role: Role,
    pub(super) storing: Storing,
    pub(super) transfers: BTreeMap<NodeId, Transfer>,
    pub(super) arrival: Option<Arrival>,
    /// Who watches the shard's users; of this leadership.
    pub(super) watchers: Watchers,
    /// Checkpoints taken over so far; what was read before the newest is not of this state.
    pub(super) images: u64,
    /// Bytes of state in memory, as of the last time they were counted.
    pub(super) bytes: usize,
    /// Writes held back until the image of a checkpoint that is being taken over is on disk.
    pub(super) held: Vec<Record>,
}

impl Hosted {
    /// Takes a replica in.
    #[must_use]
    pub fn new(replica: Replica, home: Home, place: Vec<NodeId>) -> Self {
        Self {
            role: replica.role(),
            storing: Storing::new(replica.state().applied().0),
            replica,
            home,
            place,
            transfers: BTreeMap::new(),
            arrival: None,
            watchers: Watchers::default(),
            images: 0,
            bytes: 0,
            held: Vec::new(),
        }
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> ShardId {
        self.replica.shard()
    }

    pub(super) fn status(&self) -> ShardStatus {
        let others = self.place.iter();
        let progress = others.filter_map(|node| {
            self.replica.progress(*node).map(|(matched, active)| (*node, matched, active))
        });
        let state = self.replica.state();
        ShardStatus {
            shard: self.shard(),
            role: self.role,
            applied: state.applied().0,
            last: self.replica.last_index(),
            progress: progress.collect(),
            mailboxes: state.users().count(),
            state_bytes: self.bytes,
        }
    }
}

impl State {
    pub(super) fn ask(&mut self, ask: ToHome) {
        let (shard, now, wall) = (ask.shard, self.now(), self.wall());
        let Some(hosted) = self.shards.get_mut(&shard) else {
            self.outlet.tell(ask.session, Tell::NotHome { shard });
            self.schedule();
            return;
        };
        if let Ask::Question { request, question: Question::Sessions } = ask.ask
            && hosted.role.serves
        {
            let answer = Ok(Answer::Sessions(self.children.sessions_of(&ask.user)));
            self.outlet.tell(ask.session, Tell::Answer { request, answer });
            self.schedule();
            return;
        }
        if let Ask::Acknowledge { n, .. } = ask.ask
            && let Some(device) = self.children.device_of(&ask.user, ask.session)
        {
            hosted.home.acknowledged(&ask.user, device, n);
        }
        let mut out = Vec::new();
        hosted.home.ask(&mut hosted.replica, ask, (now, wall), rand::rng().random(), &mut out);
        self.touch(shard);
        self.carry_out(shard, out);
    }

    pub(super) fn packets(&mut self, from: NodeId, packets: Vec<Packet>) {
        let now = self.now();
        for packet in packets {
            match packet {
                Packet::Raft(shard, bytes) => self.raft(from, shard, &bytes),
                Packet::Home(ask) => self.ask(ask),
                Packet::Envelopes { from, to, first, envelopes } => {
                    let Some(hosted) = self.shards.get_mut(&to) else { continue };
                    let mut out = Vec::new();
                    hosted.home.envelopes(&mut hosted.replica, from, first, envelopes, &mut out);
                    self.touch(to);
                    self.carry_out(to, out);
                }
                Packet::EnvelopesTaken { from, to, upto } => {
                    let Some(hosted) = self.shards.get_mut(&from) else { continue };
                    let mut out = Vec::new();
                    hosted.home.taken(&mut hosted.replica, (to, upto), now, &mut out);
                    self.carry_out(from, out);
                }
                Packet::Fetch(fetch) => self.fetch(from, *fetch),
                Packet::Fetched(fetched) => {
                    let shard = fetched.to;
                    let Some(hosted) = self.shards.get_mut(&shard) else { continue };
                    let mut out = Vec::new();
                    hosted.home.fetched(&hosted.replica, *fetched, &mut out);
                    self.carry_out(shard, out);
                }
                Packet::Snapshot(shard, bytes) => self.transfer_note(from, shard, &bytes),
                Packet::Typing(typing) => self.typed(*typing),
                Packet::Cards(wanted) => self.cards(*wanted),
                Packet::Session(_)
                | Packet::CardTurned(_)
                | Packet::Push(_)
                | Packet::Posts(_)
                | Packet::Beat(_)
                | Packet::Birth(_) => {}
            }
        }
    }

    /// A member's home asks for posts. One on this node that has no replica of the group's shard beside it is handed on.
    fn fetch(&mut self, from: NodeId, fetch: Fetch) {
        let shard = self.router.shard_of(&UserId::of_group(&fetch.group));
        let Some(hosted) = self.shards.get_mut(&shard) else {
            if from == self.router.me() {
                self.outlet.leader(shard, Packet::Fetch(Box::new(fetch)));
                self.schedule();
            }
            return;
        };
        let mut out = Vec::new();
        hosted.home.fetch(&hosted.replica, from, fetch, &mut out);
        self.carry_out(shard, out);
    }

    fn raft(&mut self, from: NodeId, shard: ShardId, bytes: &[u8]) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let Some(sender) = self.router.replica(from) else {
            // Not shown yet, or not to be believed; what is missing is sent again.
            tracing::debug!(%shard, node = %from, "raft message of an unknown birth dropped");
            return;
        };
        match wire::decode(bytes) {
            Ok(message) if message.from == sender.0 && !carries_image(&message) => {
                hosted.replica.step(message);
                // Not held up by the pace: others wait for it in the middle of agreeing.
                if hosted.replica.has_steps() {
                    self.due.insert(shard);
                    self.flush_at_once();
                }
            }
            Ok(_) => tracing::warn!(%shard, node = %from, "raft message out of place"),
            Err(error) => tracing::warn!(%shard, node = %from, %error, "raft message refused"),
        }
    }

    /// Lets a shard take every step it can, and carries out what comes of it.
    pub(super) fn advance(&mut self, shard: ShardId, records: &mut Vec<Record>) {
        let (now, wall) = (self.now(), self.wall());
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let mut done = Outputs::default();
        hosted.replica.advance(wall, &mut done);
        let hold = hosted.replica.awaits_image();
        if !hold {
            records.append(&mut hosted.held);
        }
        if done.install.is_none() && hosted.arrival.as_ref().is_some_and(Arrival::is_handed) {
            self.drop_arrival(shard);
        }
        if done.is_empty() {
            return;
        }
        let mut out = Vec::new();
        if done.role_changed {
            self.role_changed(shard);
        }
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        for (origin, outcome) in done.outcomes {
            hosted.home.outcome(&hosted.replica, origin, outcome, &mut out);
        }
        for origin in done.lost {
            hosted.home.lost(shard, origin, &mut out);
        }
        if hosted.role.serves {
            hosted.home.happened(&hosted.replica, done.happened, now, &mut out);
        }
        let writes = done.writes.into_iter().map(|write| Record {
            shard,
            ticket: write.ticket,
            reset: write.reset.map(|at| LogStart { index: at.index, term: at.term }),
            entries: write.entries,
            hard_state: write.hard_state,
            conf_state: write.conf_state,
            ..Record::default()
        });
        if hold {
            hosted.held.extend(writes);
        } else {
            records.extend(writes);
        }
        let (images, messages) = done.messages.into_iter().partition(carries_image);
        self.outlet.raft(shard, messages);
        self.start_transfers(shard, images);
        if let Some(snapshot) = done.install {
            self.install(shard, &snapshot);
        }
        for (user, chunks) in done.missing {
            self.load(shard, &user, chunks);
        }
        self.carry_out(shard, out);
    }

    fn role_changed(&mut self, shard: ShardId) {
        let now = self.now();
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let (old, new) = (hosted.role, hosted.replica.role());
        hosted.role = new;
        if !new.leads {
            // Whoever leads now sends what is needed.
            hosted.transfers.clear();
        }
        if old.serves == new.serves && old.term == new.term {
            return;
        }
        // Also before serving: what was lost with the last leadership may have started actors under a term that never
        // served, and what such an actor wants done is ignored.
        if old.serves || new.serves {
            self.children.leave(shard, self.router.shards());
        }
        hosted.watchers = Watchers::new(now);
        if new.serves {
            tracing::debug!(%shard, term = new.term, "leads");
            let (quota, policy) = (self.settings.quota, self.settings.policy);
            let push_after = self.settings.push.as_ref().map(|push| push.after);
            let home = Home::new(self.router.shards(), quota, policy);
            hosted.home = home.telling(push_after).sharing(self.router.posts().clone());
            self.announce = true;
        }
        self.router.serves(shard, new.term, new.serves);
    }

    /// Does what a home wants done.
    pub(super) fn carry_out(&mut self, shard: ShardId, outputs: Vec<Output>) {
        let Some(term) = self.shards.get(&shard).map(|hosted| hosted.role.term) else { return };
        for output in outputs {
            match output {
                Output::Mailbox(user, input) => {
                    self.children.mailbox(shard, term, user, input);
                }
                Output::User(user, input) => self.for_user(shard, term, user, input),
                Output::Attached(user, session, input) => {
                    let who = (&user, session);
                    let lost = self.children.attached(shard, term, who, input);
                    if let Some(tell) = lost {
                        self.outlet.tell(session, tell);
                    }
                }
                Output::Alive(user, session) => {
                    self.children.heard(&user, session, self.now());
                    if let Some(device) = self.children.device_of(&user, session) {
                        self.seen(shard, term, user, device);
                    }
                }
                Output::Connected(user, input) => {
                    let last = self.children.connected(shard, term, &user, input);
                    if let Some(device) = last {
                        self.seen(shard, term, user, device);
                    }
                }
                Output::Logged(user, entries) => self.logged(shard, term, &user, entries),
                Output::Show(roster, post) => self.outlet.show(&roster, &post),
                Output::Fetch(fetch, source) => {
                    let of = self.router.shard_of(&UserId::of_group(&fetch.group));
                    let packet = Packet::Fetch(Box::new(fetch));
                    match source {
                        Source::Nearest => self.outlet.replica(self.router.me(), of, packet),
                        Source::Leader => self.outlet.leader(of, packet),
                    }
                }
                Output::Fetched(node, fetched) => {
                    let to = fetched.to;
                    self.outlet.replica(node, to, Packet::Fetched(Box::new(fetched)));
                }
                Output::Used(user, by, cid) => {
                    for session in self.children.sessions_beside(&user, by) {
                        self.outlet.tell(session, Tell::Used { cid });
                    }
                }
                Output::Regard(user, session, regard) => {
                    self.regard(shard, &user, session, regard);
                }
                Output::IsThere(user, asker, by) => self.tell_presence(shard, &user, asker, &by),
                Output::Tell(session, tell) => self.outlet.tell(session, tell),
                Output::Post(parcel) => {
                    let (to, first, envelopes) = (parcel.to, parcel.first, parcel.envelopes);
                    let packet = Packet::Envelopes { from: shard, to, first, envelopes };
                    self.outlet.leader(to, packet);
                }
                Output::Taken(from, upto) => {
                    let packet = Packet::EnvelopesTaken { from, to: shard, upto };
                    self.outlet.leader(from, packet);
                }
                Output::Load(user, chunks) => self.load(shard, &user, chunks),
                Output::LoadRun(user, run, read) => self.load_run(shard, user, run, read),
                Output::Visibility(user, whom) => self.visibility(shard, &user, whom.as_ref()),
                Output::Wake(notice) => {
                    if let Some(push) = &self.settings.push {
                        (push.tell)(*notice);
                    }
                }
            }
            self.schedule();
        }
    }

    /// The log of a user has new entries, for those who are connected.
    fn logged(&mut self, shard: ShardId, term: u64, user: &UserId, entries: Vec<Entry>) {
        if !self.children.is_connected(user) {
            return;
        }
        for input in self.router.posts().heard(entries) {
            self.children.connected(shard, term, user, input);
        }
    }

    /// A device is alive. Not worth an actor: all connected devices are seen every few minutes.
    pub(super) fn seen(&mut self, shard: ShardId, term: u64, user: UserId, device: DeviceId) {
        if self.children.has_mailbox(&user) {
            self.children.mailbox(shard, term, user, desk::Input::Seen { device });
        } else if let Some(hosted) = self.shards.get_mut(&shard) {
            let change = Change::Acknowledge { device, n: Number(0) };
            let command = Command::Mailbox(user, change);
            let _no_longer_leads = hosted.replica.propose(command, Origin::Shard);
            self.touch(shard);
        }
    }

    /// What a mailbox's desk wants done.
    pub(super) fn desk(
        &mut self,
        shard: ShardId,
        term: u64,
        user: &UserId,
        outputs: Vec<desk::Output>,
    ) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        if !hosted.role.serves || hosted.role.term != term {
            return;
        }
        for output in outputs {
            match output {
                desk::Output::Propose { ticket, change } => {
                    let origin = match ticket {
                        desk::NOBODY => Origin::Shard,
                        ticket => Origin::Mailbox(user.clone(), ticket),
                    };
                    let command = Command::Mailbox(user.clone(), change);
                    if hosted.replica.propose(command, origin).is_err() {
                        let input = desk::Input::Lost { ticket };
                        self.children.tell_mailbox(user, input);
                    }
                }
                desk::Output::Tell(session, tell) => self.outlet.tell(session, tell),
                desk::Output::FlushIn(_) => {}
                desk::Output::Idle { handled } => self.children.passivate(user, handled),
            }
        }
        self.touch(shard);
    }

    /// What a connected user wants done.
    pub(super) fn user(
        &mut self,
        shard: ShardId,
        term: u64,
        user: &UserId,
        outputs: Vec<user::Output>,
    ) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        if !hosted.role.serves || hosted.role.term != term {
            return;
        }
        let mut out = Vec::new();
        for output in outputs {
            match output {
                user::Output::Tell(session, tell) => {
                    if let Tell::Closed { life, .. } = tell {
                        hosted.home.ended(session, life);
                    }
                    out.push(Output::Tell(session, tell));
                }
                user::Output::Read { session, life, after, count, bytes, pull } => {
                    let read = Read { session, life, after, count, bytes, pull };
                    hosted.home.read(&hosted.replica, user, read, &mut out);
                }
                user::Output::Cursor { device, n } => {
                    hosted.home.cursor(&hosted.replica, user, device, n, &mut out);
                }
                user::Output::Empty { handled } => self.children.left(user, handled),
            }
        }
        self.touch(shard);
        self.carry_out(shard, out);
    }
}
