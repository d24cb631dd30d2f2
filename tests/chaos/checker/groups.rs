//! Groups: the one order of each group as its members together saw it, who was in it from where to where, and whether each
//! member has what was posted meanwhile, all of it, and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ending::absent;
use super::messages::{Place, Users};
use super::{Kind, Pass, Verdict};

/// What stands at one place of a group's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    /// Of this user.
    Post { mid: u64, from: usize },
    /// Known by the hash of what it says.
    Change(u64),
}

/// Whom a change puts in, and whom out.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    pub(super) comes: Vec<usize>,
    pub(super) goes: Vec<usize>,
}

/// What is known of all groups.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) all: BTreeMap<usize, Group>,
    pub(super) changes: HashMap<u64, Change>,
    /// By user and group: up to where somebody said to have read, and when; both only go up.
    pub(super) reads: HashMap<(usize, usize), Vec<(u64, u64)>>,
}

impl Groups {
    /// When a user had read so far.
    fn read_at(&self, user: usize, group: usize, seq: u64) -> Option<u64> {
        let reads = self.reads.get(&(user, group))?;
        let first = reads.partition_point(|(read, _)| *read < seq);
        reads.get(first).map(|(_, at)| *at)
    }
}

/// A group.
#[derive(Default)]
pub(super) struct Group {
    /// As the first who saw it did, and when.
    order: BTreeMap<u64, (Fact, u64)>,
    /// Where each post was seen first.
    places: HashMap<u64, u64>,
    /// Where there is a post with a check mark.
    acknowledged: HashSet<u64>,
    /// What each user saw.
    views: BTreeMap<usize, View>,
    /// From where to where each user was in it.
    stints: BTreeMap<usize, Vec<Stint>>,
    /// What each user was told of the own posts.
    ticks: HashMap<usize, Vec<Tick>>,
}

/// What one user saw of a group.
#[derive(Default)]
struct View {
    /// By place: the first number in the user's log, when, and what.
    entries: BTreeMap<u64, (u64, u64, Fact)>,
    mids: HashSet<u64>,
    /// The newest place so far.
    newest: u64,
}

/// Somebody is in from here, up to and including there if they went.
#[derive(Debug, Clone, Copy)]
struct Stint {
    from: u64,
    to: Option<u64>,
}

impl Stint {
    fn holds(self, seq: u64) -> bool {
        seq >= self.from && self.to.is_none_or(|to| seq <= to)
    }
}

/// All others have got so far.
struct Tick {
    marks: (u64, u64),
    at: u64,
    /// The newest place of the group that the user had seen then.
    seen: u64,
}

impl Group {
    /// A user saw this: whether they had seen it before, whether it came after something later, and whether others saw
    /// something else or elsewhere.
    fn see(
        &mut self,
        user: usize,
        (n, at): (u64, u64),
        seq: u64,
        fact: Fact,
    ) -> (bool, bool, bool) {
        let known = self.order.entry(seq).or_insert((fact, at));
        known.1 = at.min(known.1);
        let known = known.0;
        let view = self.views.entry(user).or_default();
        let mut again = view.entries.get(&seq).is_some_and(|(_, _, seen)| *seen == fact);
        let mut elsewhere = false;
        if let Fact::Post { mid, .. } = fact {
            again |= !view.mids.insert(mid);
            elsewhere = *self.places.entry(mid).or_insert(seq) != seq;
        }
        let late = seq < view.newest;
        view.newest = seq.max(view.newest);
        view.entries.entry(seq).or_insert((n, at, fact));
        (again, late, known != fact || elsewhere)
    }

    /// The newest place that anybody was told of.
    fn head(&self) -> u64 {
        self.order.keys().next_back().copied().unwrap_or(0)
    }

    /// Goes through the order: who comes, who goes.
    fn settle(&mut self, changes: &HashMap<u64, Change>) {
        for (seq, (fact, _)) in &self.order {
            let Fact::Change(hash) = fact else { continue };
            let Some(Change { comes, goes }) = changes.get(hash) else { continue };
            for user in comes {
                let stints = self.stints.entry(*user).or_default();
                if stints.last().is_none_or(|last| last.to.is_some()) {
                    stints.push(Stint { from: *seq, to: None });
                }
            }
            for user in goes {
                let last = self.stints.get_mut(user).and_then(|stints| stints.last_mut());
                if let Some(last) = last.filter(|last| last.to.is_none()) {
                    last.to = Some(*seq);
                }
            }
        }
    }

