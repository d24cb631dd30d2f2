//! Desk: where a mailbox's messages queue up before they are agreed on; on the node that leads its shard, never stored.
//!
//! **First in, first out.** A session numbers what it sends to a mailbox (`Place`); the desk lets a stream in only in
//! order, so a message whose frame was lost holds back those behind it until the session repeats them all in a new life.
//! A refusal that may pass breaks the stream, too: otherwise the next message would overtake the one refused.
//!
//! **Forgetting is safe.** The desk may lose any stream at any time (it was unused, the actor crashed, leadership moved):
//! the session's next message is then answered by `Broken`, it opens a new life and repeats what is unanswered, oldest
//! first, and what had got through is told by its `cid` and answered again instead of stored again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{Conversation, DeviceId, MessageId, Number, Seq, SessionId, UserId};
use crate::message::{Refusal, Send};
use crate::packet::{Place, Tell};
use crate::shard::state::{Change, Outcome};

/// Streams remembered; when there are more, the quarter unused for the longest is forgotten.
pub const STREAMS_MAX: usize = 1024;
/// Sends proposed and not yet answered; more are refused as `Overloaded`.
pub const IN_FLIGHT_MAX: usize = 4096;
/// Devices and conversations whose acknowledgements and reads wait; more go out early.
pub const PENDING_MAX: usize = 128;
/// How long reads, and acknowledgements that a sender is to be told of, are merged.
pub const MERGE: Duration = Duration::from_millis(50);
/// How long other acknowledgements are merged: nobody waits for them.
pub const MERGE_QUIET: Duration = Duration::from_millis(500);
/// The ticket of proposals nobody waits for; real ones start at 1. Their outcomes need not be told.
pub const NOBODY: u64 = 0;

/// The `next` of a stream that broke: nothing of its life is let in any more.
const BROKEN: u32 = 0;

/// What happens to a desk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A session sends a message.
    Send {
        /// Who asks.
        session: SessionId,
        /// Its place in the session's stream to this mailbox.
        place: Place,
        /// The message.
        send: Box<Send>,
        /// The id it gets unless it was stored before.
        mid: MessageId,
        /// What the home already found out.
        admission: Result<(), Refusal>,
    },
    /// A device has everything up to `n`.
    Acknowledge {
        /// The device.
        device: DeviceId,
        /// The newest entry it has.
        n: Number,
        /// Whether a sender is to be told of it.
        delivers: bool,
    },
    /// The user has read a conversation.
    Read {
        /// The conversation.
        conv: Conversation,
        /// Up to and including.
        seq: Seq,
    },
    /// A device is alive.
    Seen {
        /// The device.
        device: DeviceId,
    },
    /// What became of a proposal.
    Outcome {
        /// The proposal's ticket.
        ticket: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Leadership went before the outcome of a proposal was known.
    Lost {
        /// The proposal's ticket.
        ticket: u64,
    },
    /// The time asked for by `FlushIn` has passed.
    FlushDue,
}

/// What the desk wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Propose a change of this mailbox; the order of proposals is the order of messages.
    Propose {
        /// Comes back with the outcome; `NOBODY` when it need not.
        ticket: u64,
        /// The change.
        change: Change,
    },
    /// Tell a session.
    Tell(SessionId, Tell),
    /// Hand in `FlushDue` after this time.
    FlushIn(Duration),
    /// Nothing has happened for a while and nothing is under way: the actor may stop, unless it was sent more than this
    /// many inputs. Told by the actor only.
    Idle {
        /// Inputs handled.
        handled: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    life: u32,
    /// The count that is let in next, or `BROKEN`.
    next: u32,
    used: u64,
}

enum Admission {
    Admitted,
    /// It was answered, or will be.
    Ignored,
    Broken,
}

/// The volatile side of a mailbox.
#[derive(Debug)]
pub struct Desk {
    owner: UserId,
    streams: BTreeMap<SessionId, Stream>,
    in_flight: BTreeMap<u64, (SessionId, Place)>,
    /// Tickets given so far.
    tickets: u64,
    handled: u64,
    acks: BTreeMap<DeviceId, Number>,
    reads: BTreeMap<Conversation, Seq>,
    /// When acknowledgements and reads went out last.
    flushed: Option<Duration>,
    /// When the next flush was asked for.
    flush_at: Option<Duration>,
}

