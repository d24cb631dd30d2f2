//! Checker: reads a history and looks for broken promises; it knows the protocol and nothing of the cluster.
//!
//! One pass over the lines, then one over each user's log: hash maps and no search, for the log itself says in which order
//! things happened. It cannot see what no client saw: a message that was never acknowledged may be lost, and what a user
//! never fetched is not looked for on disks.

#[path = "checker/logs.rs"]
mod logs;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;

use crate::history::{Event, Line, What};
use logs::Log;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A message with a check mark is not on each device of its recipient, or not among its sender's own.
    Lost,
    /// A message is twice in a log.
    Duplicated,
    /// Messages came in another order than they were sent, or than they are numbered.
    Misordered,
    /// What came was never sent, or was refused, or is something else or somebody else's.
    Unexpected,
    /// A message expired before its time.
    ExpiredEarly,
    /// A tick went back, or says more than is true.
    TickRegressed,
    /// A number is missing.
    Gap,
    /// One number stands for two things.
    DevicesDisagree,
    /// A check mark told something else than the log, or than another check mark.
    CheckMarkDiffers,
    /// A user's log began anew.
    LogRestarted,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
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
    ];

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
        }
    }
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anomaly {
    pub(crate) kind: Kind,
    /// When it was seen, in microseconds of the history.
    pub(crate) at: u64,
    pub(crate) text: String,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) invoked: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    /// Neither acknowledged nor refused.
    pub(crate) unknown: u64,
    /// Unknown, and delivered all the same.
    pub(crate) recovered: u64,
    /// Messages delivered, on each device.
    pub(crate) delivered: u64,
    pub(crate) events: u64,
    /// Events that a device had before.
    pub(crate) repeats_at_clients: u64,
    /// Messages sent once more.
    pub(crate) retries: u64,
    /// Check marks of messages that had been accepted before.
    pub(crate) dup_replies: u64,
    pub(crate) expired: u64,
    pub(crate) connections: u64,
}

impl Counts {
    /// Each with its name.
    pub(crate) fn named(&self) -> Vec<(String, u64)> {
        let named = [
            ("messages sent", self.invoked),
            ("acknowledged", self.acknowledged),
            ("refused", self.refused),
            ("unknown", self.unknown),
            ("unknown and delivered", self.recovered),
            ("delivered, on each device", self.delivered),
            ("events", self.events),
            ("events repeated at clients", self.repeats_at_clients),
            ("messages sent once more", self.retries),
            ("check marks with dup", self.dup_replies),
            ("expired", self.expired),
            ("connections", self.connections),
        ];
        named.map(|(name, count)| (name.to_owned(), count)).to_vec()
    }
}

/// What is said of a history.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The first of them.
    pub(crate) anomalies: Vec<Anomaly>,
    /// All of them.
    pub(crate) counts_by_kind: BTreeMap<Kind, u64>,
    pub(crate) counts: Counts,
}

/// So many are told in full.
const TOLD_MAX: usize = 100;

impl Verdict {
    fn add(&mut self, kind: Kind, at: u64, text: String) {
        *self.counts_by_kind.entry(kind).or_default() += 1;
        if self.anomalies.len() < TOLD_MAX {
            self.anomalies.push(Anomaly { kind, at, text });
        }
    }
}

/// Sender and `cid`.
type Key = (String, String);

/// From a user's device to another user.
type Way<'a> = (&'a str, &'a str, &'a str);

/// A message as its sender knows it.
struct Message {
    device: String,
    to: String,
    body: u64,
    /// Counts all messages in the order in which they were first sent.
    order: u64,
    invoked_at: u64,
    mark: Option<Mark>,
    refused: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    mid: String,
    seq: u64,
    at: u64,
}

/// Reads the lines of a history.
pub(crate) fn read(reader: impl BufRead) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (at, line) in reader.lines().enumerate() {
        let number = at + 1;
        let line = line.map_err(|error| format!("line {number}: {error}"))?;
        lines.push(serde_json::from_str(&line).map_err(|error| format!("line {number}: {error}"))?);
    }
    Ok(lines)
}

/// Checks a history.
pub(crate) fn check(lines: impl IntoIterator<Item = Line>) -> Verdict {
    let mut checker = Checker::default();
    for line in lines {
        checker.line(line);
    }
    checker.finish()
}

