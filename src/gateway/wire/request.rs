//! Request: what a client asks, read from its frame.

use std::borrow::Cow;
use std::sync::Arc;

use actors::ids::{BadName, Cid, Conversation, DeviceId, Epoch, Kind, MessageId, Number, Seq};
use actors::message::{Content, Resume};

use super::group::{self, GroupRequest};
use super::people::{self, PeopleRequest};
use super::presence::{self, PresenceRequest};
use super::raw::Raw;
use super::{Code, Error, Format};

/// Characters an `id` may have.
const ID_CHARACTERS_MAX: usize = 64;
/// Bytes of a body.
const BODY_BYTES_MAX: usize = 32 * 1024;
/// Bytes of `client`, as JSON.
const CLIENT_BYTES_MAX: usize = 1024;
/// Entries of one pull.
const PULL_MAX: u64 = 256;

/// The bytes are not a frame: the socket closes with 4300.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unparsable {
    /// They do not follow the format's rules.
    Malformed(Format),
    /// They do, but are no object.
    NotAnObject,
}

/// A request as it came: its `id`, and what it asks or what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Comes back with the reply; without it there is no reply.
    pub id: Option<Box<str>>,
    /// Whether it wants to be an `auth`, right or wrong.
    pub auth: bool,
    /// What is asked.
    pub request: Result<Request, Error>,
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `auth`
    Auth {
        /// Says who it is.
        token: Box<str>,
        /// Which of the user's devices this is.
        device: DeviceId,
        /// What the client has stored.
        resume: Option<Resume>,
    },
    /// `ack`
    Ack(Number),
    /// `ping`, with the acknowledgement it carries.
    Ping(Option<Number>),
    /// `pull`
    Pull {
        /// Entries after this one.
        after: Number,
        /// At most so many.
        limit: u16,
    },
    /// `send`
    Send(Box<Draft>),
    /// `read`
    Read {
        /// The conversation.
        conv: Conversation,
        /// The newest message read.
        seq: Seq,
    },
    /// `device.list`
    Devices,
    /// `device.remove`
    RemoveDevice(DeviceId),
    /// `group.…`, `receipts`
    Group(Box<GroupRequest>),
    /// `watch`, `unwatch`, `typing`
    Presence(PresenceRequest),
    /// `block`, `unblock`, `blocked`, `settings`, `profile`
    People(Box<PeopleRequest>),
}

/// A message before its sender is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    /// To whom.
    pub to: Conversation,
    /// The sender's id for it.
    pub cid: Cid,
    /// What is written.
    pub content: Arc<Content>,
}

/// Reads a frame. `Err` only for what is no frame at all.
pub(crate) fn decode(format: Format, bytes: &[u8]) -> Result<Frame, Unparsable> {
    let raw = match format {
        Format::Json => {
            let malformed = |_| Unparsable::Malformed(format);
            Raw::Json(std::str::from_utf8(bytes).map_err(malformed)?)
        }
        Format::Msgpack => Raw::Msgpack(bytes),
    };
    let [id, op, d] = raw.fields(&["id", "op", "d"]).ok_or_else(|| match raw.is_no_object() {
        true => Unparsable::NotAnObject,
        false => Unparsable::Malformed(format),
    })?;
    let id = match id.filter(|id| !id.is_null()) {
        None => None,
        Some(id) => match id.text() {
            Some(id) if id.chars().count() <= ID_CHARACTERS_MAX => Some(id.into()),
            _ => {
                let request = Err(wrong("id", "text of at most 64 characters"));
                return Ok(Frame { id: None, auth: false, request });
            }
        },
    };
    let op = text("op", op);
    let auth = op.as_deref() == Ok("auth");
    let request = op.and_then(|op| request(&op, d, format));
    Ok(Frame { id, auth, request })
}

fn request(op: &str, d: Option<Raw<'_>>, format: Format) -> Result<Request, Error> {
    let empty = match format {
        Format::Json => Raw::Json("{}"),
        Format::Msgpack => Raw::Msgpack(&[0x80]),
    };
    let d = d.filter(|d| !d.is_null()).unwrap_or(empty);
    match op {
        "auth" => auth(d),
        "ack" => fields(d, &["n"]).and_then(|[n]| Ok(Request::Ack(number("n", n)?))),
        "ping" => fields(d, &["n"]).and_then(|[n]| {
            let n = n.filter(|n| !n.is_null());
            Ok(Request::Ping(n.map(|n| number("n", Some(n))).transpose()?))
        }),
        "pull" => pull(d),
        "send" => send(d),
        "read" => fields(d, &["conv", "seq"]).and_then(|[conv, seq]| {
            let conv = parsed("conv", conv, str::parse)?;
            Ok(Request::Read { conv, seq: Seq(whole("seq", seq)?) })
        }),
        "device.list" => fields(d, &[]).map(|[]| Request::Devices),
        "device.remove" => fields(d, &["device"]).and_then(|[device]| {
            Ok(Request::RemoveDevice(parsed("device", device, DeviceId::parse)?))
        }),
        _ => {
            let asked = group::request(op, d).or_else(|| presence::request(op, d));
            asked.or_else(|| people::request(op, d)).unwrap_or_else(|| {
                Err(Error::new(Code::UnknownOp, "op: not one that this node knows"))
            })
        }
    }
}

