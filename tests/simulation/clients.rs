//! Clients: devices that keep to the rules of a client: store, then acknowledge; repeat with the same `cid` until answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use actors::ids::{Cid, Conversation, DeviceId, Epoch, Kind, Number, UserId};
use actors::message::group::Call;
use actors::message::{Accepted, Content, Entry, Refusal, Resume, Send, What};
use actors::packet::Answer;
use actors::session::{Output, RequestRef};

use crate::around::{Around, At, Event, Plant, Up};
use crate::oracle::Sending;

const WAKE: (u64, u64) = (20_000, 200_000);
/// A connection on which nothing is answered for this long (in microseconds) is given up.
const PATIENCE: u64 = 6_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Offline,
    Connecting,
    Online,
}

/// One device of a user.
pub(crate) struct Client {
    pub(crate) me: usize,
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) line: Line,
    pub(crate) connection: u64,
    pub(crate) node: (usize, u64),
    epoch: Option<Epoch>,
    pub(crate) stored: u64,
    /// Not confirmed, oldest first.
    pub(crate) outbox: VecDeque<(Cid, UserId)>,
    requests: BTreeMap<RequestRef, (Cid, UserId)>,
    /// Group calls that are not answered.
    calls: BTreeSet<RequestRef>,
    /// Of these, those with the `cid` of another message, which this device has in its log.
    misuses: BTreeSet<RequestRef>,
    /// How often each conversation was begun anew after a refusal.
    rounds: BTreeMap<UserId, u32>,
    /// Conversations in which something was refused, until all that is on its way is answered.
    held: BTreeSet<UserId>,
    next_request: u32,
    written: u64,
    heard: u64,
    acked: u64,
    /// The newest entry on this connection.
    sent: u64,
    /// What the oracle knows to be here.
    counted: usize,
    /// Devices it may still have after this one; none in most runs.
    pub(crate) more_devices: u8,
}

impl Client {
    pub(crate) fn new(me: usize, user: UserId, device: DeviceId) -> Self {
        Self {
            me,
            user,
            device,
            line: Line::Offline,
            connection: 0,
            node: (0, 0),
            epoch: None,
            stored: 0,
            outbox: VecDeque::new(),
            requests: BTreeMap::new(),
            calls: BTreeSet::new(),
            misuses: BTreeSet::new(),
            rounds: BTreeMap::new(),
            held: BTreeSet::new(),
            next_request: 0,
            written: 0,
            heard: 0,
            acked: 0,
            sent: 0,
            counted: 0,
            more_devices: 0,
        }
    }

    /// Whether its user is known to the cluster.
    pub(crate) const fn is_known(&self) -> bool {
        self.epoch.is_some()
    }

    /// Looks around: connects, writes, disconnects.
    pub(crate) fn wake(&mut self, to: &[UserId], boots: &[Option<u64>], around: &mut Around) {
        let span = around.chance.between(WAKE.0, WAKE.1) * around.pace;
        around.after(span, Event::Wake(self.me));
        match self.line {
            Line::Offline if around.chance.one_in(3) => self.connect(boots, around),
            Line::Offline => {}
            Line::Connecting | Line::Online => self.look(to, around),
        }
    }

    fn look(&mut self, to: &[UserId], around: &mut Around) {
        let waits = self.line == Line::Connecting || !self.requests.is_empty();
        let tired = waits && around.now > self.heard + PATIENCE;
        if tired || (!to.is_empty() && around.chance.one_in(80)) {
            self.hang_up(around);
            return;
        }
        if self.line != Line::Online {
            return;
        }
        if around.chance.one_in(10) {
            self.say(Up::Alive, around);
        }
        if self.acked < self.sent {
            self.acknowledge(around);
        }
        if !to.is_empty() && self.outbox.len() < 20 {
            for _ in 0..around.chance.below(4) {
                let to = match &around.oracle.club {
                    Some(club) if club.has(&self.user) && around.chance.one_in(2) => club.owner(),
                    _ => to[around.chance.below(to.len())].clone(),
                };
                self.write(to, around);
            }
        }
        if !to.is_empty() && around.chance.one_in(20) {
            self.misuse(to, around);
        }
        if self.me == 0 && self.calls.is_empty() {
            self.run_the_club(to, around);
        }
    }

    /// The founder makes the group when all others are known, and now and then puts one out or takes one in.
    fn run_the_club(&mut self, to: &[UserId], around: &mut Around) {
        const OTHERS: usize = 3;
        let Some(club) = &around.oracle.club else { return };
        let (group, made) = (club.group.clone(), club.is_made());
        let call = if to.len() < OTHERS || (made && !around.chance.one_in(8)) {
            return;
        } else if !made {
            Call::Create { title: "Club".into(), members: to[..2].to_vec() }
        } else {
            let one = vec![to[around.chance.below(to.len())].clone()];
            if around.chance.one_in(3) { Call::Remove(one) } else { Call::Add(one) }
        };
        self.next_request += 1;
        let request = RequestRef(self.next_request);
        self.calls.insert(request);
        self.say(Up::Call(request, group, call), around);
    }

