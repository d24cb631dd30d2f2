//! History: chats and what was written in them, from the user's own log.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ids::{Conversation, GroupId, MessageId, Number, Timestamp, UserId};
use actors::message::history::{LIMIT_MAX, Talk, Wanted};
use actors::message::{Content, Entry, Refusal, What};
use actors::packet::{Answer, Question};
use actors::router::{Card, CardsFor};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use super::problem::{Code, Problem};
use super::{Rest, input};

/// Chats or messages in one answer, unless the client asks for another number.
const LIMIT_USUAL: u16 = 50;
/// How far back from the newest a client may count.
const OFFSET_MAX: u32 = 1_000_000;

type Params = Query<BTreeMap<String, String>>;

/// A message, as its reader has it.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    mid: String,
    conv: String,
    from: &'a str,
    device: &'a str,
    seq: u64,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<&'a str>,
    kind: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a RawValue>,
}

/// A message in a copy of all there is.
#[derive(Serialize)]
pub(super) struct Exported<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    message: Message<'a>,
}

/// A message as it stands in a copy of all there is.
pub(super) fn exported<'a>(entry: &'a Entry, user: &'a UserId) -> Option<Exported<'a>> {
    let message = message(entry, user, Numbered::Yes)?;
    Some(Exported { r#type: "message", message })
}

/// A chat.
#[derive(Serialize)]
struct Chat<'a> {
    conv: String,
    last: Option<Message<'a>>,
    unread: u64,
    delivered: u64,
    read: u64,
    received: u64,
    read_up_to: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<&'a str>,
}

#[derive(Serialize)]
struct Chats<'a> {
    conversations: Vec<Chat<'a>>,
    n: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Messages<'a> {
    messages: Vec<Message<'a>>,
    more: bool,
    n: u64,
}

/// `GET /v1/conversations`
pub(super) async fn conversations(
    State(rest): State<Arc<Rest>>,
    Query(params): Params,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let before = number(&params, "cursor", u64::MAX >> 11)?.map(Number);
    let limit = limit(&params)?;
    let question = Question::Talks { before, limit };
    let (talks, head, more) = match ask(&rest, &user, question).await? {
        Some(Answer::Talks { talks, head, more }) => (talks, head, more),
        _ => (Vec::new(), Number(0), None),
    };
    let others = talks.iter().filter_map(|talk| other(talk).cloned()).collect();
    let cards = rest.homes.cards(others, &user, CardsFor::Chats).await;
    let conversations = talks.iter().map(|talk| chat(talk, &user, &cards)).collect();
    let cursor = more.map(|Number(n)| n.to_string());
    Ok(Json(Chats { conversations, n: head.0, cursor }).into_response())
}

/// `GET /v1/conversations/{conv}/messages`
pub(super) async fn page(
    State(rest): State<Arc<Rest>>,
    Path(conv): Path<String>,
    Query(params): Params,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let conv = conv.parse::<Conversation>();
    let conv = conv.map_err(|_| Problem::field("conv", "must be u:<user> or g:<group>"))?;
    let wanted = Wanted { conv: Some(conv), ..wanted(&params)? };
    let question = Question::History(Box::new(wanted));
    Ok(told(ask(&rest, &user, question).await?, &user, Numbered::Yes))
}

/// `GET /v1/messages`
pub(super) async fn search(
    State(rest): State<Arc<Rest>>,
    Query(params): Params,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let from = params.get("from").map(|from| input::name("from", UserId::parse(from)));
    let wanted = Wanted { from: from.transpose()?, ..wanted(&params)? };
    let question = Question::History(Box::new(wanted));
    Ok(told(ask(&rest, &user, question).await?, &user, Numbered::Yes))
}

/// `GET /v1/messages/{mid}`
pub(super) async fn one(
    State(rest): State<Arc<Rest>>,
    Path(mid): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let mid = input::name("mid", MessageId::parse(&mid))?;
    let wanted = Wanted { mid: Some(mid), limit: 1, ..Wanted::default() };
    let answer = ask(&rest, &user, Question::History(Box::new(wanted))).await?;
    let Some(Answer::History { entries, .. }) = &answer else { return Err(no_such_message(mid)) };
    let message = entries.first().and_then(|entry| message(entry, &user, Numbered::Yes));
    message.map(|message| Json(message).into_response()).ok_or_else(|| no_such_message(mid))
}

/// `GET /v1/groups/{group}/messages`
pub(super) async fn group_log(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    Query(params): Params,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(request.headers()).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let wanted = Box::new(wanted(&params)?);
    let owner = UserId::of_group(&group);
    let question = Question::GroupLog { by: by.clone(), wanted };
    let answer = ask(&rest, &owner, question).await?;
    if answer.is_none() {
        return Err(Problem::new(Code::NotFound, format!("no such group: {group}")).of("group"));
    }
    Ok(told(answer, &by, Numbered::No))
}

