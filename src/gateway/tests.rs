//! Gateway: what one client sees, over a socket in memory and a home that is a model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::clock;
use actors::ids::{
    BootId, DeviceId, Epoch, Kind, MessageId, NodeId, Number, Seq, SessionId, ShardId, Timestamp,
    UserId,
};
use actors::message::{Accepted, Content, DeviceInfo, Entry, Position, Refusal, Resumed, What};
use actors::packet::{Answer, Ask, Closed, Question, Tell, ToHome};
use actors::router::{Inbound, NoHome};
use actors::session;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::upgrade::{NotUpgraded, check};
use super::{
    Format, GatewayEnv, Homes, Limits, Roll, Sessions, TokenRefused, Tokens, Verified, serve,
    upgrade,
};

/// A home that answers everything at once, unless it is told not to.
#[derive(Default)]
struct Model {
    newest: AtomicU64,
    inboxes: Mutex<BTreeMap<SessionId, UnboundedSender<Box<Inbound>>>>,
    down: AtomicBool,
    silent: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    heard: Mutex<Vec<Ask>>,
}

impl Model {
    fn tell_all(&self, inbound: &Inbound) {
        for inbox in self.inboxes.lock().unwrap().values() {
            let _ = inbox.send(Box::new(inbound.clone()));
        }
    }

    fn push(&self, numbers: std::ops::RangeInclusive<u64>, body: &str) {
        let entries: Vec<_> = numbers.map(|n| entry(n, body)).collect();
        let head = entries.last().map_or(Number(0), |entry| entry.n);
        self.tell_all(&Inbound::Tell(Tell::Entries { life: 1, entries, head }));
    }

    fn heard(&self, wanted: impl Fn(&Ask) -> bool) -> bool {
        self.heard.lock().unwrap().iter().any(wanted)
    }
}

impl Homes for Model {
    fn shards(&self) -> u16 {
        4
    }

    fn open_session(&self, inbox: UnboundedSender<Box<Inbound>>) -> SessionId {
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
            let _ = inbox.send(Box::new(Inbound::Tell(tell)));
        }
        Ok(())
    }

    fn watch(&self, _: SessionId, _: ShardId) {}

    fn unwatch(&self, _: SessionId, _: ShardId) {}
}

fn answers(packet: ToHome, refusal: Option<Refusal>) -> Vec<Tell> {
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
            vec![Tell::Sent { to: packet.user, place, result: refusal.map_or(Ok(accepted), Err) }]
        }
        Ask::Pull { life, after, .. } => {
            vec![Tell::Pulled { life, entries: vec![entry(after.0 + 1, "again")] }]
        }
        Ask::Question { request, question: Question::Devices } => {
            let device = DeviceId::parse("phone").unwrap();
            let info = DeviceInfo { device, last_seen: Timestamp(8), acked: Number(3) };
            vec![Tell::Answer { request, answer: Ok(Answer::Devices(vec![info])) }]
        }
        Ask::Question { request, .. } => {
            vec![Tell::Answer { request, answer: Err(Refusal::NotFound) }]
        }
        _ => Vec::new(),
    }
}

fn entry(n: u64, body: &str) -> Entry {
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
struct Doorkeeper;

impl Tokens for Doorkeeper {
    fn verify(&self, token: &str) -> Result<Verified, TokenRefused> {
        let user = UserId::parse("alice").unwrap();
        let expires_at = |ms| clock::wall().after(Duration::from_millis(ms));
        match token {
            "good" => Ok(Verified { user, expires_at: expires_at(3_600_000) }),
            "short" => Ok(Verified { user, expires_at: expires_at(50) }),
            "expired" => Err(TokenRefused::Expired),
            "broken" => panic!("on purpose"),
            _ => Err(TokenRefused::Invalid),
        }
    }
}

struct Node {
    env: Arc<GatewayEnv>,
    model: Arc<Model>,
}

fn node(change: impl FnOnce(&mut Limits)) -> Node {
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

struct Client(WebSocketStream<DuplexStream>);

const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    async fn connect(&self, format: Format) -> Client {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let place = self.env.roll.take_place(100).unwrap();
        tokio::spawn(serve(far, format, Arc::clone(&self.env), place));
        let ws = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        Client(ws)
    }

    /// A client that is greeted, authenticated and caught up.
    async fn open(&self) -> Client {
        let mut client = self.connect(Format::Json).await;
        client.hear().await;
        client.auth("good").await;
        for _ in 0..4 {
            client.hear().await;
        }
        client
    }

    async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("in time");
    }
}