#[derive(Default)]
struct Checker {
    users: BTreeMap<String, Vec<String>>,
    expiry_us: u64,
    messages: HashMap<Key, Message>,
    logs: HashMap<String, Log>,
    verdict: Verdict,
    end: u64,
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The `cid` of a message, which its sender wrote before the first blank.
fn cid_of(body: &str) -> &str {
    body.split(' ').next().unwrap_or(body)
}

/// Whose a one-to-one conversation is.
fn peer(conv: &str) -> &str {
    conv.strip_prefix("u:").unwrap_or(conv)
}

impl Checker {
    fn line(&mut self, Line { at, what }: Line) {
        self.end = at;
        match what {
            What::Run { users, expiry_ms, .. } => {
                (self.users, self.expiry_us) = (users, expiry_ms.saturating_mul(1_000));
            }
            What::Invoke { user, device, cid, to, body } => {
                self.verdict.counts.invoked += 1;
                let order = self.verdict.counts.invoked;
                let (to, body) = (peer(&to).to_owned(), hash(&body));
                let (mark, refused, invoked_at) = (None, false, at);
                let message = Message { device, to, body, order, invoked_at, mark, refused };
                if self.messages.insert((user.clone(), cid.clone()), message).is_some() {
                    let text = format!("{user} used {cid} for two messages; the history is wrong");
                    self.verdict.add(Kind::Unexpected, at, text);
                }
            }
            What::Ok { user, cid, mid, seq, dup, tries, .. } => {
                self.verdict.counts.retries += u64::from(tries.saturating_sub(1));
                self.verdict.counts.dup_replies += u64::from(dup);
                self.marked((user, cid), Mark { mid, seq, at });
            }
            What::Refused { user, cid, .. } => {
                if let Some(message) = self.messages.get_mut(&(user, cid)) {
                    message.refused = true;
                }
            }
            What::Attached { user, device, epoch, n, resumed, .. } => {
                self.verdict.counts.connections += 1;
                let log = self.logs.entry(user.clone()).or_default();
                log.attached(&user, &device, &epoch, (n, resumed), at, &mut self.verdict);
            }
            What::Event { user, device, n, event } => {
                self.verdict.counts.events += 1;
                let log = self.logs.entry(user.clone()).or_default();
                log.event(&user, &device, n, event, at, &mut self.verdict);
            }
            What::Acked { .. }
            | What::Closed { .. }
            | What::Fault { .. }
            | What::Healed { .. }
            | What::Whole { .. } => {}
        }
    }

    fn marked(&mut self, key: Key, mark: Mark) {
        let Some(message) = self.messages.get_mut(&key) else {
            let text = format!("a check mark of {key:?}, which was never sent");
            return self.verdict.add(Kind::Unexpected, mark.at, text);
        };
        match &message.mark {
            None => message.mark = Some(mark),
            Some(known) if (&known.mid, known.seq) != (&mark.mid, mark.seq) => {
                let text = format!("{key:?} has two check marks: {known:?} and {mark:?}");
                self.verdict.add(Kind::CheckMarkDiffers, mark.at, text);
            }
            Some(_) => {}
        }
    }

    fn finish(mut self) -> Verdict {
        let logs = std::mem::take(&mut self.logs);
        let mut found = logs::Found::default();
        for (user, log) in &logs {
            self.log(user, log, &mut found);
        }
        self.orders(&found);
        self.ticks(&found);
        let mut counts = self.verdict.counts;
        for (key, message) in &self.messages {
            counts.acknowledged += u64::from(message.mark.is_some());
            counts.refused += u64::from(message.refused);
            if message.mark.is_none() && !message.refused {
                counts.unknown += 1;
                counts.recovered += u64::from(found.messages.contains_key(key));
            }
        }
        counts.expired = found.expired.len() as u64;
        self.verdict.counts = counts;
        self.lost(&logs, &found);
        self.verdict.anomalies.sort_by_key(|anomaly| anomaly.at);
        self.verdict
    }

    /// Messages of one device to one user must be numbered in the order in which they were first sent.
    fn orders(&mut self, found: &logs::Found) {
        let mut ways: BTreeMap<Way<'_>, Vec<(u64, u64)>> = BTreeMap::new();
        for (key, message) in &self.messages {
            if let Some(there) = found.messages.get(key) {
                let way = (key.0.as_str(), message.device.as_str(), message.to.as_str());
                ways.entry(way).or_default().push((message.order, there.seq));
            }
        }
        for (way, mut sent) in ways {
            sent.sort_unstable();
            if let Some(pair) = sent.windows(2).find(|pair| pair[0].1 > pair[1].1) {
                let text = format!("{way:?}: of messages {pair:?} the later was numbered first");
                self.verdict.add(Kind::Misordered, self.end, text);
            }
        }
    }

    /// Nothing is delivered that is in no log.
    fn ticks(&mut self, found: &logs::Found) {
        let mut newest: HashMap<(&str, &str), u64> = HashMap::new();
        for (key, there) in &found.messages {
            let Some(message) = self.messages.get(key) else { continue };
            let known = newest.entry((&key.0, &message.to)).or_default();
            *known = there.seq.max(*known);
        }
        for ((from, to), (delivered, at)) in &found.ticks {
            let there = newest.get(&(from.as_str(), to.as_str())).copied().unwrap_or(0);
            if *delivered > there {
                let text = format!("{delivered} messages of {from} to {to} delivered of {there}");
                self.verdict.add(Kind::TickRegressed, *at, text);
            }
        }
    }

    fn lost(&mut self, logs: &HashMap<String, Log>, found: &logs::Found) {
        for (key, message) in &self.messages {
            let Some(mark) = &message.mark else { continue };
            if found.expired.contains(&mark.mid) {
                continue;
            }
            let why = match found.messages.get(key) {
                None => Some(format!("in no log of {}", message.to)),
                Some(there) => {
                    let devices = self.users.get(&message.to).map_or(&[][..], Vec::as_slice);
                    let log = logs.get(&message.to);
                    let has = |device: &&String| log.is_some_and(|log| log.has(device, there.n));
                    let lacks = devices.iter().find(|device| !has(device));
                    lacks.map(|device| format!("not on {} of {}", device, message.to))
                }
            };
            let why = why.or_else(|| {
                let sent = found.sent.contains(key) || !self.users.contains_key(&key.0);
                (!sent).then(|| "not among the sender's own".to_owned())
            });
            if let Some(why) = why {
                let text = format!("{key:?}, acknowledged as {mark:?}, is {why}");
                self.verdict.add(Kind::Lost, mark.at, text);
            }
        }
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
