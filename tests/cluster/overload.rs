//! Promise: a node that is sent more than it can have on its way refuses the rest for a while; who comes again as told gets
//! every check mark, in order and once, and nobody else notices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::harness::{Cluster, PATIENCE, User, eventually};
use crate::socket::Socket;
use crate::web;

/// Messages a node of these tests has on their way at the most: seven eighths of them for those who send many.
const PLACES: usize = 64;
/// Users who send many at once, and how many.
const SENDERS: usize = 4;
const EACH: u64 = 150;
/// Users who send one at a time: with the senders no more than the places kept for those who have none on their way.
const BYSTANDERS: usize = 4;

/// Someone with many messages for one other, who repeats what is refused when told to.
struct Sender {
    socket: Socket,
    to: User,
    /// What waits for its answer, by the request's id.
    asked: BTreeMap<String, u64>,
    /// What is to be repeated, and when.
    again: BTreeMap<u64, Instant>,
    seqs: BTreeMap<u64, u64>,
    refused: usize,
}

impl Sender {
    async fn new(cluster: &Cluster) -> Self {
        let (from, to) = (cluster.user("sender").await, cluster.user("reader").await);
        let socket = Socket::login(&cluster.first_url(), &from.token, "phone").await;
        let (asked, again, seqs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { socket, to, asked, again, seqs, refused: 0 }
    }

    async fn ask(&mut self, number: u64) {
        let d = message(&self.to, number);
        let id = self.socket.ask("send", d).await.expect("the socket stays");
        self.asked.insert(id, number);
    }

    /// Until each has its check mark.
    async fn finish(&mut self) {
        while self.seqs.len() < usize::try_from(EACH).unwrap() {
            let now = Instant::now();
            // Oldest first, as clients do; what is due later waits, also for those before it.
            while let Some(entry) = self.again.first_entry().filter(|entry| *entry.get() <= now) {
                let (number, _) = entry.remove_entry();
                self.ask(number).await;
            }
            let due = self.again.first_key_value().map(|(_, due)| *due);
            tokio::select! {
                read = self.socket.read() => read.expect("the socket stays"),
                () = sleep_until(due.unwrap_or(now + PATIENCE)), if due.is_some() => {}
            }
            while let Some((id, reply)) = self.socket.take_reply() {
                let number = self.asked.remove(&id).expect("each request is answered once");
                match reply["ok"]["seq"].as_u64() {
                    Some(seq) => drop(self.seqs.insert(number, seq)),
                    None => self.put_off(number, &reply["err"]),
                }
            }
        }
    }

    fn put_off(&mut self, number: u64, err: &Value) {
        assert_eq!((&err["code"], &err["retry"]), (&json!("rate_limited"), &json!(true)), "{err}");
        let wait = err["retry_after_ms"].as_u64().expect("a time to wait");
        assert!((1..=10_000).contains(&wait), "{err}");
        self.again.insert(number, Instant::now() + Duration::from_millis(wait));
        self.refused += 1;
    }

    /// What has come at the other side.
    async fn arrived(&self, cluster: &Cluster) -> Vec<Value> {
        let mut socket = Socket::login(&cluster.first_url(), &self.to.token, "laptop").await;
        let (mut bodies, mut n) = (Vec::new(), 0);
        while bodies.len() < usize::try_from(EACH).unwrap() {
            let event = socket.event("message").await;
            bodies.push(event["d"]["body"].clone());
            n += 1;
            socket.ack(n).await;
        }
        bodies
    }
}

fn message(to: &User, number: u64) -> Value {
    let body = number.to_string();
    json!({"to": to.conv(), "cid": format!("m{number}"), "kind": "text", "body": body})
}

/// A number among those that the first node shows its operator.
async fn metric(cluster: &Cluster, name: &str) -> Option<f64> {
    let admin = cluster.admin_url(&cluster.names()[0]);
    let page = web::get(&format!("{admin}/metrics")).await.ok()?.text;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.parse().ok()
}

/// Waits for the blue tick; returns its `n`.
async fn read_up_to(socket: &mut Socket, seq: u64) -> u64 {
    loop {
        let receipt = socket.event("receipt").await;
        if receipt["d"]["read"].as_u64() >= Some(seq) {
            return receipt["n"].as_u64().expect("a number");
        }
    }
}

/// Someone who says one thing after the other and reads, and is never refused.
struct Bystander {
    from: User,
    to: User,
    socket: Socket,
    friend: Socket,
    said: u64,
}

impl Bystander {
    async fn new(cluster: &Cluster) -> Self {
        let (from, to) = (cluster.user("lone").await, cluster.user("friend").await);
        let socket = Socket::login(&cluster.first_url(), &from.token, "phone").await;
        let friend = Socket::login(&cluster.first_url(), &to.token, "phone").await;
        Self { from, to, socket, friend, said: 0 }
    }

