//! Logs: what the devices of a user saw under each number, and what is wrong in it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Checker, Event, Key, Kind, Message, Verdict, cid_of, hash, peer};

/// A user's log, put together from what the user's devices saw.
#[derive(Default)]
pub(super) struct Log {
    epoch: Option<String>,
    entries: BTreeMap<u64, Entry>,
    devices: HashMap<String, Device>,
}

struct Entry {
    at: u64,
    event: Event,
    /// Of a message: the hash of its whole body, of which `event` keeps only the `cid`.
    body: u64,
}

/// How far a device is.
#[derive(Default)]
struct Device {
    attached: bool,
    /// It has everything up to here.
    has: u64,
    /// What comes next on its socket follows this one.
    next_after: u64,
}

/// What is in the logs of all users.
#[derive(Default)]
pub(super) struct Found {
    pub(super) messages: HashMap<Key, There>,
    pub(super) sent: HashSet<Key>,
    /// By `mid`.
    pub(super) expired: HashSet<String>,
    /// The newest tick of each sender and recipient, and when it was seen.
    pub(super) ticks: HashMap<Key, (u64, u64)>,
}

/// Where a message is in its recipient's log.
pub(super) struct There {
    pub(super) n: u64,
    pub(super) seq: u64,
}

impl Log {
    /// Whether a device has an entry.
    pub(super) fn has(&self, device: &str, n: u64) -> bool {
        self.devices.get(device).is_some_and(|device| device.has >= n)
    }

    pub(super) fn attached(
        &mut self,
        user: &str,
        device: &str,
        epoch: &str,
        (n, resumed): (u64, bool),
        at: u64,
        verdict: &mut Verdict,
    ) {
        if self.epoch.as_deref().is_some_and(|known| known != epoch) {
            let text = format!("{user} has another log: {:?}, then {epoch}", self.epoch);
            verdict.add(Kind::LogRestarted, at, text);
        }
        self.epoch = Some(epoch.to_owned());
        let known = self.devices.entry(device.to_owned()).or_default();
        if known.attached && n > known.has {
            let text = format!("{user}/{device} has {} and goes on after {n}", known.has);
            verdict.add(Kind::Gap, at, text);
        }
        if known.attached && resumed && n < known.has {
            let text = format!("{user}/{device} asked for what follows {}, got {n}", known.has);
            verdict.add(Kind::Unexpected, at, text);
        }
        (known.attached, known.next_after) = (true, n);
    }

    pub(super) fn event(
        &mut self,
        user: &str,
        device: &str,
        n: u64,
        mut event: Event,
        at: u64,
        verdict: &mut Verdict,
    ) {
        let known = self.devices.entry(device.to_owned()).or_default();
        if n > known.next_after + 1 {
            let text = format!("{user}/{device}: {n} came after {}", known.next_after);
            verdict.add(Kind::Gap, at, text);
        } else if n <= known.has {
            verdict.counts.repeats_at_clients += 1;
        } else {
            known.has = n;
            let message = matches!(event, Event::Message { .. });
            verdict.counts.delivered += u64::from(message);
        }
        known.next_after = known.next_after.max(n);
        let mut whole = 0;
        if let Event::Message { body, .. } = &mut event {
            whole = hash(body);
            body.truncate(cid_of(body).len());
        }
        match self.entries.get(&n) {
            None => drop(self.entries.insert(n, Entry { at, event, body: whole })),
            Some(there) if (&there.event, there.body) != (&event, whole) => {
                let text = format!("{user}: {n} is {:?} and {event:?}", there.event);
                verdict.add(Kind::DevicesDisagree, at, text);
            }
            Some(_) => {}
        }
    }
}

/// What was seen of a log so far, in the order of its numbers.
#[derive(Default)]
struct Seen<'a> {
    mids: HashSet<&'a str>,
    /// The newest `seq` from each sender.
    seqs: HashMap<&'a str, u64>,
    /// Delivered and read, for each recipient.
    ticks: HashMap<&'a str, (u64, u64)>,
}

impl Checker {
    /// Checks one log from its beginning.
    pub(super) fn log(&mut self, user: &str, log: &Log, found: &mut Found) {
        let mut seen = Seen::default();
        let mut newest = 0;
        for (&n, entry) in &log.entries {
            if n != newest + 1 {
                let text = format!("{user}: no device ever saw what is between {newest} and {n}");
                self.verdict.add(Kind::Gap, entry.at, text);
            }
            newest = n;
            self.entry(user, n, entry, &mut seen, found);
        }
    }

