//! Tests: a real client on real sockets against the model, through every fault a client must survive.

mod groups;
mod laws;
mod model;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use self::model::Model;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn options(urls: &[String], user: &str) -> Options {
    Options::new(urls, user, Credential::Token(user.to_owned()))
}

/// Reads events until one fits.
async fn until<T>(events: &mut Receiver<Event>, mut fits: impl FnMut(&Event) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the client has ended");
            if let Some(found) = fits(&event) {
                return found;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("no such event in time")
}

async fn bodies(events: &mut Receiver<Event>, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let body = until(events, |event| match event {
            Event::Message { message, .. } => Some(message.body.clone()),
            _ => None,
        });
        bodies.push(body.await);
    }
    bodies
}

fn connected(event: &Event) -> Option<String> {
    match event {
        Event::Connected { node, .. } => Some(node.clone()),
        _ => None,
    }
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

fn send_numbered(client: &Client, count: usize) -> Vec<SendTicket> {
    numbered(count).iter().map(|body| client.send("u:bob", body)).collect()
}

async fn seqs(tickets: Vec<SendTicket>) -> Vec<u64> {
    let mut seqs = Vec::new();
    for ticket in tickets {
        seqs.push(timeout(PATIENCE, ticket).await.expect("no answer in time").unwrap().seq);
    }
    seqs
}

async fn chat_in(format: Format) {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (alice, mut hers) = Client::connect(Options { format, ..options(&urls, "alice") });
    let (bob, mut his) = Client::connect(Options { format, ..options(&urls, "bob") });
    assert_eq!(until(&mut hers, connected).await, "a");
    let accepted = alice.send("u:bob", "hi").await.unwrap();
    assert_eq!(accepted.seq, 1);
    assert_eq!(bodies(&mut his, 1).await, ["hi"]);
    bob.read("u:alice", 1);
    let read = |event: &Event| match event {
        Event::Ticks { conv, marks } if conv == "u:bob" && marks.read == 1 => Some(*marks),
        _ => None,
    };
    let marks = until(&mut hers, read).await;
    assert_eq!(marks, Marks { sent: 1, delivered: 1, read: 1 });
    assert_eq!(alice.send("u:nobody", "hi").await.unwrap_err().code, "not_found");
    assert_eq!(alice.devices().await.unwrap()[0].device, "main");
    assert_eq!(alice.watch(&["bob"]).await.unwrap_err().code, "unknown_op");
    alice.close();
    let ended = |event: &Event| match event {
        Event::Disconnected { why, retry_in: None } => Some(why.clone()),
        _ => None,
    };
    assert_eq!(until(&mut hers, ended).await, Why::Asked);
    assert_eq!(hers.recv().await, None);
    assert_eq!(alice.send("u:bob", "late").await.unwrap_err().code, "gone");
}

#[tokio::test]
async fn two_people_chat_in_json() {
    chat_in(Format::Json).await;
}

#[tokio::test]
async fn two_people_chat_in_msgpack() {
    chat_in(Format::Msgpack).await;
}

#[tokio::test]
async fn cut_connections_lose_and_repeat_nothing() {
    let model = Model::new();
    let urls = [model.node("a").await, model.node("b").await];
    let (alice, mut hers) = Client::connect(options(&urls, "alice"));
    let (bob, mut his) = Client::connect(options(&urls, "bob"));
    until(&mut hers, connected).await;
    until(&mut his, connected).await;
    tokio::spawn(async move { while hers.recv().await.is_some() {} });
    let (first, second) = (send_numbered(&alice, 40), 40..80);
    alice.cut();
    bob.cut();
    let second: Vec<_> = second.map(|i| alice.send("u:bob", &i.to_string())).collect();
    assert_eq!(seqs(first).await, (1..=40).collect::<Vec<_>>());
    bob.cut();
    assert_eq!(seqs(second).await, (41..=80).collect::<Vec<_>>());
    assert_eq!(bodies(&mut his, 80).await, numbered(80));
}

#[tokio::test]
async fn a_dead_node_is_left_for_the_next() {
    let model = Model::new();
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}", dead.local_addr().unwrap());
    let urls = [dead, model.node("b").await];
    let (_alice, mut hers) = Client::connect(options(&urls, "alice"));
    let down = |event: &Event| matches!(event, Event::Disconnected { .. }).then_some(());
    until(&mut hers, down).await;
    assert_eq!(until(&mut hers, connected).await, "b");
}

