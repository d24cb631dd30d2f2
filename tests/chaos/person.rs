//! Person: one device of one user, with a socket of its own that shares nothing with the project's client.
//!
//! Writes to its friends and groups, keeps a few messages unanswered, repeats them oldest first with the same `cid` on whichever
//! node takes it next, resumes from what it has stored, and writes down all of it. Follows the protocol's five rules.

#[path = "person/clubs.rs"]
mod clubs;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::chance::Chance;
use crate::history::{Event, What};
use crate::recorder::Recorder;
use clubs::Clubs;
pub(crate) use clubs::Founding;

/// Messages one device keeps unanswered.
const WINDOW: usize = 16;
/// Longest wait for a connection, a greeting or an authentication.
const PATIENCE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A socket on which nothing comes for this long is given up; it is sent a heartbeat's answer each 5 s.
const SILENCE: Duration = Duration::from_secs(12);
/// Nothing new has come for so long: it may be the end.
const QUIET: Duration = Duration::from_secs(2);
/// A reply that does not come for this long: the message is repeated.
const ANSWER: Duration = Duration::from_secs(8);
/// Most members of a usual group.
pub(crate) const USUAL_GROUP: usize = 12;
/// A group of so many is written to like a friend; a larger one so much less often that as many get something.
const REACHED_AT_ONCE: usize = 24;
/// Sockets that those who were away open at once.
const AWAY_AT_ONCE: usize = 64;

/// What all of them are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connect; write nothing.
    Gather,
    /// Make groups. Who is going to be away goes.
    Form,
    /// Write to friends and groups.
    Talk,
    /// Write nothing new. Who was away comes back.
    Finish,
    /// Leave.
    Over,
}

/// What all of them share.
#[derive(Clone)]
pub(crate) struct Company {
    pub(crate) recorder: Recorder,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Counts up when everybody's connection is to break.
    pub(crate) storm: watch::Receiver<u64>,
    pub(crate) tally: Arc<Tally>,
    /// The nodes: name and address.
    pub(crate) nodes: Arc<Vec<(String, String)>>,
    /// What those who are away come in by.
    pub(crate) door: Arc<Semaphore>,
}

impl Company {
    /// A door as wide as those who were away may take it.
    pub(crate) fn door() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(AWAY_AT_ONCE))
    }
}

/// How far all of them are together.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) acknowledged: AtomicU64,
    /// Numbered events that came.
    pub(crate) heard: AtomicU64,
}

/// Who it is.
pub(crate) struct Person {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) token: String,
    pub(crate) friends: Vec<String>,
    /// The groups it makes.
    pub(crate) founds: Vec<Founding>,
    /// Whether it is only there at the beginning and at the end.
    pub(crate) away: bool,
    /// Between two messages of this device, on average.
    pub(crate) pause: Duration,
    /// Whether it has all there is and nothing unanswered.
    pub(crate) done: Arc<AtomicBool>,
}

struct Unanswered {
    to: String,
    body: String,
    tries: u32,
    sent_at: Instant,
    refused: bool,
}

struct Device {
    person: Person,
    company: Company,
    chance: Chance,
    node: usize,
    last: u64,
    epoch: Option<String>,
    head: u64,
    acked: u64,
    /// The newest message that came: its conversation, and its place.
    unread: Option<(String, u64)>,
    clubs: Clubs,
    count: u64,
    /// In the order of their numbers, which is the order of their writing.
    unanswered: BTreeMap<u64, Unanswered>,
    /// Conversations that wait after a refusal.
    held: BTreeMap<String, Instant>,
    heard_at: Instant,
    news_at: Instant,
    next_at: Instant,
}

/// Lives until all is over.
pub(crate) async fn live(person: Person, company: Company, seed: u64) {
    let now = Instant::now();
    let mut chance = Chance::new(seed);
    let node = chance.below(company.nodes.len());
    let leaves = person.device == "phone";
    let clubs = Clubs::new(&person.user, &person.founds, leaves, &mut chance);
    let mut device = Device {
        person,
        company,
        chance,
        node,
        last: 0,
        epoch: None,
        head: 0,
        acked: 0,
        unread: None,
        clubs,
        count: 0,
        unanswered: BTreeMap::new(),
        held: BTreeMap::new(),
        heard_at: now,
        news_at: now,
        next_at: now,
    };
    while device.phase() != Phase::Over {
        if device.is_away() {
            device.stay_away().await;
            continue;
        }
        if let Some(socket) = device.connect().await {
            let code = device.serve(socket).await;
            let (user, device_name) = device.name();
            device.company.recorder.write(What::Closed { user, device: device_name, code });
            device.person.done.store(false, Ordering::SeqCst);
        }
        device.node = (device.node + 1) % device.company.nodes.len();
        let pause = Duration::from_millis(device.chance.between(50, 500));
        tokio::time::sleep(pause).await;
    }
}

