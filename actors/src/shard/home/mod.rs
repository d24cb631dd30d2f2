//! Home: the leader's side of a shard: answers sessions and other shards from the replicated state.
//!
//! Owns      nothing that must survive: questions under way, who waits for the disk, what was posted when.
//! Promises  an answer is given only from applied state, by a replica that serves.
//! Never     changes the state: it proposes.
//! Fails by  forgetting; sessions attach again, and envelopes are sent again.

mod fetching;
mod heard;
mod history;
mod outcomes;
mod parked;
mod passing;
mod people;
mod presence;
mod push;
mod questions;
mod reading;

use std::collections::BTreeMap;
use std::time::Duration;

use fetching::Fetches;
pub use fetching::Source;
use heard::Heard;
use history::Searches;
use parked::Parked;
pub use presence::{presence_of, was_there_lately};
pub use push::Notice;
use questions::AskedCids;

use super::post::{Parcel, Post};
use super::posts::Posts;
use super::replica::{Origin, Replica};
use super::state::{Change, Command, Happened};
use crate::group::Roster;
use crate::ids::{
    Conversation, DeviceId, Epoch, MessageId, NodeId, Number, SessionId, ShardId, Timestamp,
    UserId, shard_of,
};
use crate::mailbox::desk;
use crate::mailbox::log::Sealed;
use crate::mailbox::rules::{Effect, Mailbox, Policy};
use crate::message::{Entry, Refusal, Resumed, Send};
use crate::packet::{Ask, Envelope, Fetch, Fetched, Place, Question, Regard, Start, Tell, ToHome};
use crate::user::rules as user;

/// A device heard less than this ago is not noted again when it attaches.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Asks that wait for mailboxes to be read from disk.
const WAITING_MAX: usize = 10_000;
/// Bytes waiting for all other shards together before senders are refused: each checkpoint holds them.
const OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a mailbox may hold.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Entries no device has acknowledged, without posts to groups.
    pub entries_max: u64,
    /// Bytes of them.
    pub bytes_max: u64,
    /// Bytes waiting for one other shard before senders from there are refused.
    pub outbox_bytes_max: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { entries_max: 20_000, bytes_max: 64 << 20, outbox_bytes_max: 8 * 1024 * 1024 }
    }
}

impl Quota {
    fn is_reached(&self, mailbox: &Mailbox) -> bool {
        mailbox.holds(self.entries_max) || mailbox.undelivered_bytes() >= self.bytes_max
    }
}

/// What the host must do.
#[derive(Debug)]
pub enum Output {
    /// For the user's `Mailbox` actor; start it if need be.
    Mailbox(UserId, desk::Input),
    /// For the user's `User` actor; start it if need be.
    User(UserId, user::Input),
    /// For the user's `User` actor if there is one; else the session has lost its attachment.
    Attached(UserId, SessionId, user::Input),
    /// For the user's `User` actor if there is one.
    Connected(UserId, user::Input),
    /// The same: the log has these, of which posts to large groups may have to be found first (`Posts::heard`).
    Logged(UserId, Vec<Entry>),
    /// A session says that its client is alive: note it of its device, if it is attached.
    Alive(UserId, SessionId),
    /// Somebody is about to use this `cid`. If it is none of the user's sessions, they have to hear of it.
    Used(UserId, SessionId, u32),
    /// About the presence of this user, who is known here, or for those who are typed to.
    Regard(UserId, SessionId, Regard),
    /// A question of this user's: is that one, who is known here, there?
    IsThere(UserId, (SessionId, u32), UserId),
    /// An answer.
    Tell(SessionId, Tell),
    /// Envelopes for the leader of another shard.
    Post(Parcel),
    /// To the leader of the first shard: the second has applied its envelopes up to here.
    Taken(ShardId, u64),
    /// Read this mailbox's head (chunks) from disk, then call `Replica::state_mut().warm` and `warmed`.
    Load(UserId, u16),
    /// Read this run of the log from disk, then call `run_loaded`.
    LoadRun(UserId, Sealed, For),
    /// A post for the leaders of these members' shards, to be put among the `Posts` of their nodes.
    Show(Roster, Box<Entry>),
    /// Ask a replica of the group's shard for posts.
    Fetch(Fetch, Source),
    /// Posts for the shard that asked for them, on the node that did.
    Fetched(NodeId, Fetched),
    /// Tell the operator that a device sleeps.
    Wake(Box<Notice>),
    /// Whether this user is seen has changed, for that user or for all: tell those who watch.
    Visibility(UserId, Option<UserId>),
}

