//! Model: a node with one gateway, a home that is played, and its clients.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::clock;
use actors::ids::{
    BootId, DeviceId, Epoch, Kind, MessageId, NodeId, Number, Seq, SessionId, ShardId, Timestamp,
    UserId,
};
use actors::inbox;
use actors::message::{Accepted, Content, DeviceInfo, Entry, Position, Refusal, Resumed, What};
use actors::packet::{Answer, Ask, Presence, Question, Regard, Tell, ToHome};
use actors::router::{Inbound, NoHome};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::auth::By;
use crate::gateway::{
    Format, GatewayEnv, Homes, Limits, Roll, TokenRefused, Tokens, Verified, serve,
};

/// A home that answers everything at once, unless it is told not to.
#[derive(Default)]
pub(super) struct Model {
    newest: AtomicU64,
    inboxes: Mutex<BTreeMap<SessionId, inbox::Sender<Box<Inbound>>>>,
    pub(super) down: AtomicBool,
    pub(super) silent: AtomicBool,
    pub(super) refusal: Mutex<Option<Refusal>>,
    pub(super) heard: Mutex<Vec<Ask>>,
}

impl Model {
    pub(super) fn tell_all(&self, inbound: &Inbound) {
        for inbox in self.inboxes.lock().unwrap().values() {
            inbox.send(Box::new(inbound.clone()));
        }
    }

    pub(super) fn push(&self, numbers: std::ops::RangeInclusive<u64>, body: &str) {
        let entries: Vec<_> = numbers.map(|n| entry(n, body)).collect();
        let head = entries.last().map_or(Number(0), |entry| entry.n);
        self.tell_all(&Inbound::Tell(Tell::Entries { life: 1, entries, head }));
    }

    pub(super) fn heard(&self, wanted: impl Fn(&Ask) -> bool) -> bool {
        self.heard.lock().unwrap().iter().any(wanted)
    }
}

impl Homes for Model {
    fn shards(&self) -> u16 {
        4
    }

    fn open_session(&self, inbox: inbox::Sender<Box<Inbound>>) -> SessionId {
        let count = self.newest.fetch_add(1, Ordering::Relaxed);
        let id = SessionId { node: NodeId(1), boot: BootId(1), count };
        self.inboxes.lock().unwrap().insert(id, inbox);
        id
    }

    fn close_session(&self, id: SessionId) {
        self.inboxes.lock().unwrap().remove(&id);
    }

    fn home(&self, packet: ToHome) -> Result<(), NoHome> {
        if self.down.load(Ordering::Relaxed) {
            return Err(NoHome);
        }
        self.heard.lock().unwrap().push(packet.ask.clone());
        if self.silent.load(Ordering::Relaxed) {
            return Ok(());
        }
        let inboxes = self.inboxes.lock().unwrap();
        let Some(inbox) = inboxes.get(&packet.session) else { return Ok(()) };
        for tell in answers(packet, *self.refusal.lock().unwrap()) {
            inbox.send(Box::new(Inbound::Tell(tell)));
        }
        Ok(())
    }

    fn look_up(&self, session: SessionId, request: u32, users: Vec<UserId>, _: Duration) {
        let unknown = Ok(users.into_iter().find(|user| user.as_str() == "nobody"));
        let inboxes = self.inboxes.lock().unwrap();
        if let Some(inbox) = inboxes.get(&session) {
            inbox.send(Box::new(Inbound::Looked { request, unknown }));
        }
    }

    fn name(&self, session: SessionId, request: u32, users: Vec<UserId>, _: UserId) {
        let names = users.into_iter().filter(|user| user.as_str() == "bob");
        let names = names.map(|user| (user, "Bob".into())).collect();
        let inboxes = self.inboxes.lock().unwrap();
        if let Some(inbox) = inboxes.get(&session) {
            inbox.send(Box::new(Inbound::Named { request, names }));
        }
    }

    fn watch(&self, _: SessionId, _: ShardId) {}

    fn unwatch(&self, _: SessionId, _: ShardId) {}
}

pub(super) fn answers(packet: ToHome, refusal: Option<Refusal>) -> Vec<Tell> {
    match packet.ask {
        Ask::Attach { life, .. } => {
            let head = Number(3);
            let (epoch, from, resumed) = (Epoch(1), Number(1), Resumed::NotAsked);
            let position = Position { epoch, from, head, resumed };
            let position = refusal.map_or(Ok(position), Err);
            let entries = vec![entry(2, "two"), entry(3, "three")];
            vec![
                Tell::Attached { life, position },
                Tell::Entries { life, entries, head },
                Tell::CaughtUp { life, head },
            ]
        }
        Ask::Send { place, .. } => {
            let accepted =
                Accepted { mid: MessageId(2), seq: Seq(1), at: Timestamp(5), dup: false };
            let known = packet.user.as_str() != "g:x";
            let result = if known { Ok(accepted) } else { Err(Refusal::NotFound) };
            let result = refusal.map_or(result, Err);
            vec![Tell::Sent { to: packet.user, place, result }]
        }
        Ask::Pull { life, after, .. } => {
            vec![Tell::Pulled { life, entries: vec![entry(after.0 + 1, "again")] }]
        }
        Ask::Question { request, question: Question::Devices } => {
            let device = DeviceId::parse("phone").unwrap();
            let info = DeviceInfo { device, last_seen: Timestamp(8), acked: Number(3) };
            vec![Tell::Answer { request, answer: Ok(Answer::Devices(vec![info])) }]
        }
        Ask::Question { request, question: Question::Cids { uses, .. } } => {
            let (taken, all) = (vec![false; uses.len()], Some(Vec::new()));
            vec![Tell::Answer { request, answer: Ok(Answer::Cids { taken, all }) }]
        }
        Ask::Question { request, .. } => {
            vec![Tell::Answer { request, answer: Err(Refusal::NotFound) }]
        }
        Ask::Regard(Regard::Watch { .. }) => {
            let known = packet.user.as_str() != "nobody";
            let there = Presence { online: true, last_seen: Some(Timestamp(8)) };
            let told = if known { Ok(there) } else { Err(Refusal::NotFound) };
            vec![Tell::Presence(packet.user, refusal.map_or(told, Err))]
        }
        _ => Vec::new(),
    }
}

