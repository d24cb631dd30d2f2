//! User rules: how the log of a connected user reaches the user's sessions.
//!
//! Each session is sent the log in order, at most `window` entries ahead of what it has acknowledged. Entries that just
//! came are pushed on to sessions that have all before them; to the others they are only a number (`head`), and are read
//! from the log as acknowledgements make room. So a slow client costs a few words, however much waits for it.

mod company;
mod rivals;

use rivals::stays;

use crate::ids::{DeviceId, Number, SessionId, Timestamp};
use crate::message::{Entry, Position, Resumed};
use crate::mutant::{Mutant, is_planted};
use crate::packet::{Closed, Start, Tell};

/// How much is sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries a session may be sent ahead of its acknowledgements.
    pub window: u16,
    /// Bytes of entries in one `Tell`, about; a link's frame must hold them.
    pub page_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { window: 256, page_bytes: 96 * 1024 }
    }
}

impl Limits {
    /// Room that is worth a page: acknowledgements of one entry each shall not make tiny ones.
    fn quarter(self) -> usize {
        usize::from(self.window).div_ceil(4).max(1)
    }
}

/// What happens to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A session attaches.
    Attach {
        /// The session.
        session: SessionId,
        /// Which of its attachments.
        life: u32,
        /// Its device.
        device: DeviceId,
        /// When its socket authenticated first.
        since: Timestamp,
        /// Where it asked to go on from.
        start: Start,
        /// Where it goes on from.
        position: Position,
        /// What the client has acknowledged on this socket; counts for `Start::Continue` only.
        acked: Number,
    },
    /// A session's socket is gone.
    Detach {
        /// The session.
        session: SessionId,
        /// Which of its attachments.
        life: u32,
    },
    /// A client has everything up to `n`.
    Acknowledge {
        /// The session.
        session: SessionId,
        /// Which of its attachments.
        life: u32,
        /// The newest entry it has.
        n: Number,
    },
    /// A client wants entries once more.
    Pull {
        /// The session.
        session: SessionId,
        /// Which of its attachments.
        life: u32,
        /// Entries after this one.
        after: Number,
        /// At most this many.
        limit: u16,
    },
    /// The log has new entries: contiguous, in order.
    Logged {
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log goes up to here: what was not logged of it is read when there is room.
    Grown {
        /// The newest entry of the log.
        head: Number,
    },
    /// The answer to `Output::Read`; every read must have one.
    Page {
        /// The session.
        session: SessionId,
        /// Which of its attachments.
        life: u32,
        /// What was asked: entries after this one.
        after: Number,
        /// The entries still kept of those.
        entries: Vec<Entry>,
        /// The newest entry of the log.
        head: Number,
        /// Whether it answers a `Pull`.
        pull: bool,
    },
    /// A device was removed.
    DeviceGone(DeviceId),
}

/// What a user wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell a session.
    Tell(SessionId, Tell),
    /// Read entries after `after`, at most `count` and about `bytes`; answered by `Page`.
    Read {
        /// Comes back with the page.
        session: SessionId,
        /// Comes back with the page.
        life: u32,
        /// Comes back with the page.
        after: Number,
        /// At most this many.
        count: u16,
        /// About this many bytes, but at least one entry.
        bytes: u32,
        /// Comes back with the page.
        pull: bool,
    },
    /// A device has everything up to `n`. May repeat what the mailbox knows.
    Cursor {
        /// The device.
        device: DeviceId,
        /// The newest entry it has.
        n: Number,
    },
    /// No session is left: the actor may stop, unless it was sent more than this many inputs.
    Empty {
        /// Inputs handled.
        handled: u64,
    },
}

#[derive(Debug, Clone)]
struct Attachment {
    session: SessionId,
    life: u32,
    device: DeviceId,
    since: Timestamp,
    sent: Number,
    acked: Number,
    /// Told `CaughtUp` once it was sent everything up to here.
    catch_up: Option<Number>,
    /// Waits for entries after this one: always what was `sent` when it asked.
    reading: Option<Number>,
    /// Repeats entries after this one.
    pulling: Option<Number>,
}

/// A connected user: the attached sessions, and how far each has got.
#[derive(Debug, Clone)]
pub struct User {
    limits: Limits,
    /// The newest entry of the log.
    head: Number,
    /// One per device, so few.
    sessions: Vec<Attachment>,
    handled: u64,
}

