//! Figures: a history in numbers: waits for check marks, interruptions around faults, and how long healing took.
//!
//! All times are microseconds, as in the history. A message waits from its first sending until its check mark; one that
//! is never answered waits until the history ends; one that is refused was outstanding until then, and has no wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Event, Line, What};

/// Microseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000;

/// What a history says in numbers.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// What was run, if the history says so.
    pub(crate) run: Option<Run>,
    /// When the first line was written.
    pub(crate) begin: u64,
    /// When the last one was.
    pub(crate) end: u64,
    /// Messages with a check mark.
    pub(crate) acknowledged: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Messages with neither.
    pub(crate) unanswered: u64,
    /// Waits of all messages.
    pub(crate) waits: Option<Spread>,
    /// What was sent to one other.
    pub(crate) letters: Way,
    /// What was posted to groups.
    pub(crate) posts: Way,
    /// Groups.
    pub(crate) groups: usize,
    /// What changed in them: makings, comings, goings and others.
    pub(crate) changes: usize,
    /// Waits that no fault touched.
    pub(crate) calm: Option<Spread>,
    /// Waits of which some part lay in a fault.
    pub(crate) troubled: Option<Spread>,
    /// What happened in each second; those in which nothing happened are absent.
    pub(crate) seconds: BTreeMap<u64, Second>,
    /// The faults in their order.
    pub(crate) faults: Vec<Felt>,
    /// The same by kind.
    pub(crate) kinds: Vec<Kind>,
    /// The same for all kinds together.
    pub(crate) together: Kind,
}

/// One way for messages to go.
#[derive(Debug, Default)]
pub(crate) struct Way {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    /// Events with one, summed over devices; repeats included.
    pub(crate) delivered: u64,
    pub(crate) waits: Option<Spread>,
}

impl Way {
    fn of(messages: &[Message<'_>], is_post: bool, delivered: u64) -> Self {
        let mut way = Self { delivered, ..Self::default() };
        let mut waits = Vec::new();
        for message in messages.iter().filter(|message| message.is_post == is_post) {
            way.sent += 1;
            way.acknowledged += u64::from(matches!(message.fate, Fate::Marked(_)));
            way.refused += u64::from(message.fate == Fate::Refused);
            waits.extend(message.wait());
        }
        way.waits = Spread::of(waits);
        way
    }
}

/// What was run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) command: String,
    pub(crate) nodes: u16,
    pub(crate) users: usize,
    pub(crate) devices: usize,
}

/// One second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Second {
    /// Check marks.
    pub(crate) marks: u64,
    /// Numbered events that came.
    pub(crate) delivered: u64,
    /// The longest wait of a message whose check mark came in it.
    pub(crate) longest: Option<u64>,
}

/// How a set of times is spread: each is one of them (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) count: usize,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Spread {
    /// Nothing is spread in no way.
    fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let (count, max) = (times.len(), *times.last()?);
        let at = |permille: usize| {
            let rank = count.saturating_mul(permille).div_ceil(1_000);
            times.get(rank.saturating_sub(1)).copied().unwrap_or(max)
        };
        Some(Self { count, p50: at(500), p99: at(990), p999: at(999), max })
    }
}

/// A fault, and what clients felt of it.
#[derive(Debug)]
pub(crate) struct Felt {
    pub(crate) id: u32,
    pub(crate) kind: String,
    pub(crate) detail: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) begin: u64,
    pub(crate) healed: Option<u64>,
    pub(crate) whole: Option<u64>,
    /// Until when it lasts: whole again, or else the next fault, or else the end.
    pub(crate) until: u64,
    /// Among all messages.
    pub(crate) all: Option<Pain>,
    /// Among the messages answered by a node that was not hit.
    pub(crate) elsewhere: Option<Pain>,
}

impl Felt {
    /// From healed to whole.
    pub(crate) fn heal(&self) -> Option<u64> {
        Some(self.whole?.saturating_sub(self.healed?))
    }
}

/// What some clients felt of a fault while they had messages to send.
#[derive(Debug)]
pub(crate) struct Pain {
    /// The longest time in which a message waited and no check mark came.
    pub(crate) stall: u64,
    /// How long each message waited that was first sent during the fault.
    pub(crate) waits: Vec<u64>,
}

/// The faults of one kind.
#[derive(Debug, Default)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) count: usize,
    /// How many were never whole again.
    pub(crate) broken: usize,
    pub(crate) heal: Option<Spread>,
    pub(crate) all: Pains,
    pub(crate) elsewhere: Pains,
}

/// What clients felt of several faults.
#[derive(Debug, Default)]
pub(crate) struct Pains {
    /// One time for each fault.
    pub(crate) stalls: Option<Spread>,
    /// One for each message.
    pub(crate) waits: Option<Spread>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate<'a> {
    Unknown,
    Refused,
    /// By this node.
    Marked(&'a str),
}

struct Message<'a> {
    is_post: bool,
    invoked: u64,
    end: u64,
    fate: Fate<'a>,
}

