//! Strokes: what nodes do with one message from one person to another, cut into pieces that can be measured alone.
//!
//! In the order of `PERFORMANCE.md`: gateway, session, link, Raft's log, state, mailbox, user, session, gateway. Bodies
//! have 160 bytes, names and ids the lengths that the load example gives them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use actors::cluster::frame::{HEAD_BYTES, Packer, unpack};
use actors::codec;
use actors::ids::{
    BootId, Cid, Conversation, DeviceId, Epoch, Kind, MessageId, NodeId, Number, Seq, SessionId,
    ShardId, Timestamp, UserId, shard_of,
};
use actors::mailbox::rules::{Mailbox, Now, Policy};
use actors::message::{Accepted, Content, Entry, Position, Resumed, Send, What};
use actors::packet::{
    Answer, Ask, Enclosed, Envelope, Packet, Place, Question, Start, Tell, ToHome,
};
use actors::session::{Output, RequestRef, Session};
use actors::shard::state::{Batch, Change, Command, State};
use actors::user::rules::{Input, Limits, User};
use rookery::gateway::{Format, measured};

/// Messages that come together, where things come together.
pub(crate) const TOGETHER: u64 = 16;
/// A log that grows is begun anew after so many messages.
const ANEW: u64 = 8_192;
const SHARDS: u16 = 64;
const FORMAT: Format = Format::Json;

/// One piece, to be done again and again.
pub(crate) struct Stroke {
    /// What it is.
    pub(crate) name: &'static str,
    /// Messages that it does at once.
    pub(crate) messages: u64,
    /// Does it.
    pub(crate) run: Box<dyn FnMut()>,
}

fn stroke(name: &'static str, messages: u64, run: impl FnMut() + 'static) -> Stroke {
    Stroke { name, messages, run: Box::new(run) }
}

/// All of them.
#[must_use]
pub(crate) fn all() -> Vec<Stroke> {
    vec![
        input(),
        read_send(),
        read_ack(),
        session_sends(),
        link_packs(),
        link_unpacks(),
        log_encodes(),
        log_decodes(),
        state_appends(),
        state_receives(),
        mailbox_appends(),
        mailbox_acknowledges(),
        outbox_reads(),
        user_pushes(),
        session_entries(),
        write_message(),
        write_check_mark(),
        write_receipt(),
    ]
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a name")
}

fn alice() -> UserId {
    user("load-1a2b3c4d-s17")
}

fn bob(number: u64) -> UserId {
    user(&format!("load-1a2b3c4d-r{number}"))
}

fn phone() -> DeviceId {
    DeviceId::parse("receiver").expect("a name")
}

fn at(ms: u64) -> Timestamp {
    Timestamp(1_700_000_000_000 + ms)
}

fn content() -> Arc<Content> {
    let kind = Kind::parse("text").expect("a kind");
    Arc::new(Content { kind, body: "x".repeat(160).into(), reply_to: None, client: None })
}

fn letter(to: &UserId, number: u64) -> Send {
    Send {
        from: alice(),
        device: phone(),
        to: Conversation::User(to.clone()),
        cid: Cid::parse(&format!("1a2b3c4d-{number}")).expect("a cid"),
        content: content(),
    }
}

/// The next message like this one, with an id of its own.
fn like(template: &Send, number: u64) -> Send {
    let cid = Cid::parse(&format!("1a2b3c4d-{number}")).expect("a cid");
    Send { cid, ..template.clone() }
}

/// What the other pieces do besides, to have something to work on.
fn input() -> Stroke {
    let (template, mut number) = (letter(&bob(17), 0), 0);
    stroke("(making a send to work on)", 1, move || {
        number += 1;
        black_box(like(black_box(&template), number));
    })
}

fn message(n: u64) -> Entry {
    let what = What::Message {
        mid: MessageId::new(at(n), u128::from(n)),
        from: alice(),
        device: phone(),
        seq: Seq(n),
        content: content(),
    };
    Entry { n: Number(n), at: at(n), what }
}

fn numbered(template: &Entry, n: u64) -> Entry {
    Entry { n: Number(n), ..template.clone() }
}

