//! Checker: reads a history of clients and lists where it breaks what the protocol promises.
//!
//! Looks for  acknowledged messages that are missing, messages that came twice, in the wrong order, changed, or to the
//!            wrong user; numbers left out, devices that were told different things, ticks that went back, messages
//!            that expired too early, check marks that differ, and logs that began anew; in groups, members who saw different
//!            orders, lack something of the time in which they were in, or got something of another.
//! Cannot see what no client saw: whether a message is durable before somebody fetches it, what happened to a message
//!            without an answer that never came, and faults that only a device that is not listed would have noticed.
//!            An acknowledgement of a device counts from when it was written down, though it may never have arrived.
//! Compares   message ids and bodies by hashes of 64 bits: two of them may pass for one with a chance of 1 in 10⁷ in
//!            two million messages.

#[path = "checker/ending.rs"]
mod ending;
#[path = "checker/groups.rs"]
mod groups;
#[path = "checker/logs.rs"]
mod logs;
#[path = "checker/messages.rs"]
mod messages;
#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;

use crate::history::{Event, Line, What};
use groups::{Change, Groups};
use logs::{Log, Seen};
use messages::{Message, Messages, Place, Users, hash};

/// How many anomalies of one kind are kept with their text; with thirteen kinds, 130 in all. No kind crowds out another.
const TEXTS_PER_KIND: u64 = 10;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// An acknowledged message is absent on a device of its recipient, or its `sent` on one of its sender.
    Lost,
    /// A message is in a log under two numbers, or under two ids.
    Duplicated,
    /// Messages came in another order than they were sent.
    Misordered,
    /// What came was never sent, was refused, says something else, or belongs to somebody else.
    Unexpected,
    /// A message expired before its time, or after a device had it.
    ExpiredEarly,
    /// A receipt went back, or says more than there is.
    TickRegressed,
    /// A number is left out, of a log or of a conversation.
    Gap,
    /// One number stands for different events.
    DevicesDisagree,
    /// A message has another id or place than its check mark says.
    CheckMarkDiffers,
    /// The epoch of a user's log changed.
    LogRestarted,
    /// Two members saw two different things at one place of a group, or one post at two places.
    DifferentGroupOrder,
    /// A member lacks something of the time in which they were in a group.
    GroupGap,
    /// Somebody saw something of a group from before they came, or from after they went.
    GroupLeak,
}

impl Kind {
    /// Each of them, in order.
    pub(crate) const ALL: [Self; 13] = [
        Self::Lost,
        Self::Duplicated,
        Self::Misordered,
        Self::Unexpected,
        Self::ExpiredEarly,
        Self::TickRegressed,
        Self::Gap,
        Self::DevicesDisagree,
        Self::CheckMarkDiffers,
        Self::LogRestarted,
        Self::DifferentGroupOrder,
        Self::GroupGap,
        Self::GroupLeak,
    ];

    /// As reports call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Misordered => "misordered",
            Self::Unexpected => "unexpected",
            Self::ExpiredEarly => "expired early",
            Self::TickRegressed => "tick regressed",
            Self::Gap => "gap",
            Self::DevicesDisagree => "devices disagree",
            Self::CheckMarkDiffers => "check mark differs",
            Self::LogRestarted => "log restarted",
            Self::DifferentGroupOrder => "different group order",
            Self::GroupGap => "group gap",
            Self::GroupLeak => "group leak",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anomaly {
    /// What is wrong.
    pub(crate) kind: Kind,
    /// When it was seen, in microseconds since the run began; of what is absent, when it was promised.
    pub(crate) at: u64,
    /// Who and what, in words.
    pub(crate) text: String,
}

/// How much there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Messages sent.
    pub(crate) invoked: u64,
    /// Messages with a check mark.
    pub(crate) acknowledged: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Messages with neither.
    pub(crate) unknown: u64,
    /// Of these, how many were delivered.
    pub(crate) recovered: u64,
    /// Different messages that a device got, summed over devices.
    pub(crate) delivered: u64,
    /// Events that a device had already passed.
    pub(crate) repeats_at_clients: u64,
    /// How often a message was sent once more before its check mark.
    pub(crate) retries: u64,
    /// Check marks of what had been accepted before.
    pub(crate) dup_replies: u64,
    /// Messages that expired.
    pub(crate) expired: u64,
    /// Events, repeats included.
    pub(crate) events: u64,
    /// Sockets that went on somewhere.
    pub(crate) connections: u64,
    /// Groups.
    pub(crate) groups: u64,
    /// Of the messages sent, those to groups.
    pub(crate) posts: u64,
    /// Of the posts, those with a check mark.
    pub(crate) posts_acknowledged: u64,
    /// Of the posts, those refused for good.
    pub(crate) posts_refused: u64,
    /// Of what was delivered, the posts.
    pub(crate) posts_delivered: u64,
    /// Changes in the orders of all groups: makings, comings, goings and others.
    pub(crate) changes: u64,
}