    /// Writes to somebody with the `cid` of a message to somebody else.
    fn misuse(&mut self, to: &[UserId], around: &mut Around) {
        let stored = usize::try_from(self.stored).unwrap();
        let Some(log) = around.oracle.logs.get(&self.user).filter(|_| stored > 0) else { return };
        let What::Sent { conv, cid, .. } = &log[around.chance.below(stored)].what else { return };
        let cid = cid.clone();
        let other = to.iter().find(|to| Conversation::User((*to).clone()) != *conv);
        if let Some(other) = other.filter(|other| !self.held.contains(other)) {
            self.post(&cid, other.clone(), around);
            self.misuses.insert(RequestRef(self.next_request));
        }
    }

    fn connect(&mut self, boots: &[Option<u64>], around: &mut Around) {
        let node = around.chance.below(boots.len());
        let Some(boot) = boots[node] else { return };
        around.connections += 1;
        (self.line, self.connection) = (Line::Connecting, around.connections);
        (self.node, self.heard) = ((node, boot), around.now);
        if self.more_devices > 0 && around.chance.one_in(12) {
            self.change_device(around);
        }
        let forgets = around.chance.one_in(6);
        let epoch = self.epoch.filter(|_| !forgets);
        let resume = epoch.map(|epoch| Resume { n: Number(self.stored), epoch });
        if resume.is_some() {
            // To resume is to acknowledge.
            self.had(self.stored, around);
        }
        let (user, device) = (self.user.clone(), self.device.clone());
        let at = At::Accept(self.me, self.connection, user, device, resume);
        around.socket(self.me, true, Event::Node(node, boot, at));
    }

    /// The user has a new device, which has nothing but what was not confirmed yet.
    fn change_device(&mut self, around: &mut Around) {
        self.device = DeviceId::parse(&format!("{}n", self.device)).unwrap();
        (self.epoch, self.stored, self.sent, self.acked) = (None, 0, 0, 0);
        self.more_devices -= 1;
        around.counts.devices += 1;
    }

    pub(crate) fn hang_up(&mut self, around: &mut Around) {
        // A node may notice late.
        if around.chance.one_in(3) {
            let late = around.chance.between(100_000, 5_000_000);
            let at = At::Socket(self.connection, Up::Gone);
            around.after(late, Event::Node(self.node.0, self.node.1, at));
        } else {
            self.say(Up::Gone, around);
        }
        self.dropped();
    }

    /// The connection is gone.
    pub(crate) fn dropped(&mut self) {
        self.line = Line::Offline;
        self.connection = 0;
        self.requests.clear();
        self.calls.clear();
        self.misuses.clear();
        self.rounds.clear();
        self.held.clear();
    }

    fn say(&self, up: Up, around: &mut Around) {
        let at = At::Socket(self.connection, up);
        around.socket(self.me, true, Event::Node(self.node.0, self.node.1, at));
    }

    fn write(&mut self, to: UserId, around: &mut Around) {
        self.written += 1;
        let cid = Cid::parse(&format!("{}-{}-{}", self.user, self.device, self.written)).unwrap();
        around.counts.cut_off += u64::from(around.cut_off(self.node.0).is_some());
        let (from, at) = (self.user.clone(), around.now);
        let sending = Sending { from, to: to.clone(), accepted: None, at, refused: false };
        around.oracle.sendings.insert(cid.clone(), sending);
        self.outbox.push_back((cid.clone(), to.clone()));
        if !self.held.contains(&to) {
            self.post(&cid, to, around);
        }
    }

    fn post(&mut self, cid: &Cid, to: UserId, around: &mut Around) {
        self.next_request += 1;
        let request = RequestRef(self.next_request);
        self.requests.insert(request, (cid.clone(), to.clone()));
        let round = self.rounds.get(&to).copied().unwrap_or_default();
        let mut sent_as = cid.clone();
        if around.plant == Plant::ChangesCid && around.chance.one_in(2) {
            sent_as = Cid::parse(&format!("{cid}-{}", self.connection)).unwrap();
        }
        let content = Content {
            kind: Kind::parse("text").unwrap(),
            body: cid.as_str().into(),
            reply_to: None,
            client: None,
        };
        let send = Send {
            from: self.user.clone(),
            device: self.device.clone(),
            to: to.group().map_or(Conversation::User(to), Conversation::Group),
            cid: sent_as,
            content: Arc::new(content),
        };
        self.say(Up::Send(request, send, round), around);
    }

