//! Socket: a raw client of the protocol page, sharing nothing with the project's own client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::described::Described;

/// Longest wait for something that should come.
pub(crate) const WITHIN: Duration = Duration::from_secs(20);

/// The subprotocols.
pub(crate) const JSON: &str = "rookery.v1.json";
pub(crate) const MSGPACK: &str = "rookery.v1.msgpack";

/// Why nothing more comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Over {
    /// The node closed, with this code.
    Closed(u16),
    /// The connection broke.
    Broken(String),
    /// Nothing came in time.
    Silent,
}

/// One WebSocket.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    msgpack: bool,
    requests: u64,
    /// What was asked under which id.
    asked: BTreeMap<String, String>,
    replies: BTreeMap<String, Value>,
    events: VecDeque<Value>,
}

/// The WebSocket address of a node.
pub(crate) fn ws(url: &str) -> String {
    format!("{}/v1/socket", url.replacen("http", "ws", 1))
}

/// The address in a node's url.
fn address(url: &str) -> &str {
    url.strip_prefix("http://").expect("a node of ours")
}

impl Socket {
    /// Connects without reading anything; `Err` has the HTTP status, 0 when there was no HTTP.
    pub(crate) async fn open(url: &str, subprotocol: Option<&str>) -> Result<Self, u16> {
        let connect = async {
            let stream = TcpStream::connect(address(url)).await.map_err(|_| 0_u16)?;
            Self::upgrade(stream, url, subprotocol).await
        };
        tokio::time::timeout(WITHIN, connect).await.unwrap_or(Err(0))
    }

    /// Connects so that the kernel holds little of what is not read.
    pub(crate) async fn narrow(url: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let stream = socket.connect(address(url).parse().unwrap()).await.unwrap();
        Self::upgrade(stream, url, None).await.expect("the node takes sockets")
    }

