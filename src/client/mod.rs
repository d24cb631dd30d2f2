//! Client: what a chat program, a test or a load generator uses to talk to the cluster.
//!
//! Owns      one connection to one node at a time, and what must survive the loss of it: unanswered messages with
//!           their `cid`s, the position in the log, watermarks.
//! Promises  a message is repeated with the same `cid` until a node has answered; every entry of the log is told once, in
//!           order; a position is remembered before it is acknowledged; ticks never go back. What is asked about groups is
//!           repeated likewise.
//! Never     imports anything of the server: it knows the protocol page only.
//! Fails by  stopping with a last `Disconnected` that has no `retry_in`. What was unanswered then is unknown, and may be
//!           sent again with the same `cid`.
//!
//! ```text
//! said, told (values) ← frames (bytes)       closing  inbox  outbox  questions  ticks   (pure)
//!        ↑            ↑                     ↑       ↑       ↑       ↑         ↑
//!        └────────────┴──── connection ──── rules ──┴───────┴───────┴─────────┘
//!                              ↑    └─ dial, http (sockets)
//!                           Client (a task and a handle)
//! ```

mod closing;
mod connection;
mod dial;
pub mod frames;
mod groups;
pub mod http;
mod inbox;
mod options;
mod outbox;
mod people;
mod questions;
mod rules;
pub mod said;
#[cfg(test)]
mod tests;
mod ticks;
mod told;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

pub use closing::{After, Backoff, after};
pub use connection::{Connection, Happened};
pub use dial::Credential;
pub use frames::Format;
pub use groups::GroupRefused;
pub use options::{Keeper, Observer, Options, Seen};
pub use rules::{Acks, Effect, Rules, Settings};
pub use said::{Accepted, Device, Fault, Letter, Presence, Resume};
pub use said::{Change, Group, Listed, Member, News, Progress, Role, Update};
pub use said::{LastSeen, Profile};
pub use ticks::Marks;
pub use told::{Event, Why};

/// Commands that may wait for the task; the outbox behind them has its own limit.
const COMMANDS_MAX: usize = 4_096;
/// Events that may wait for the application before the client stops acknowledging.
const EVENTS_WAITING: usize = 256;

enum Command {
    Send { letter: Letter, reply: oneshot::Sender<Result<Accepted, Fault>> },
    Ask { op: String, d: Value, reply: oneshot::Sender<Result<Value, Fault>> },
    Insist { op: String, d: Value, reply: oneshot::Sender<Result<Value, Fault>> },
    Tell { op: String, d: Value },
    Read { conv: String, seq: u64 },
    Ack { n: u64 },
    Position { reply: oneshot::Sender<Option<Resume>> },
    Cut,
    Shut,
}

/// A handle to a running client; clones share it. The client ends with [`Client::close`] or its last handle.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    cids: Arc<Cids>,
}

/// A message on its way: awaiting it gives its fate. Dropping it does not stop the message.
#[derive(Debug)]
pub struct SendTicket {
    cid: String,
    answer: oneshot::Receiver<Result<Accepted, Fault>>,
}

impl SendTicket {
    /// The id under which the message is repeated until it is answered.
    #[must_use]
    pub fn cid(&self) -> &str {
        &self.cid
    }
}

impl Future for SendTicket {
    type Output = Result<Accepted, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(gone())))
    }
}

impl Client {
    /// Starts a client and connects, now and again whenever the connection is lost.
    ///
    /// The application reads the events; what it does not read is not acknowledged.
    #[must_use]
    pub fn connect(options: Options) -> (Self, mpsc::Receiver<Event>) {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (events, told) = mpsc::channel(EVENTS_WAITING);
        tokio::spawn(run(Connection::new(options), inbox, events));
        (Self { commands, cids: Arc::new(Cids::default()) }, told)
    }

    /// Sends a text message to `u:<user>` or `g:<group>`.
    #[must_use]
    pub fn send(&self, to: &str, body: &str) -> SendTicket {
        self.send_letter(Letter::text(to, self.cids.next(), body))
    }

    /// Sends a message under a `cid` of one's own, of any kind.
    #[must_use]
    pub fn send_with(&self, to: &str, cid: &str, kind: &str, body: &str) -> SendTicket {
        let kind = kind.to_owned();
        self.send_letter(Letter { kind, ..Letter::text(to, cid.to_owned(), body) })
    }

    /// Sends a message given in full.
    #[must_use]
    pub fn send_letter(&self, letter: Letter) -> SendTicket {
        let (reply, answer) = oneshot::channel();
        let cid = letter.cid.clone();
        self.command(Command::Send { letter, reply });
        SendTicket { cid, answer }
    }

    /// The user has read a conversation up to `seq`; told to the node now or after reconnecting.
    pub fn read(&self, conv: &str, seq: u64) {
        self.command(Command::Read { conv: conv.to_owned(), seq });
    }

    /// Everything up to `n` is stored; only needed with [`Acks::Manual`].
    pub fn ack(&self, n: u64) {
        self.command(Command::Ack { n });
    }

    /// Says that the user is typing, or has stopped. May be lost.
    pub fn typing(&self, to: &str, on: bool) {
        self.command(Command::Tell { op: "typing".to_owned(), d: json!({"to": to, "on": on}) });
    }