fn accepted(seq: u64) -> Accepted {
    Accepted { mid: MessageId::new(at(seq), 7), seq: Seq(seq), at: at(seq), dup: false }
}

fn session_id() -> SessionId {
    SessionId { node: NodeId(1), boot: BootId(7), count: 1 }
}

fn position(n: u64) -> Position {
    let (from, head) = (Number(n), Number(n));
    Position { epoch: Epoch(7), from, head, resumed: Resumed::NotAsked }
}

fn read_send() -> Stroke {
    let frame = format!(
        "{{\"id\":\"17\",\"op\":\"send\",\"d\":{{\"to\":\"u:{}\",\"cid\":\"1a2b3c4d-17\",\"kind\":\"text\",\"body\":\"{}\"}}}}",
        bob(17),
        "x".repeat(160)
    );
    stroke("gateway: read a send", 1, move || {
        assert!(measured::reads_send(FORMAT, black_box(frame.as_bytes())));
    })
}

fn read_ack() -> Stroke {
    let frame = br#"{"op":"ack","d":{"n":12345}}"#;
    stroke("gateway: read an ack", 1, move || {
        assert!(measured::reads_ack(FORMAT, black_box(frame)));
    })
}

/// A session that is attached.
fn session() -> Session {
    let limits = Arc::new(actors::session::Limits::default());
    let mut session = Session::new(session_id(), SHARDS, limits);
    let mut out = Vec::new();
    session.authenticate(alice(), phone(), None, at(0), Duration::ZERO, &mut out);
    let position = Ok(position(0));
    session.tell(Tell::Attached { life: 1, position }, Duration::ZERO, &mut out);
    session
}

/// What is asked with the first send, and never again: which ids are in use.
fn no_cids(out: &[Output]) -> Option<Tell> {
    out.iter().find_map(|output| match output {
        Output::Home(ToHome {
            ask: Ask::Question { request, question: Question::Cids { uses, .. } },
            ..
        }) => {
            let answer = Answer::Cids { taken: vec![false; uses.len()], all: Some(Vec::new()) };
            Some(Tell::Answer { request: *request, answer: Ok(answer) })
        }
        _ => None,
    })
}

fn session_sends() -> Stroke {
    let (mut session, mut out, to) = (session(), Vec::new(), bob(17));
    let (template, mut number) = (letter(&to, 0), 0);
    stroke("session: a send and its answer", 1, move || {
        number += 1;
        let now = Duration::from_micros(number);
        session.send(RequestRef(number as u32), like(&template, number), now, &mut out);
        if let Some(told) = no_cids(&out) {
            session.tell(told, now, &mut out);
        }
        let place = out.drain(..).find_map(|output| match output {
            Output::Home(ToHome { ask: Ask::Send { place, .. }, .. }) => Some(place),
            _ => None,
        });
        let place = place.expect("what is sent goes to a home");
        let tell = Tell::Sent { to: to.clone(), place, result: Ok(accepted(number)) };
        session.tell(tell, now, &mut out);
        assert!(matches!(out.pop(), Some(Output::Sent { .. })));
        out.clear();
    })
}

fn asks() -> Vec<Packet> {
    let ask = |number: u64| {
        let user = bob(number);
        let shard = shard_of(&user, SHARDS);
        let place = Place { life: 1, count: 17 };
        let ask = Ask::Send { place, send: Box::new(letter(&user, number)) };
        Packet::Home(ToHome { shard, user, session: session_id(), ask })
    };
    (0..TOGETHER).map(ask).collect()
}

fn link_packs() -> Stroke {
    let (asks, mut packer) = (asks(), Packer::default());
    stroke("link: pack a send", TOGETHER, move || {
        for ask in &asks {
            packer.push(black_box(ask)).expect("it is short");
        }
        black_box(packer.take());
    })
}

fn link_unpacks() -> Stroke {
    let mut packer = Packer::default();
    for ask in asks() {
        packer.push(&ask).expect("it is short");
    }
    let frame = packer.take().pop().expect("a frame");
    stroke("link: unpack a send", TOGETHER, move || {
        let (packets, _) = unpack(black_box(&frame[HEAD_BYTES..]));
        assert_eq!(packets.len() as u64, TOGETHER);
    })
}

