//! Ending: what can only be judged when the whole history is known.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::groups::Fact;
use super::logs::{Entry, Log, Ranges, Seen};
use super::messages::{Message, Place};
use super::{Kind, Pass, Verdict};

/// How far the clocks of nodes and clients may be apart.
const CLOCKS_US: u64 = 1_000_000;

/// A message that expired, and when its sender was first told.
struct Expired {
    mid: u64,
    at: u64,
    known: bool,
}

/// By sender, recipient and `seq`.
type Expiries = BTreeMap<(usize, usize, u64), Expired>;

/// What one log has shown up to some number.
#[derive(Default)]
struct Walk {
    /// Ids of messages (true) and of the user's own (false).
    mids: HashSet<(bool, u64)>,
    senders: BTreeMap<usize, Sender>,
    ticks: HashMap<usize, (u64, u64)>,
}

/// One sender in the log of one recipient.
#[derive(Default)]
struct Sender {
    seqs: Ranges,
    highest: u64,
    at: u64,
    /// Of each device, the newest message by the order of sending.
    newest: HashMap<u64, usize>,
}

impl Pass {
    /// Judges what is left.
    pub(super) fn end(mut self) -> Verdict {
        if self.runs == 0 {
            self.verdict.add(Kind::Unexpected, 0, || "no line tells of the run".to_owned());
        }
        self.logs.resize_with(self.users.len().max(self.logs.len()), Log::default);
        let mut expiries = self.expiries();
        for user in 0..self.logs.len() {
            self.walk(user, &expiries);
        }
        self.end_groups();
        for index in 0..self.messages.all.len() {
            self.sender_side(index);
            if !self.messages.all[index].is_post {
                self.ticked(index);
                self.recipient_side(index, &mut expiries);
            }
        }
        for ((from, to, seq), expired) in expiries.iter().filter(|(_, expired)| !expired.known) {
            let names = (self.users.name(*from), self.users.name(*to));
            let text =
                || format!("{} was told that {seq} to {} expired: never sent", names.0, names.1);
            self.verdict.add(Kind::Unexpected, expired.at, text);
        }
        self.verdict.anomalies.sort_by_key(|anomaly| (anomaly.at, anomaly.kind));
        self.verdict
    }

    fn expiries(&mut self) -> Expiries {
        let mut expiries = Expiries::new();
        for (user, log) in self.logs.iter().enumerate() {
            for (n, entry) in &log.entries {
                let Seen::Expired { to, place } = entry.seen else { continue };
                let expired = Expired { mid: place.mid, at: entry.at, known: false };
                if expiries.insert((user, to, place.seq), expired).is_some() {
                    let name = self.users.name(user);
                    let text = || format!("{n} tells {name} once more that {} expired", place.seq);
                    self.verdict.add(Kind::Duplicated, entry.at, text);
                }
            }
        }
        self.verdict.counts.expired = u64::try_from(expiries.len()).unwrap_or(u64::MAX);
        expiries
    }

    /// Goes through one log in the order of its numbers.
    fn walk(&mut self, user: usize, expiries: &Expiries) {
        let entries = std::mem::take(&mut self.logs[user].entries);
        let mut walk = Walk::default();
        for (n, Entry { at, seen }) in entries {
            match seen {
                Seen::Message { .. } => self.message(&mut walk, user, (n, at), seen),
                Seen::Post { .. } => self.post(user, (n, at), seen),
                Seen::Change { group, seq, change } => {
                    if self.saw((user, group), (n, at), seq, Fact::Change(change)) {
                        self.repeats(user, (n, at), group, seq);
                    }
                }
                Seen::Sent { to, place, cid } => {
                    let mut again = !walk.mids.insert((false, place.mid));
                    if self.users.is_group(to) {
                        let fact = Fact::Post { mid: place.mid, from: user };
                        again |= self.saw((user, to), (n, at), place.seq, fact);
                    }
                    self.sent(user, (n, at), (to, place, cid), again);
                }
                Seen::Receipt { to, delivered, read } => {
                    let ticks = walk.ticks.entry(to).or_default();
                    self.receipt(ticks, (user, to), (n, at), (delivered, read));
                }
                Seen::Expired { .. } => {}
            }
        }
        for (from, sender) in &walk.senders {
            let lacks = |seq: u64| !expiries.contains_key(&(*from, user, seq));
            for (first, last) in sender.seqs.holes() {
                if let Some(seq) = (first..=last).find(|seq| lacks(*seq)) {
                    let names = (self.users.name(user), self.users.name(*from));
                    let text = || format!("{} lacks {seq} from {}", names.0, names.1);
                    self.verdict.add(Kind::Gap, sender.at, text);
                }
            }
        }
    }