/// What a run of a log is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// A page for a session.
    Page(Read),
    /// A question, by its ticket.
    Search(u64),
    /// Posts that a member's home wants, by its ticket.
    Posts(u64),
}

/// A page somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Who.
    pub session: SessionId,
    /// Its attachment.
    pub life: u32,
    /// Entries after this one.
    pub after: Number,
    /// At most so many.
    pub count: u16,
    /// About so many bytes.
    pub bytes: u32,
    /// Whether the client asked for it.
    pub pull: bool,
}

enum Asked {
    Attach(ToHome),
    /// A send to a user who is not known here.
    Send(SessionId, UserId, Place),
    Question(SessionId, u32),
    /// A change of this user's that is answered with what became of it: with the answer to a question.
    Shown(SessionId, u32, Box<(UserId, Question)>),
}

/// The leader's side of a shard.
pub struct Home {
    quota: Quota,
    policy: Policy,
    shards: u16,
    asked: BTreeMap<u64, Asked>,
    next_ask: u64,
    waiting: BTreeMap<UserId, Vec<ToHome>>,
    waiting_count: usize,
    /// Acknowledged by a device, and perhaps not yet committed: cursors are merged before they are proposed, and a
    /// device that comes back meanwhile goes on from here.
    acked: BTreeMap<(UserId, DeviceId), Number>,
    post: Post,
    /// Posts to groups that wait until what was posted before has left.
    parked: Parked,
    heard: Heard,
    searches: Searches,
    push: push::Push,
    posts: Posts,
    fetches: Fetches,
    open: Vec<AskedCids>,
    expire_due: Duration,
    taken_due: Duration,
    /// The user up to whom expiry has looked around.
    expired_to: Option<UserId>,
    clock_due: Duration,
}

impl Home {
    /// Makes the volatile side of a shard that has just begun (or not yet begun) to serve.
    #[must_use]
    pub fn new(shards: u16, quota: Quota, policy: Policy) -> Self {
        Self {
            quota,
            policy,
            shards,
            asked: BTreeMap::new(),
            next_ask: 0,
            waiting: BTreeMap::new(),
            waiting_count: 0,
            acked: BTreeMap::new(),
            post: Post::default(),
            parked: Parked::default(),
            heard: Heard::default(),
            searches: Searches::default(),
            push: push::Push::default(),
            posts: Posts::default(),
            fetches: Fetches::default(),
            open: Vec::new(),
            expire_due: Duration::ZERO,
            taken_due: Duration::ZERO,
            expired_to: None,
            clock_due: Duration::ZERO,
        }
    }

    /// Finds what was posted lately to large groups among these.
    #[must_use]
    pub fn sharing(mut self, posts: Posts) -> Self {
        self.posts = posts;
        self
    }

    /// Takes a session's ask; `now` is monotonic. `chance` is 80 random bits for ids that may be needed.
    pub fn ask(
        &mut self,
        replica: &mut Replica,
        ask: ToHome,
        (now, wall): (Duration, Timestamp),
        chance: u128,
        out: &mut Vec<Output>,
    ) {
        if !replica.role().serves {
            out.push(Output::Tell(ask.session, Tell::NotHome { shard: ask.shard }));
            return;
        }
        if let Some(chunks) = replica.state().cold(&ask.user) {
            self.wait_for_disk(ask, chunks, out);
            return;
        }
        let ToHome { user, session, .. } = &ask;
        match ask.ask {
            Ask::Send { ref send, .. } if matches!(send.to, Conversation::Group(_)) => {
                self.post(replica, ask, MessageId::new(wall, chance), now, out);
            }
            Ask::Send { place, send } => {
                let mid = MessageId::new(wall, chance);
                self.send(replica, ask.user, (ask.session, place), send, mid, out);
            }
            Ask::Attach { .. } => self.attach(replica, ask, wall, chance, out),
            Ask::Detach { life } => {
                self.fetches.detached(*session, life);
                let input = user::Input::Detach { session: *session, life };
                out.push(Output::Connected(user.clone(), input));
            }
            Ask::Acknowledge { life, n } => {
                let input = user::Input::Acknowledge { session: *session, life, n };
                out.push(Output::Attached(user.clone(), *session, input));
            }
            Ask::Pull { life, after, limit } => {
                let input = user::Input::Pull { session: *session, life, after, limit };
                out.push(Output::Attached(user.clone(), *session, input));
            }
            Ask::Alive => out.push(Output::Alive(user.clone(), *session)),
            Ask::Read { conv, seq } => {
                out.push(Output::Mailbox(ask.user, desk::Input::Read { conv, seq }));
            }
            Ask::Question { request, question } => {
                let asker = (ask.session, request);
                self.question(replica, ask.user, asker, question, (wall, chance), out);
            }
            Ask::Regard(regard) => Self::regard(replica, ask.user, ask.session, regard, out),
        }
    }

