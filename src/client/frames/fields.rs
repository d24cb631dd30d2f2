//! Fields: everything that can be in a `d` or an `ok`, in one flat struct.

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::client::said::{
    Accepted, Entry, Expired, Hello, Message, Presence, Receipt, Reply, Sent, Signal, Typing,
    Welcome,
};

/// The events this version knows.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Message,
    Sent,
    Receipt,
    Group,
    Expired,
    Hello,
    Pong,
    CaughtUp,
    GoAway,
    Presence,
    Typing,
    Unknown,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameText)
    }
}

struct NameText;

impl Visitor<'_> for NameText {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an event")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name, E> {
        Ok(match text {
            "message" => Name::Message,
            "sent" => Name::Sent,
            "receipt" => Name::Receipt,
            "group" => Name::Group,
            "expired" => Name::Expired,
            "hello" => Name::Hello,
            "pong" => Name::Pong,
            "caught_up" => Name::CaughtUp,
            "goaway" => Name::GoAway,
            "presence" => Name::Presence,
            "typing" => Name::Typing,
            _ => Name::Unknown,
        })
    }
}

/// Every field of every `d` and `ok` that this version knows.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    mid: Option<String>,
    conv: Option<String>,
    from: Option<String>,
    device: Option<String>,
    seq: Option<u64>,
    at: Option<u64>,
    kind: Option<String>,
    body: Option<String>,
    reply_to: Option<String>,
    client: Option<Value>,
    cid: Option<String>,
    by: Option<String>,
    delivered: Option<u64>,
    read: Option<u64>,
    dup: Option<bool>,
    n: Option<u64>,
    head: Option<u64>,
    epoch: Option<String>,
    resumed: Option<bool>,
    reason: Option<String>,
    node: Option<String>,
    heartbeat_ms: Option<u64>,
    window: Option<u64>,
    server_time_ms: Option<u64>,
    wait_ms: Option<u64>,
    url: Option<String>,
    user: Option<String>,
    online: Option<bool>,
    last_seen_ms: Option<u64>,
    on: Option<bool>,
}

impl Fields {
    pub(super) fn reply(self) -> Reply {
        match self {
            Self { mid: Some(mid), seq: Some(seq), at, dup, .. } => Reply::Accepted(Accepted {
                mid,
                seq,
                at: at.unwrap_or_default(),
                dup: dup.unwrap_or_default(),
            }),
            Self { epoch: Some(epoch), n: Some(n), head, resumed, reason, .. } => {
                Reply::Welcome(Welcome {
                    epoch,
                    n,
                    head: head.unwrap_or(n),
                    resumed: resumed.unwrap_or_default(),
                    reason,
                })
            }
            _ => Reply::Other,
        }
    }

    /// A known durable event; `None` if the name or a needed field is missing.
    pub(super) fn entry(self, name: Name) -> Option<Entry> {
        Some(match name {
            Name::Message => Entry::Message(Message {
                mid: self.mid?,
                conv: self.conv?,
                from: self.from?,
                device: self.device.unwrap_or_default(),
                seq: self.seq?,
                at: self.at.unwrap_or_default(),
                kind: self.kind.unwrap_or_default(),
                body: self.body.unwrap_or_default(),
                reply_to: self.reply_to,
                client: self.client,
            }),
            Name::Sent => Entry::Sent(Sent {
                mid: self.mid?,
                conv: self.conv?,
                seq: self.seq?,
                at: self.at.unwrap_or_default(),
                cid: self.cid?,
                device: self.device.unwrap_or_default(),
                kind: self.kind,
                body: self.body,
                reply_to: self.reply_to,
                client: self.client,
            }),
            Name::Receipt => Entry::Receipt(Receipt {
                conv: self.conv?,
                by: self.by,
                delivered: self.delivered.unwrap_or_default(),
                read: self.read.unwrap_or_default(),
                at: self.at.unwrap_or_default(),
            }),
            Name::Expired => {
                Entry::Expired(Expired { conv: self.conv?, mid: self.mid?, seq: self.seq? })
            }
            _ => return None,
        })
    }

    /// A known ephemeral event; `None` if the name or a needed field is missing.
    pub(super) fn signal(self, name: Name) -> Option<Signal> {
        Some(match name {
            Name::Hello => Signal::Hello(Hello {
                node: self.node.unwrap_or_default(),
                heartbeat_ms: self.heartbeat_ms.unwrap_or(5_000),
                window: self.window.unwrap_or(256),
            }),
            Name::Pong => Signal::Pong {
                head: self.head.unwrap_or_default(),
                server_time_ms: self.server_time_ms.unwrap_or_default(),
            },
            Name::CaughtUp => Signal::CaughtUp { n: self.n? },
            Name::GoAway => {
                Signal::GoAway { wait_ms: self.wait_ms.unwrap_or_default(), url: self.url }
            }
            Name::Presence => Signal::Presence(Presence {
                user: self.user?,
                online: self.online?,
                last_seen_ms: self.last_seen_ms,
            }),
            Name::Typing => Signal::Typing(Typing {
                conv: self.conv?,
                from: self.from?,
                on: self.on.unwrap_or(true),
            }),
            _ => return None,
        })
    }
}
