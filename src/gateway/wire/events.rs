//! Events: what a node says to a client, put into frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ids::{Conversation, DeviceId, MessageId, Number, Seq, Timestamp, UserId};
use actors::message::{Accepted, Content, DeviceInfo, Entry, Position, Resumed, What};
use actors::packet::{Answer, Presence};

use super::group::{self, GroupBody};
use super::people::{self, PeopleBody};
use super::presence;
use super::writer::Writer;
use super::{Error, Format};

/// What a node says to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// `{"re":…,"ok":…}`
    Ok {
        /// The request's `id`.
        re: Box<str>,
        /// What is answered.
        body: Body,
    },
    /// `{"re":…,"err":…}`
    Err {
        /// The request's `id`; none for a request without.
        re: Option<Box<str>>,
        /// What is wrong.
        error: Error,
    },
    /// A numbered event.
    Entry(Entry),
    /// `caught_up`
    CaughtUp(Number),
    /// `pong`
    Pong {
        /// The newest entry.
        head: Number,
        /// The node's clock.
        server_time: Timestamp,
    },
    /// `presence`
    Presence(UserId, Presence),
    /// `typing`
    Typing {
        /// The conversation.
        conv: Conversation,
        /// Who.
        from: UserId,
        /// Whether they still are.
        on: bool,
    },
    /// `goaway`
    GoAway {
        /// When to reconnect.
        wait_ms: u64,
        /// Where to, if another node is known to take clients.
        url: Option<Arc<str>>,
    },
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// `{}`
    Done,
    /// To `auth`.
    Auth {
        /// Who it is.
        user: UserId,
        /// With which device.
        device: DeviceId,
        /// Where delivery goes on.
        position: Position,
    },
    /// To `send`.
    Sent(Accepted),
    /// To `device.list`.
    Devices(Vec<DeviceInfo>),
    /// To requests about groups.
    Group(GroupBody),
    /// To `watch`.
    Presence(Vec<(UserId, Presence)>),
    /// To requests about people.
    People(PeopleBody),
}

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Devices(devices) => Self::Devices(devices),
            Answer::Groups(groups) => Self::Group(GroupBody::List(groups)),
            Answer::Progress(members) => Self::Group(GroupBody::Receipts(members)),
            Answer::Presence(rows) => Self::Presence(rows),
            Answer::Group(group, info) => {
                Self::Group(GroupBody::Info(group, info, BTreeMap::new()))
            }
            Answer::Blocked(users) => Self::People(PeopleBody::Blocked(users)),
            Answer::Settings(settings) => Self::People(PeopleBody::Settings(settings)),
            Answer::Profile(profile) => Self::People(PeopleBody::Profile(profile)),
            // A socket never asks for the others, and a client is never told them.
            Answer::Done
            | Answer::Credentials(_)
            | Answer::Sessions(_)
            | Answer::Cids { .. }
            | Answer::Talks { .. }
            | Answer::History { .. }
            | Answer::Searched { .. } => Self::Done,
        }
    }
}

/// What `hello` says.
#[derive(Debug, Clone)]
pub(crate) struct Greeting<'a> {
    /// Name and version of the software.
    pub server: &'a str,
    /// The node's name.
    pub node: &'a str,
    /// How often a client must be heard.
    pub heartbeat_ms: u64,
    /// How soon it must authenticate.
    pub auth_deadline_ms: u64,
    /// The largest frame it may send.
    pub frame_bytes_max: u64,
    /// How many durable events may be unacknowledged.
    pub window: u64,
    /// The node's clock.
    pub server_time: Timestamp,
}

/// Writes frames for one socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Teller<'a> {
    /// The socket's format.
    pub format: Format,
    /// The device on it, which is not told its own messages' bodies.
    pub device: Option<&'a DeviceId>,
}

/// What is told of a message besides what was written.
struct Written<'a> {
    mid: MessageId,
    conv: Conversation,
    from: &'a UserId,
    device: &'a DeviceId,
    seq: Seq,
    at: Timestamp,
}

/// Bytes of a frame besides names and bodies, about.
const FRAME_ABOUT: usize = 240;