pub(super) fn entry(n: u64, body: &str) -> Entry {
    let kind = Kind::parse("text").unwrap();
    let content = Arc::new(Content { kind, body: body.into(), reply_to: None, client: None });
    let what = What::Message {
        mid: MessageId(u128::from(n)),
        from: UserId::parse("bob").unwrap(),
        device: DeviceId::parse("d").unwrap(),
        seq: Seq(n),
        content,
    };
    Entry { n: Number(n), at: Timestamp(n), what }
}

/// `good`, `short` (ends soon), `expired`; `broken` makes the check itself fail.
pub(super) struct Doorkeeper;

impl Tokens for Doorkeeper {
    fn verify(&self, token: &str) -> Result<Verified, TokenRefused> {
        let user = UserId::parse("alice").unwrap();
        let expires_at = |ms| clock::wall().after(Duration::from_millis(ms));
        match token {
            "good" => Ok(Verified { user, expires_at: expires_at(3_600_000), by: By::Issuer }),
            "short" => Ok(Verified { user, expires_at: expires_at(50), by: By::Issuer }),
            "expired" => Err(TokenRefused::Expired),
            "broken" => panic!("on purpose"),
            _ => Err(TokenRefused::Invalid),
        }
    }
}

pub(super) struct Node {
    pub(super) env: Arc<GatewayEnv>,
    pub(super) model: Arc<Model>,
}

pub(super) fn node(change: impl FnOnce(&mut Limits)) -> Node {
    let mut limits = Limits::default();
    change(&mut limits);
    let started = clock::monotonic();
    let (roll, model) = (Roll::new(started), Arc::new(Model::default()));
    let sweeper = Arc::clone(&roll);
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(5)).await;
            sweeper.sweep();
        }
    });
    let env = GatewayEnv {
        homes: Arc::clone(&model) as Arc<dyn Homes>,
        tokens: Arc::new(Doorkeeper),
        roll,
        limits,
        server: "rookery/test".into(),
        node: "a".into(),
        started,
    };
    Node { env: Arc::new(env), model }
}

pub(super) struct Client(pub(super) WebSocketStream<DuplexStream>);

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    pub(super) async fn connect(&self, format: Format) -> Client {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let place = self.env.roll.take_place(&self.env.limits, None, Duration::ZERO).unwrap();
        tokio::spawn(serve(far, format, Arc::clone(&self.env), place));
        let ws = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        Client(ws)
    }

    /// A client that is greeted, authenticated and caught up.
    pub(super) async fn open(&self) -> Client {
        let mut client = self.connect(Format::Json).await;
        client.hear().await;
        client.auth("good").await;
        for _ in 0..4 {
            client.hear().await;
        }
        client
    }

    pub(super) async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("in time");
    }
}

impl Client {
    pub(super) async fn say(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub(super) async fn say_in_parts(&mut self, text: &str) {
        let (first, last) = text.as_bytes().split_at(text.len() / 2);
        let part = |bytes: &[u8], data, last| {
            Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(data), last))
        };
        self.0.send(part(first, Data::Text, false)).await.unwrap();
        self.0.send(Message::Ping(Bytes::new())).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        self.0.send(part(last, Data::Continue, true)).await.unwrap();
    }

    pub(super) async fn ask(&mut self, id: &str, op: &str, d: Value) {
        self.say(json!({"id": id, "op": op, "d": d}).to_string()).await;
    }

    pub(super) async fn auth(&mut self, token: &str) {
        self.ask("a", "auth", json!({"token": token, "device": "phone"})).await;
    }

    pub(super) async fn hear(&mut self) -> Value {
        let mut next = self.0.next();
        let mut heard = timeout(PATIENCE, next).await.expect("in time");
        while matches!(heard, Some(Ok(Message::Pong(_)))) {
            next = self.0.next();
            heard = timeout(PATIENCE, next).await.expect("in time");
        }
        match heard {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("JSON"),
            Some(Ok(Message::Binary(bytes))) => rmp_serde::from_slice(&bytes).expect("msgpack"),
            other => panic!("a frame, not {other:?}"),
        }
    }

    /// The code it is closed with, after whatever comes before.
    pub(super) async fn closed(&mut self) -> u16 {
        self.closed_because().await.0
    }

    /// The code and the reason.
    pub(super) async fn closed_because(&mut self) -> (u16, String) {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.as_str().to_owned());
                }
                Some(Ok(_)) => {}
                other => panic!("a close frame, not {other:?}"),
            }
        }
    }
}
