//! Streams: a session's messages on their way, one first-in-first-out line per recipient.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::cids::{Asking, Cids};
use super::rules::Watching;
use super::{Limits, Output, RequestRef};
use crate::ids::{SessionId, ShardId, UserId, shard_of};
use crate::message::{Accepted, CidUse, Refusal, Send};
use crate::mutant::{Mutant, is_planted};
use crate::packet::{Ask, Place, ToHome};

/// One call: whose session it is about, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) session: SessionId,
    /// The shard of the session's own mailbox, which is watched anyway.
    pub(super) home: ShardId,
    pub(super) limits: &'a Limits,
    pub(super) now: Duration,
    /// In how many shards mailboxes are.
    pub(super) shards: u16,
    /// Whether the session has heard of all that was logged for its user, as far as it can tell.
    pub(super) all_told: bool,
    /// Whose presence the session watches, and with it their shards.
    pub(super) watching: Option<&'a Watching>,
}

/// All messages of one session that wait for their check mark.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Only streams in which something waits.
    to: BTreeMap<UserId, Stream>,
    /// The newest life of any stream; grows only.
    life: u32,
    bytes: usize,
    count: usize,
    cids: Cids,
}

#[derive(Debug)]
struct Stream {
    shard: ShardId,
    life: u32,
    next: u32,
    flow: Flow,
    watched: bool,
    /// Oldest first.
    waiting: VecDeque<Pending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Everything waiting was forwarded in this life.
    Open {
        /// Whether the life was opened because the one before broke.
        again: bool,
    },
    /// Nothing goes out before the shard's home moves or this moment comes.
    Parked(Duration),
}

#[derive(Debug)]
struct Pending {
    request: RequestRef,
    place: Place,
    /// Its place in the life before: an acceptance from there holds, too.
    before: Place,
    since: Duration,
    forwarded: Duration,
    send: Box<Send>,
    cid: CidUse,
}

const NOWHERE: Place = Place { life: 0, count: 0 };

impl Streams {
    pub(super) fn is_empty(&self) -> bool {
        self.to.is_empty() && self.cids.is_empty()
    }

    /// The ids the user uses.
    pub(super) const fn cids(&mut self) -> &mut Cids {
        &mut self.cids
    }

    /// Takes a message to forward, or refuses it at once.
    pub(super) fn send(
        &mut self,
        turn: Turn<'_>,
        request: RequestRef,
        send: Send,
        out: &mut Vec<Output>,
    ) {
        let cid = send.cid_use();
        if let Err(refusal) = self.admit(&send, cid, turn.limits) {
            out.push(Output::Sent { request, result: Err(refusal) });
            return;
        }
        self.cids.remember(cid, turn.limits.cids_max);
        self.bytes += send.content.weight();
        self.count += 1;
        let asking = Asking { request, send: Box::new(send), since: turn.now, cid };
        // What came before goes before.
        if self.cids.is_empty() && !self.cids.is_doubtful(cid, turn.all_told) {
            self.forward(turn, asking, out);
        } else {
            self.cids.wait(asking);
        }
    }

    fn forward(&mut self, turn: Turn<'_>, asking: Asking, out: &mut Vec<Output>) {
        let Asking { request, send, since, cid } = asking;
        let to = send.to.owner();
        let shard = shard_of(&to, turn.shards);
        self.cids.learn(cid.short());
        let life = &mut self.life;
        let stream = self.to.entry(to.clone()).or_insert_with(|| {
            *life += 1;
            Stream {
                shard,
                life: *life,
                next: 1,
                flow: Flow::Open { again: false },
                watched: false,
                waiting: VecDeque::with_capacity(1),
            }
        });
        let mut pending = Pending {
            request,
            place: NOWHERE,
            before: NOWHERE,
            since,
            forwarded: turn.now,
            send,
            cid,
        };
        if let Flow::Open { .. } = stream.flow {
            pending.place = Place { life: stream.life, count: stream.next };
            stream.next += 1;
            out.push(forward(turn.session, &to, shard, &pending));
        }
        stream.waiting.push_back(pending);
    }

    fn admit(&self, send: &Send, cid: CidUse, limits: &Limits) -> Result<(), Refusal> {
        let mut waiting = self.to.values().flat_map(|stream| &stream.waiting);
        if self.cids.clashes(cid) || waiting.any(|pending| pending.cid.clashes(cid)) {
            return Err(Refusal::Conflict);
        }
        let full = self.count >= limits.sends_max
            || self.bytes + send.content.weight() > limits.send_bytes_max;
        if full { Err(Refusal::Overloaded) } else { Ok(()) }
    }