type Socket = WebSocketStream<TcpStream>;

impl Device {
    fn phase(&self) -> Phase {
        *self.company.phase.borrow()
    }

    fn is_away(&self) -> bool {
        self.person.away && matches!(self.phase(), Phase::Form | Phase::Talk)
    }

    /// Nobody waits for who is away.
    async fn stay_away(&mut self) {
        self.person.done.store(true, Ordering::SeqCst);
        if self.company.phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn name(&self) -> (String, String) {
        (self.person.user.clone(), self.person.device.clone())
    }

    fn via(&self) -> String {
        self.company.nodes[self.node].0.clone()
    }

    /// A socket that is authenticated and has repeated what was unanswered.
    async fn connect(&mut self) -> Option<Socket> {
        let mut socket = {
            let door = Arc::clone(&self.company.door);
            let _place = if self.person.away { Some(door.acquire().await.ok()?) } else { None };
            tokio::time::timeout(PATIENCE, self.greet()).await.ok()??
        };
        self.heard_at = Instant::now();
        self.held.clear();
        self.clubs.reconnected();
        let all: Vec<u64> = self.unanswered.keys().copied().collect();
        for number in all {
            self.send(&mut socket, number).await?;
        }
        Some(socket)
    }

    async fn greet(&mut self) -> Option<Socket> {
        let address = self.company.nodes[self.node].1.clone();
        let stream = TcpStream::connect(&address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (mut socket, _) =
            client_async(format!("ws://{address}/v1/socket"), stream).await.ok()?;
        let hello = frame(&mut socket).await.ok()?;
        assert_eq!(hello["ev"], "hello", "the node speaks first: {hello}");
        let mut d = json!({"token": self.person.token, "device": self.person.device});
        if let Some(epoch) = &self.epoch {
            d["resume"] = json!({"n": self.last, "epoch": epoch});
            // To resume is to acknowledge.
            let ((user, device), n) = (self.name(), self.last);
            self.company.recorder.write(What::Acked { user, device, n });
        }
        write(&mut socket, &json!({"id": "auth", "op": "auth", "d": d})).await?;
        let ok = loop {
            let reply = frame(&mut socket).await.ok()?;
            if reply["re"] == "auth" {
                break reply.get("ok")?.clone();
            }
        };
        let (user, device) = self.name();
        let (n, epoch) = (ok["n"].as_u64()?, ok["epoch"].as_str()?.to_owned());
        let resumed = ok["resumed"].as_bool()? || self.epoch.is_none();
        self.head = ok["head"].as_u64()?;
        let via = self.via();
        self.company.recorder.write(What::Attached {
            user,
            device,
            via,
            epoch: epoch.clone(),
            n,
            resumed,
        });
        // Where it goes on from may lie before what it had acknowledged: then it acknowledges that once more.
        (self.last, self.acked, self.epoch) = (n, n, Some(epoch));
        Some(socket)
    }

    /// Talks and listens until the socket is gone; answers its close code.
    async fn serve(&mut self, mut socket: Socket) -> Option<u16> {
        let mut storm = self.company.storm.clone();
        storm.mark_unchanged();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beat = Instant::now() + HEARTBEAT;
        loop {
            tokio::select! {
                next = frame(&mut socket) => match next {
                    Ok(frame) => self.hear(&frame),
                    Err(code) => return code,
                },
                _ = storm.changed() => return None,
                _ = tick.tick() => {
                    if self.phase() == Phase::Over || self.is_away() {
                        let _gone = socket.close(None).await;
                        return Some(1000);
                    }
                    if self.heard_at.elapsed() > SILENCE {
                        return None;
                    }
                    if Instant::now() >= beat {
                        beat = Instant::now() + HEARTBEAT;
                        write(&mut socket, &json!({"op": "ping", "d": {}})).await?;
                    }
                    self.turn(&mut socket).await?;
                }
            }
        }
    }

    /// Acknowledges, repeats what was refused a while ago, and writes something new.
    async fn turn(&mut self, socket: &mut Socket) -> Option<()> {
        if self.last > self.acked {
            let ((user, device), n) = (self.name(), self.last);
            self.company.recorder.write(What::Acked { user, device, n });
            self.acked = n;
            write(socket, &json!({"op": "ack", "d": {"n": n}})).await?;
            if let Some((conv, seq)) = self.unread.take()
                && self.chance.below(4) == 0
            {
                let d = json!({"conv": conv, "seq": seq});
                let (user, device) = self.name();
                self.company.recorder.write(What::Read { user, device, conv, seq });
                write(socket, &json!({"op": "read", "d": d})).await?;
            }
        }
        let now = Instant::now();
        let due: Vec<String> =
            self.held.iter().filter(|(_, at)| **at <= now).map(|(to, _)| to.clone()).collect();
        for to in due {
            self.held.remove(&to);
            let again = self.unanswered.iter().filter(|(_, u)| u.refused && u.to == to);
            for number in again.map(|(number, _)| *number).collect::<VecDeque<_>>() {
                self.send(socket, number).await?;
            }
        }
        // Whoever is not answered in a long while goes to another node.
        let forgotten = |u: &Unanswered| !u.refused && u.sent_at.elapsed() > ANSWER;
        if self.unanswered.values().any(forgotten) || self.clubs.waits_longer_than(ANSWER) {
            return None;
        }
        let phase = self.phase();
        if let Some(request) = self.clubs.request(phase, &mut self.chance) {
            write(socket, &request).await?;
        }
        if phase == Phase::Talk && now >= self.next_at {
            self.invoke(socket).await?;
        }
        let quiet = self.news_at.elapsed() > QUIET && self.last >= self.head;
        let answered = self.unanswered.is_empty();
        let idle = answered && (phase == Phase::Gather || self.clubs.is_idle());
        self.person.done.store(quiet && idle, Ordering::SeqCst);
        Some(())
    }

    async fn invoke(&mut self, socket: &mut Socket) -> Option<()> {
        let pause = u64::try_from(self.person.pause.as_millis()).unwrap_or(1_000).max(1);
        self.next_at =
            Instant::now() + Duration::from_millis(self.chance.between(1, 2 * pause + 1));
        let to = self.whom();
        if self.unanswered.len() >= WINDOW || self.held.contains_key(&to) {
            return Some(());
        }
        self.count += 1;
        let (user, device) = self.name();
        let cid = self.cid(self.count);
        let filling = self.chance.below(200);
        let body = format!("{cid} {}", "x".repeat(filling));
        self.company.recorder.write(What::Invoke {
            user,
            device,
            cid,
            to: to.clone(),
            body: body.clone(),
        });
        let unanswered = Unanswered { to, body, tries: 0, sent_at: Instant::now(), refused: false };
        self.unanswered.insert(self.count, unanswered);
        self.send(socket, self.count).await
    }

    /// A friend, or a group.
    fn whom(&mut self) -> String {
        let (friends, groups) = (&self.person.friends, self.clubs.all());
        let at = self.chance.below(friends.len() + groups.len());
        let group = at.checked_sub(friends.len()).map(|at| groups[at]);
        if let Some((conv, size)) = group
            && self.chance.below(size.max(1)) < REACHED_AT_ONCE
        {
            return conv.to_owned();
        }
        friends[at % friends.len()].clone()
    }

    fn cid(&self, number: u64) -> String {
        format!("{}-{number}", self.person.device)
    }

    async fn send(&mut self, socket: &mut Socket, number: u64) -> Option<()> {
        let cid = self.cid(number);
        let message = self.unanswered.get_mut(&number)?;
        message.tries += 1;
        (message.refused, message.sent_at) = (false, Instant::now());
        let d = json!({"to": message.to, "cid": cid, "kind": "text", "body": message.body});
        let id = format!("{number}.{}", message.tries);
        write(socket, &json!({"id": id, "op": "send", "d": d})).await
    }

    fn hear(&mut self, frame: &Value) {
        self.heard_at = Instant::now();
        if let Some(n) = frame["n"].as_u64() {
            self.news_at = self.heard_at;
            self.head = self.head.max(n);
            self.company.tally.heard.fetch_add(1, Ordering::Relaxed);
            let (user, device) = self.name();
            if let Some(event) = event(frame) {
                if let Event::Message { conv, from, seq, .. } = &event {
                    let conv = conv.clone().unwrap_or_else(|| format!("u:{from}"));
                    self.unread = Some((conv, *seq));
                }
                if n > self.last {
                    self.clubs.heard(&event);
                }
                self.company.recorder.write(What::Event { user, device, n, event });
            }
            self.last = self.last.max(n);
        } else if frame["ev"] == "pong" {
            self.head = self.head.max(frame["d"]["head"].as_u64().unwrap_or(0));
        } else if let Some(id) = frame["re"].as_str() {
            if self.clubs.answered(id, frame) {
                self.news_at = self.heard_at;
                return;
            }
            let number = id.split('.').next().and_then(|number| number.parse().ok());
            if let Some(number) = number {
                self.answered(number, frame);
            }
        }
    }

    fn answered(&mut self, number: u64, frame: &Value) {
        let (user, cid, via) = (self.person.user.clone(), self.cid(number), self.via());
        let Some(message) = self.unanswered.get_mut(&number) else { return };
        self.news_at = Instant::now();
        if let Some(ok) = frame.get("ok") {
            let text = |name: &str| ok[name].as_str().unwrap_or_default().to_owned();
            let (mid, seq) = (text("mid"), ok["seq"].as_u64().unwrap_or(0));
            let (dup, tries) = (ok["dup"].as_bool().unwrap_or(false), message.tries);
            self.company.recorder.write(What::Ok { user, cid, mid, seq, dup, tries, via });
            self.company.tally.acknowledged.fetch_add(1, Ordering::Relaxed);
            self.unanswered.remove(&number);
            return;
        }
        let err = &frame["err"];
        if err["retry"] == true {
            let after = err["retry_after_ms"].as_u64().unwrap_or(300).clamp(20, 5_000);
            message.refused = true;
            let at = Instant::now() + Duration::from_millis(after);
            self.held.insert(message.to.clone(), at);
            return;
        }
        let code = err["code"].as_str().unwrap_or("?").to_owned();
        self.company.recorder.write(What::Refused { user, cid, code });
        self.unanswered.remove(&number);
    }
}

/// A numbered event, as a history has it.
fn event(frame: &Value) -> Option<Event> {
    let d = &frame["d"];
    let text = |name: &str| d[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| d[name].as_u64().unwrap_or(0);
    let (mid, seq, conv) = (text("mid"), number("seq"), text("conv"));
    Some(match frame["ev"].as_str()? {
        "message" => {
            let conv = Some(conv).filter(|conv| conv.starts_with("g:"));
            Event::Message { mid, conv, from: text("from"), seq, body: text("body") }
        }
        "sent" => Event::Sent { mid, conv, seq, cid: text("cid") },
        "receipt" => Event::Receipt { conv, delivered: number("delivered"), read: number("read") },
        "expired" => Event::Expired { conv, mid, seq },
        "group" => change(conv, seq, d),
        _ => return None,
    })
}

/// A change of a group. What it says besides is kept whole.
fn change(conv: String, seq: u64, d: &Value) -> Event {
    let text = |name: &str| d[name].as_str().unwrap_or_default().to_owned();
    let users = d["users"].as_array().map_or(&[][..], Vec::as_slice);
    let users = users.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let mut says = d.as_object().cloned().unwrap_or_default();
    says.retain(|name, _| !["conv", "seq", "by", "change", "users"].contains(&name.as_str()));
    let says = Value::Object(says).to_string();
    Event::Group { conv, seq, by: text("by"), change: text("change"), users, says }
}

async fn write(socket: &mut Socket, frame: &Value) -> Option<()> {
    let sent = socket.send(Message::text(frame.to_string()));
    tokio::time::timeout(PATIENCE, sent).await.ok()?.ok()
}

/// The next frame, or the code of the close, if it had one. May be given up at any moment.
async fn frame(socket: &mut Socket) -> Result<Value, Option<u16>> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return Ok(serde_json::from_str(&text).expect("frames are JSON"));
            }
            Some(Ok(Message::Close(close))) => return Err(close.map(|close| close.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(None),
        }
    }
}