#[tokio::test]
async fn an_address_that_cannot_be_one_ends_the_client_at_once() {
    let password = Credential::Password { password: "secret".into(), register: true };
    for credential in [password, Credential::Token("alice".into())] {
        let urls = ["nonsense".to_owned()];
        let (_alice, mut hers) = Client::connect(Options::new(&urls, "alice", credential));
        let ended = |event: &Event| match event {
            Event::Disconnected { why: Why::Refused(fault), retry_in: None } => {
                Some(fault.message.clone())
            }
            _ => None,
        };
        let said = until(&mut hers, ended).await;
        assert!(said.contains("nonsense") && said.contains("http://127.0.0.1:8080"), "{said}");
        assert_eq!(hers.recv().await, None);
    }
}

#[tokio::test]
async fn the_application_hears_that_its_messages_are_delayed() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (alice, mut hers) = Client::connect(options(&urls, "alice"));
    until(&mut hers, connected).await;
    model.world().refuse = 1;
    let ticket = alice.send("u:bob", "hi");
    let delayed = |event: &Event| match event {
        Event::Delayed { conv, fault, .. } => Some((conv.clone(), fault.code.clone())),
        _ => None,
    };
    let heard = until(&mut hers, delayed).await;
    assert_eq!(heard, ("u:bob".to_owned(), "unavailable".to_owned()));
    assert_eq!(timeout(PATIENCE, ticket).await.unwrap().unwrap().seq, 1);
}

#[tokio::test]
async fn lost_and_repeated_events_are_pulled_and_dropped() {
    let model = Model::new();
    let urls = [model.node("a").await];
    {
        let mut world = model.world();
        world.lose.extend([3, 4, 9, 20].map(|n| ("bob".to_owned(), n)));
        world.stutter = true;
    }
    let (_bob, mut his) = Client::connect(options(&urls, "bob"));
    let (alice, _hers) = Client::connect(options(&urls, "alice"));
    let tickets = send_numbered(&alice, 20);
    assert_eq!(bodies(&mut his, 20).await, numbered(20));
    drop(tickets);
    assert!(model.world().pulls >= 1);
}

#[tokio::test]
async fn a_refusal_that_may_pass_never_lets_a_later_message_overtake() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (_bob, mut his) = Client::connect(options(&urls, "bob"));
    let (alice, mut hers) = Client::connect(Options { window: 4, ..options(&urls, "alice") });
    until(&mut hers, connected).await;
    model.world().refuse = 6;
    let tickets = send_numbered(&alice, 12);
    assert_eq!(seqs(tickets).await, (1..=12).collect::<Vec<_>>());
    assert_eq!(bodies(&mut his, 12).await, numbered(12));
}

#[tokio::test]
async fn an_unanswered_message_is_repeated_with_its_cid_on_the_next_socket() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (alice, mut hers) = Client::connect(options(&urls, "alice"));
    until(&mut hers, connected).await;
    model.world().swallow = 1;
    let ticket = alice.send_with("u:bob", "mine-1", "text", "hi");
    while model.world().sends.is_empty() {
        tokio::task::yield_now().await;
    }
    alice.cut();
    let accepted = ticket.await.unwrap();
    assert!(accepted.dup);
    assert_eq!(model.world().sends, ["mine-1", "mine-1"]);
}

