//! Frames: turns what is said into the bytes of `rookery.v1.json` or `rookery.v1.msgpack` and back.
//!
//! Promises  an event or a field it does not know never makes a frame unreadable.
//! Why one flat struct for every `d`: a frame is read in one pass without building a tree, in both formats.

mod fields;

use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use self::fields::{Fields, Name};
use super::said::{Change, Entry, Fault, Frame, Reply, Request, Resume, Signal};

/// How frames are written on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text messages.
    #[default]
    Json,
    /// Binary messages with the same fields as maps.
    Msgpack,
}

impl Format {
    /// The WebSocket subprotocol that asks for this format.
    #[must_use]
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "rookery.v1.json",
            Self::Msgpack => "rookery.v1.msgpack",
        }
    }
}

/// A frame that cannot be read, and why.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not a frame.
    #[error("not a json frame: {0}")]
    Json(#[from] serde_json::Error),
    /// Not MessagePack, or not a frame.
    #[error("not a msgpack frame: {0}")]
    Msgpack(#[from] rmp_serde::decode::Error),
    /// None of the four kinds.
    #[error("neither a reply nor an event")]
    Shapeless,
}

/// Writes one request.
#[must_use]
pub fn encode(request: &Request, format: Format) -> Vec<u8> {
    match request {
        Request::Auth { id, token, device, resume } => {
            pack(format, Some(*id), "auth", &AuthBody { token, device, resume: resume.as_ref() })
        }
        Request::Send { id, letter } => pack(format, Some(*id), "send", letter.as_ref()),
        Request::Ack { n } => pack(format, None, "ack", &Position { n: *n }),
        Request::Ping { n: Some(n) } => pack(format, None, "ping", &Position { n: *n }),
        Request::Ping { n: None } => pack(format, None, "ping", &Nothing {}),
        Request::Pull { id, after, limit } => {
            pack(format, Some(*id), "pull", &PullBody { after: *after, limit: *limit })
        }
        Request::Read { id, conv, seq } => {
            pack(format, Some(*id), "read", &ReadBody { conv, seq: *seq })
        }
        Request::Other { id, op, d } => pack(format, *id, op, d),
    }
}

/// Reads one frame.
///
/// # Errors
/// The bytes are not a frame of this format.
pub fn decode(bytes: &[u8], format: Format) -> Result<Frame, Unreadable> {
    match parse::<Flat>(bytes, format) {
        Ok(flat) => flat.into_frame(bytes, format),
        // A known field with an unknown type, perhaps of a later version: keep it whole.
        Err(unreadable) => {
            let Ok(whole) = parse::<Whole>(bytes, format) else {
                return Err(unreadable);
            };
            whole.into_frame()
        }
    }
}

/// Reads the `ok` of a reply as `T`, which [`decode`] left unread.
///
/// # Errors
/// The bytes are not such a reply.
pub fn decode_ok<T: DeserializeOwned>(bytes: &[u8], format: Format) -> Result<T, Unreadable> {
    parse::<OkOnly<T>>(bytes, format).map(|reply| reply.ok)
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], format: Format) -> Result<T, Unreadable> {
    Ok(match format {
        Format::Json => serde_json::from_slice(bytes)?,
        Format::Msgpack => rmp_serde::from_slice(bytes)?,
    })
}

fn pack<D: Serialize + ?Sized>(format: Format, id: Option<u64>, op: &str, d: &D) -> Vec<u8> {
    let envelope = Envelope { id: id.map(Id), op, d };
    match format {
        Format::Json => serde_json::to_vec(&envelope).expect("our own frames have text keys"),
        Format::Msgpack => {
            let mut bytes = Vec::with_capacity(128);
            let mut writer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
            envelope.serialize(&mut writer).expect("a vector takes every write");
            bytes
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a, D: ?Sized> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    op: &'a str,
    d: &'a D,
}

#[derive(Serialize)]
struct AuthBody<'a> {
    token: &'a str,
    device: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<&'a Resume>,
}

#[derive(Serialize)]
struct Position {
    n: u64,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct PullBody {
    after: u64,
    limit: u32,
}

#[derive(Serialize)]
struct ReadBody<'a> {
    conv: &'a str,
    seq: u64,
}

/// A request's id: a number here, text on the wire.
#[derive(Clone, Copy)]
struct Id(u64);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(IdText)
    }
}

struct IdText;

impl Visitor<'_> for IdText {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of a request")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
        // An id that is not ours answers nothing we asked.
        Ok(Id(text.parse().unwrap_or(u64::MAX)))
    }
}

#[derive(Deserialize)]
struct OkOnly<T> {
    ok: T,
}

#[derive(Deserialize)]
struct DOnly<T> {
    d: T,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    re: Option<Id>,
    #[serde(default)]
    ok: Option<Value>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    ev: Option<String>,
    #[serde(default)]
    d: Value,
}

impl Whole {
    fn into_frame(self) -> Result<Frame, Unreadable> {
        match (self.re, self.ok, self.ev, self.n) {
            (Some(re), Some(_), _, _) => Ok(Frame::Ok { re: re.0, with: Reply::Other }),
            (_, _, Some(ev), Some(n)) => {
                Ok(Frame::Entry { n, entry: Entry::Other { ev, d: self.d } })
            }
            (_, _, Some(ev), None) => Ok(Frame::Signal(Signal::Other { ev, d: self.d })),
            _ => Err(Unreadable::Shapeless),
        }
    }
}

#[derive(Deserialize)]
struct Flat {
    #[serde(default)]
    re: Option<Id>,
    #[serde(default)]
    ok: Option<Fields>,
    #[serde(default)]
    err: Option<Fault>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default)]
    ev: Option<Name>,
    #[serde(default)]
    d: Option<Box<Fields>>,
}