impl Message<'_> {
    fn wait(&self) -> Option<u64> {
        (self.fate != Fate::Refused).then(|| self.end.saturating_sub(self.invoked))
    }
}

/// What the lines of a history say.
pub(crate) fn figures(lines: &[Line]) -> Figures {
    let mut figures = Figures {
        begin: lines.iter().map(|line| line.at).min().unwrap_or(0),
        end: lines.iter().map(|line| line.at).max().unwrap_or(0),
        ..Figures::default()
    };
    let messages = messages(lines, figures.end);
    for line in lines {
        figures.count(line);
    }
    figures.fates(&messages);
    figures.ways(lines, &messages);
    figures.faults = faults(lines, figures.end);
    figures.split_waits(&messages);
    feel(&mut figures.faults, &messages, figures.end);
    let mut kinds: BTreeMap<&str, Vec<&Felt>> = BTreeMap::new();
    for fault in &figures.faults {
        kinds.entry(&fault.kind).or_default().push(fault);
    }
    figures.kinds = kinds.iter().map(|(name, faults)| kind(name, faults)).collect();
    figures.together = kind("all of them", &figures.faults.iter().collect::<Vec<_>>());
    figures
}

impl Figures {
    fn count(&mut self, line: &Line) {
        match &line.what {
            What::Run { seed, command, nodes, users, .. } => {
                self.run = Some(Run {
                    seed: *seed,
                    command: command.clone(),
                    nodes: *nodes,
                    users: users.len(),
                    devices: users.values().map(Vec::len).sum(),
                });
            }
            What::Event { .. } => {
                self.seconds.entry(line.at / SECOND).or_default().delivered += 1;
            }
            _ => {}
        }
    }

