//! History: chats and what was written in them, from the user's own log.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::ids::{Conversation, GroupId, MessageId, Number, Timestamp, UserId};
use actors::message::history::{LIMIT_MAX, Talk, Wanted};
use actors::message::people::Card;
use actors::message::{Content, Entry, Refusal, What};
use actors::packet::{Answer, Question};
use actors::router::CardsFor;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::problem::{Code, Problem};
use super::{Rest, input};
use crate::shapes::{self, Conv, Device, Group, Mid, User};

/// Chats or messages in one answer, unless the client asks for another number.
const LIMIT_USUAL: u16 = 50;
/// How far back from the newest a client may count.
const OFFSET_MAX: u32 = 1_000_000;
/// The largest number that is the same for all JSON readers.
const END: u64 = u64::MAX >> 11;
/// Searches for one message that do not come to an end; each looks at some thousand entries.
const SEARCHES_MAX: usize = 16;

/// Which chats, as asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// At most so many.
    #[param(value_type = u16, required = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// That of the page before: goes on behind it.
    #[param(value_type = u64, required = false, maximum = 9_007_199_254_740_991_u64)]
    cursor: Option<String>,
}

/// Which messages of a conversation, as asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// At most so many.
    #[param(value_type = u16, required = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The newest before this number.
    #[param(value_type = u64, required = false, maximum = 9_007_199_254_740_991_u64)]
    before: Option<String>,
    /// The oldest after this number.
    #[param(value_type = u64, required = false, maximum = 9_007_199_254_740_991_u64)]
    after: Option<String>,
    /// Without the newest so many.
    #[param(value_type = u32, required = false, maximum = 1_000_000)]
    offset: Option<String>,
    /// Not from before this moment, in milliseconds since the Unix epoch.
    #[param(value_type = u64, required = false, maximum = 9_007_199_254_740_991_u64)]
    since_ms: Option<String>,
}

/// Whose messages, as asked.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Writer {
    /// Only what this user wrote.
    #[param(value_type = User, required = false)]
    from: Option<String>,
}

/// A message, as its reader has it.
#[derive(Serialize, ToSchema)]
pub(super) struct Message<'a> {
    /// Its number in the reader's own log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    n: Option<u64>,
    #[schema(value_type = Mid)]
    mid: String,
    #[schema(value_type = Conv)]
    conv: String,
    #[schema(value_type = User)]
    from: &'a str,
    #[schema(value_type = Device)]
    device: &'a str,
    /// Its number in the conversation.
    seq: u64,
    /// When it was taken, in milliseconds since the Unix epoch.
    at: u64,
    /// Of own messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = shapes::Cid, required = false)]
    cid: Option<&'a str>,
    #[schema(value_type = shapes::Kind)]
    kind: &'a str,
    #[schema(value_type = shapes::MessageBody)]
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Mid, required = false)]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    client: Option<&'a RawValue>,
}

/// A message as it stands in a copy of all there is.
pub(super) fn exported<'a>(entry: &'a Entry, user: &'a UserId) -> Option<Message<'a>> {
    message(entry, user, Numbered::Yes)
}

/// A chat.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
struct Chat<'a> {
    #[schema(value_type = Conv)]
    conv: String,
    /// The newest message; null when there is none any more, and when a large group's home does not answer in time.
    #[schema(required = true)]
    last: Option<Message<'a>>,
    /// How many messages of others were not read.
    unread: u64,
    /// Up to this `seq` the other side has my messages.
    delivered: u64,
    /// Up to this `seq` the other side has read them.
    read: u64,
    /// The newest `seq` of the other side, or of the group.
    received: u64,
    /// What I have read of it.
    read_up_to: u64,
    /// Of a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    title: Option<&'a str>,
    /// What the other side calls themselves, if they do, and it could be found out in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<&'a str>,
    /// Where the other side's picture is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    avatar: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Conversations)]
struct Chats<'a> {
    /// The newest first.
    conversations: Vec<Chat<'a>>,
    /// How far the user's log went at that moment.
    n: u64,
    /// Asks for the next older ones; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Messages<'a> {
    /// The oldest first.
    messages: Vec<Message<'a>>,
    /// Whether there are more in the direction that was asked for.
    more: bool,
    /// What to ask for as `before` or `after` to go on; there while there is `more`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<u64>,
    /// How far the log went at that moment; of a group's messages the newest `seq`.
    n: u64,
}

/// Lists chats, the newest first.
#[utoipa::path(
    get,
    path = "/v1/conversations",
    tag = "messages",
    params(Asked),
    responses((status = 200, description = "A page of chats.", body = Chats)),
)]
pub(super) async fn conversations(
    State(rest): State<Arc<Rest>>,
    Query(asked): Query<Asked>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let before = number("cursor", asked.cursor.as_deref(), END)?.map(Number);
    let limit = limit(asked.limit.as_deref())?;
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

/// Reads a chat, in pages.
///
/// `before` and `after` are numbers of the user's own log. Without `after` the page has the newest messages that fit.
#[utoipa::path(
    get,
    path = "/v1/conversations/{conv}/messages",
    operation_id = "conversation",
    tag = "messages",
    params(("conv" = Conv, Path, description = "Which chat.", example = "u:bob"), Part),
    responses((status = 200, description = "A page of it.", body = Messages)),
)]
pub(super) async fn page(
    State(rest): State<Arc<Rest>>,
    Path(conv): Path<String>,
    Query(part): Query<Part>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let conv = conv.parse::<Conversation>();
    let conv = conv.map_err(|_| Problem::field("conv", "must be u:<user> or g:<group>"))?;
    let wanted = Wanted { conv: Some(conv), ..wanted(&part)? };
    let (way, question) = (Way::of(&wanted), Question::History(Box::new(wanted)));
    Ok(told(ask(&rest, &user, question).await?, &user, way, Numbered::Yes))
}