impl Teller<'_> {
    /// The `hello` event.
    #[must_use]
    pub(crate) fn hello(self, greeting: &Greeting<'_>) -> Vec<u8> {
        let mut frame = self.event("hello", None, FRAME_ABOUT);
        frame.map(8);
        frame.key("server").text(greeting.server);
        frame.key("node").text(greeting.node);
        frame.key("protocol").number(1);
        frame.key("heartbeat_ms").number(greeting.heartbeat_ms);
        frame.key("auth_deadline_ms").number(greeting.auth_deadline_ms);
        frame.key("frame_bytes_max").number(greeting.frame_bytes_max);
        frame.key("window").number(greeting.window);
        frame.key("server_time_ms").number(greeting.server_time.0);
        finish(frame)
    }

    /// One frame.
    #[must_use]
    pub(crate) fn tell(self, outgoing: &Outgoing) -> Vec<u8> {
        match outgoing {
            Outgoing::Ok { re, body } => self.ok(re, body),
            Outgoing::Err { re, error } => self.err(re.as_deref(), error),
            Outgoing::Entry(entry) => self.entry(entry),
            Outgoing::CaughtUp(head) => {
                let mut frame = self.event("caught_up", None, 64);
                frame.map(1);
                frame.key("n").number(head.0);
                finish(frame)
            }
            Outgoing::Pong { head, server_time } => {
                let mut frame = self.event("pong", None, 80);
                frame.map(2);
                frame.key("server_time_ms").number(server_time.0);
                frame.key("head").number(head.0);
                finish(frame)
            }
            Outgoing::Presence(user, told) => {
                let mut frame = self.event("presence", None, 120);
                presence::write(&mut frame, user, *told);
                finish(frame)
            }
            Outgoing::Typing { conv, from, on } => {
                let mut frame = self.event("typing", None, 160);
                frame.map(3);
                conversation(&mut frame, conv);
                frame.key("from").text(from.as_str());
                frame.key("on").flag(*on);
                finish(frame)
            }
            Outgoing::GoAway { wait_ms, url } => {
                let mut frame = self.event("goaway", None, 80);
                frame.map(2 + usize::from(url.is_some()));
                frame.key("reason").text("drain");
                frame.key("wait_ms").number(*wait_ms);
                if let Some(url) = url {
                    frame.key("url").text(url);
                }
                finish(frame)
            }
        }
    }

    fn ok(self, re: &str, body: &Body) -> Vec<u8> {
        let mut frame = Writer::new(self.format, FRAME_ABOUT);
        frame.map(2);
        frame.key("re").text(re);
        frame.key("ok");
        match body {
            Body::Done => frame.map(0),
            Body::Auth { user, device, position } => {
                authenticated(&mut frame, user, device, position);
            }
            Body::Sent(accepted) => {
                frame.map(4);
                mid(&mut frame, accepted.mid);
                frame.key("seq").number(accepted.seq.0);
                frame.key("at").number(accepted.at.0);
                frame.key("dup").flag(accepted.dup);
            }
            Body::Devices(list) => devices(&mut frame, list),
            Body::Group(body) => group::write_body(&mut frame, body),
            Body::Presence(rows) => presence::write_body(&mut frame, rows),
            Body::People(body) => people::write_body(&mut frame, body),
        }
        finish(frame)
    }

    fn err(self, re: Option<&str>, error: &Error) -> Vec<u8> {
        let mut frame = Writer::new(self.format, FRAME_ABOUT);
        frame.map(2);
        frame.key("re");
        match re {
            Some(re) => frame.text(re),
            None => frame.null(),
        }
        frame.key("err");
        frame.map(3 + usize::from(error.retry_after_ms.is_some()));
        frame.key("code").text(error.code.as_str());
        frame.key("message").text(&error.message);
        frame.key("retry").flag(error.code.retry());
        if let Some(after) = error.retry_after_ms {
            frame.key("retry_after_ms").number(after);
        }
        finish(frame)
    }

    fn event(self, name: &str, n: Option<Number>, about: usize) -> Writer {
        let mut frame = Writer::new(self.format, about);
        frame.map(2 + usize::from(n.is_some()));
        if let Some(n) = n {
            frame.key("n").number(n.0);
        }
        frame.key("ev").text(name);
        frame.key("d");
        frame
    }

    fn entry(self, entry: &Entry) -> Vec<u8> {
        match &entry.what {
            What::Message { mid, from, device, seq, content } => {
                let conv = Conversation::User(from.clone());
                let message = Written { mid: *mid, conv, from, device, seq: *seq, at: entry.at };
                self.message(entry.n, &message, content)
            }
            What::Post { group, mid, from, device, seq, at, content } => {
                let conv = Conversation::Group(group.clone());
                let message = Written { mid: *mid, conv, from, device, seq: *seq, at: *at };
                self.message(entry.n, &message, content)
            }
            What::Group { group, seq, at, by, news } => {
                let mut frame = self.event("group", Some(entry.n), FRAME_ABOUT + news.weight());
                frame.map(5 + group::fields_of(news));
                conversation(&mut frame, &Conversation::Group(group.clone()));
                frame.key("seq").number(seq.0);
                frame.key("at").number(at.0);
                frame.key("by").text(by.as_str());
                frame.key("change").text(group::name_of(news));
                group::write_news(&mut frame, news);
                finish(frame)
            }
            // Homes put the post in its place; of one that is lost the client hears so, and its log goes on.
            What::Referred { group, seq, .. } => {
                let (conv, mid) = (Conversation::Group(group.clone()), MessageId(0));
                let what = What::Expired { conv, mid, seq: *seq };
                self.entry(&Entry { what, ..*entry })
            }
            What::Sent { .. } => self.sent(entry),
            What::Receipt { conv, by, delivered, read } => {
                let mut frame = self.event("receipt", Some(entry.n), FRAME_ABOUT);
                frame.map(4 + usize::from(by.is_some()));
                conversation(&mut frame, conv);
                if let Some(by) = by {
                    frame.key("by").text(by.as_str());
                }
                frame.key("delivered").number(delivered.0);
                frame.key("read").number(read.0);
                frame.key("at").number(entry.at.0);
                finish(frame)
            }
            What::Expired { conv, mid: id, seq } => {
                let mut frame = self.event("expired", Some(entry.n), FRAME_ABOUT);
                frame.map(3);
                conversation(&mut frame, conv);
                mid(&mut frame, *id);
                frame.key("seq").number(seq.0);
                finish(frame)
            }
        }
    }

    fn message(self, n: Number, message: &Written<'_>, content: &Content) -> Vec<u8> {
        let mut frame = self.event("message", Some(n), FRAME_ABOUT + content.weight());
        frame.map(6 + written(content));
        mid(&mut frame, message.mid);
        conversation(&mut frame, &message.conv);
        frame.key("from").text(message.from.as_str());
        frame.key("device").text(message.device.as_str());
        frame.key("seq").number(message.seq.0);
        frame.key("at").number(message.at.0);
        write_content(&mut frame, content);
        finish(frame)
    }

    /// The user's own message: the sending device knows what it wrote.
    fn sent(self, entry: &Entry) -> Vec<u8> {
        let What::Sent { mid: id, conv, seq, at, cid, device, content } = &entry.what else {
            return Vec::new();
        };
        let own = self.device == Some(device);
        let about = if own { FRAME_ABOUT } else { FRAME_ABOUT + content.weight() };
        let mut frame = self.event("sent", Some(entry.n), about);
        frame.map(6 + if own { 0 } else { written(content) });
        mid(&mut frame, *id);
        conversation(&mut frame, conv);
        frame.key("seq").number(seq.0);
        frame.key("at").number(at.0);
        frame.key("cid").text(cid.as_str());
        frame.key("device").text(device.as_str());
        if !own {
            write_content(&mut frame, content);
        }
        finish(frame)
    }
}