    fn stint(&self, user: usize, seq: u64) -> Option<Stint> {
        let stints = self.stints.get(&user).map_or(&[][..], Vec::as_slice);
        stints.iter().copied().find(|stint| stint.holds(seq))
    }

    /// Whether a tick of a post had to wait for a user: in when it was posted, and not seen to go by who was told.
    fn counts(&self, user: usize, seq: u64, tick: &Tick) -> bool {
        let stint = self.stint(user, seq);
        stint.is_some_and(|stint| stint.to.is_none_or(|to| to > tick.seen))
    }

    /// The number under which a user has a post.
    fn number(&self, user: usize, place: Place) -> Option<u64> {
        let (n, _, fact) = self.views.get(&user)?.entries.get(&place.seq)?;
        matches!(fact, Fact::Post { mid, .. } if *mid == place.mid).then_some(*n)
    }
}

impl Pass {
    /// The next entry of a group in a user's log; whether the user had it before.
    pub(super) fn saw(
        &mut self,
        (user, group): (usize, usize),
        (n, at): (u64, u64),
        seq: u64,
        fact: Fact,
    ) -> bool {
        let known = self.groups.all.entry(group).or_default();
        let (again, late, differs) = known.see(user, (n, at), seq, fact);
        let (name, conv) = (self.users.name(user), self.users.name(group));
        if differs && !again {
            let text = || format!("{n} of {name} is not what others saw at {seq} of {conv}");
            self.verdict.add(Kind::DifferentGroupOrder, at, text);
        } else if late && !again {
            let text = || format!("{n} of {name} is {seq} of {conv}, after a later one");
            self.verdict.add(Kind::Misordered, at, text);
        }
        again
    }

    /// A user is told how far all others have got.
    pub(super) fn told_of_group(
        &mut self,
        (user, group): (usize, usize),
        at: u64,
        marks: (u64, u64),
    ) {
        let known = self.groups.all.entry(group).or_default();
        let seen = known.views.get(&user).map_or(0, |view| view.newest);
        known.ticks.entry(user).or_default().push(Tick { marks, at, seen });
    }

    /// Judges the groups when all logs were gone through.
    pub(super) fn end_groups(&mut self) {
        let mut groups = std::mem::take(&mut self.groups);
        for message in self.messages.all.iter().filter(|message| message.is_post) {
            let (Some(place), Some(at)) = (message.place, message.marked_at) else { continue };
            let group = groups.all.entry(message.to).or_default();
            let fact = Fact::Post { mid: place.mid, from: message.from };
            group.order.entry(place.seq).or_insert((fact, at));
            group.acknowledged.insert(place.seq);
        }
        for (id, group) in &mut groups.all {
            group.settle(&groups.changes);
            let conv = self.users.name(*id);
            let is_change = |(fact, _): &&(Fact, u64)| matches!(fact, Fact::Change(_));
            let changes = group.order.values().filter(is_change).count();
            self.verdict.counts.changes += u64::try_from(changes).unwrap_or(u64::MAX);
            self.verdict.counts.groups += 1;
            leaks(&mut self.verdict, group, conv, &self.users);
            holes(&mut self.verdict, group, conv, &self.users);
        }
        let mut newest = HashMap::new();
        for index in 0..self.messages.all.len() {
            let to = self.messages.all[index].to;
            let Some(group) = groups.all.get(&to) else { continue };
            self.in_order_of_sending(index, &mut newest);
            self.everybody_has(index, group);
            self.ticked_in(index, group, &groups);
        }
    }

    /// Posts of one device stand in the order in which they were sent.
    fn in_order_of_sending(
        &mut self,
        index: usize,
        newest: &mut HashMap<(usize, u64, usize), u64>,
    ) {
        let message = &self.messages.all[index];
        let Some(Place { seq, .. }) = message.place else { return };
        let highest = newest.entry((message.from, message.device, message.to)).or_default();
        if seq < *highest {
            let names = (self.users.name(message.from), self.users.name(message.to));
            let at = message.marked_at.unwrap_or(message.invoked_at);
            let text = || format!("{}'s {} overtook another in {}", names.0, message.cid, names.1);
            self.verdict.add(Kind::Misordered, at, text);
        }
        *highest = seq.max(*highest);
    }