fn auth(d: Raw<'_>) -> Result<Request, Error> {
    let [token, device, resume] = fields(d, &["token", "device", "resume"])?;
    let token = text("token", token)?.into();
    let device = parsed("device", device, DeviceId::parse)?;
    let resume = match resume.filter(|resume| !resume.is_null()) {
        None => None,
        Some(resume) => {
            let names = ["n", "epoch"];
            let [n, epoch] = resume.fields(&names).ok_or_else(|| wrong("resume", "an object"))?;
            let n = number("resume.n", n)?;
            // An epoch that was never ours is an unknown one, like any other.
            let epoch = Epoch::parse(&text("resume.epoch", epoch)?).unwrap_or_default();
            Some(Resume { n, epoch })
        }
    };
    Ok(Request::Auth { token, device, resume })
}

fn pull(d: Raw<'_>) -> Result<Request, Error> {
    let [after, limit] = fields(d, &["after", "limit"])?;
    let after = number("after", after)?;
    let limit = match limit.filter(|limit| !limit.is_null()) {
        None => PULL_MAX,
        Some(limit) => whole("limit", Some(limit))?,
    };
    if limit == 0 || limit > PULL_MAX {
        return Err(wrong("limit", "a number from 1 to 256"));
    }
    Ok(Request::Pull { after, limit: u16::try_from(limit).unwrap_or(u16::MAX) })
}

fn send(d: Raw<'_>) -> Result<Request, Error> {
    let names = ["to", "cid", "kind", "body", "reply_to", "client"];
    let [to, cid, kind, body, reply_to, client] = fields(d, &names)?;
    let to = parsed("to", to, str::parse)?;
    let cid = parsed("cid", cid, Cid::parse)?;
    let kind = parsed("kind", kind, Kind::parse)?;
    let body = text("body", body)?;
    if body.len() > BODY_BYTES_MAX {
        return Err(Error::new(Code::TooLarge, "body: at most 32768 bytes"));
    }
    let reply_to = match reply_to.filter(|reply_to| !reply_to.is_null()) {
        None => None,
        some => Some(parsed("reply_to", some, MessageId::parse)?),
    };
    let client = match client.filter(|client| !client.is_null()) {
        None => None,
        Some(client) => Some(client.object().ok_or_else(|| wrong("client", "an object"))?),
    };
    if client.as_ref().is_some_and(|client| client.len() > CLIENT_BYTES_MAX) {
        return Err(Error::new(Code::TooLarge, "client: at most 1024 bytes"));
    }
    let client = client.map(|client| client.into());
    let content = Arc::new(Content { kind, body: body.into(), reply_to, client });
    Ok(Request::Send(Box::new(Draft { to, cid, content })))
}

pub(super) fn fields<'a, const N: usize>(
    d: Raw<'a>,
    names: &[&str; N],
) -> Result<[Option<Raw<'a>>; N], Error> {
    d.fields(names).ok_or_else(|| wrong("d", "an object"))
}

/// A field that must be there; `null` is not there.
pub(super) fn present<'a>(name: &str, value: Option<Raw<'a>>) -> Result<Raw<'a>, Error> {
    let missing = || Error::new(Code::BadRequest, format!("{name}: is missing"));
    value.filter(|value| !value.is_null()).ok_or_else(missing)
}

pub(super) fn text<'a>(name: &str, value: Option<Raw<'a>>) -> Result<Cow<'a, str>, Error> {
    present(name, value)?.text().ok_or_else(|| wrong(name, "text"))
}

pub(super) fn whole(name: &str, value: Option<Raw<'_>>) -> Result<u64, Error> {
    present(name, value)?.number().ok_or_else(|| wrong(name, "a whole number from 0"))
}

pub(super) fn flag(name: &str, value: Option<Raw<'_>>) -> Result<bool, Error> {
    present(name, value)?.flag().ok_or_else(|| wrong(name, "true or false"))
}

fn number(name: &str, value: Option<Raw<'_>>) -> Result<Number, Error> {
    whole(name, value).map(Number)
}

pub(super) fn parsed<T>(
    name: &str,
    value: Option<Raw<'_>>,
    parse: impl FnOnce(&str) -> Result<T, BadName>,
) -> Result<T, Error> {
    parse(&text(name, value)?).map_err(|bad| wrong(name, bad.shape))
}

pub(super) fn wrong(name: &str, shape: &str) -> Error {
    Error::new(Code::BadRequest, format!("{name}: must be {shape}"))
}