/// How many fields a content has.
fn written(content: &Content) -> usize {
    2 + usize::from(content.reply_to.is_some()) + usize::from(content.client.is_some())
}

fn write_content(frame: &mut Writer, content: &Content) {
    frame.key("kind").text(content.kind.as_str());
    frame.key("body").text(&content.body);
    if let Some(reply_to) = content.reply_to {
        ulid(frame.key("reply_to"), reply_to.0);
    }
    if let Some(client) = &content.client {
        frame.key("client").json(client);
    }
}

fn authenticated(frame: &mut Writer, user: &UserId, device: &DeviceId, position: &Position) {
    let reason = match position.resumed {
        Resumed::Yes | Resumed::NotAsked => None,
        Resumed::UnknownEpoch => Some("unknown_epoch"),
        Resumed::Trimmed => Some("trimmed"),
    };
    frame.map(6 + usize::from(reason.is_some()));
    frame.key("user").text(user.as_str());
    frame.key("device").text(device.as_str());
    ulid(frame.key("epoch"), position.epoch.0);
    frame.key("n").number(position.from.0);
    frame.key("head").number(position.head.0);
    frame.key("resumed").flag(position.resumed == Resumed::Yes);
    if let Some(reason) = reason {
        frame.key("reason").text(reason);
    }
}

fn devices(frame: &mut Writer, list: &[DeviceInfo]) {
    frame.map(1);
    frame.key("devices").list(list.len());
    for info in list {
        frame.item();
        frame.map(3);
        frame.key("device").text(info.device.as_str());
        frame.key("last_seen_ms").number(info.last_seen.0);
        frame.key("acked_n").number(info.acked.0);
        frame.end_map();
    }
    frame.end_list();
}

fn mid(frame: &mut Writer, mid: MessageId) {
    ulid(frame.key("mid"), mid.0);
}

fn ulid(frame: &mut Writer, id: u128) {
    let mut text = [0; ulid::ULID_LEN];
    frame.text(ulid::Ulid(id).array_to_str(&mut text));
}

fn conversation(frame: &mut Writer, conv: &Conversation) {
    frame.key("conv").text(&conv.to_string());
}

/// Closes the inner and the outer map.
fn finish(mut frame: Writer) -> Vec<u8> {
    frame.end_map();
    frame.end_map();
    frame.into_bytes()
}