    fn entry<'a>(
        &mut self,
        user: &str,
        n: u64,
        entry: &'a Entry,
        seen: &mut Seen<'a>,
        found: &mut Found,
    ) {
        match &entry.event {
            Event::Message { mid, from, seq, body } => {
                let key = (from.clone(), body.clone());
                self.told(user, n, entry, &key, (mid, *seq));
                let newest = seen.seqs.entry(from).or_default();
                let there = (user, n, mid, *seq);
                if !seen.mids.insert(mid) || found.messages.contains_key(&key) {
                    self.wrong(Kind::Duplicated, entry, format!("{key:?} again: {there:?}"));
                } else if *seq <= *newest {
                    self.wrong(Kind::Misordered, entry, format!("{there:?} after {newest}"));
                } else if *seq > *newest + 1 {
                    self.wrong(Kind::Gap, entry, format!("{there:?} of {from} after {newest}"));
                }
                *newest = (*newest).max(*seq);
                found.messages.entry(key).or_insert(There { n, seq: *seq });
            }
            Event::Sent { mid, conv, seq, cid } => {
                let key = (user.to_owned(), cid.clone());
                match self.messages.get(&key) {
                    Some(message) if message.to != peer(conv) || message.refused => {
                        let text = format!("{key:?} was sent to {}, not {conv}", message.to);
                        self.wrong(Kind::Unexpected, entry, text);
                    }
                    Some(message) => {
                        if let Some(text) = differs(message, mid, *seq) {
                            self.wrong(Kind::CheckMarkDiffers, entry, format!("{key:?}: {text}"));
                        }
                    }
                    None => self.wrong(Kind::Unexpected, entry, format!("{key:?} never sent")),
                }
                if !seen.mids.insert(mid) || !found.sent.insert(key) {
                    self.wrong(Kind::Duplicated, entry, format!("{user}'s {cid} twice, at {n}"));
                }
            }
            Event::Receipt { conv, delivered, read } => {
                let known = seen.ticks.entry(peer(conv)).or_default();
                let now = (*delivered, *read);
                if now.0 < known.0 || now.1 < known.1 || now.1 > now.0 {
                    let text = format!("{user}, {conv}: {now:?} after {known:?}, at {n}");
                    self.wrong(Kind::TickRegressed, entry, text);
                }
                *known = now;
                let way = (user.to_owned(), peer(conv).to_owned());
                found.ticks.insert(way, (*delivered, entry.at));
            }
            Event::Expired { mid, .. } => {
                self.expired(user, entry, mid);
                found.expired.insert(mid.clone());
            }
        }
    }

    /// A message must be one that was sent to this user, and be what its check mark says.
    fn told(&mut self, user: &str, n: u64, entry: &Entry, key: &Key, told: (&str, u64)) {
        let text = match self.messages.get(key) {
            None => Some("was never sent"),
            Some(message) if message.refused => Some("was refused"),
            Some(message) if message.to != user => Some("was to somebody else"),
            Some(message) if message.body != entry.body => Some("reads otherwise"),
            Some(message) => {
                let differs = differs(message, told.0, told.1);
                if let Some(text) = differs {
                    self.wrong(Kind::CheckMarkDiffers, entry, format!("{key:?}: {text}"));
                }
                None
            }
        };
        if let Some(text) = text {
            self.wrong(Kind::Unexpected, entry, format!("{key:?} at {n} of {user} {text}"));
        }
    }

    fn expired(&mut self, user: &str, entry: &Entry, mid: &str) {
        /// Clocks of nodes and clients differ.
        const CLOCKS_US: u64 = 1_000_000;
        let mine = self.messages.iter().filter(|(key, _)| key.0 == user);
        let mut known = mine.filter_map(|(_, message)| message.mark.as_ref().map(|m| (message, m)));
        let since = known.find(|(_, mark)| mark.mid == mid).map(|(message, _)| message.invoked_at);
        let early = since.is_some_and(|since| entry.at + CLOCKS_US < since + self.expiry_us);
        if early {
            self.wrong(Kind::ExpiredEarly, entry, format!("{mid} of {user}"));
        }
    }

    fn wrong(&mut self, kind: Kind, entry: &Entry, text: String) {
        self.verdict.add(kind, entry.at, text);
    }
}

/// How an entry differs from the check mark of its message.
fn differs(message: &Message, mid: &str, seq: u64) -> Option<String> {
    let mark = message.mark.as_ref()?;
    let same = mark.mid == mid && mark.seq == seq;
    (!same).then(|| format!("the check mark said {mark:?}, the log {mid} and {seq}"))
}