    async fn upgrade(stream: TcpStream, url: &str, subprotocol: Option<&str>) -> Result<Self, u16> {
        let mut request = ws(url).into_client_request().unwrap();
        if let Some(offered) = subprotocol {
            let offered = HeaderValue::from_str(offered).unwrap();
            request.headers_mut().insert("sec-websocket-protocol", offered);
        }
        stream.set_nodelay(true).unwrap();
        match client_async(request, stream).await {
            Ok((stream, response)) => {
                let chosen = response.headers().get("sec-websocket-protocol");
                assert_eq!(chosen.map(HeaderValue::as_bytes), subprotocol.map(str::as_bytes));
                Ok(Self {
                    stream,
                    msgpack: subprotocol == Some(MSGPACK),
                    requests: 0,
                    asked: BTreeMap::new(),
                    replies: BTreeMap::new(),
                    events: VecDeque::new(),
                })
            }
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// Connects and reads the greeting.
    pub(crate) async fn connect(url: &str) -> Self {
        let mut socket = Self::open(url, None).await.expect("the node takes sockets");
        socket.expect_hello().await;
        socket
    }

    /// Connects and authenticates; delivery goes on from what the device acknowledged.
    pub(crate) async fn login(url: &str, token: &str, device: &str) -> Self {
        let mut socket = Self::connect(url).await;
        socket.auth(token, device, None).await;
        socket
    }

    /// Reads the greeting and returns what it says.
    pub(crate) async fn expect_hello(&mut self) -> Value {
        let hello = self.next_event().await;
        assert_eq!(hello["ev"], "hello", "{hello}");
        hello["d"].clone()
    }

    /// Authenticates and returns the `ok`.
    pub(crate) async fn auth(&mut self, token: &str, device: &str, resume: Option<Value>) -> Value {
        let mut d = json!({"token": token, "device": device});
        if let Some(resume) = resume {
            d["resume"] = resume;
        }
        self.request("auth", d).await.expect("authentication succeeds")
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, message: Message) -> Result<(), Over> {
        self.stream.send(message).await.map_err(|error| Over::Broken(error.to_string()))
    }

    /// Writes a frame.
    pub(crate) async fn frame(&mut self, frame: &Value) -> Result<(), Over> {
        if let (Some(id), Some(op)) = (frame["id"].as_str(), frame["op"].as_str()) {
            self.asked.insert(id.to_owned(), op.to_owned());
        }
        let message = match self.msgpack {
            true => Message::Binary(rmp_serde::to_vec_named(frame).unwrap().into()),
            false => Message::text(frame.to_string()),
        };
        self.write(message).await
    }

    /// Writes a request without `id`.
    pub(crate) async fn tell(&mut self, op: &str, d: Value) {
        self.frame(&json!({"op": op, "d": d})).await.expect("the socket is open");
    }

    /// Acknowledges everything up to `n`.
    pub(crate) async fn ack(&mut self, n: u64) {
        self.tell("ack", json!({"n": n})).await;
    }

    /// Writes a request and returns its id.
    pub(crate) async fn ask(&mut self, op: &str, d: Value) -> Result<String, Over> {
        self.requests += 1;
        let id = format!("r{}", self.requests);
        self.frame(&json!({"id": id, "op": op, "d": d})).await?;
        Ok(id)
    }

    /// Waits for the reply to a request, keeping events for later. `Err` holds the `err` of the reply.
    pub(crate) async fn reply(&mut self, id: &str) -> Result<Value, Value> {
        loop {
            if let Some(reply) = self.replies.remove(id) {
                return match reply.get("ok") {
                    Some(ok) => Ok(ok.clone()),
                    None => Err(reply["err"].clone()),
                };
            }
            self.read().await.unwrap_or_else(|over| panic!("no reply to {id}: {over:?}"));
        }
    }

    /// Writes a request and waits for its reply.
    pub(crate) async fn request(&mut self, op: &str, d: Value) -> Result<Value, Value> {
        let id = self.ask(op, d).await.expect("the socket is open");
        self.reply(&id).await
    }

    /// Sends a text and returns the `ok`.
    pub(crate) async fn send(&mut self, to: &str, cid: &str, body: &str) -> Value {
        let d = json!({"to": to, "cid": cid, "kind": "text", "body": body});
        self.request("send", d).await.unwrap_or_else(|err| panic!("{cid} was refused: {err}"))
    }

    /// Sends a text that must be refused, and returns the code.
    pub(crate) async fn refused(&mut self, op: &str, d: Value) -> String {
        let err = self.request(op, d).await.expect_err("this should be refused");
        assert!(err["message"].is_string() && err["retry"].is_boolean(), "{err}");
        err["code"].as_str().expect("a code").to_owned()
    }

    /// The next event, durable or not, or why there is none.
    pub(crate) async fn try_event(&mut self, within: Duration) -> Result<Value, Over> {
        let next = async {
            loop {
                if let Some(event) = self.events.pop_front() {
                    return Ok(event);
                }
                self.read().await?;
            }
        };
        tokio::time::timeout(within, next).await.unwrap_or(Err(Over::Silent))
    }

    /// The next event; there must be one.
    pub(crate) async fn next_event(&mut self) -> Value {
        self.try_event(WITHIN).await.unwrap_or_else(|over| panic!("no event: {over:?}"))
    }

    /// The next event called `ev`; skips others.
    pub(crate) async fn event(&mut self, ev: &str) -> Value {
        loop {
            let event = self.next_event().await;
            if event["ev"] == ev {
                return event;
            }
        }
    }

    /// The next message in a conversation; skips all else.
    pub(crate) async fn event_about(&mut self, conv: &str) -> Value {
        loop {
            let event = self.next_event().await;
            if event["ev"] == "message" && event["d"]["conv"] == conv {
                return event;
            }
        }
    }

    /// All durable events up to `caught_up`.
    pub(crate) async fn backlog(&mut self) -> Vec<Value> {
        let mut backlog = Vec::new();
        loop {
            let event = self.next_event().await;
            if event["ev"] == "caught_up" {
                return backlog;
            }
            assert!(event["n"].is_u64(), "{event}");
            backlog.push(event);
        }
    }

    /// Waits until the double or blue tick covers `seq`; returns the receipt.
    pub(crate) async fn receipt(&mut self, mark: &str, seq: u64) -> Value {
        loop {
            let receipt = self.event("receipt").await;
            if receipt["d"][mark].as_u64().is_some_and(|covered| covered >= seq) {
                return receipt["d"].clone();
            }
        }
    }

    /// Waits for the close; returns its code.
    pub(crate) async fn expect_close(&mut self) -> u16 {
        loop {
            match self.read().await {
                Ok(()) => {}
                Err(Over::Closed(code)) => return code,
                Err(over) => panic!("no close but {over:?}"),
            }
        }
    }

    /// Closes as a client that leaves.
    pub(crate) async fn leave(mut self) {
        let _ = self.stream.close(None).await;
    }

    /// A reply that has come for any of these requests.
    pub(crate) fn take_reply(&mut self) -> Option<(String, Value)> {
        self.replies.pop_first()
    }

    /// An event that has come.
    pub(crate) fn take_event(&mut self) -> Option<Value> {
        self.events.pop_front()
    }

    /// The reply without `re` that answers a frame without `id`.
    pub(crate) async fn stray_error(&mut self) -> Value {
        self.reply("").await.expect_err("only errors have no id")
    }

    /// Reads one frame and sorts it.
    pub(crate) async fn read(&mut self) -> Result<(), Over> {
        let next = tokio::time::timeout(WITHIN, self.stream.next()).await;
        let frame: Value = match next {
            Err(_) => return Err(Over::Silent),
            Ok(None) => return Err(Over::Broken("end of stream".to_owned())),
            Ok(Some(Err(error))) => return Err(Over::Broken(error.to_string())),
            Ok(Some(Ok(Message::Close(frame)))) => {
                return Err(Over::Closed(frame.map_or(1005, |frame| frame.code.into())));
            }
            Ok(Some(Ok(Message::Text(text)))) => {
                assert!(!self.msgpack, "a text on a msgpack socket: {text}");
                serde_json::from_str(&text).expect("JSON")
            }
            Ok(Some(Ok(Message::Binary(bytes)))) => {
                assert!(self.msgpack, "bytes on a JSON socket");
                rmp_serde::from_slice(&bytes).expect("msgpack")
            }
            Ok(Some(Ok(_))) => return Ok(()),
        };
        self.sort(frame);
        Ok(())
    }

    /// Also looks whether it is as the socket's document says: whatever a test is about, no node says anything else.
    fn sort(&mut self, frame: Value) {
        static DESCRIBED: LazyLock<Described> =
            LazyLock::new(|| Described::new(rookery::gateway::asyncapi()));
        let op = frame["re"].as_str().and_then(|id| self.asked.remove(id));
        DESCRIBED.wrong_with_frame(&frame, op.as_deref()).unwrap_or_else(|wrong| panic!("{wrong}"));
        if frame.get("ev").is_some() {
            self.events.push_back(frame);
            return;
        }
        let id = frame.get("re").expect("a reply or an event").as_str().unwrap_or_default();
        assert!(frame.get("ok").is_some() != frame.get("err").is_some(), "{frame}");
        let twice = self.replies.insert(id.to_owned(), frame.clone());
        assert!(twice.is_none() || id.is_empty(), "two replies to one request: {frame}");
    }
}