    async fn say(&mut self) -> String {
        self.said += 1;
        self.socket.ask("send", message(&self.to, self.said)).await.expect("the socket stays")
    }

    /// What was said arrives, is read, and the blue tick comes back.
    async fn heard(&mut self, id: &str) {
        let said = self.said;
        let ok = self.socket.reply(id).await.expect("who sends one at a time is not refused");
        assert_eq!(ok["seq"], said);
        self.friend.event("message").await;
        let read = json!({"conv": self.from.conv(), "seq": said});
        self.friend.request("read", read).await.expect("reading goes on");
        self.friend.request("ping", json!({"n": said})).await.expect("so do pings");
        let pull = json!({"after": 0, "limit": 1});
        self.friend.request("pull", pull).await.expect("and looking back");
        let n = read_up_to(&mut self.socket, said).await;
        self.socket.ack(n).await;
    }

    /// Until the others are done.
    async fn go_on(&mut self, first: &str, done: &AtomicBool) {
        self.heard(first).await;
        while !done.load(Ordering::SeqCst) {
            let id = self.say().await;
            self.heard(&id).await;
        }
    }
}

#[tokio::test]
async fn too_many_messages_at_once_come_again_as_told_and_disturb_nobody() {
    let settings = format!("[limits]\nsends_in_flight_max = {PLACES}");
    let cluster = Cluster::with(1, &settings).await;
    let node = cluster.names()[0].clone();
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        senders.push(Sender::new(&cluster).await);
    }
    let mut bystanders = Vec::new();
    for _ in 0..BYSTANDERS {
        bystanders.push(Bystander::new(&cluster).await);
    }
    // It finds all of them waiting when it goes on.
    cluster.stop(&node);
    for sender in &mut senders {
        for number in 1..=EACH {
            sender.ask(number).await;
        }
    }
    let mut first = Vec::new();
    for bystander in &mut bystanders {
        first.push(bystander.say().await);
    }
    cluster.cont(&node);
    let done = AtomicBool::new(false);
    let finish = async {
        futures_util::future::join_all(senders.iter_mut().map(Sender::finish)).await;
        done.store(true, Ordering::SeqCst);
    };
    let others = bystanders.iter_mut().zip(&first).map(|(one, first)| one.go_on(first, &done));
    let all = async { tokio::join!(finish, futures_util::future::join_all(others)) };
    timeout(PATIENCE, all).await.expect("all should have their check marks");
    for sender in &senders {
        assert!(sender.refused > 0, "there were never too many");
        assert!(sender.seqs.iter().all(|(number, seq)| number == seq), "{:?}", sender.seqs);
        let bodies: Vec<Value> = (1..=EACH).map(|number| json!(number.to_string())).collect();
        assert_eq!(sender.arrived(&cluster).await, bodies);
    }
    let refused: usize = senders.iter().map(|sender| sender.refused).sum();
    let turned_away = metric(&cluster, "rookery_sends_turned_away_total").await.unwrap();
    // Those behind one that found no place are refused without looking for one.
    assert!(turned_away >= 1.0 && turned_away <= refused as f64, "{turned_away} of {refused}");
    for gauge in ["rookery_sends_in_flight", "rookery_sends_without_place"] {
        let what = format!("{gauge} should be 0 again");
        let none = || async { metric(&cluster, gauge).await.filter(|now| *now < 0.5) };
        eventually(&what, none).await;
    }
}