impl User {
    /// Makes a user without sessions.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, head: Number(0), sessions: Vec::new(), handled: 0 }
    }

    /// How many inputs it has handled.
    #[must_use]
    pub const fn handled(&self) -> u64 {
        self.handled
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Output>) {
        self.handled += 1;
        let before = self.sessions.len();
        let attaching = matches!(input, Input::Attach { .. });
        match input {
            Input::Attach { session, life, device, since, start, position, acked } => {
                let acked = match (start, position.resumed) {
                    (Start::Continue(_), Resumed::Yes) => acked.min(position.from),
                    _ => position.from,
                };
                let (sent, catch_up) = (position.from, Some(position.head));
                let (reading, pulling) = (None, None);
                let new = Attachment {
                    session,
                    life,
                    device,
                    since,
                    sent,
                    acked,
                    catch_up,
                    reading,
                    pulling,
                };
                self.attach(new, start, position, out);
            }
            Input::Detach { session, life } => {
                self.sessions.retain(|a| a.session != session || a.life > life);
            }
            Input::Acknowledge { session, life, n } => self.acknowledge(session, life, n, out),
            Input::Pull { session, life, after, limit } => {
                self.pull(session, life, after, limit, out);
            }
            Input::Logged { entries } => self.logged(entries, out),
            Input::Grown { head } => self.grown(head, out),
            Input::Page { session, life, after, entries, head, pull } => {
                self.head = self.head.max(head);
                if pull {
                    self.pulled(session, life, after, entries, out);
                } else {
                    self.page(session, life, after, entries, out);
                }
            }
            Input::DeviceGone(device) => self.device_gone(&device, out),
        }
        self.tell_company(before, attaching, out);
        if self.sessions.is_empty() && (before > 0 || attaching) {
            out.push(Output::Empty { handled: self.handled });
        }
    }

    fn attach(&mut self, new: Attachment, start: Start, position: Position, out: &mut Vec<Output>) {
        if self.sessions.iter().any(|a| a.session == new.session && a.life >= new.life) {
            return;
        }
        let rival = |a: &Attachment| a.device == new.device && a.session != new.session;
        if let Some(at) = self.sessions.iter().position(rival)
            && !is_planted(Mutant::TwoSockets)
        {
            let stays = stays(&self.sessions[at], &new, start);
            let gone = if stays { &new } else { &self.sessions[at] };
            out.push(closed(gone, Closed::Replaced));
            if stays {
                return;
            }
            self.sessions.remove(at);
        }
        self.sessions.retain(|a| a.session != new.session);
        self.head = self.head.max(position.head);
        let told = Tell::Attached { life: new.life, position: Ok(position) };
        out.push(Output::Tell(new.session, told));
        if new.acked > Number(0) && position.resumed == Resumed::Yes {
            out.push(Output::Cursor { device: new.device.clone(), n: new.acked });
        }
        // Most users have one device.
        self.sessions.reserve_exact(1);
        self.sessions.push(new);
        let new = self.sessions.last_mut().expect("just pushed");
        new.go_on(self.limits, self.head, 1, out);
    }

    fn find(&mut self, session: SessionId, life: u32) -> Option<&mut Attachment> {
        self.sessions.iter_mut().find(|a| a.session == session && a.life == life)
    }

    fn acknowledge(&mut self, session: SessionId, life: u32, n: Number, out: &mut Vec<Output>) {
        let (limits, head) = (self.limits, self.head);
        let Some(known) = self.find(session, life) else {
            return;
        };
        // What a client never was sent it cannot have.
        let n = n.min(known.sent);
        if n < known.acked || n == Number(0) {
            return;
        }
        // A repeated one goes on, too: the first may have been lost between here and the log.
        known.acked = n;
        out.push(Output::Cursor { device: known.device.clone(), n });
        known.go_on(limits, head, limits.quarter(), out);
    }

    fn pull(
        &mut self,
        session: SessionId,
        life: u32,
        after: Number,
        limit: u16,
        out: &mut Vec<Output>,
    ) {
        let limits = self.limits;
        let Some(known) = self.find(session, life) else {
            return;
        };
        // One at a time; asking for something else forgets the one before.
        if known.pulling == Some(after) {
            return;
        }
        known.pulling = Some(after);
        let count = limit.clamp(1, limits.window);
        let bytes = limits.page_bytes;
        out.push(Output::Read { session, life, after, count, bytes, pull: true });
    }

    fn pulled(
        &mut self,
        session: SessionId,
        life: u32,
        after: Number,
        entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        if let Some(known) = self.find(session, life)
            && known.pulling == Some(after)
        {
            known.pulling = None;
            out.push(Output::Tell(session, Tell::Pulled { life, entries }));
        }
    }

    fn logged(&mut self, entries: Vec<Entry>, out: &mut Vec<Output>) {
        let Some(last) = entries.last() else {
            return;
        };
        let before = self.head;
        self.head = before.max(last.n);
        let (limits, head) = (self.limits, self.head);
        let Some((newest, others)) = self.sessions.split_last_mut() else {
            return;
        };
        for other in others {
            other.push_logged(entries.iter().cloned(), before, limits, head, out);
        }
        newest.push_logged(entries.into_iter(), before, limits, head, out);
    }

    fn grown(&mut self, head: Number, out: &mut Vec<Output>) {
        let before = self.head;
        if head <= before {
            return;
        }
        self.head = head;
        for session in &mut self.sessions {
            session.push_logged(std::iter::empty(), before, self.limits, self.head, out);
        }
    }

    fn page(
        &mut self,
        session: SessionId,
        life: u32,
        after: Number,
        mut entries: Vec<Entry>,
        out: &mut Vec<Output>,
    ) {
        let (limits, head) = (self.limits, self.head);
        let Some(known) = self.find(session, life) else {
            return;
        };
        if known.reading != Some(after) {
            return;
        }
        known.reading = None;
        let follows = entries.first().is_some_and(|e| e.n == known.sent.next());
        if !follows && known.sent < head && after == known.sent {
            // What should come next was dropped from the log meanwhile: attaching again tells the client so.
            out.push(closed(known, Closed::Lost));
            self.sessions.retain(|a| a.session != session);
            return;
        }
        if follows {
            entries.truncate(known.room(limits));
            known.push(entries, head, out);
        }
        // A page ends with a run of the log: the next one fills the rest of the window.
        known.go_on(limits, head, 1, out);
    }

    fn device_gone(&mut self, device: &DeviceId, out: &mut Vec<Output>) {
        let gone = self.sessions.iter().filter(|a| a.device == *device);
        out.extend(gone.map(|a| closed(a, Closed::DeviceRemoved)));
        self.sessions.retain(|a| a.device != *device);
    }

    /// Whether no session is attached.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Panics when something that always holds does not.
    pub fn check(&self) {
        for (at, a) in self.sessions.iter().enumerate() {
            assert!(a.acked <= a.sent && a.sent <= self.head, "acked ≤ sent ≤ head");
            assert!(a.reading.is_none_or(|after| after == a.sent), "a read goes on from sent");
            assert!(a.catch_up.is_none_or(|head| head > a.sent), "told when caught up");
            let rival = |b: &Attachment| b.device == a.device || b.session == a.session;
            assert!(!self.sessions[at + 1..].iter().any(rival), "one session per device");
        }
        for a in &self.sessions {
            assert!(a.sent.0 - a.acked.0 <= u64::from(self.limits.window), "the window holds");
        }
    }
}