impl Client {
    async fn say(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.0.send(Message::text(text)).await.unwrap();
    }

    async fn say_in_parts(&mut self, text: &str) {
        let (first, last) = text.as_bytes().split_at(text.len() / 2);
        let part = |bytes: &[u8], data, last| {
            Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(data), last))
        };
        self.0.send(part(first, Data::Text, false)).await.unwrap();
        self.0.send(Message::Ping(Bytes::new())).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        self.0.send(part(last, Data::Continue, true)).await.unwrap();
    }

    async fn ask(&mut self, id: &str, op: &str, d: Value) {
        self.say(json!({"id": id, "op": op, "d": d}).to_string()).await;
    }

    async fn auth(&mut self, token: &str) {
        self.ask("a", "auth", json!({"token": token, "device": "phone"})).await;
    }

    async fn hear(&mut self) -> Value {
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
    async fn closed(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a close frame, not {other:?}"),
            }
        }
    }
}

fn message(cid: &str) -> Value {
    json!({"to": "u:bob", "cid": cid, "kind": "text", "body": "hi"})
}

#[tokio::test]
async fn a_client_is_greeted_authenticated_and_caught_up() {
    let node = node(|_| ());
    for format in [Format::Json, Format::Msgpack] {
        let mut client = node.connect(format).await;
        let hello = client.hear().await;
        assert_eq!((&hello["ev"], &hello["d"]["window"]), (&json!("hello"), &json!(256)));
        let auth = json!({"id": "a", "op": "auth", "d": {"token": "good", "device": "phone"}});
        match format {
            Format::Json => client.say(auth.to_string()).await,
            Format::Msgpack => {
                let bytes = rmp_serde::to_vec(&auth).unwrap();
                client.0.send(Message::binary(bytes)).await.unwrap();
            }
        }
        let ok = client.hear().await;
        assert_eq!((&ok["re"], &ok["ok"]["user"]), (&json!("a"), &json!("alice")));
        assert_eq!((&ok["ok"]["n"], &ok["ok"]["head"]), (&json!(1), &json!(3)));
        assert_eq!(client.hear().await["n"], json!(2));
        assert_eq!(client.hear().await["d"]["body"], json!("three"));
        assert_eq!(client.hear().await, json!({"ev": "caught_up", "d": {"n": 3}}));
        client.0.close(None).await.unwrap();
        node.until(|node| node.env.roll.sockets() == 0).await;
    }
    assert!(node.model.heard(|ask| matches!(ask, Ask::Detach { life: 1 })));
}

