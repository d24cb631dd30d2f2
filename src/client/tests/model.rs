//! Model: a whole cluster in one lock, just enough of the protocol to try a client against, with faults on demand.

#![expect(clippy::result_large_err, reason = "the signature of a handshake is the library's")]

mod group;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message as Packet;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// What all nodes of the model know.
#[derive(Default)]
pub(super) struct World {
    logs: BTreeMap<String, Vec<Value>>,
    pub(super) acked: BTreeMap<(String, String), u64>,
    accepted: BTreeMap<(String, String), (String, u64)>,
    seqs: BTreeMap<(String, String), u64>,
    pub(super) epoch: u32,
    /// Each `send` that came, in order: its cid.
    pub(super) sends: Vec<String>,
    /// So many sends are refused with `retry`, before anything else is looked at.
    pub(super) refuse: u32,
    /// So many sends are taken, but their reply never comes.
    pub(super) swallow: u32,
    /// Entries of a user's log that get lost once on their way.
    pub(super) lose: BTreeSet<(String, u64)>,
    /// Every entry is sent twice.
    pub(super) stutter: bool,
    pub(super) pulls: u32,
    groups: BTreeMap<String, group::Group>,
    /// Each request about groups that came, in order: its cid, or its op.
    pub(super) asks: Vec<String>,
    /// So many requests about groups are refused with `retry`.
    pub(super) refuse_asks: u32,
    /// So many requests about groups are done, but their reply never comes.
    pub(super) swallow_asks: u32,
    /// What the auth requests said.
    pub(super) auths: Vec<Value>,
}

/// The model; nodes share it.
#[derive(Clone)]
pub(super) struct Model {
    world: Arc<Mutex<World>>,
    grown: watch::Sender<u64>,
    /// The close code that every open socket is given next.
    close: watch::Sender<u16>,
}