/// A message for each of some users.
fn templates() -> Vec<Send> {
    (0..TOGETHER).map(|of| letter(&bob(of), 0)).collect()
}

/// Each of them is written to once.
fn appends(templates: &[Send], number: u64) -> Batch {
    let append = |(of, template): (u64, &Send)| {
        let number = number * TOGETHER + of;
        let mid = MessageId::new(at(number), u128::from(number));
        let send = Box::new(like(template, number));
        Command::Mailbox(send.to.owner(), Change::Append { mid, send })
    };
    Batch { wall: at(number), commands: (0..).zip(templates).map(append).collect() }
}

fn log_encodes() -> Stroke {
    let batch = appends(&templates(), 1);
    stroke("log: encode a send", TOGETHER, move || {
        black_box(codec::encode(black_box(&batch)));
    })
}

fn log_decodes() -> Stroke {
    let bytes = codec::encode(&appends(&templates(), 1));
    stroke("log: decode a send", TOGETHER, move || {
        let batch: Batch = codec::decode(black_box(&bytes)).expect("it was just written");
        assert_eq!(batch.commands.len() as u64, TOGETHER);
    })
}

/// A shard in which all who are written to, and who writes, have a device.
fn state() -> State {
    let mut state = State::new(ShardId(3), SHARDS);
    let connect = |user: UserId| {
        let change = Change::Connect { device: phone(), epoch: Epoch(7) };
        Command::Mailbox(user, change)
    };
    let mut commands: Vec<Command> = (0..TOGETHER).map(|of| connect(bob(of))).collect();
    commands.push(connect(alice()));
    state.apply(1, 1, Batch { wall: at(0), commands }, &mut Vec::new());
    state
}

fn state_appends() -> Stroke {
    let (mut state, mut happened, mut number) = (state(), Vec::new(), 1);
    let templates = templates();
    stroke("state: apply a send", TOGETHER, move || {
        if number * TOGETHER > ANEW {
            (state, number) = (self::state(), 1);
        }
        number += 1;
        let outcomes = state.apply(number, 1, appends(&templates, number), &mut happened);
        assert_eq!(outcomes.len() as u64, TOGETHER);
        // As the shard of the sender does, whose envelopes these are.
        let to = shard_of(&alice(), SHARDS);
        let taken = Command::Taken { by: to, upto: state.outbox().range(to).1 };
        number += 1;
        state.apply(number, 1, Batch { wall: at(number), commands: vec![taken] }, &mut happened);
        happened.clear();
    })
}

/// Copies of what was written to each of them.
fn copies(templates: &[Send], first: u64) -> Vec<Envelope> {
    let copy = |(number, template): (u64, &Send)| {
        let Send { from, device, to, cid, content } = like(template, number);
        let (mid, seq) = (MessageId::new(at(number), 7), Seq(number / TOGETHER + 1));
        let what = Enclosed::Sent { mid, conv: to, seq, at: at(number), cid, device, content };
        Envelope { to: from, what }
    };
    (first..).zip(templates).map(copy).collect()
}

fn state_receives() -> Stroke {
    let (mut state, mut happened) = (state(), Vec::new());
    let (templates, mut index, mut first) = (templates(), 1, 1);
    stroke("state: apply the sender's copy", TOGETHER, move || {
        if first > ANEW {
            (state, index, first) = (self::state(), 1, 1);
        }
        index += 1;
        let receive =
            Command::Receive { from: ShardId(9), first, envelopes: copies(&templates, first) };
        first += TOGETHER;
        state.apply(index, 1, Batch { wall: at(index), commands: vec![receive] }, &mut happened);
        happened.clear();
    })
}

fn now(ms: u64) -> Now {
    Now { wall: at(ms), cautious: at(ms), policy: Policy::default(), large: 32 }
}

fn mailbox() -> Mailbox {
    let mut mailbox = Mailbox::new(bob(17), Epoch(7));
    mailbox.ensure_device(&phone(), now(0)).expect("it is the first");
    mailbox
}