    /// Asks for the presence of up to 100 users, and to hear of changes for 10 minutes.
    ///
    /// # Errors
    /// What the node answered, or `unavailable` if the connection was lost.
    pub async fn watch(&self, users: &[&str]) -> Result<Vec<Presence>, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            presence: Vec<Presence>,
        }
        let answer: Answer = self.ask_as("watch", json!({"users": users})).await?;
        Ok(answer.presence)
    }

    /// Wants to hear no more of these users.
    ///
    /// # Errors
    /// What the node answered, or `unavailable` if the connection was lost.
    pub async fn unwatch(&self, users: &[&str]) -> Result<(), Fault> {
        self.ask("unwatch", json!({"users": users})).await.map(drop)
    }

    /// The user's devices.
    ///
    /// # Errors
    /// What the node answered, or `unavailable` if the connection was lost.
    pub async fn devices(&self) -> Result<Vec<Device>, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            devices: Vec<Device>,
        }
        let answer: Answer = self.ask_as("device.list", json!({})).await?;
        Ok(answer.devices)
    }

    /// Removes a device of the user's; its socket is closed for good.
    ///
    /// # Errors
    /// What the node answered, or `unavailable` if the connection was lost.
    pub async fn remove_device(&self, device: &str) -> Result<(), Fault> {
        self.ask("device.remove", json!({"device": device})).await.map(drop)
    }

    /// Makes any request of the protocol; waits for a connection first.
    ///
    /// # Errors
    /// What the node answered, or `unavailable` if the connection was lost: it is not repeated.
    pub async fn ask(&self, op: &str, d: Value) -> Result<Value, Fault> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Ask { op: op.to_owned(), d, reply });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn ask_as<T: serde::de::DeserializeOwned>(&self, op: &str, d: Value) -> Result<T, Fault> {
        let ok = self.ask(op, d).await?;
        let unexpected = |e: serde_json::Error| Fault::here("internal", &e.to_string(), false);
        serde_json::from_value(ok).map_err(unexpected)
    }

    /// Where a later client would resume; `None` before the first connection.
    pub async fn position(&self) -> Option<Resume> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Position { reply });
        answer.await.ok().flatten()
    }

    /// Breaks the connection as a network would; the client comes back by itself. For tests.
    pub fn cut(&self) {
        self.command(Command::Cut);
    }

    /// Acknowledges what has been taken, closes, and stops.
    pub fn close(&self) {
        self.command(Command::Shut);
    }

    /// A full queue drops the command, and with it the reply port: its owner hears `gone`.
    fn command(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::debug!("a command to a stopped or overloaded client was dropped");
        }
    }
}

/// Names for messages: unlike any other client's, and never repeated by this one.
#[derive(Debug)]
struct Cids {
    prefix: String,
    next: AtomicU64,
}

impl Default for Cids {
    fn default() -> Self {
        let random: u64 = rand::Rng::random(&mut rand::rng());
        Self { prefix: format!("{random:016x}"), next: AtomicU64::new(1) }
    }
}

impl Cids {
    fn next(&self) -> String {
        format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

fn gone() -> Fault {
    Fault::here("gone", "the client has stopped or is overloaded", false)
}

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    sends: BTreeMap<u64, oneshot::Sender<Result<Accepted, Fault>>>,
    asks: BTreeMap<u64, oneshot::Sender<Result<Value, Fault>>>,
}

async fn run(
    mut connection: Connection,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let mut waiting = Waiting::default();
    // An event is taken, and so acknowledged, only when there is room for it.
    let mut room = None;
    let (mut heard, mut open) = (true, true);
    loop {
        tokio::select! {
            permit = events.reserve(), if room.is_none() && heard => match permit {
                Ok(permit) => room = Some(permit),
                // Nobody listens any more; sending goes on.
                Err(_) => heard = false,
            },
            happened = connection.step_if(room.is_some() || !heard) => match happened {
                Some(Happened::Event(event)) => {
                    if let Some(permit) = room.take() {
                        permit.send(event);
                    }
                }
                Some(Happened::Answered { number, result }) => {
                    let reply = waiting.sends.remove(&number);
                    reply.map(|reply| reply.send(result));
                }
                Some(Happened::Replied { ticket, result }) => {
                    let reply = waiting.asks.remove(&ticket);
                    reply.map(|reply| reply.send(result));
                }
                None => return,
            },
            command = commands.recv(), if open => {
                open = command.is_some();
                waiting.obey(command.unwrap_or(Command::Shut), &mut connection);
            }
        }
    }
}

impl Waiting {
    fn obey(&mut self, command: Command, connection: &mut Connection) {
        match command {
            Command::Send { letter, reply } => match connection.send(letter) {
                Ok(number) => drop(self.sends.insert(number, reply)),
                Err(fault) => drop(reply.send(Err(fault))),
            },
            Command::Ask { op, d, reply } => match connection.ask(&op, d) {
                Ok(ticket) => drop(self.asks.insert(ticket, reply)),
                Err(fault) => drop(reply.send(Err(fault))),
            },
            Command::Insist { op, d, reply } => match connection.insist(&op, d) {
                Ok(ticket) => drop(self.asks.insert(ticket, reply)),
                Err(fault) => drop(reply.send(Err(fault))),
            },
            Command::Tell { op, d } => connection.tell(&op, d),
            Command::Read { conv, seq } => connection.read(&conv, seq),
            Command::Ack { n } => connection.ack(n),
            Command::Position { reply } => drop(reply.send(connection.rules().position())),
            Command::Cut => connection.cut(),
            Command::Shut => connection.shut(),
        }
    }
}