    /// The own mailbox has said of the oldest sends that wait whether their ids are taken.
    pub(super) fn told(
        &mut self,
        turn: Turn<'_>,
        told: Vec<(Asking, bool)>,
        out: &mut Vec<Output>,
    ) {
        for (asking, taken) in told {
            if taken {
                self.cids.forget(asking.cid);
                self.refuse(asking.request, &asking.send, Refusal::Conflict, out);
            } else {
                self.forward(turn, asking, out);
            }
        }
        self.go_on(turn, out);
    }

    /// Forwards what waited only behind others.
    fn go_on(&mut self, turn: Turn<'_>, out: &mut Vec<Output>) {
        while let Some(asking) = self.cids.next(turn.all_told) {
            self.forward(turn, asking, out);
        }
    }

    /// A home's answer to a send; one that nobody waits for any more is dropped.
    pub(super) fn answered(
        &mut self,
        turn: Turn<'_>,
        to: &UserId,
        place: Place,
        result: Result<Accepted, Refusal>,
        out: &mut Vec<Output>,
    ) {
        let Some(stream) = self.to.get_mut(to) else {
            return;
        };
        // A refusal counts only in the newest life: the message is on its way again already.
        let Some(at) = stream.waiting.iter().position(|pending| {
            pending.place == place || (result.is_ok() && pending.before == place)
        }) else {
            return;
        };
        // Answering these would let what follows overtake: the message keeps its turn and is tried again.
        if matches!(result, Err(Refusal::Unavailable | Refusal::Overloaded)) {
            stream.park(turn.now + turn.limits.retry, out);
            return;
        }
        if let Err(refusal) = result
            && refusal.retry()
        {
            return self.give_up(turn, to, at, refusal, out);
        }
        let Some(pending) = stream.waiting.remove(at) else {
            return;
        };
        if place.life == stream.life
            && let Flow::Open { again } = &mut stream.flow
        {
            *again = false;
        }
        if result.is_err() {
            self.cids.forget(pending.cid);
        }
        self.finish(&pending.send);
        out.push(Output::Sent { request: pending.request, result });
        self.drop_if_empty(turn, to, out);
    }

    /// The home lost its place in the stream: a new life, at once the first time, later the second.
    pub(super) fn broken(&mut self, turn: Turn<'_>, to: &UserId, life: u32, out: &mut Vec<Output>) {
        let Some(stream) = self.to.get_mut(to) else {
            return;
        };
        if stream.life != life {
            return;
        }
        match stream.flow {
            Flow::Parked(_) => {}
            Flow::Open { again: true } => stream.park(turn.now + turn.limits.retry, out),
            Flow::Open { again: false } => {
                reopen(&mut self.life, turn, to, stream, out);
                stream.flow = Flow::Open { again: true };
            }
        }
    }

    /// The shard has a new home, or the way to it is back.
    pub(super) fn home_moved(&mut self, turn: Turn<'_>, shard: ShardId, out: &mut Vec<Output>) {
        for (to, stream) in self.to.iter_mut().filter(|(_, stream)| stream.shard == shard) {
            reopen(&mut self.life, turn, to, stream, out);
        }
    }

    /// Nothing can be sent to the shard now: wait.
    pub(super) fn home_failed(
        &mut self,
        shard: ShardId,
        retry_at: Duration,
        out: &mut Vec<Output>,
    ) {
        for stream in self.to.values_mut().filter(|stream| stream.shard == shard) {
            stream.park(retry_at, out);
        }
    }

    /// Gives up what waited too long, and repeats what may have been lost.
    pub(super) fn tick(&mut self, turn: Turn<'_>, out: &mut Vec<Output>) {
        let mut given_up = Vec::new();
        for (to, stream) in &mut self.to {
            let Some(oldest) = stream.waiting.front() else {
                continue;
            };
            if turn.now.saturating_sub(oldest.since) >= turn.limits.parked {
                given_up.push(to.clone());
                continue;
            }
            let lost = match stream.flow {
                Flow::Parked(until) => turn.now >= until,
                Flow::Open { .. } => {
                    turn.now.saturating_sub(oldest.forwarded) >= turn.limits.answer
                }
            };
            if lost {
                reopen(&mut self.life, turn, to, stream, out);
            } else if turn.now.saturating_sub(oldest.since) >= turn.limits.retry {
                stream.watch(out);
            }
        }
        for to in given_up {
            self.give_up(turn, &to, 0, Refusal::Unavailable, out);
        }
        if self.cids.oldest(turn.now).is_some_and(|waited| waited >= turn.limits.parked) {
            for asking in self.cids.take(|_| true) {
                self.refuse(asking.request, &asking.send, Refusal::Unavailable, out);
            }
        }
        self.go_on(turn, out);
    }