fn mailbox_appends() -> Stroke {
    let (mut mailbox, mut effects, mut number) = (mailbox(), Vec::new(), 0);
    let template = letter(&bob(17), 0);
    stroke("mailbox: append", 1, move || {
        if number == ANEW {
            (mailbox, number) = (self::mailbox(), 0);
        }
        number += 1;
        let mid = MessageId::new(at(number), u128::from(number));
        let stored = mailbox.append(like(&template, number), mid, now(number), &mut effects);
        assert!(stored.is_ok_and(|accepted| !accepted.dup));
        effects.clear();
    })
}

/// An append belongs to it, since without one there is nothing to acknowledge.
fn mailbox_acknowledges() -> Stroke {
    let (mut mailbox, mut effects, mut number) = (mailbox(), Vec::new(), 0);
    let (template, device) = (letter(&bob(17), 0), phone());
    stroke("mailbox: append and acknowledge", 1, move || {
        if number == ANEW {
            (mailbox, number) = (self::mailbox(), 0);
        }
        number += 1;
        let mid = MessageId::new(at(number), u128::from(number));
        let stored = mailbox.append(like(&template, number), mid, now(number), &mut effects);
        assert!(stored.is_ok());
        mailbox.acknowledge(&device, Number(number), now(number), &mut effects);
        effects.clear();
    })
}

fn outbox_reads() -> Stroke {
    let mut state = state();
    state.apply(2, 1, appends(&templates(), 2), &mut Vec::new());
    let to = shard_of(&alice(), SHARDS);
    stroke("outbox: read an envelope", TOGETHER, move || {
        let (first, _) = state.outbox().range(to);
        let read = state.outbox().read(to, first, 256, 96 * 1_024);
        assert_eq!(read.len() as u64, TOGETHER);
        black_box(read);
    })
}

/// A user with one session that has everything.
fn connected() -> User {
    let mut user = User::new(Limits::default());
    let attach = Input::Attach {
        session: session_id(),
        life: 1,
        device: phone(),
        since: at(0),
        start: Start::Device,
        position: position(0),
        acked: Number(0),
    };
    user.handle(attach, &mut Vec::new());
    user
}

fn user_pushes() -> Stroke {
    let (mut user, mut out, mut n) = (connected(), Vec::new(), 0);
    let template = message(0);
    stroke("user: push an entry, hear its ack", 1, move || {
        n += 1;
        user.handle(Input::Logged { entries: vec![numbered(&template, n)] }, &mut out);
        assert_eq!(out.len(), 1);
        out.clear();
        let ack = Input::Acknowledge { session: session_id(), life: 1, n: Number(n) };
        user.handle(ack, &mut out);
        out.clear();
    })
}

fn session_entries() -> Stroke {
    let (mut session, mut out, mut n) = (session(), Vec::new(), 0);
    let template = message(0);
    stroke("session: an entry and its ack", 1, move || {
        n += 1;
        let now = Duration::from_micros(n);
        let tell =
            Tell::Entries { life: 1, entries: vec![numbered(&template, n)], head: Number(n) };
        session.tell(tell, now, &mut out);
        assert!(out.iter().any(|output| matches!(output, Output::Entries { .. })));
        out.clear();
        session.ack(Number(n), &mut out).expect("it was sent");
        out.clear();
    })
}

fn write_message() -> Stroke {
    let entry = message(12_345);
    stroke("gateway: write a message", 1, move || {
        black_box(measured::writes_event(FORMAT, black_box(&entry).clone()));
    })
}

fn write_check_mark() -> Stroke {
    stroke("gateway: write a check mark", 1, move || {
        black_box(measured::writes_answer(FORMAT, black_box("17"), Ok(accepted(12_345))));
    })
}

fn write_receipt() -> Stroke {
    let conv = Conversation::User(bob(17));
    let (by, delivered, read) = (Some(bob(17)), Seq(12_345), Seq(0));
    let what = What::Receipt { conv, by, delivered, read };
    let entry = Entry { n: Number(12_345), at: at(1), what };
    stroke("gateway: write a receipt", 1, move || {
        black_box(measured::writes_event(FORMAT, black_box(&entry).clone()));
    })
}