    fn wait_for_disk(&mut self, ask: ToHome, chunks: u16, out: &mut Vec<Output>) {
        if self.waiting_count >= WAITING_MAX {
            out.push(Output::Tell(ask.session, Tell::NotHome { shard: ask.shard }));
            return;
        }
        self.waiting_count += 1;
        let waiting = self.waiting.entry(ask.user.clone()).or_default();
        if waiting.is_empty() {
            out.push(Output::Load(ask.user.clone(), chunks));
        }
        waiting.push(ask);
    }

    /// A mailbox is in memory now: what waited for it goes on.
    pub fn warmed(&mut self, user: &UserId) -> Vec<ToHome> {
        let waited = self.waiting.remove(user).unwrap_or_default();
        self.waiting_count -= waited.len();
        waited
    }

    /// A device has acknowledged up to `n`; the cursor follows.
    pub fn acknowledged(&mut self, user: &UserId, device: DeviceId, n: Number) {
        let known = self.acked.entry((user.clone(), device)).or_default();
        *known = n.max(*known);
    }

    /// A device has everything up to `n`: its cursor follows, unless the mailbox is known to have it so already.
    pub fn cursor(
        &self,
        replica: &Replica,
        user: &UserId,
        device: DeviceId,
        n: Number,
        out: &mut Vec<Output>,
    ) {
        let mailbox = replica.state().mailbox(user);
        let known = mailbox.and_then(|mailbox| mailbox.device(&device));
        if known.is_none_or(|known| known.acked < n) {
            let delivers = mailbox.is_some_and(|mailbox| mailbox.delivers(n));
            let input = desk::Input::Acknowledge { device, n, delivers };
            out.push(Output::Mailbox(user.clone(), input));
        }
    }

    fn send(
        &mut self,
        replica: &mut Replica,
        to: UserId,
        (session, place): (SessionId, Place),
        send: Box<Send>,
        mid: MessageId,
        out: &mut Vec<Output>,
    ) {
        let state = replica.state();
        let Some(mailbox) = state.mailbox(&to) else {
            // Only what is agreed on is told for good: another may lead by now, and know them.
            let asked = Asked::Send(session, to.clone(), place);
            self.propose(replica, to, Change::Append { mid, send }, asked, out);
            return;
        };
        let (outbox, writer) = (state.outbox(), shard_of(&send.from, self.shards));
        // Who is blocked is refused where all agree on it.
        let admission = if mailbox.remembers(&send) || mailbox.blocks(&send.from) {
            Ok(())
        } else if self.quota.is_reached(mailbox) {
            Err(Refusal::MailboxFull)
        } else if outbox.bytes_for(writer) >= self.quota.outbox_bytes_max
            || outbox.weight() >= OUTBOX_BYTES_MAX
        {
            Err(Refusal::Overloaded)
        } else {
            Ok(())
        };
        out.push(Output::Mailbox(to, desk::Input::Send { session, place, send, mid, admission }));
    }

    fn attach(
        &mut self,
        replica: &mut Replica,
        ask: ToHome,
        wall: Timestamp,
        chance: u128,
        out: &mut Vec<Output>,
    ) {
        let Ask::Attach { device, .. } = &ask.ask else { return };
        let mailbox = replica.state().mailbox(&ask.user);
        let known = mailbox.and_then(|mailbox| mailbox.device(device));
        if known.is_some_and(|device| wall.since(device.seen) < SEEN_AGAIN_AFTER) {
            self.finish_attach(replica, ask, out);
            return;
        }
        let epoch = Epoch::new(wall, chance);
        let change = Change::Connect { device: device.clone(), epoch };
        self.propose(replica, ask.user.clone(), change, Asked::Attach(ask), out);
    }