/// Reads all chats as one, in pages.
#[utoipa::path(
    get,
    path = "/v1/messages",
    operation_id = "messages",
    tag = "messages",
    params(Writer, Part),
    responses((status = 200, description = "A page of messages.", body = Messages)),
)]
pub(super) async fn search(
    State(rest): State<Arc<Rest>>,
    Query(Writer { from }): Query<Writer>,
    Query(part): Query<Part>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let from = from.map(|from| input::name("from", UserId::parse(&from)));
    let wanted = Wanted { from: from.transpose()?, ..wanted(&part)? };
    let (way, question) = (Way::of(&wanted), Question::History(Box::new(wanted)));
    Ok(told(ask(&rest, &user, question).await?, &user, way, Numbered::Yes))
}

/// Reads one message, mine or one to me.
#[utoipa::path(
    get,
    path = "/v1/messages/{mid}",
    operation_id = "message",
    tag = "messages",
    params(("mid" = Mid, Path, description = "Which.", example = "01ARZ3NDEKTSV4RRFFQ69G5FAV")),
    responses((status = 200, description = "The message.", body = Message)),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn one(
    State(rest): State<Arc<Rest>>,
    Path(mid): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(request.headers()).await?.user;
    let mid = input::name("mid", MessageId::parse(&mid))?;
    let mut wanted = Wanted { mid: Some(mid), limit: 1, ..Wanted::default() };
    // Where very much is written, one search does not come to an end.
    for _ in 0..SEARCHES_MAX {
        let question = Question::History(Box::new(wanted.clone()));
        let entries = match ask(&rest, &user, question).await? {
            Some(Answer::Searched { upto, .. }) => {
                wanted.after = Some(upto);
                continue;
            }
            Some(Answer::History { entries, .. }) => entries,
            _ => break,
        };
        let message = entries.first().and_then(|entry| message(entry, &user, Numbered::Yes));
        let message = message.map(|message| Json(message).into_response());
        return message.ok_or_else(|| no_such_message(mid));
    }
    Err(no_such_message(mid))
}

/// Reads a group in its own order, from where the reader came in.
///
/// `before` and `after` are `seq` here, and messages have no `n`.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}/messages",
    operation_id = "group_messages",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7"), Part),
    responses((status = 200, description = "A page of it.", body = Messages)),
    extensions(("x-codes" = json!(["not_found", "forbidden"]))),
)]
pub(super) async fn group_log(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    Query(part): Query<Part>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(request.headers()).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let wanted = Box::new(wanted(&part)?);
    let way = Way::of(&wanted);
    let owner = UserId::of_group(&group);
    let question = Question::GroupLog { by: by.clone(), wanted };
    let answer = ask(&rest, &owner, question).await?;
    if answer.is_none() {
        return Err(Problem::new(Code::NotFound, format!("no such group: {group}")).of("group"));
    }
    Ok(told(answer, &by, way, Numbered::No))
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

/// In which direction a page is followed by the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Newer,
    Older,
}

impl Way {
    fn of(wanted: &Wanted) -> Self {
        if wanted.forward() { Self::Newer } else { Self::Older }
    }
}

fn told(answer: Option<Answer>, user: &UserId, way: Way, numbered: Numbered) -> Response {
    let (entries, head, next) = match answer {
        Some(Answer::History { entries, head, more }) => {
            let edge = match way {
                Way::Newer => entries.last(),
                Way::Older => entries.first(),
            };
            let next = edge.filter(|_| more).map(|entry| entry.n.0);
            (entries, head, next)
        }
        Some(Answer::Searched { entries, head, upto }) => (entries, head, Some(upto.0)),
        _ => (Vec::new(), Number(0), None),
    };
    let messages = entries.iter().filter_map(|entry| message(entry, user, numbered)).collect();
    Json(Messages { messages, more: next.is_some(), next, n: head.0 }).into_response()
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

fn wanted(part: &Part) -> Result<Wanted, Problem> {
    let offset = number("offset", part.offset.as_deref(), u64::from(OFFSET_MAX))?.unwrap_or(0);
    Ok(Wanted {
        after: number("after", part.after.as_deref(), END)?.map(Number),
        before: number("before", part.before.as_deref(), END)?.map(Number),
        offset: u32::try_from(offset).unwrap_or(OFFSET_MAX),
        since: number("since_ms", part.since_ms.as_deref(), END)?.map(Timestamp),
        limit: limit(part.limit.as_deref())?,
        ..Wanted::default()
    })
}

fn limit(given: Option<&str>) -> Result<u16, Problem> {
    let limit = number("limit", given, u64::from(LIMIT_MAX))?;
    match limit.map(u16::try_from) {
        None => Ok(LIMIT_USUAL),
        Some(Ok(limit)) if limit > 0 => Ok(limit),
        Some(_) => Err(Problem::field("limit", &format!("must be 1 to {LIMIT_MAX}"))),
    }
}

fn number(name: &'static str, given: Option<&str>, most: u64) -> Result<Option<u64>, Problem> {
    let wrong = || Problem::field(name, &format!("must be a whole number up to {most}"));
    let read = |text: &str| text.parse().ok().filter(|n| *n <= most).ok_or_else(wrong);
    given.map(read).transpose()
}