impl Desk {
    /// Makes the desk of a mailbox.
    #[must_use]
    pub const fn new(owner: UserId) -> Self {
        Self {
            owner,
            streams: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            tickets: NOBODY,
            handled: 0,
            acks: BTreeMap::new(),
            reads: BTreeMap::new(),
            flushed: None,
            flush_at: None,
        }
    }

    /// Makes the desk of a mailbox whose tickets come after `tickets`: outcomes of what a desk before it proposed must
    /// not be taken for its own.
    #[must_use]
    pub const fn numbered_from(owner: UserId, tickets: u64) -> Self {
        let mut desk = Self::new(owner);
        desk.tickets = tickets;
        desk
    }

    /// Takes one input; `now` is monotonic.
    pub fn handle(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) {
        self.handled += u64::from(input != Input::FlushDue);
        match input {
            Input::Send { session, place, send, mid, admission } => {
                self.send(session, place, (mid, send), admission, out);
            }
            Input::Acknowledge { device, n, delivers } => {
                self.acknowledge(device, n);
                self.merge(if delivers { MERGE } else { MERGE_QUIET }, now, out);
            }
            Input::Seen { device } => {
                self.acknowledge(device, Number(0));
                self.merge(MERGE_QUIET, now, out);
            }
            Input::Read { conv, seq } => self.read(conv, seq, now, out),
            Input::Outcome { ticket, outcome } => self.answer(ticket, outcome, out),
            Input::Lost { ticket } => self.lose(ticket, out),
            Input::FlushDue => {
                self.flush_at = None;
                self.flush(now, out);
            }
        }
    }

    fn send(
        &mut self,
        session: SessionId,
        place: Place,
        (mid, send): (MessageId, Box<Send>),
        admission: Result<(), Refusal>,
        out: &mut Vec<Output>,
    ) {
        match self.admit(session, place) {
            Admission::Admitted => {}
            Admission::Ignored => return,
            Admission::Broken => {
                out.push(self.broken(session, place));
                return;
            }
        }
        let room = self.in_flight.len() < IN_FLIGHT_MAX;
        let admission = admission.and(if room { Ok(()) } else { Err(Refusal::Overloaded) });
        if let Err(refusal) = admission {
            if refusal.retry() {
                self.break_stream(session, place.life);
            }
            out.push(self.sent(session, place, Err(refusal)));
            return;
        }
        self.tickets += 1;
        self.in_flight.insert(self.tickets, (session, place));
        let change = Change::Append { mid, send };
        out.push(Output::Propose { ticket: self.tickets, change });
    }

    fn admit(&mut self, session: SessionId, place: Place) -> Admission {
        if place.life == 0 {
            return Admission::Admitted;
        }
        let used = self.handled;
        match self.streams.get_mut(&session) {
            Some(known) if place.life < known.life => Admission::Ignored,
            Some(known) if place.life == known.life => {
                if known.next == BROKEN || place.count > known.next {
                    return Admission::Broken;
                }
                if place.count < known.next {
                    return Admission::Ignored;
                }
                (known.next, known.used) = (known.next + 1, used);
                Admission::Admitted
            }
            _ if place.count != 1 => Admission::Broken,
            known => {
                let opened = Stream { life: place.life, next: 2, used };
                match known {
                    Some(known) => *known = opened,
                    None => self.remember(session, opened),
                }
                Admission::Admitted
            }
        }
    }

    fn remember(&mut self, session: SessionId, stream: Stream) {
        if self.streams.len() >= STREAMS_MAX {
            let mut used: Vec<u64> = self.streams.values().map(|s| s.used).collect();
            let (_, &mut oldest_kept, _) = used.select_nth_unstable(STREAMS_MAX / 4);
            self.streams.retain(|_, s| s.used >= oldest_kept);
        }
        self.streams.insert(session, stream);
    }

    /// Lets nothing more of this life in.
    fn break_stream(&mut self, session: SessionId, life: u32) {
        if let Some(known) = self.streams.get_mut(&session)
            && known.life == life
        {
            known.next = BROKEN;
        }
    }