#[tokio::test]
async fn a_new_client_resumes_where_the_keeper_left_off() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (alice, _hers) = Client::connect(options(&urls, "alice"));
    seqs(send_numbered(&alice, 3)).await;
    let kept: Arc<Mutex<Option<Resume>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let keeper: Keeper = Arc::new(move |at| *keep.lock().unwrap() = Some(at.clone()));
    let first = Options { keeper: Some(keeper), ..options(&urls, "bob") };
    let (bob, mut his) = Client::connect(first);
    assert_eq!(bodies(&mut his, 3).await, numbered(3));
    bob.close();
    while his.recv().await.is_some() {}
    let resume = kept.lock().unwrap().clone();
    assert_eq!(resume, Some(Resume { n: 3, epoch: "epoch-0".into() }));
    let (_bob, mut his) = Client::connect(Options { resume, ..options(&urls, "bob") });
    until(&mut his, connected).await;
    alice.send("u:bob", "after").await.unwrap();
    assert_eq!(bodies(&mut his, 1).await, ["after"]);
}

#[tokio::test]
async fn a_new_epoch_is_told_as_fresh() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (bob, mut his) = Client::connect(options(&urls, "bob"));
    until(&mut his, connected).await;
    model.world().epoch += 1;
    bob.cut();
    let fresh = |event: &Event| match event {
        Event::Fresh { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    assert_eq!(until(&mut his, fresh).await, "unknown_epoch");
}

#[tokio::test]
async fn close_codes_are_obeyed() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let (_bob, mut his) = Client::connect(options(&urls, "bob"));
    until(&mut his, connected).await;
    model.close_all(4001);
    until(&mut his, connected).await;
    model.close_all(4200);
    until(&mut his, connected).await;
    assert!(model.world().auths[1]["resume"].is_object());
    assert!(model.world().auths[2]["resume"].is_null());
    model.close_all(4305);
    let ended = |event: &Event| match event {
        Event::Disconnected { why: Why::Closed(code, _), retry_in: None } => *code,
        _ => None,
    };
    assert_eq!(until(&mut his, ended).await, 4305);
    assert_eq!(his.recv().await, None);
}

#[tokio::test]
async fn what_is_not_taken_or_not_acknowledged_stays_so() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let manual = Options { acks: Acks::Manual, ..options(&urls, "bob") };
    let never = Options { acks: Acks::Never, device: "two".into(), ..options(&urls, "bob") };
    let (bob, mut his) = Client::connect(manual);
    let (_never, mut theirs) = Client::connect(never);
    let (alice, _hers) = Client::connect(options(&urls, "alice"));
    seqs(send_numbered(&alice, 3)).await;
    assert_eq!(bodies(&mut his, 3).await.len() + bodies(&mut theirs, 3).await.len(), 6);
    bob.ack(2);
    let key = ("bob".to_owned(), "main".to_owned());
    let acked = async {
        while !model.world().acked.contains_key(&key) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, acked).await.unwrap();
    assert_eq!(model.world().acked[&key], 2);
    assert!(!model.world().acked.contains_key(&("bob".to_owned(), "two".to_owned())));
}

#[tokio::test]
async fn an_observer_sees_every_frame() {
    let model = Model::new();
    let urls = [model.node("a").await];
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&seen);
    let observer: Observer = Arc::new(move |what| {
        log.lock().unwrap().push(match what {
            Seen::Opened(_) => "opened".to_owned(),
            Seen::Out(bytes) => format!("> {}", String::from_utf8_lossy(bytes)),
            Seen::In(bytes) => format!("< {}", String::from_utf8_lossy(bytes)),
            Seen::Ended => "ended".to_owned(),
        });
    });
    let observed = Options { observer: Some(observer), ..options(&urls, "alice") };
    let (alice, mut hers) = Client::connect(observed);
    until(&mut hers, connected).await;
    alice.close();
    while hers.recv().await.is_some() {}
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], "opened");
    assert!(seen[1].contains("hello") && seen[2].contains("auth"), "{seen:?}");
    assert_eq!(seen.last().unwrap(), "ended");
}