    /// Whether a shard is watched for the sake of what waits.
    pub(super) fn watches(&self, shard: ShardId) -> bool {
        self.to.values().any(|stream| stream.watched && stream.shard == shard)
    }

    /// The session ends: nobody needs to hear of these shards any more.
    pub(super) fn unwatch(&self, home: ShardId, out: &mut Vec<Output>) {
        let watched = self.to.values().filter(|stream| stream.watched && stream.shard != home);
        out.extend(watched.map(|stream| Output::Unwatch(stream.shard)));
    }

    /// Refuses all that waits in a stream from a place on, oldest first, so that nothing later overtakes.
    fn give_up(
        &mut self,
        turn: Turn<'_>,
        to: &UserId,
        from: usize,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        let Some(stream) = self.to.get_mut(to) else {
            return;
        };
        for pending in stream.waiting.split_off(from) {
            self.refuse(pending.request, &pending.send, refusal, out);
        }
        for asking in self.cids.take(|asking| asking.send.to.owner() == *to) {
            self.refuse(asking.request, &asking.send, refusal, out);
        }
        self.drop_if_empty(turn, to, out);
        self.go_on(turn, out);
    }

    fn finish(&mut self, send: &Send) {
        self.count -= 1;
        self.bytes -= send.content.weight();
    }

    fn refuse(&mut self, request: RequestRef, send: &Send, why: Refusal, out: &mut Vec<Output>) {
        self.finish(send);
        out.push(Output::Sent { request, result: Err(why) });
    }

    fn drop_if_empty(&mut self, turn: Turn<'_>, to: &UserId, out: &mut Vec<Output>) {
        if self.to.get(to).is_some_and(|stream| !stream.waiting.is_empty()) {
            return;
        }
        let Some(gone) = self.to.remove(to) else {
            return;
        };
        let needed = gone.shard == turn.home
            || turn.watching.is_some_and(|watching| watching.has_shard(gone.shard))
            || self.to.values().any(|stream| stream.watched && stream.shard == gone.shard);
        if gone.watched && !needed {
            out.push(Output::Unwatch(gone.shard));
        }
    }

    /// States what always holds.
    pub(super) fn check(&self) {
        // Invariant: a stream without a waiting message is gone.
        assert!(self.to.values().all(|stream| !stream.waiting.is_empty()));
        // Invariant: what is counted is what waits.
        let forwarded = || self.to.values().flat_map(|stream| &stream.waiting);
        let waiting = || forwarded().map(|pending| &*pending.send).chain(self.cids.waiting());
        assert_eq!(self.count, waiting().count());
        assert_eq!(self.bytes, waiting().map(|send| send.content.weight()).sum::<usize>());
        for stream in self.to.values() {
            // Invariant: oldest first, and in a life their counts grow.
            let sorted = stream.waiting.iter().is_sorted_by_key(|pending| pending.since);
            assert!(sorted || is_planted(Mutant::RepeatsBackwards));
            let open = matches!(stream.flow, Flow::Open { .. });
            let counts = stream.waiting.iter().map(|pending| pending.place);
            assert!(!open || counts.is_sorted());
            assert!(stream.life <= self.life);
        }
    }
}

impl Stream {
    fn park(&mut self, retry_at: Duration, out: &mut Vec<Output>) {
        if let Flow::Open { .. } = self.flow {
            self.flow = Flow::Parked(retry_at);
            self.watch(out);
        }
    }

    fn watch(&mut self, out: &mut Vec<Output>) {
        if !self.watched {
            self.watched = true;
            out.push(Output::Watch(self.shard));
        }
    }
}

/// Starts a new life of a stream and repeats what waits in it, oldest first.
fn reopen(life: &mut u32, turn: Turn<'_>, to: &UserId, stream: &mut Stream, out: &mut Vec<Output>) {
    *life += 1;
    stream.life = *life;
    stream.next = 1;
    stream.flow = Flow::Open { again: false };
    if is_planted(Mutant::RepeatsBackwards) {
        stream.waiting.make_contiguous().reverse();
    }
    for pending in &mut stream.waiting {
        if pending.place != NOWHERE {
            pending.before = pending.place;
        }
        pending.place = Place { life: stream.life, count: stream.next };
        pending.forwarded = turn.now;
        stream.next += 1;
        out.push(forward(turn.session, to, stream.shard, pending));
    }
}

fn forward(session: SessionId, to: &UserId, shard: ShardId, pending: &Pending) -> Output {
    let ask = Ask::Send { place: pending.place, send: pending.send.clone() };
    Output::Home(ToHome { shard, user: to.clone(), session, ask })
}