impl Flat {
    fn into_frame(self, bytes: &[u8], format: Format) -> Result<Frame, Unreadable> {
        if let Some(fault) = self.err {
            return Ok(Frame::Err { re: self.re.map(|id| id.0), fault });
        }
        if let (Some(re), Some(ok)) = (self.re, self.ok) {
            return Ok(Frame::Ok { re: re.0, with: ok.reply() });
        }
        let Some(name) = self.ev else {
            return Err(Unreadable::Shapeless);
        };
        let fields = self.d.map(|fields| *fields).unwrap_or_default();
        let known = match self.n {
            // Rare, and of other fields than all the rest: it is read once more.
            Some(n) if matches!(name, Name::Group) => {
                let change = parse::<DOnly<Change>>(bytes, format).ok();
                change.map(|change| Frame::Entry { n, entry: Entry::Group(change.d) })
            }
            Some(n) => fields.entry(name).map(|entry| Frame::Entry { n, entry }),
            None => fields.signal(name).map(Frame::Signal),
        };
        match known {
            Some(frame) => Ok(frame),
            None => parse::<Whole>(bytes, format)?.into_frame(),
        }
    }
}

/// For fuzzing: reads a node's frame in both formats; answers whether it was one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let read = [Format::Json, Format::Msgpack]
        .map(|format| decode(bytes, format).is_ok() | decode_ok::<Value>(bytes, format).is_ok());
    read.contains(&true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::said::Letter;

    fn read(text: &str) -> Frame {
        let value: Value = serde_json::from_str(text).unwrap();
        let packed = rmp_serde::to_vec_named(&value).unwrap();
        let json = decode(text.as_bytes(), Format::Json).unwrap();
        assert_eq!(json, decode(&packed, Format::Msgpack).unwrap());
        json
    }

    #[test]
    fn a_request_is_written_as_the_protocol_draws_it() {
        let request = Request::Send {
            id: 17,
            letter: std::sync::Arc::new(Letter::text("u:bob", "c1".into(), "hi")),
        };
        assert_eq!(
            String::from_utf8(encode(&request, Format::Json)).unwrap(),
            r#"{"id":"17","op":"send","d":{"to":"u:bob","cid":"c1","kind":"text","body":"hi"}}"#
        );
        let packed = encode(&request, Format::Msgpack);
        let value: Value = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!(value["d"]["to"], "u:bob");
    }

    #[test]
    fn the_same_frame_is_read_from_both_formats() {
        let text = r#"{"n":7,"ev":"message","d":{"mid":"M","conv":"u:a","from":"a","device":"d",
            "seq":3,"at":9,"kind":"text","body":"hi","later":[1,2]}}"#;
        let Frame::Entry { n: 7, entry: Entry::Message(message) } = read(text) else {
            panic!("a message")
        };
        assert_eq!((message.seq, message.body.as_str()), (3, "hi"));
        let reply = read(r#"{"re":"4","ok":{"mid":"M","seq":3,"at":9,"dup":false}}"#);
        assert!(matches!(reply, Frame::Ok { re: 4, with: Reply::Accepted(_) }));
        let fault = read(r#"{"re":null,"err":{"code":"bad_request","message":"n","retry":false}}"#);
        assert!(matches!(fault, Frame::Err { re: None, .. }));
    }

    #[test]
    fn an_unknown_event_or_a_changed_field_stays_readable() {
        let poll = read(r#"{"n":8,"ev":"poll","d":{"conv":"g:x","seq":"later"}}"#);
        assert!(matches!(poll, Frame::Entry { n: 8, entry: Entry::Other { .. } }));
        let changed = read(r#"{"ev":"presence","d":{"user":{"name":"bob"}}}"#);
        assert!(matches!(changed, Frame::Signal(Signal::Other { .. })));
        assert!(decode(b"{\"x\":1}", Format::Json).is_err());
        assert!(decode(b"nonsense", Format::Json).is_err());
    }

    #[test]
    fn a_change_of_a_group_is_read_and_a_later_kind_keeps_its_place() {
        use crate::client::said::{News, Role};
        let change = |rest: &str| {
            let head =
                r#"{"n":8,"ev":"group","d":{"conv":"g:x","seq":3,"at":9,"by":"a","later":[1]"#;
            match read(&format!("{head},{rest}}}}}")) {
                Frame::Entry { n: 8, entry: Entry::Group(change) } => change,
                other => panic!("a change, not {other:?}"),
            }
        };
        let added = change(r#""change":"added","title":"t","users":["b"]"#);
        assert_eq!((added.conv.as_str(), added.seq, added.by.as_str()), ("g:x", 3, "a"));
        assert_eq!(added.news, News::Added { title: "t".into(), users: vec!["b".into()] });
        let role = change(r#""change":"role","user":"b","role":"admin""#);
        assert_eq!(role.news, News::Role { user: "b".into(), role: Role::Admin });
        let role = change(r#""change":"role","user":"b","role":"moderator""#);
        assert_eq!(role.news, News::Role { user: "b".into(), role: Role::Member });
        assert_eq!(change(r#""change":"left""#).news, News::Left);
        let merged = change(r#""change":"merged","with":"g:y""#);
        assert_eq!((merged.seq, merged.news), (3, News::Other));
    }

    #[test]
    fn a_reply_can_be_read_as_a_type_of_ones_own() {
        #[derive(Deserialize)]
        struct Devices {
            devices: Vec<crate::client::said::Device>,
        }
        let text = br#"{"re":"4","ok":{"devices":[{"device":"phone","acked_n":3}]}}"#;
        let devices: Devices = decode_ok(text, Format::Json).unwrap();
        assert_eq!(devices.devices[0].acked_n, 3);
    }
}