impl Model {
    pub(super) fn new() -> Self {
        let world = Arc::default();
        Self { world, grown: watch::channel(0).0, close: watch::channel(0).0 }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Has all nodes look at the logs again.
    pub(super) fn grow(&self) {
        self.grown.send_modify(|times| *times += 1);
    }

    /// Closes all sockets with a code.
    pub(super) fn close_all(&self, code: u16) {
        self.close.send_replace(code);
    }

    /// Starts a node; its address.
    pub(super) async fn node(&self, name: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let model = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(model.clone().serve(stream, name));
            }
        });
        url
    }

    async fn serve(self, stream: TcpStream, name: &'static str) {
        stream.set_nodelay(true).unwrap();
        let mut packed = false;
        let socket = accept_hdr_async(stream, |request: &Request, response| {
            choose(request, response, &mut packed)
        });
        let Ok(socket) = socket.await else { return };
        let mut grown = self.grown.subscribe();
        let mut close = self.close.subscribe();
        close.mark_unchanged();
        let mut node = Node { socket, packed, user: String::new(), device: String::new(), n: 0 };
        let hello = json!({"node": name, "heartbeat_ms": 200, "window": 256, "protocol": 1});
        node.say(json!({"ev": "hello", "d": hello})).await;
        loop {
            tokio::select! {
                _ = grown.changed() => self.deliver(&mut node).await,
                _ = close.changed() => {
                    let code = (*close.borrow()).into();
                    let frame = CloseFrame { code, reason: "as told".into() };
                    let _ = node.socket.close(Some(frame)).await;
                    return;
                }
                packet = node.socket.next() => match packet {
                    Some(Ok(Packet::Text(text))) => {
                        let frame = serde_json::from_str(&text).unwrap();
                        self.answer(&mut node, frame).await;
                    }
                    Some(Ok(Packet::Binary(bytes))) => {
                        self.answer(&mut node, rmp_serde::from_slice(&bytes).unwrap()).await;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
            }
        }
    }

    async fn answer(&self, node: &mut Node, frame: Value) {
        let (id, d) = (frame["id"].clone(), frame["d"].clone());
        match frame["op"].as_str().unwrap() {
            "auth" => {
                let ok = self.attach(node, &d);
                node.say(json!({"re": id, "ok": ok})).await;
                self.deliver(node).await;
                node.say(json!({"ev": "caught_up", "d": {"n": ok["head"]}})).await;
            }
            "send" => {
                let answer = self.accept(node, &d);
                self.grow();
                match answer {
                    Some(Ok(ok)) => node.say(json!({"re": id, "ok": ok})).await,
                    Some(Err(err)) => node.say(json!({"re": id, "err": err})).await,
                    None => {}
                }
            }
            "ack" => self.acknowledge(node, &d),
            "ping" => {
                self.acknowledge(node, &d);
                let head = self.world().log(&node.user).len();
                node.say(json!({"ev": "pong", "d": {"head": head, "server_time_ms": 1}})).await;
            }
            "pull" => {
                node.n = d["after"].as_u64().unwrap();
                self.world().pulls += 1;
                node.say(json!({"re": id, "ok": {}})).await;
                self.deliver(node).await;
            }
            "read" => {
                self.world().receipt(&node.user, &d["conv"], d["seq"].as_u64().unwrap(), true);
                self.grow();
                node.say(json!({"re": id, "ok": {}})).await;
            }
            "device.list" => {
                let devices = json!([{"device": node.device, "acked_n": 1, "last_seen_ms": 2}]);
                node.say(json!({"re": id, "ok": {"devices": devices}})).await;
            }
            op if op.starts_with("group.") || op == "receipts" => {
                let answer = self.world().group(node, op, &d);
                self.grow();
                if let Some(mut answer) = answer {
                    answer["re"] = id;
                    node.say(answer).await;
                }
            }
            op => {
                let err = json!({"code": "unknown_op", "message": op, "retry": false});
                node.say(json!({"re": id, "err": err})).await;
            }
        }
    }

    fn attach(&self, node: &mut Node, d: &Value) -> Value {
        let mut world = self.world();
        world.auths.push(d.clone());
        node.user = d["token"].as_str().unwrap().to_owned();
        node.device = d["device"].as_str().unwrap().to_owned();
        let key = (node.user.clone(), node.device.clone());
        let acked = world.acked.get(&key).copied().unwrap_or(0);
        let epoch = format!("epoch-{}", world.epoch);
        let same = d["resume"]["epoch"] == json!(epoch);
        node.n = if same { d["resume"]["n"].as_u64().unwrap() } else { acked };
        let head = world.log(&node.user).len();
        let mut ok = json!({"user": node.user, "device": node.device, "epoch": epoch,
            "n": node.n, "head": head, "resumed": same});
        if !same && d["resume"].is_object() {
            ok["reason"] = json!("unknown_epoch");
        }
        ok
    }

    fn accept(&self, node: &Node, d: &Value) -> Option<Result<Value, Value>> {
        let mut world = self.world();
        let text = |key: &str| d[key].as_str().unwrap().to_owned();
        let (cid, to) = (text("cid"), text("to"));
        world.sends.push(cid.clone());
        if world.refuse > 0 {
            world.refuse -= 1;
            let fault = json!({"code": "unavailable", "message": "no majority", "retry": true,
                "retry_after_ms": 30});
            return Some(Err(fault));
        }
        if to == "u:nobody" {
            let fault = json!({"code": "not_found", "message": "no such user", "retry": false});
            return Some(Err(fault));
        }
        let key = (node.user.clone(), cid.clone());
        let dup = world.accepted.contains_key(&key);
        if !dup {
            world.store(node, d, &cid, &to);
        }
        let (mid, seq) = world.accepted[&key].clone();
        if world.swallow > 0 {
            world.swallow -= 1;
            return None;
        }
        Some(Ok(json!({"mid": mid, "seq": seq, "at": 5, "dup": dup})))
    }

    fn acknowledge(&self, node: &Node, d: &Value) {
        let Some(n) = d["n"].as_u64() else { return };
        let mut world = self.world();
        let key = (node.user.clone(), node.device.clone());
        let old = world.acked.insert(key, n).unwrap_or(0);
        let entries: Vec<Value> = world.log(&node.user).clone();
        for entry in entries.iter().take(n as usize).skip(old as usize) {
            if entry["ev"] == "message" {
                let seq = entry["d"]["seq"].as_u64().unwrap();
                world.receipt(&node.user, &entry["d"]["conv"], seq, false);
            }
        }
        drop(world);
        self.grow();
    }

    async fn deliver(&self, node: &mut Node) {
        if node.user.is_empty() {
            return;
        }
        loop {
            let n = node.n + 1;
            let (entry, stutter) = {
                let mut world = self.world();
                let Some(mut entry) = world.log(&node.user).get(n as usize - 1).cloned() else {
                    return;
                };
                entry["n"] = json!(n);
                let lost = world.lose.remove(&(node.user.clone(), n));
                ((!lost).then_some(entry), world.stutter)
            };
            node.n = n;
            let Some(entry) = entry else { continue };
            if stutter {
                node.say(entry.clone()).await;
            }
            node.say(entry).await;
        }
    }
}

impl World {
    fn log(&mut self, user: &str) -> &mut Vec<Value> {
        self.logs.entry(user.to_owned()).or_default()
    }

    /// Appends to a user's log.
    pub(super) fn tell(&mut self, user: &str, ev: &str, d: Value) {
        self.log(user).push(json!({"ev": ev, "d": d}));
    }

    fn store(&mut self, node: &Node, d: &Value, cid: &str, to: &str) {
        let mid = format!("mid-{}-{}", node.user, self.accepted.len());
        let mut message = json!({"mid": mid, "conv": to, "from": node.user,
            "device": node.device, "at": 5, "kind": d["kind"], "body": d["body"]});
        let mut sent = json!({"mid": mid, "conv": to, "at": 5, "cid": cid, "device": node.device});
        let seq = if let Some(group) = to.strip_prefix("g:") {
            self.post(node, group, &message, &sent)
        } else {
            let seq = self.seqs.entry((node.user.clone(), to.to_owned())).or_default();
            *seq += 1;
            let seq = *seq;
            (message["seq"], sent["seq"]) = (json!(seq), json!(seq));
            message["conv"] = json!(format!("u:{}", node.user));
            self.tell(&to[2..], "message", message);
            self.tell(&node.user, "sent", sent);
            seq
        };
        self.accepted.insert((node.user.clone(), cid.to_owned()), (mid, seq));
    }

    fn receipt(&mut self, by: &str, conv: &Value, seq: u64, read: bool) {
        let conv = conv.as_str().unwrap();
        if let Some(group) = conv.strip_prefix("g:") {
            return self.group_receipt(by, group, seq, read);
        }
        let read = if read { seq } else { 0 };
        let d = json!({"conv": format!("u:{by}"), "by": by, "delivered": seq, "read": read,
            "at": 6});
        self.tell(&conv[2..], "receipt", d);
    }
}

struct Node {
    socket: WebSocketStream<TcpStream>,
    packed: bool,
    user: String,
    device: String,
    n: u64,
}

impl Node {
    async fn say(&mut self, frame: Value) {
        let packet = if self.packed {
            Packet::Binary(rmp_serde::to_vec_named(&frame).unwrap().into())
        } else {
            Packet::Text(frame.to_string().into())
        };
        let _ = self.socket.send(packet).await;
    }
}

fn choose(
    request: &Request,
    mut response: Response,
    packed: &mut bool,
) -> Result<Response, ErrorResponse> {
    let offered = request.headers()["sec-websocket-protocol"].clone();
    *packed = offered == "rookery.v1.msgpack";
    response.headers_mut().insert("sec-websocket-protocol", offered);
    Ok(response)
}