    fn message(&mut self, walk: &mut Walk, user: usize, (n, at): (u64, u64), seen: Seen) {
        let Seen::Message { from, place, cid, body } = seen else { return };
        let index = self.messages.find(from, cid);
        let twice = self.tie(user, (n, at), (from, user), (index, place, body));
        let sender = walk.senders.entry(from).or_default();
        let again = !walk.mids.insert((true, place.mid)) | !sender.seqs.insert(place.seq);
        let overtaken = index.is_some_and(|index| {
            let newest = sender.newest.entry(self.messages.all[index].device).or_insert(index);
            *newest = index.max(*newest);
            index < *newest
        });
        let late = place.seq < sender.highest || overtaken;
        sender.highest = place.seq.max(sender.highest);
        sender.at = at;
        let (name, from) = (self.users.name(user), self.users.name(from));
        if again || twice {
            let text = || format!("{n} of {name} repeats {} from {from}", place.seq);
            self.verdict.add(Kind::Duplicated, at, text);
        } else if late {
            let text = || format!("{n} of {name} is {} from {from}, after a later one", place.seq);
            self.verdict.add(Kind::Misordered, at, text);
        }
    }

    fn post(&mut self, user: usize, (n, at): (u64, u64), seen: Seen) {
        let Seen::Post { group, from, place, cid, body } = seen else { return };
        let index = self.messages.find(from, cid);
        self.tie(user, (n, at), (from, group), (index, place, body));
        let fact = Fact::Post { mid: place.mid, from };
        if self.saw((user, group), (n, at), place.seq, fact) {
            self.repeats(user, (n, at), group, place.seq);
        }
    }

    fn repeats(&mut self, user: usize, (n, at): (u64, u64), group: usize, seq: u64) {
        let (name, conv) = (self.users.name(user), self.users.name(group));
        self.verdict.add(Kind::Duplicated, at, || format!("{n} of {name} repeats {seq} of {conv}"));
    }

    /// Compares a message with what was sent; whether it came before under another number.
    fn tie(
        &mut self,
        user: usize,
        (n, at): (u64, u64),
        (from, to): (usize, usize),
        (index, place, body): (Option<usize>, Place, u64),
    ) -> bool {
        let (name, from) = (self.users.name(user), self.users.name(from));
        let Some(message) = index.and_then(|index| self.messages.all.get_mut(index)) else {
            let text = || format!("{n} of {name} is from {from}, who never sent it");
            self.verdict.add(Kind::Unexpected, at, text);
            return false;
        };
        let wrong = if message.to != to {
            Some("was sent to somebody else")
        } else if message.refused {
            Some("was refused")
        } else if message.body != body {
            Some("says something else than was sent")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            let text = || format!("{n} of {name} is {from}'s {}, which {wrong}", message.cid);
            self.verdict.add(Kind::Unexpected, at, text);
        }
        compare(&mut self.verdict, message, place, at, || format!("{n} of {name}"));
        if message.to != to {
            return false;
        }
        let twice = message.received.is_some();
        message.received.get_or_insert(n);
        twice
    }

    fn sent(
        &mut self,
        user: usize,
        (n, at): (u64, u64),
        (to, place, cid): (usize, Place, u64),
        again: bool,
    ) {
        let name = self.users.name(user);
        let Some(message) = self.messages.get_mut(user, cid) else {
            let text = || format!("{n} of {name} is a message they never sent");
            self.verdict.add(Kind::Unexpected, at, text);
            return;
        };
        if message.to != to || message.refused {
            let wrong = if message.refused { "was refused" } else { "was to somebody else" };
            let text = || format!("{n} of {name} is their {}, which {wrong}", message.cid);
            self.verdict.add(Kind::Unexpected, at, text);
        }
        compare(&mut self.verdict, message, place, at, || format!("{n} of {name}"));
        if again || message.sent.is_some() {
            let text = || format!("{n} of {name} repeats their own {}", message.cid);
            self.verdict.add(Kind::Duplicated, at, text);
        }
        message.sent.get_or_insert(n);
    }

    fn receipt(
        &mut self,
        ticks: &mut (u64, u64),
        (user, to): (usize, usize),
        (n, at): (u64, u64),
        (delivered, read): (u64, u64),
    ) {
        // In a group there is one order for all.
        let is_group = self.users.is_group(to);
        let newest = self.messages.newest(if is_group { to } else { user }, to);
        let wrong = if delivered < ticks.0 || read < ticks.1 {
            Some("goes back")
        } else if read > delivered {
            Some("has more read than delivered")
        } else if delivered > newest {
            Some("has more delivered than was sent")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            let names = (self.users.name(user), self.users.name(to));
            let (had, now) = (*ticks, (delivered, read));
            let text =
                || format!("{n} of {}, ticks of {}, {wrong}: {had:?} to {now:?}", names.0, names.1);
            self.verdict.add(Kind::TickRegressed, at, text);
        }
        if is_group {
            self.told_of_group((user, to), at, (delivered, read));
        } else if delivered > ticks.0 {
            self.told.entry((user, to)).or_default().push((delivered, at));
        }
        *ticks = (delivered.max(ticks.0), read.max(ticks.1));
    }