impl Counts {
    /// Each with the name reports give it.
    pub(crate) fn named(&self) -> Vec<(String, u64)> {
        let named = [
            ("messages sent", self.invoked),
            ("acknowledged", self.acknowledged),
            ("refused", self.refused),
            ("unknown", self.unknown),
            ("unknown but delivered", self.recovered),
            ("delivered, summed over devices", self.delivered),
            ("events repeated at clients", self.repeats_at_clients),
            ("sent once more", self.retries),
            ("check marks with dup", self.dup_replies),
            ("expired", self.expired),
            ("events", self.events),
            ("connections", self.connections),
            ("groups", self.groups),
            ("posts to groups, of the messages sent", self.posts),
            ("posts acknowledged", self.posts_acknowledged),
            ("posts refused", self.posts_refused),
            ("posts delivered, summed over devices", self.posts_delivered),
            ("changes of groups", self.changes),
        ];
        named.map(|(name, count)| (name.to_owned(), count)).to_vec()
    }
}

/// What a history shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    /// The first of each kind, by time; empty when nothing is wrong.
    pub(crate) anomalies: Vec<Anomaly>,
    /// How many there are of each kind, also of those not kept.
    pub(crate) counts_by_kind: BTreeMap<Kind, u64>,
    /// How much there was.
    pub(crate) counts: Counts,
}

impl Verdict {
    fn add(&mut self, kind: Kind, at: u64, text: impl FnOnce() -> String) {
        let count = self.counts_by_kind.entry(kind).or_default();
        *count += 1;
        if *count <= TEXTS_PER_KIND {
            self.anomalies.push(Anomaly { kind, at, text: text() });
        }
    }
}

/// The lines of a history one by one; what cannot be read is named by its number, from 1.
pub(crate) fn lines(reader: impl BufRead) -> impl Iterator<Item = Result<Line, String>> {
    reader.lines().enumerate().map(|(before, text)| {
        let named = |error: &dyn std::fmt::Display| format!("line {}: {error}", before + 1);
        let text = text.map_err(|error| named(&error))?;
        serde_json::from_str(&text).map_err(|error| named(&error))
    })
}

/// All lines of a history; an error names the first that cannot be read.
pub(crate) fn read(reader: impl BufRead) -> Result<Vec<Line>, String> {
    lines(reader).collect()
}

/// Checks a whole history.
pub(crate) fn check(lines: impl IntoIterator<Item = Line>) -> Verdict {
    let mut pass = Pass::default();
    for line in lines {
        pass.line(line);
    }
    pass.end()
}

/// What is known after some lines.
#[derive(Default)]
struct Pass {
    verdict: Verdict,
    users: Users,
    messages: Messages,
    groups: Groups,
    /// By the number of the user.
    logs: Vec<Log>,
    /// By sender and recipient: what the sender was told is delivered, and when.
    told: HashMap<(usize, usize), Vec<(u64, u64)>>,
    runs: u32,
    expiry_us: u64,
}