#[tokio::test]
async fn requests_are_answered_once_and_refused_by_name() {
    let node = node(|_| ());
    let mut client = node.open().await;
    client.ask("1", "send", message("c1")).await;
    let ok = client.hear().await;
    assert_eq!(
        (&ok["re"], &ok["ok"]["seq"], &ok["ok"]["dup"]),
        (&json!("1"), &json!(1), &json!(false))
    );
    client.ask("2", "send", json!({"to": "g:x", "cid": "c2", "kind": "k", "body": ""})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("not_found"));
    client.ask("3", "send", json!({"to": "u:bob", "cid": "c1", "kind": "k", "body": ""})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("conflict"));
    client.ask("4", "group.create", json!({})).await;
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("4"), &json!("unknown_op")));
    client.say(r#"{"op":"ack","d":{"n":"x"}}"#).await;
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&Value::Null, &json!("bad_request")));
    client.ask("5", "ack", json!({"n": 4})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    client.ask("6", "ack", json!({"n": 3})).await;
    assert_eq!(client.hear().await, json!({"re": "6", "ok": {}}));
    client.say(r#"{"op":"ping"}"#).await;
    assert_eq!(client.hear().await["d"]["head"], json!(3));
    client.ask("7", "pull", json!({"after": 1, "limit": 1})).await;
    assert_eq!(client.hear().await["d"]["body"], json!("again"));
    assert_eq!(client.hear().await["re"], json!("7"));
    client.ask("8", "device.list", json!({})).await;
    assert_eq!(client.hear().await["ok"]["devices"][0]["acked_n"], json!(3));
    client.ask("9", "device.remove", json!({"device": "x"})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("not_found"));
    client.ask("10", "read", json!({"conv": "u:bob", "seq": 1})).await;
    assert_eq!(client.hear().await["re"], json!("10"));
    client.ask("11", "auth", json!({"token": "good", "device": "phone"})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    *node.model.refusal.lock().unwrap() = Some(Refusal::MailboxFull);
    client.ask("12", "send", message("c12")).await;
    let refused = client.hear().await;
    assert_eq!(
        (&refused["err"]["code"], &refused["err"]["retry"]),
        (&json!("mailbox_full"), &json!(true))
    );
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    let node = node(|limits| limits.requests_max = 2);
    let mut client = node.open().await;
    node.model.silent.store(true, Ordering::Relaxed);
    for id in ["1", "1", "2", "3"] {
        client.ask(id, "send", message(id)).await;
    }
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("1"), &json!("bad_request")));
    let refused = client.hear().await;
    assert_eq!((&refused["re"], &refused["err"]["code"]), (&json!("3"), &json!("rate_limited")));
    assert!(refused["err"]["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn too_many_frames_are_refused() {
    let node = node(|limits| (limits.frames_per_second, limits.frames_burst) = (1, 2));
    let mut client = node.open().await;
    let mut refused = 0;
    for n in 0..4 {
        client.ask("r", "device.remove", json!({"device": format!("d{n}")})).await;
        refused += u64::from(client.hear().await["err"]["code"] == json!("rate_limited"));
    }
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn the_first_frame_must_be_auth_and_every_frame_a_frame() {
    let node = node(|_| ());
    for text in [r#"{"op":"ping"}"#, r#"{"op":"what"}"#, "{", "hello"] {
        let mut client = node.connect(Format::Json).await;
        client.say(text).await;
        assert_eq!(client.closed().await, 4300, "{text}");
    }
    let mut client = node.connect(Format::Msgpack).await;
    client.say(r#"{"op":"ping"}"#).await;
    assert_eq!(client.closed().await, 4300);
    let mut client = node.open().await;
    client.0.send(Message::binary(vec![0x80])).await.unwrap();
    assert_eq!(client.closed().await, 4300);
    // A wrong field of `auth` is only refused.
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.ask("a", "auth", json!({"token": "good"})).await;
    assert_eq!(client.hear().await["err"]["code"], json!("bad_request"));
    client.auth("good").await;
    assert_eq!(client.hear().await["ok"]["user"], json!("alice"));
}

#[tokio::test]
async fn a_frame_that_is_too_big_closes() {
    let node = node(|_| ());
    let client = node.open().await;
    let (mut write, mut read) = client.0.split();
    let big = "x".repeat(70_000);
    let write = async {
        let _ = write.send(Message::text(big)).await;
    };
    let read = async {
        loop {
            match timeout(PATIENCE, read.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("a close frame, not {other:?}"),
            }
        }
    };
    assert_eq!(tokio::join!(write, read).1, 4302);
    let mut client = node.open().await;
    client
        .ask(
            "1",
            "send",
            json!({"to": "u:bob", "cid": "c", "kind": "k", "body": "x".repeat(40_000)}),
        )
        .await;
    assert_eq!(client.hear().await["err"]["code"], json!("too_large"));
}

#[tokio::test]
async fn who_does_not_authenticate_is_closed() {
    let node = node(|limits| limits.auth_deadline = Duration::from_millis(50));
    let mut client = node.connect(Format::Json).await;
    assert_eq!(client.closed().await, 4303);
    for (token, code) in [("bad", 4303), ("expired", 4101)] {
        let mut client = node.connect(Format::Json).await;
        client.hear().await;
        client.auth(token).await;
        assert_eq!(client.hear().await["err"]["code"], json!("unauthenticated"));
        assert_eq!(client.closed().await, code);
    }
}

#[tokio::test]
async fn a_token_that_ends_closes_its_socket() {
    let node = node(|_| ());
    let mut client = node.connect(Format::Json).await;
    client.auth("short").await;
    assert_eq!(client.closed().await, 4101);
}

#[tokio::test]
async fn a_silent_client_is_closed() {
    let node = node(|limits| limits.heartbeat = Duration::from_millis(60));
    let mut client = node.open().await;
    for _ in 0..6 {
        sleep(Duration::from_millis(50)).await;
        client.say(r#"{"op":"ping"}"#).await;
        assert_eq!(client.hear().await["ev"], json!("pong"));
    }
    assert_eq!(client.closed().await, 4002);
}

#[tokio::test]
async fn a_replaced_or_removed_device_is_closed() {
    let node = node(|_| ());
    for (why, code) in [(Closed::Replaced, 4305), (Closed::DeviceRemoved, 4304)] {
        let mut client = node.open().await;
        node.model.tell_all(&Inbound::Tell(Tell::Closed { life: 1, why }));
        assert_eq!(client.closed().await, code);
    }
}

#[tokio::test]
async fn without_a_home_the_client_is_sent_away() {
    let node = node(|limits| {
        let first_attach = Duration::from_millis(50);
        limits.session = Arc::new(session::Limits { first_attach, ..session::Limits::default() });
    });
    node.model.down.store(true, Ordering::Relaxed);
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("good").await;
    assert_eq!(client.hear().await["err"]["code"], json!("unavailable"));
    assert_eq!(client.closed().await, 4010);
    node.model.down.store(false, Ordering::Relaxed);
    *node.model.refusal.lock().unwrap() = Some(Refusal::TooManyDevices);
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("good").await;
    assert_eq!(client.hear().await["err"]["code"], json!("forbidden"));
    assert_eq!(client.closed().await, 4303);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let node = node(|limits| limits.flush = Duration::from_millis(50));
    let mut client = node.open().await;
    node.model.push(4..=40, &"x".repeat(10_000));
    node.until(|node| node.env.roll.sockets() == 0).await;
    assert_eq!(client.closed().await, 4008);
}

#[tokio::test]
async fn a_user_has_only_so_many_sockets() {
    let node = node(|limits| limits.sockets_per_user_max = 1);
    let mut first = node.open().await;
    let mut second = node.connect(Format::Json).await;
    second.hear().await;
    second.auth("good").await;
    assert_eq!(second.closed().await, 4307);
    first.0.close(None).await.unwrap();
    node.until(|node| node.env.roll.sockets_of(&UserId::parse("alice").unwrap()) == 0).await;
    node.open().await;
}

#[tokio::test]
async fn a_drained_client_is_told_when_to_come_back() {
    let node = node(|_| ());
    let mut client = node.open().await;
    node.model.tell_all(&Inbound::Drain { wait_ms: 20 });
    assert_eq!(
        client.hear().await,
        json!({"ev": "goaway", "d": {"reason": "drain", "wait_ms": 20}})
    );
    client.ask("1", "send", message("c1")).await;
    assert_eq!(client.hear().await["re"], json!("1"));
    assert_eq!(client.closed().await, 4001);
}

#[tokio::test]
async fn a_panic_ends_one_socket_and_is_counted() {
    let node = node(|_| ());
    let mut other = node.open().await;
    let mut client = node.connect(Format::Json).await;
    client.hear().await;
    client.auth("broken").await;
    node.until(|node| node.env.roll.crashed() == 1 && node.env.roll.sockets() == 1).await;
    other.say(r#"{"op":"ping"}"#).await;
    assert_eq!(other.hear().await["ev"], json!("pong"));
}

#[tokio::test]
async fn the_actor_nudges_sockets_also_after_a_restart() {
    let roll = Roll::new(clock::monotonic());
    let id = SessionId { node: NodeId(1), boot: BootId(1), count: 1 };
    let pulse = roll.enter(id);
    for _ in 0..2 {
        pulse.set_due(Duration::ZERO);
        let (actor, task) = ractor::Actor::spawn(None, Sessions, Arc::clone(&roll)).await.unwrap();
        timeout(PATIENCE, pulse.nudged()).await.expect("in time");
        actor.stop(None);
        task.await.unwrap();
    }
}

#[tokio::test]
async fn buffers_shrink_without_losing_a_byte() {
    let node = node(|limits| limits.burst_over = Duration::ZERO);
    let mut client = node.open().await;
    for n in 0..50_usize {
        let body = "x".repeat(n * n * 10);
        let d = json!({"to": "u:bob", "cid": format!("c{n}"), "kind": "k", "body": body});
        let text = json!({"id": format!("{n}"), "op": "send", "d": d}).to_string();
        // Every other message comes in parts, with pings between.
        if n % 2 == 0 {
            client.say(text).await;
        } else {
            client.say_in_parts(&text).await;
        }
        assert_eq!(client.hear().await["re"], json!(n.to_string()));
    }
    node.model.push(4..=60, &"y".repeat(3_000));
    for n in 4..=60 {
        assert_eq!(client.hear().await["n"], json!(n));
    }
}

#[tokio::test]
async fn a_socket_is_small() {
    let node = node(|_| ());
    let (_near, far) = tokio::io::duplex(64);
    let place = node.env.roll.take_place(100).unwrap();
    let size = size_of_val(&serve(far, Format::Json, Arc::clone(&node.env), place));
    assert!(size < 2_600, "{size}");
}

fn headers(changes: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut all = BTreeMap::from([
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]);
    all.extend(changes.iter().copied());
    let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    all.into_iter().map(header).collect()
}

#[test]
fn a_handshake_is_checked() {
    let checked = |changes: &[(&'static str, &'static str)]| {
        check(&Method::GET, &headers(changes)).map(|(format, _)| format)
    };
    let accept = check(&Method::GET, &headers(&[])).unwrap().1;
    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let protocol = |offered| checked(&[("sec-websocket-protocol", offered)]);
    assert_eq!(checked(&[]), Ok(Format::Json));
    assert_eq!(protocol("rookery.v1.msgpack"), Ok(Format::Msgpack));
    assert_eq!(protocol("x, rookery.v1.msgpack,rookery.v1.json"), Ok(Format::Msgpack));
    assert_eq!(protocol("x, y"), Err(NotUpgraded::Protocol));
    assert_eq!(checked(&[("upgrade", "h2c")]), Err(NotUpgraded::NotAsked));
    assert_eq!(checked(&[("connection", "close")]), Err(NotUpgraded::NotAsked));
    assert_eq!(checked(&[("sec-websocket-version", "8")]), Err(NotUpgraded::Version));
    assert_eq!(checked(&[("sec-websocket-key", "short")]), Err(NotUpgraded::Key));
    assert_eq!(check(&Method::POST, &headers(&[])).unwrap_err(), NotUpgraded::NotAsked);
}

#[tokio::test]
async fn an_http_request_becomes_a_socket_while_there_is_room() {
    let node = node(|limits| limits.sockets_max = 1);
    let env = Arc::clone(&node.env);
    let handler = move |request: axum::extract::Request| async move { upgrade(&env, request) };
    let app = axum::Router::new().route("/v1/socket", axum::routing::get(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let request = || {
        let mut request = format!("ws://{address}/v1/socket").into_client_request().unwrap();
        let offered = HeaderValue::from_static("other, rookery.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", offered);
        request
    };
    let (mut ws, response) = tokio_tungstenite::connect_async(request()).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "rookery.v1.json");
    let hello = timeout(PATIENCE, ws.next()).await.unwrap().unwrap().unwrap();
    assert!(hello.to_text().unwrap().contains(r#""ev":"hello""#));
    let refused = tokio_tungstenite::connect_async(request()).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else {
        panic!("an HTTP answer, not {refused:?}");
    };
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}
