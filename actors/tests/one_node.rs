//! One node, alone, with its real actors in this process: what it does when weeks pass, and when a lane fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::clock;
use actors::cluster::Timing;
use actors::ids::{Cid, Conversation, DeviceId, Kind, NodeId, Number, SessionId, ShardId};
use actors::ids::{Timestamp, UserId};
use actors::inbox::{Inbox, inbox};
use actors::mailbox::rules::Policy;
use actors::message::{Accepted, Content, Entry, Refusal, Send, What};
use actors::node::{Health, Node, Options};
use actors::packet::{Answer, Ask, Packet, Question, Start, Tell, ToHome};
use actors::router::Inbound;
use actors::shard::home::Quota;
use actors::shard::lane::{self, Settings};
use actors::shard::replica::Pace;
use actors::shard::wire;
use actors::store::{DiskTrust, Durability, StoreError, StoreOptions};
use actors::user::rules::Limits;
use raft::eraftpb::{Message, MessageType};

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

async fn start(data: &tempfile::TempDir, wall: fn() -> Timestamp) -> Node {
    let fatal = |error: StoreError| panic!("the disk failed: {error}");
    let mut store = StoreOptions::new(Arc::new(fatal));
    store.journal.durability = Durability::Memory;
    store.disk = DiskTrust::Unsafe;
    let settings = Settings {
        pace: Pace::default(),
        tick: Duration::from_millis(20),
        quota: Quota::default(),
        policy: Policy::default(),
        limits: Limits::default(),
        checkpoint_every: Duration::from_secs(5),
        memory_budget: 64 << 20,
        wall,
        push: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options {
        cluster: "alone".into(),
        me: NodeId(1),
        members: vec![("a".into(), address)],
        cookie: "secret".into(),
        listener,
        data: data.path().into(),
        shards: 1,
        replicas: 1,
        lanes: 1,
        settings,
        store,
        timing: Timing::default(),
    };
    Node::start(options).await.unwrap()
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

async fn register(node: &Node, name: &str) {
    let question = Question::Register("hash".into());
    // A repeated question may find its own account.
    let answer = node.router().ask(&user(name), question, PATIENCE).await;
    assert!(matches!(answer, Ok(Answer::Done) | Err(Refusal::Taken)), "{answer:?}");
}

async fn send(node: &Node, from: &str, to: &str, cid: &str) -> Accepted {
    let kind = Kind::parse("text").unwrap();
    let content = Content { kind, body: "hi".into(), reply_to: None, client: None };
    let send = Send {
        from: user(from),
        device: DeviceId::parse("phone").unwrap(),
        to: Conversation::User(user(to)),
        cid: Cid::parse(cid).unwrap(),
        content: Arc::new(content),
    };
    node.router().send_once(send, PATIENCE).await.unwrap()
}

/// A session that is attached to its user's mailbox.
struct Socket<'a> {
    node: &'a Node,
    user: UserId,
    id: SessionId,
    inbox: Inbox<Box<Inbound>>,
}

impl<'a> Socket<'a> {
    fn attach(node: &'a Node, name: &str) -> Self {
        let (sender, inbox) = inbox();
        let id = node.router().open_session(sender);
        let socket = Self { node, user: user(name), id, inbox };
        socket.ask(Ask::Attach {
            life: 1,
            device: DeviceId::parse("phone").unwrap(),
            start: Start::Device,
            acked: Number(0),
            since: Timestamp(id.count),
        });
        socket
    }

    fn ask(&self, ask: Ask) {
        let to = ToHome { shard: ShardId(0), user: self.user.clone(), session: self.id, ask };
        self.node.router().home(to).unwrap();
    }

    /// The next entries, until everything that waited is there.
    async fn backlog(&mut self) -> Vec<Entry> {
        let mut all = Vec::new();
        loop {
            match self.told().await {
                Tell::Attached { position, .. } => assert!(position.is_ok(), "{position:?}"),
                Tell::Entries { entries, .. } => all.extend(entries),
                Tell::CaughtUp { .. } => return all,
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    async fn entry(&mut self) -> Entry {
        match self.told().await {
            Tell::Entries { entries, .. } if entries.len() == 1 => entries[0].clone(),
            other => panic!("not expected: {other:?}"),
        }
    }

    async fn told(&mut self) -> Tell {
        loop {
            let inbound = tokio::time::timeout(PATIENCE, self.inbox.recv()).await;
            match *inbound.expect("a word in time").unwrap() {
                // Of ids in use elsewhere, which is for who sends.
                Inbound::Tell(Tell::Used { .. } | Tell::Company { .. }) => {}
                Inbound::Tell(tell) => return tell,
                Inbound::HomeMoved(_)
                | Inbound::Looked { .. }
                | Inbound::Named { .. }
                | Inbound::Drain { .. } => {}
            }
        }
    }
}

/// How far the node's wall clock is ahead of this machine's.
static AHEAD_HOURS: AtomicU64 = AtomicU64::new(0);

fn ahead() -> Timestamp {
    let hours = AHEAD_HOURS.load(Ordering::Relaxed);
    clock::wall().after(HOUR * u32::try_from(hours).unwrap())
}

#[tokio::test]
async fn what_nobody_fetches_for_thirty_days_ends_as_expired_at_its_sender() {
    let data = tempfile::tempdir().unwrap();
    let node = start(&data, ahead).await;
    for name in ["alice", "bob", "carol", "dave"] {
        register(&node, name).await;
    }
    let mut alice = Socket::attach(&node, "alice");
    assert_eq!(alice.backlog().await, []);
    let accepted = send(&node, "alice", "bob", "c-1").await;
    let sent = alice.entry().await;
    assert!(matches!(&sent.what, What::Sent { mid, .. } if *mid == accepted.mid), "{sent:?}");
    AHEAD_HOURS.store(31 * 24, Ordering::Relaxed);
    // Alice is there, bob is not. The clock that deletes follows by an hour at the most with each entry of the shard's
    // log, so others must talk for it to get there.
    alice.ask(Ask::Acknowledge { life: 1, n: sent.n });
    for count in 0..31 * 24 {
        send(&node, "dave", "carol", &format!("c-{count}")).await;
    }
    let expired = alice.entry().await;
    let conv = Conversation::User(user("bob"));
    let (mid, seq) = (accepted.mid, accepted.seq);
    assert_eq!(expired.what, What::Expired { conv, mid, seq });
    let mut bob = Socket::attach(&node, "bob");
    assert_eq!(bob.backlog().await, [], "what is expired is not delivered");
    let mut carol = Socket::attach(&node, "carol");
    assert!(matches!(carol.told().await, Tell::Attached { .. }));
    assert!(matches!(carol.told().await, Tell::Entries { .. }), "nothing else is expired");
    node.stop().await;
}

#[tokio::test]
async fn a_node_whose_lane_fails_says_that_it_must_stop() {
    let data = tempfile::tempdir().unwrap();
    let node = start(&data, clock::wall).await;
    register(&node, "alice").await;
    let mut health = node.health();
    assert_eq!(*health.borrow(), Health::Well);
    // More is said to be committed than there is, at which Raft itself gives up.
    let mut message =
        Message { from: 1, to: 1, term: 1_000, commit: 1_000_000, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    let packet = Packet::Raft(ShardId(0), wire::encode(&message));
    node.router().lanes()[0].cast(lane::Msg::Packets(NodeId(1), vec![packet])).unwrap();
    let failed = health.wait_for(|health| *health == Health::Failed);
    assert!(tokio::time::timeout(PATIENCE, failed).await.unwrap().is_ok());
    node.stop().await;
}