impl Pass {
    fn line(&mut self, line: Line) {
        let at = line.at;
        match line.what {
            What::Run { users, expiry_ms, .. } => self.run(at, &users, expiry_ms),
            What::Invoke { user, device, cid, to, body } => {
                let (from, to) = (self.users.id(&user), self.users.conv(&to));
                let to = (to, self.users.is_group(to));
                let message = Message::new(from, to, cid.into(), (hash(&device), hash(&body), at));
                self.invoke(message);
            }
            What::Ok { user, cid, mid, seq, dup, tries, .. } => {
                self.verdict.counts.dup_replies += u64::from(dup);
                self.verdict.counts.retries += u64::from(tries.saturating_sub(1));
                self.mark(at, &user, &cid, Place { mid: hash(&mid), seq });
            }
            What::Refused { user, cid, code } => self.refuse(at, &user, &cid, &code),
            What::Attached { user, device, epoch, n, .. } => {
                self.verdict.counts.connections += 1;
                let (restarted, gap) = self.log(&user).attach(&device, &epoch, n);
                if restarted {
                    let text =
                        || format!("the log of {user} began anew: {device} was told {epoch}");
                    self.verdict.add(Kind::LogRestarted, at, text);
                }
                if let Some(last) = gap {
                    let text = || format!("{user}/{device} goes on after {n} and had only {last}");
                    self.verdict.add(Kind::Gap, at, text);
                }
            }
            What::Event { user, device, n, event } => self.event(at, (&user, &device), n, &event),
            What::Acked { user, device, n } => self.log(&user).device(&device).ack(n, at),
            What::Read { user, conv, seq, .. } => self.read(at, &user, &conv, seq),
            What::Closed { .. } | What::Fault { .. } | What::Healed { .. } | What::Whole { .. } => {
            }
        }
    }

    fn log(&mut self, user: &str) -> &mut Log {
        let id = self.users.id(user);
        if self.logs.len() <= id {
            self.logs.resize_with(id + 1, Log::default);
        }
        &mut self.logs[id]
    }

    fn run(&mut self, at: u64, users: &BTreeMap<String, Vec<String>>, expiry_ms: u64) {
        self.runs += 1;
        if self.runs > 1 {
            self.verdict.add(Kind::Unexpected, at, || "a second run in one history".to_owned());
        }
        self.expiry_us = expiry_ms.saturating_mul(1_000);
        for (user, devices) in users {
            for device in devices {
                self.log(user).device(device).listed = true;
            }
        }
    }

    fn invoke(&mut self, message: Message) {
        self.verdict.counts.invoked += 1;
        self.verdict.counts.posts += u64::from(message.is_post);
        let (at, from) = (message.invoked_at, message.from);
        if let Some(cid) = self.messages.invoke(message) {
            let text = || format!("{} used cid {cid} for two messages", self.users.name(from));
            self.verdict.add(Kind::Unexpected, at, text);
        }
    }

    fn mark(&mut self, at: u64, user: &str, cid: &str, place: Place) {
        let from = self.users.id(user);
        let Some(message) = self.messages.get_mut(from, hash(cid)) else {
            let text = || format!("{user} got a check mark for {cid}, which was never sent");
            self.verdict.add(Kind::Unexpected, at, text);
            return;
        };
        if message.refused {
            let text = || format!("{user}'s {cid} has a check mark after it was refused");
            self.verdict.add(Kind::Unexpected, at, text);
        }
        if message.place.is_some_and(|first| first != place) {
            let text = || format!("{user}'s {cid} has two check marks that differ");
            self.verdict.add(Kind::CheckMarkDiffers, at, text);
        }
        if message.marked_at.is_none() {
            message.marked_at = Some(at);
            self.verdict.counts.acknowledged += 1;
        }
        message.place.get_or_insert(place);
        let to = message.to;
        self.exists(from, to, place.seq);
    }

    /// Some client was told of this; a group has one order for all who write.
    fn exists(&mut self, from: usize, to: usize, seq: u64) {
        let from = if self.users.is_group(to) { to } else { from };
        self.messages.exists(from, to, seq);
    }

    /// Only in groups it is looked at who has read what.
    fn read(&mut self, at: u64, user: &str, conv: &str, seq: u64) {
        let key = (self.users.id(user), self.users.conv(conv));
        if self.users.is_group(key.1) {
            let reads = self.groups.reads.entry(key).or_default();
            if reads.last().is_none_or(|(last, _)| seq > *last) {
                reads.push((seq, at));
            }
        }
    }