impl Attachment {
    /// How many more entries it may be sent.
    fn room(&self, limits: Limits) -> usize {
        let ahead = self.sent.0.saturating_sub(self.acked.0);
        let window = u64::from(limits.window) << u8::from(is_planted(Mutant::WindowOverrun));
        usize::try_from(window.saturating_sub(ahead)).unwrap_or_default()
    }

    /// Pushes what just came, as far as it follows what was sent and there is room; the rest is read later.
    fn push_logged(
        &mut self,
        entries: impl Iterator<Item = Entry>,
        before: Number,
        limits: Limits,
        head: Number,
        out: &mut Vec<Output>,
    ) {
        if self.reading.is_some() {
            return;
        }
        // It had all there was and has no room for more: it hears that there is more.
        let had_all = self.sent == before;
        if had_all && self.room(limits) == 0 {
            self.tell(Vec::new(), head, out);
        }
        let mut bytes = usize::try_from(limits.page_bytes).unwrap_or(usize::MAX);
        let mut next = self.sent;
        let mut fits = |entry: &Entry| {
            let weight = entry.weight();
            let fits = entry.n == next.next() && (weight <= bytes || next == self.sent);
            (bytes, next) = (bytes.saturating_sub(weight), entry.n);
            fits
        };
        let new = entries.skip_while(|entry| entry.n <= self.sent);
        let new: Vec<Entry> = new.take(self.room(limits)).take_while(|entry| fits(entry)).collect();
        // What is not at hand is read as soon as it would have been pushed: perhaps nothing is acknowledged before it comes.
        let least = if new.is_empty() && !had_all { limits.quarter() } else { 1 };
        self.push(new, head, out);
        self.go_on(limits, head, least, out);
    }

    fn push(&mut self, entries: Vec<Entry>, head: Number, out: &mut Vec<Output>) {
        let Some(last) = entries.last() else {
            return;
        };
        self.sent = last.n;
        self.tell(entries, head, out);
    }

    fn tell(&self, entries: Vec<Entry>, head: Number, out: &mut Vec<Output>) {
        out.push(Output::Tell(self.session, Tell::Entries { life: self.life, entries, head }));
    }

    /// Tells when what was waiting has been sent, and reads on if there is room for at least so many.
    fn go_on(&mut self, limits: Limits, head: Number, least: usize, out: &mut Vec<Output>) {
        if self.catch_up.is_some_and(|target| target <= self.sent) {
            self.catch_up = None;
            let told = Tell::CaughtUp { life: self.life, head: self.sent };
            out.push(Output::Tell(self.session, told));
        }
        let room = self.room(limits);
        if self.sent < head && self.reading.is_none() && room >= least {
            self.reading = Some(self.sent);
            out.push(Output::Read {
                session: self.session,
                life: self.life,
                after: self.sent,
                count: u16::try_from(room).unwrap_or(limits.window),
                bytes: limits.page_bytes,
                pull: false,
            });
        }
    }
}

fn closed(gone: &Attachment, why: Closed) -> Output {
    Output::Tell(gone.session, Tell::Closed { life: gone.life, why })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