    fn fates(&mut self, messages: &[Message<'_>]) {
        for message in messages {
            match message.fate {
                Fate::Unknown => self.unanswered += 1,
                Fate::Refused => self.refused += 1,
                Fate::Marked(_) => {
                    self.acknowledged += 1;
                    let second = self.seconds.entry(message.end / SECOND).or_default();
                    second.marks += 1;
                    second.longest = second.longest.max(message.wait());
                }
            }
        }
    }

    fn ways(&mut self, lines: &[Line], messages: &[Message<'_>]) {
        let (mut letters, mut posts) = (0, 0);
        let (mut groups, mut changes) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            let What::Event { event, .. } = &line.what else { continue };
            match event {
                Event::Message { conv: None, .. } => letters += 1,
                Event::Message { .. } => posts += 1,
                Event::Group { conv, seq, .. } => {
                    groups.insert(conv);
                    changes.insert((conv, seq));
                }
                Event::Sent { .. } | Event::Receipt { .. } | Event::Expired { .. } => {}
            }
        }
        self.letters = Way::of(messages, false, letters);
        self.posts = Way::of(messages, true, posts);
        (self.groups, self.changes) = (groups.len(), changes.len());
    }

    fn split_waits(&mut self, messages: &[Message<'_>]) {
        let reach = reach(self.faults.iter().map(|fault| fault.until));
        let (mut calm, mut troubled) = (Vec::new(), Vec::new());
        for message in messages {
            let begun = self.faults.partition_point(|fault| fault.begin <= message.end);
            let until = begun.checked_sub(1).and_then(|last| reach.get(last));
            let touched = until.is_some_and(|until| *until >= message.invoked);
            if touched { &mut troubled } else { &mut calm }.extend(message.wait());
        }
        self.waits = Spread::of(calm.iter().chain(&troubled).copied().collect());
        (self.calm, self.troubled) = (Spread::of(calm), Spread::of(troubled));
    }
}

/// The messages in the order of their first sending. The first answer counts.
fn messages(lines: &[Line], end: u64) -> Vec<Message<'_>> {
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    let mut messages: Vec<Message<'_>> = Vec::new();
    for line in lines {
        let (user, cid, fate) = match &line.what {
            What::Invoke { user, cid, to, .. } => {
                places.entry((user, cid)).or_insert_with(|| {
                    let (is_post, fate) = (to.starts_with("g:"), Fate::Unknown);
                    messages.push(Message { is_post, invoked: line.at, end, fate });
                    messages.len() - 1
                });
                continue;
            }
            What::Ok { user, cid, via, .. } => (user, cid, Fate::Marked(via)),
            What::Refused { user, cid, .. } => (user, cid, Fate::Refused),
            _ => continue,
        };
        let place = places.get(&(user.as_str(), cid.as_str()));
        let message = place.and_then(|place| messages.get_mut(*place));
        if let Some(message) = message.filter(|message| message.fate == Fate::Unknown) {
            (message.end, message.fate) = (line.at, fate);
        }
    }
    messages.sort_by_key(|message| message.invoked);
    messages
}

/// The faults in the order of their beginning; not yet what was felt of them.
fn faults(lines: &[Line], end: u64) -> Vec<Felt> {
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    let mut faults: Vec<Felt> = Vec::new();
    for line in lines {
        let begin = line.at;
        match &line.what {
            What::Fault { id, kind, detail, nodes } => {
                places.insert(*id, faults.len());
                faults.push(Felt {
                    id: *id,
                    kind: kind.clone(),
                    detail: detail.clone(),
                    nodes: nodes.clone(),
                    begin,
                    healed: None,
                    whole: None,
                    until: end,
                    all: None,
                    elsewhere: None,
                });
            }
            What::Healed { id } => {
                if let Some(fault) = places.get(id).and_then(|place| faults.get_mut(*place)) {
                    fault.healed.get_or_insert(line.at);
                }
            }
            What::Whole { id } => {
                if let Some(fault) = places.get(id).and_then(|place| faults.get_mut(*place)) {
                    fault.whole.get_or_insert(line.at);
                }
            }
            _ => {}
        }
    }
    faults.sort_by_key(|fault| fault.begin);
    let mut next = end;
    for fault in faults.iter_mut().rev() {
        fault.until = fault.whole.unwrap_or(next).max(fault.begin);
        next = fault.begin;
    }
    faults
}

/// The greatest so far, at each place.
fn reach(ends: impl Iterator<Item = u64>) -> Vec<u64> {
    ends.scan(0, |greatest, end| {
        *greatest = end.max(*greatest);
        Some(*greatest)
    })
    .collect()
}

/// From when until when a stall counts as one of a fault.
#[derive(Clone, Copy)]
struct Window {
    begin: u64,
    /// It begins before this.
    until: u64,
    /// What comes after is that of the next fault.
    limit: u64,
}

impl Window {
    fn part(self, from: u64, to: u64) -> u64 {
        if from > self.until || to < self.begin {
            return 0;
        }
        to.min(self.limit).saturating_sub(from.max(self.begin))
    }
}

fn feel(faults: &mut [Felt], messages: &[Message<'_>], end: u64) {
    let reach = reach(messages.iter().map(|message| message.end));
    let mut next = end;
    for fault in faults.iter_mut().rev() {
        let window =
            Window { begin: fault.begin, until: fault.until, limit: fault.until.max(next) };
        next = fault.begin;
        let first = reach.partition_point(|end| *end < window.begin);
        let last = messages.partition_point(|message| message.invoked <= window.limit);
        let near: Vec<&Message<'_>> = messages
            .get(first..last)
            .unwrap_or_default()
            .iter()
            .filter(|message| message.end >= window.begin)
            .collect();
        let elsewhere: Vec<&Message<'_>> = near
            .iter()
            .copied()
            .filter(|message| match message.fate {
                Fate::Marked(via) => fault.nodes.iter().all(|node| node != via),
                Fate::Refused | Fate::Unknown => false,
            })
            .collect();
        fault.all = pain(&near, window);
        fault.elsewhere = pain(&elsewhere, window);
    }
}

/// What was felt by those who had messages to send.
fn pain(messages: &[&Message<'_>], window: Window) -> Option<Pain> {
    let sent = |message: &&&Message<'_>| message.invoked <= window.until;
    messages.iter().find(sent)?;
    let waits = messages.iter().filter(sent).filter_map(|message| message.wait()).collect();
    Some(Pain { stall: stall(messages, window), waits })
}

/// What changes how many messages wait; at the same moment in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Sent,
    Refused,
    Marked,
}

/// The longest time in which a message waited and no check mark came.
fn stall(messages: &[&Message<'_>], window: Window) -> u64 {
    let mut changes: Vec<(u64, Change)> = Vec::new();
    for message in messages {
        changes.push((message.invoked, Change::Sent));
        match message.fate {
            Fate::Unknown => {}
            Fate::Refused => changes.push((message.end, Change::Refused)),
            Fate::Marked(_) => changes.push((message.end, Change::Marked)),
        }
    }
    changes.sort_unstable();
    let (mut waiting, mut since, mut longest) = (0_usize, 0, 0);
    for (at, change) in changes {
        if change == Change::Sent {
            since = if waiting == 0 { at } else { since };
            waiting += 1;
            continue;
        }
        waiting = waiting.saturating_sub(1);
        if change == Change::Marked || waiting == 0 {
            longest = window.part(since, at).max(longest);
            since = at;
        }
    }
    if waiting > 0 { window.part(since, window.limit).max(longest) } else { longest }
}

fn kind(name: &str, faults: &[&Felt]) -> Kind {
    Kind {
        name: name.to_owned(),
        count: faults.len(),
        broken: faults.iter().filter(|fault| fault.whole.is_none()).count(),
        heal: Spread::of(faults.iter().filter_map(|fault| fault.heal()).collect()),
        all: pains(faults.iter().filter_map(|fault| fault.all.as_ref())),
        elsewhere: pains(faults.iter().filter_map(|fault| fault.elsewhere.as_ref())),
    }
}

fn pains<'a>(pains: impl Iterator<Item = &'a Pain> + Clone) -> Pains {
    Pains {
        stalls: Spread::of(pains.clone().map(|pain| pain.stall).collect()),
        waits: Spread::of(pains.flat_map(|pain| pain.waits.iter().copied()).collect()),
    }
}