    /// Counts what has no check mark; looks for what has one on the sender's own devices.
    fn sender_side(&mut self, index: usize) {
        let message = &self.messages.all[index];
        let counts = &mut self.verdict.counts;
        let Some(at) = message.marked_at else {
            counts.unknown += u64::from(!message.refused);
            counts.recovered += u64::from(!message.refused && message.received.is_some());
            return;
        };
        if message.is_post {
            counts.posts_acknowledged += 1;
            return;
        }
        let from = self.users.name(message.from);
        for device in absent(&self.logs[message.from], message.sent) {
            let text = || format!("{from}/{device} was never shown {from}'s own {}", message.cid);
            self.verdict.add(Kind::Lost, at, text);
        }
    }

    /// Looks whether the sender was told of a delivery before any device had acknowledged it.
    fn ticked(&mut self, index: usize) {
        let message = &self.messages.all[index];
        let (Some(n), Some(place)) = (message.received, message.place) else { return };
        let told = self.told.get(&(message.from, message.to)).map_or(&[][..], Vec::as_slice);
        let first = told.partition_point(|(delivered, _)| *delivered < place.seq);
        let Some((_, at)) = told.get(first) else { return };
        let devices = self.logs[message.to].devices.values();
        let acked = devices.filter_map(|device| device.acked_at(n)).min();
        if acked.is_none_or(|acked| acked > *at) {
            let names = (self.users.name(message.from), self.users.name(message.to));
            let text =
                || format!("{} was told that {} has {}, early", names.0, names.1, message.cid);
            self.verdict.add(Kind::TickRegressed, *at, text);
        }
    }

    /// Looks for a message on the recipient's devices, unless it expired; then, whether it might.
    ///
    /// Its time is counted from when it was sent, not from its check mark: that may come long after the node took it.
    fn recipient_side(&mut self, index: usize, expiries: &mut Expiries) {
        let message = &self.messages.all[index];
        let (from, to) = (self.users.name(message.from), self.users.name(message.to));
        let key = message.place.map(|place| (message.from, message.to, place.seq));
        let log = &self.logs[message.to];
        let Some(expired) = key.and_then(|key| expiries.get_mut(&key)) else {
            let Some(at) = message.marked_at else { return };
            for device in absent(log, message.received) {
                let text = || format!("{to}/{device} never got {from}'s {}", message.cid);
                self.verdict.add(Kind::Lost, at, text);
            }
            return;
        };
        expired.known = true;
        let at = expired.at;
        if message.place.is_some_and(|place| place.mid != expired.mid) {
            let text = || format!("{from}'s {} expired under another id", message.cid);
            self.verdict.add(Kind::CheckMarkDiffers, at, text);
        }
        let due = message.invoked_at.saturating_add(self.expiry_us);
        if at.saturating_add(CLOCKS_US) < due {
            let text = || format!("{from}'s {} expired {} us early", message.cid, due - at);
            self.verdict.add(Kind::ExpiredEarly, at, text);
        }
        let acked = |n| log.devices.values().filter_map(|device| device.acked_at(n)).min();
        if message.received.and_then(acked).is_some_and(|acked| acked < at) {
            let text = || format!("{from}'s {} expired though {to} had it", message.cid);
            self.verdict.add(Kind::ExpiredEarly, at, text);
        }
    }
}

/// Reports a message that has another id or place than was told before; keeps the first. Of a post only the check mark
/// counts: that members see it in different places is an anomaly of its own.
fn compare(
    verdict: &mut Verdict,
    message: &mut Message,
    place: Place,
    at: u64,
    whose: impl FnOnce() -> String,
) {
    let judges = !message.is_post || message.marked_at.is_some();
    if *message.place.get_or_insert(place) != place && judges {
        let text = || format!("{}: {} has another mid or seq than before", whose(), message.cid);
        verdict.add(Kind::CheckMarkDiffers, at, text);
    }
}

/// The listed devices that lack what stands under a number; a user without any lacks everything.
pub(super) fn absent(log: &Log, n: Option<u64>) -> impl Iterator<Item = &str> {
    let listed = || log.devices.iter().filter(|(_, device)| device.listed);
    let nobody = listed().next().is_none().then_some("no device");
    let lacks = move |seen: &Ranges| n.is_none_or(|n| !seen.contains(n));
    let names = listed().filter(move |(_, device)| lacks(&device.seen));
    names.map(|(name, _)| name.as_str()).chain(nobody)
}