/// Asks the home; none when there is no such mailbox (yet).
async fn ask(rest: &Rest, user: &UserId, question: Question) -> Result<Option<Answer>, Problem> {
    match rest.homes.ask(user, question, rest.timeout).await {
        Ok(answer) => Ok(Some(answer)),
        Err(Refusal::NotFound) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Whether messages are told with their numbers in the user's log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Numbered {
    Yes,
    No,
}

fn told(answer: Option<Answer>, user: &UserId, numbered: Numbered) -> Response {
    let (entries, head, more) = match answer {
        Some(Answer::History { entries, head, more }) => (entries, head, more),
        _ => (Vec::new(), Number(0), false),
    };
    let messages = entries.iter().filter_map(|entry| message(entry, user, numbered)).collect();
    Json(Messages { messages, more, n: head.0 }).into_response()
}

fn no_such_message(mid: MessageId) -> Problem {
    Problem::new(Code::NotFound, format!("no such message among yours: {mid}")).of("mid")
}

/// Whom a chat is with, if with one.
const fn other(talk: &Talk) -> Option<&UserId> {
    match &talk.conv {
        Conversation::User(user) => Some(user),
        Conversation::Group(_) => None,
    }
}

fn chat<'a>(talk: &'a Talk, user: &'a UserId, cards: &'a BTreeMap<UserId, Card>) -> Chat<'a> {
    let card = other(talk).and_then(|other| cards.get(other));
    Chat {
        name: card.and_then(|card| card.name.as_deref()),
        avatar: card.and_then(|card| card.avatar.as_deref()),
        conv: talk.conv.to_string(),
        last: talk.last.as_ref().and_then(|entry| message(entry, user, Numbered::Yes)),
        unread: talk.unread,
        delivered: talk.sent_delivered.0,
        read: talk.sent_read.0,
        received: talk.received.0,
        read_up_to: talk.read.0,
        title: talk.title.as_deref(),
    }
}

fn message<'a>(entry: &'a Entry, user: &'a UserId, numbered: Numbered) -> Option<Message<'a>> {
    let (mid, conv, from, device, seq, at, cid, content) = match &entry.what {
        What::Message { mid, from, device, seq, content } => {
            (mid, Conversation::User(from.clone()), from, device, seq, entry.at, None, content)
        }
        What::Post { group, mid, from, device, seq, at, content } => {
            (mid, Conversation::Group(group.clone()), from, device, seq, *at, None, content)
        }
        What::Sent { mid, conv, seq, at, cid, device, content } => {
            (mid, conv.clone(), user, device, seq, *at, Some(cid.as_str()), content)
        }
        _ => return None,
    };
    let Content { kind, body, reply_to, client } = &**content;
    Some(Message {
        n: (numbered == Numbered::Yes).then_some(entry.n.0),
        mid: mid.to_string(),
        conv: conv.to_string(),
        from: from.as_str(),
        device: device.as_str(),
        seq: seq.0,
        at: at.0,
        cid,
        kind: kind.as_str(),
        body,
        reply_to: reply_to.map(|mid| mid.to_string()),
        // It was JSON when it came.
        client: client.as_ref().and_then(|client| serde_json::from_str(client).ok()),
    })
}

fn wanted(params: &BTreeMap<String, String>) -> Result<Wanted, Problem> {
    const END: u64 = u64::MAX >> 11;
    let offset = number(params, "offset", u64::from(OFFSET_MAX))?.unwrap_or(0);
    Ok(Wanted {
        after: number(params, "after", END)?.map(Number),
        before: number(params, "before", END)?.map(Number),
        offset: u32::try_from(offset).unwrap_or(OFFSET_MAX),
        since: number(params, "since_ms", END)?.map(Timestamp),
        limit: limit(params)?,
        ..Wanted::default()
    })
}

fn limit(params: &BTreeMap<String, String>) -> Result<u16, Problem> {
    let limit = number(params, "limit", u64::from(LIMIT_MAX))?;
    match limit.map(u16::try_from) {
        None => Ok(LIMIT_USUAL),
        Some(Ok(limit)) if limit > 0 => Ok(limit),
        Some(_) => Err(Problem::field("limit", &format!("must be 1 to {LIMIT_MAX}"))),
    }
}

fn number(
    params: &BTreeMap<String, String>,
    name: &'static str,
    most: u64,
) -> Result<Option<u64>, Problem> {
    let wrong = || Problem::field(name, &format!("must be a whole number up to {most}"));
    let read = |text: &String| text.parse().ok().filter(|n| *n <= most).ok_or_else(wrong);
    params.get(name).map(read).transpose()
}