    fn answer(&mut self, ticket: u64, outcome: Outcome, out: &mut Vec<Output>) {
        let Some((session, place)) = self.in_flight.remove(&ticket) else {
            return;
        };
        let result = match outcome {
            Outcome::Accepted(accepted) => Ok(accepted),
            Outcome::Refused(refusal) => Err(refusal),
            Outcome::Done => Err(Refusal::Unavailable),
        };
        out.push(self.sent(session, place, result));
    }

    /// One `Broken` speaks for all of a life that is lost.
    fn lose(&mut self, ticket: u64, out: &mut Vec<Output>) {
        let Some((session, place)) = self.in_flight.remove(&ticket) else {
            return;
        };
        if place.life == 0 {
            out.push(self.sent(session, place, Err(Refusal::Unavailable)));
            return;
        }
        let told = self.streams.get(&session).is_some_and(|known| {
            known.life > place.life || known.life == place.life && known.next == BROKEN
        });
        if !told {
            self.break_stream(session, place.life);
            out.push(self.broken(session, place));
        }
    }

    fn sent(
        &self,
        session: SessionId,
        place: Place,
        result: Result<crate::message::Accepted, Refusal>,
    ) -> Output {
        Output::Tell(session, Tell::Sent { to: self.owner.clone(), place, result })
    }

    fn broken(&self, session: SessionId, place: Place) -> Output {
        Output::Tell(session, Tell::Broken { to: self.owner.clone(), life: place.life })
    }

    fn acknowledge(&mut self, device: DeviceId, n: Number) {
        let newest = self.acks.entry(device).or_default();
        *newest = n.max(*newest);
    }

    fn read(&mut self, conv: Conversation, seq: Seq, now: Duration, out: &mut Vec<Output>) {
        let newest = self.reads.entry(conv).or_default();
        *newest = seq.max(*newest);
        self.merge(MERGE, now, out);
    }

    /// What comes within `wait` of the last flush waits for company until that is over; all else goes at once.
    fn merge(&mut self, wait: Duration, now: Duration, out: &mut Vec<Output>) {
        let due = self.flushed.map_or(now, |flushed| flushed + wait);
        if now >= due || self.acks.len() + self.reads.len() >= PENDING_MAX {
            self.flush(now, out);
        } else if self.flush_at.is_none_or(|at| due < at) {
            self.flush_at = Some(due);
            out.push(Output::FlushIn(due - now));
        }
    }

    fn flush(&mut self, now: Duration, out: &mut Vec<Output>) {
        if !self.has_pending() {
            return;
        }
        self.flushed = Some(now);
        let acks = std::mem::take(&mut self.acks).into_iter();
        let acks = acks.map(|(device, n)| Change::Acknowledge { device, n });
        let reads = std::mem::take(&mut self.reads).into_iter();
        let reads = reads.map(|(conv, seq)| Change::Read { conv, seq });
        out.extend(acks.chain(reads).map(|change| Output::Propose { ticket: NOBODY, change }));
    }

    fn has_pending(&self) -> bool {
        !self.acks.is_empty() || !self.reads.is_empty()
    }

    /// Whether the desk can be thrown away without anybody noticing more than a repetition.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && !self.has_pending()
    }

    /// How many inputs it has handled, those it asked for itself not counted.
    #[must_use]
    pub const fn handled(&self) -> u64 {
        self.handled
    }

    /// Whose mailbox it is.
    #[must_use]
    pub const fn owner(&self) -> &UserId {
        &self.owner
    }

    /// Sends proposed and not yet answered.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Panics when something that always holds does not.
    pub fn check(&self) {
        assert!(self.streams.len() <= STREAMS_MAX, "a bounded number of streams");
        assert!(self.in_flight.len() <= IN_FLIGHT_MAX, "a bounded number of sends in flight");
        assert!(self.acks.len() + self.reads.len() < PENDING_MAX, "little waits");
        assert!(self.flush_at.is_some() || !self.has_pending(), "what waits will go out");
        assert!(self.in_flight.keys().all(|t| (1..=self.tickets).contains(t)), "tickets given");
        assert!(self.streams.values().all(|s| s.life > 0 && s.next != 1), "streams are open");
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