    fn finish_attach(&self, replica: &Replica, ask: ToHome, out: &mut Vec<Output>) {
        let ToHome { user, session, ask, .. } = ask;
        let Ask::Attach { life, device, start, acked, since } = ask else { return };
        let Some(mailbox) = replica.state().mailbox(&user) else { return };
        let mut position = mailbox.position(&device, start);
        let has = match start {
            Start::Resume(resume) if position.resumed == Resumed::Yes => resume.n.max(acked),
            Start::Continue(_) if position.resumed == Resumed::Yes => acked,
            Start::Device => {
                let acked = self.acked.get(&(user.clone(), device.clone())).copied();
                position.from = acked.unwrap_or_default().clamp(position.from, position.head);
                position.from
            }
            _ => Number(0),
        };
        self.cursor(replica, &user, device.clone(), has, out);
        if mailbox.hides() || matches!(start, Start::Continue(_)) {
            out.push(Output::Tell(session, Tell::Hides(mailbox.hides())));
        }
        let input = user::Input::Attach { session, life, device, since, start, position, acked };
        out.push(Output::User(user, input));
    }

    fn propose(
        &mut self,
        replica: &mut Replica,
        user: UserId,
        change: Change,
        asked: Asked,
        out: &mut Vec<Output>,
    ) {
        self.next_ask += 1;
        let ticket = self.next_ask;
        self.asked.insert(ticket, asked);
        if replica.propose(Command::Mailbox(user, change), Origin::Home(ticket)).is_err() {
            self.lost(replica.shard(), Origin::Home(ticket), out);
        }
    }

    /// What commands did, on a replica that serves. Entries of one user that follow each other go together.
    pub fn happened(
        &mut self,
        replica: &Replica,
        happened: Vec<Happened>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let mut logged: BTreeMap<UserId, Vec<Entry>> = BTreeMap::new();
        let mut enclosed: BTreeMap<ShardId, ()> = BTreeMap::new();
        let mut received: BTreeMap<ShardId, u64> = BTreeMap::new();
        for event in happened {
            match event {
                Happened::Mailbox(user, Effect::Logged(entry)) => {
                    self.push.logged(&user, &entry, now);
                    logged.entry(user).or_default().push(entry);
                }
                Happened::Mailbox(user, Effect::DeviceGone(device)) => {
                    out.push(Output::Connected(user, user::Input::DeviceGone(device)));
                }
                Happened::Mailbox(user, Effect::Visibility(whom)) => {
                    out.push(Output::Visibility(user, whom));
                }
                Happened::Mailbox(_, Effect::Enclose(_) | Effect::Spread(_)) => {}
                Happened::Posted(roster, post) => {
                    self.posts.put([&*post]);
                    out.push(Output::Show(roster, post));
                }
                Happened::Enclosed(to) => {
                    enclosed.insert(to, ());
                }
                Happened::Received(from, upto) => {
                    received.insert(from, upto);
                }
            }
        }
        for (user, entries) in logged {
            out.push(Output::Logged(user, entries));
        }
        for (from, upto) in received {
            self.heard.applied(from, upto);
            out.push(Output::Taken(from, upto));
        }
        for to in enclosed.into_keys() {
            let parcels = self.post.send(replica.state().outbox(), to, now);
            out.extend(parcels.into_iter().map(Output::Post));
        }
    }

    /// Envelopes from the leader of another shard.
    pub fn envelopes(
        &mut self,
        replica: &mut Replica,
        from: ShardId,
        first: u64,
        envelopes: Vec<Envelope>,
        out: &mut Vec<Output>,
    ) {
        if !replica.role().serves || envelopes.is_empty() {
            return;
        }
        let applied = replica.state().received(from);
        let count = envelopes.iter().map(Envelope::count).sum();
        if first + count <= applied + 1 {
            out.push(Output::Taken(from, applied));
        } else if self.post.admit(from, first, count, applied) {
            self.heard.arrived(from, first, &envelopes);
            let command = Command::Receive { from, first, envelopes };
            if replica.propose(command, Origin::Shard).is_err() {
                self.post.forget_proposed();
            }
        }
    }

    /// Another shard has applied this one's envelopes up to `upto`.
    pub fn taken(
        &mut self,
        replica: &mut Replica,
        (by, upto): (ShardId, u64),
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if replica.role().serves {
            self.post.taken(replica.state().outbox(), by, upto, now);
            self.unpark(replica, now, out);
        }
    }

    /// The leader of another shard changed.
    pub fn moved(&mut self, shard: ShardId) {
        self.post.reroute(shard);
    }
}