    fn refuse(&mut self, at: u64, user: &str, cid: &str, code: &str) {
        let from = self.users.id(user);
        let Some(message) = self.messages.get_mut(from, hash(cid)) else {
            let text = || format!("{user} was refused {cid} ({code}), which was never sent");
            self.verdict.add(Kind::Unexpected, at, text);
            return;
        };
        if message.marked_at.is_some() {
            let text = || format!("{user}'s {cid} was refused ({code}) after its check mark");
            self.verdict.add(Kind::Unexpected, at, text);
        }
        let is_first = u64::from(!message.refused);
        message.refused = true;
        self.verdict.counts.refused += is_first;
        self.verdict.counts.posts_refused += is_first * u64::from(message.is_post);
    }

    fn event(&mut self, at: u64, (user, device): (&str, &str), n: u64, event: &Event) {
        self.verdict.counts.events += 1;
        let owner = self.users.id(user);
        let seen = self.seen(owner, event);
        let is_post = matches!(seen, Seen::Post { .. });
        let is_message = is_post || matches!(seen, Seen::Message { .. });
        let took = self.log(user).take(device, n, at, seen);
        self.verdict.counts.repeats_at_clients += u64::from(took.repeated);
        self.verdict.counts.delivered += u64::from(is_message && took.fresh);
        self.verdict.counts.posts_delivered += u64::from(is_post && took.fresh);
        if let Some(last) = took.gap_after {
            let text = || format!("{user}/{device} was sent {n} after {last}");
            self.verdict.add(Kind::Gap, at, text);
        }
        if took.disagrees {
            let text =
                || format!("{user}/{device} has another {n} than was seen before: {event:?}");
            self.verdict.add(Kind::DevicesDisagree, at, text);
        }
    }

    /// An event without its texts; notes what it says about how far a conversation has got.
    fn seen(&mut self, owner: usize, event: &Event) -> Seen {
        match event {
            Event::Message { mid, conv, from, seq, body } => {
                let from = self.users.id(from);
                let group = conv.as_deref().map(|conv| self.users.conv(conv));
                self.exists(from, group.unwrap_or(owner), *seq);
                let cid = hash(body.split(' ').next().unwrap_or_default());
                let (place, body) = (Place::of(mid, *seq), hash(body));
                match group {
                    Some(group) => Seen::Post { group, from, place, cid, body },
                    None => Seen::Message { from, place, cid, body },
                }
            }
            Event::Group { conv, seq, .. } => {
                let group = self.users.conv(conv);
                self.exists(group, group, *seq);
                Seen::Change { group, seq: *seq, change: self.change(event) }
            }
            Event::Sent { mid, conv, seq, cid } => {
                let to = self.users.conv(conv);
                self.exists(owner, to, *seq);
                Seen::Sent { to, place: Place::of(mid, *seq), cid: hash(cid) }
            }
            Event::Receipt { conv, delivered, read } => {
                let to = self.users.conv(conv);
                Seen::Receipt { to, delivered: *delivered, read: *read }
            }
            Event::Expired { conv, mid, seq } => {
                Seen::Expired { to: self.users.conv(conv), place: Place::of(mid, *seq) }
            }
        }
    }

    /// The hash of what a change says; notes whom it puts in and out.
    fn change(&mut self, event: &Event) -> u64 {
        let Event::Group { by, change, users, says, .. } = event else { return 0 };
        let key = hash(&(by, change, users, says));
        if !self.groups.changes.contains_key(&key) {
            let mut named: Vec<usize> = users.iter().map(|user| self.users.id(user)).collect();
            let mut known = Change::default();
            match change.as_str() {
                "created" | "added" => known.comes = named,
                "removed" => known.goes = named,
                "left" => {
                    named.push(self.users.id(by));
                    known.goes = named;
                }
                _ => {}
            }
            self.groups.changes.insert(key, known);
        }
        key
    }
}