    /// What was acknowledged is on each device of each member who was in.
    fn everybody_has(&mut self, index: usize, group: &Group) {
        let message = &self.messages.all[index];
        let (Some(at), Some(place)) = (message.marked_at, message.place) else { return };
        let from = self.users.name(message.from);
        for user in group.stints.keys().filter(|user| group.stint(**user, place.seq).is_some()) {
            let name = self.users.name(*user);
            for device in absent(&self.logs[*user], group.number(*user, place)) {
                let text = || format!("{name}/{device} never got {from}'s post {}", message.cid);
                self.verdict.add(Kind::Lost, at, text);
            }
        }
    }

    /// Whoever wrote is told that all have it after each of the others said so, and not before. Those count who were in
    /// then: who had gone as far as the user had seen does not.
    fn ticked_in(&mut self, index: usize, group: &Group, groups: &Groups) {
        let message = &self.messages.all[index];
        let Some(place) = message.place else { return };
        let ticks = group.ticks.get(&message.from).map_or(&[][..], Vec::as_slice);
        let delivered = ticks.iter().find(|tick| tick.marks.0 >= place.seq);
        let read = ticks.iter().find(|tick| tick.marks.1 >= place.seq);
        for (tick, what) in [(delivered, "have"), (read, "have read")] {
            let Some(tick) = tick else { continue };
            let others = group.stints.keys().filter(|user| **user != message.from);
            for user in others.filter(|user| group.counts(**user, place.seq, tick)) {
                let read = groups.read_at(*user, message.to, place.seq);
                let number = group.number(*user, place).filter(|_| what == "have");
                let devices = self.logs[*user].devices.values();
                let acked = devices.filter_map(|device| device.acked_at(number?));
                if acked.chain(read).min().is_some_and(|at| at <= tick.at) {
                    continue;
                }
                let names = (self.users.name(message.from), self.users.name(*user));
                let told = format!("{} was told that all {what} {}", names.0, message.cid);
                self.verdict.add(Kind::TickRegressed, tick.at, || told + ", before " + names.1);
            }
        }
    }
}

/// Looks for what somebody saw who was not in the group, and for posts of such.
fn leaks(verdict: &mut Verdict, group: &Group, conv: &str, users: &Users) {
    for (user, view) in &group.views {
        for (seq, (n, at, _)) in &view.entries {
            if group.stint(*user, *seq).is_none() {
                let name = users.name(*user);
                let text = || format!("{n} of {name} is {seq} of {conv}, where {name} was not in");
                verdict.add(Kind::GroupLeak, *at, text);
            }
        }
    }
    for (seq, (fact, at)) in &group.order {
        let Fact::Post { from, .. } = fact else { continue };
        if group.stint(*from, *seq).is_none() {
            let text = || format!("{seq} of {conv} is of {}, who was not in", users.name(*from));
            verdict.add(Kind::Unexpected, *at, text);
        }
    }
}

/// Looks for what members lack of the time in which they were in: in the middle anything, at the end what has no check mark
/// (for that is lost).
fn holes(verdict: &mut Verdict, group: &Group, conv: &str, users: &Users) {
    let head = group.head();
    for (user, stints) in &group.stints {
        let (name, view) = (users.name(*user), group.views.get(user));
        let newest = view.map_or(0, |view| view.newest);
        for Stint { from, to } in stints {
            let has = |seq: u64| view.is_some_and(|view| view.entries.contains_key(&seq));
            let counts = |seq: u64| seq < newest || !group.acknowledged.contains(&seq);
            let mut missing = (*from..=to.unwrap_or(head)).filter(|seq| !has(*seq));
            if let Some(seq) = missing.find(|seq| counts(*seq)) {
                // What nobody saw was due before what comes next.
                let next = group.order.range(seq..).next();
                let at = next.map_or(0, |(_, (_, at))| *at);
                verdict.add(Kind::GroupGap, at, || format!("{name} lacks {seq} of {conv}"));
            }
        }
    }
}