    /// A frame from its node.
    pub(crate) fn hear(&mut self, frame: Output, around: &mut Around) {
        self.heard = around.now;
        match frame {
            Output::Attached(position) => {
                around.oracle.epoch(&self.user, position.epoch);
                self.epoch = Some(position.epoch);
                assert!(position.from.0 <= self.stored, "nothing is skipped");
                (self.sent, self.acked) = (position.from.0, position.from.0);
                self.line = Line::Online;
                for (cid, to) in self.outbox.clone() {
                    self.post(&cid, to, around);
                }
            }
            Output::Entries { entries, .. } => self.store(&entries, around),
            Output::Sent { request, result } => self.answered(request, result, around),
            Output::Unavailable | Output::Close(_) => self.hang_up(around),
            Output::Refused(refusal) => panic!("{} was refused: {refusal}", self.user),
            Output::CaughtUp { .. } => {}
            Output::Answered { request, answer } => {
                assert!(self.calls.remove(&request), "{request:?} answered once");
                let done = matches!(answer, Ok(Answer::Done));
                assert!(done || answer.as_ref().is_err_and(|why| why.retry()), "{answer:?}");
            }
            other => panic!("nobody asked: {other:?}"),
        }
    }

    fn answered(
        &mut self,
        request: RequestRef,
        result: Result<Accepted, Refusal>,
        around: &mut Around,
    ) {
        let answered = self.requests.remove(&request);
        let Some((cid, to)) = answered else { panic!("{request:?} answered once") };
        let misused = self.misuses.remove(&request);
        match result {
            Ok(_) if misused => panic!("{cid} stands for two messages"),
            Err(Refusal::Conflict) if misused => around.counts.conflicts += 1,
            Ok(accepted) => {
                if let Some(since) = around.cut_off(self.node.0) {
                    around.oracle.confirmed_by_minority(&cid, since);
                }
                around.counts.posts += u64::from(to.group().is_some());
                around.oracle.accepted(&cid, accepted);
                self.outbox.retain(|(known, _)| *known != cid);
            }
            Err(Refusal::NotAMember) => {
                let put_out =
                    around.oracle.club.as_ref().is_some_and(|c| c.was_put_out(&self.user));
                assert!(put_out, "{} is in the group", self.user);
                around.counts.outsiders += 1;
                around.oracle.sendings.get_mut(&cid).expect("it was sent").refused = true;
                self.outbox.retain(|(known, _)| *known != cid);
            }
            Err(refusal) => {
                assert!(refusal.retry(), "{cid}: {refusal}");
                around.counts.refused += u64::from(around.cut_off(self.node.0).is_some());
                self.held.insert(to.clone());
            }
        }
        let on_its_way = self.requests.values().any(|(_, other)| *other == to);
        if !on_its_way && self.held.remove(&to) {
            self.begin_anew(&to, around);
        }
    }

    /// Repeats all of a conversation, oldest first, when every answer of the round before is there.
    fn begin_anew(&mut self, to: &UserId, around: &mut Around) {
        *self.rounds.entry(to.clone()).or_default() += 1;
        for (cid, to) in self.outbox.clone().into_iter().filter(|(_, other)| other == to) {
            self.post(&cid, to, around);
        }
    }

    fn store(&mut self, entries: &[Entry], around: &mut Around) {
        for entry in entries {
            assert!(entry.n.0 <= self.stored + 1, "{} of {}: no gaps", self.device, self.user);
            assert_eq!(entry.n.0, self.sent + 1, "in order on a connection");
            self.sent = entry.n.0;
            self.stored = self.stored.max(entry.n.0);
            around.oracle.saw(&self.user, entry);
        }
        if around.chance.one_in(2) {
            self.acknowledge(around);
        }
        match entries.last().map(|entry| &entry.what) {
            Some(What::Message { from, seq, .. }) if around.chance.one_in(4) => {
                let had = around.oracle.had.entry((self.user.clone(), from.clone())).or_default();
                *had = (*had).max(*seq);
                self.say(Up::Read(Conversation::User(from.clone()), *seq), around);
            }
            Some(What::Post { seq, .. }) if around.chance.one_in(4) => {
                let Some(club) = &mut around.oracle.club else { return };
                club.acknowledged(&self.user, *seq);
                let conv = club.conv();
                self.say(Up::Read(conv, *seq), around);
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, around: &mut Around) {
        self.acked = self.sent;
        self.had(self.sent, around);
        self.say(Up::Ack(Number(self.sent)), around);
    }

    fn had(&mut self, stored: u64, around: &mut Around) {
        let stored = usize::try_from(stored).unwrap().max(self.counted);
        let log = around.oracle.logs.remove(&self.user).unwrap_or_default();
        log[self.counted..stored]
            .iter()
            .for_each(|entry| around.oracle.acknowledged(&self.user, entry));
        self.counted = stored;
        around.oracle.logs.insert(self.user.clone(), log);
    }
}
