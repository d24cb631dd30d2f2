//! Leaving: a user takes a copy of all there is of them, or wants to be forgotten.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actors::ids::{Number, UserId};
use actors::message::Refusal;
use actors::message::group::Call;
use actors::message::history::{LIMIT_MAX, Wanted};
use actors::message::people::Profile;
use actors::packet::{Answer, Question};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::{Code, Problem};
use super::{Rest, history};
use crate::shapes::{Device, Group, Role, SeenBy, User};

/// How often a home that does not answer is asked again before a copy breaks off.
const TRIES: usize = 10;
/// Between two such tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Copies that one node makes at once.
const COPIES_MAX: usize = 64;
/// Who gets none is told to come back after this.
const COPIES_AGAIN: Duration = Duration::from_secs(10);

/// What an erased user hears.
#[derive(Serialize, ToSchema)]
struct Erased {
    erased: bool,
    /// How many groups were left.
    groups_left: usize,
    /// What stays where.
    #[schema(value_type = Vec<String>)]
    remains: [&'static str; 4],
}

/// One line of a copy of all there is.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = ExportLine)]
pub(super) enum Line<'a> {
    /// The first line.
    Account {
        #[schema(value_type = User)]
        user: &'a str,
    },
    /// A device.
    Device {
        #[schema(value_type = Device)]
        device: &'a str,
        /// In milliseconds since the Unix epoch.
        last_seen_ms: u64,
        /// Up to this entry of the log it has everything.
        acked_n: u64,
    },
    /// What the user says of themselves.
    Profile {
        #[schema(required = true)]
        name: Option<&'a str>,
        #[schema(required = true)]
        about: Option<&'a str>,
        #[schema(required = true)]
        avatar: Option<&'a str>,
    },
    /// What the user has set.
    Settings {
        #[schema(value_type = SeenBy)]
        last_seen: &'static str,
    },
    /// Somebody whom the user blocks.
    Blocked {
        #[schema(value_type = User)]
        user: &'a str,
    },
    /// A group that the user is in.
    Group {
        #[schema(value_type = Group)]
        group: &'a str,
        title: &'a str,
        #[schema(value_type = Role)]
        role: &'static str,
    },
    /// A message of the user's log, in its order.
    Message(history::Message<'a>),
}

/// Whether it is meant.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Confirmation {
    /// Must be one's own name: this cannot be undone.
    #[param(value_type = User, required = true, example = "alice")]
    confirm: Option<String>,
}

/// Erases one's account.
///
/// The groups are left, the mailbox is emptied on all nodes, and sockets close with 4304. What is sent to the user from
/// then on, and what the user asks, is refused with `gone`. The name stays taken.
#[utoipa::path(
    delete,
    path = "/v1/account",
    tag = "accounts",
    params(Confirmation),
    responses((status = 200, description = "It is gone.", body = Erased)),
    extensions(("x-codes" = json!(["not_found", "conflict"]))),
)]
pub(super) async fn erase(
    State(rest): State<Arc<Rest>>,
    Query(Confirmation { confirm }): Query<Confirmation>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    if confirm.as_deref() != Some(user.as_str()) {
        return Err(Problem::field("confirm", "must be your own name: this cannot be undone"));
    }
    let groups = match rest.homes.ask(&user, Question::Groups, rest.timeout).await? {
        Answer::Groups(groups) => groups,
        _ => Vec::new(),
    };
    for (group, ..) in &groups {
        let call = Box::new(Call::Leave);
        let question = Question::Group { by: user.clone(), call };
        let left = rest.homes.ask(&UserId::of_group(group), question, rest.timeout).await;
        match left {
            // Left before, by a request whose answer was lost.
            Ok(_) | Err(Refusal::NotAMember | Refusal::NotFound) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    rest.homes.ask(&user, Question::Erase, rest.timeout).await?;
    tracing::info!("a user was erased");
    let erased = Erased {
        erased: true,
        groups_left: groups.len(),
        remains: [
            "what you wrote stays with those you wrote to, and in the order of the groups you wrote to, as long as their history is kept",
            "your name stays taken, so that nobody can be taken for you",
            "old copies on the nodes' disks go with the next checkpoints and as the journal is compacted",
            "tokens that were given out are refused by your account from now on, and end by themselves",
        ],
    };
    Ok(Json(erased).into_response())
}

/// Copies on their way. They last as long as their readers like, so they have places of their own, of which each user has one:
/// else who reads many slowly would leave none for the requests of others.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<Mutex<BTreeSet<UserId>>>);

/// A copy on its way, until this is dropped.
struct Copying {
    copies: Copies,
    user: UserId,
}

impl Copies {
    fn users(&self) -> MutexGuard<'_, BTreeSet<UserId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, user: &UserId) -> Result<Copying, Problem> {
        let mut users = self.users();
        if users.contains(user) {
            let detail = "a copy is on its way to this user already; let it end first";
            return Err(Problem::new(Code::RateLimited, detail).after(COPIES_AGAIN));
        }
        if users.len() >= COPIES_MAX {
            let detail = "too many copies at once; try again a little later";
            return Err(Problem::new(Code::Unavailable, detail).after(COPIES_AGAIN));
        }
        users.insert(user.clone());
        Ok(Copying { copies: self.clone(), user: user.clone() })
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.copies.users().remove(&self.user);
    }
}

/// Where a copy stands.
enum Stage {
    About,
    Groups,
    Messages(Number),
    End,
}

/// Gives a copy of all there is of the user.
///
/// One JSON object a line, each an `ExportLine`: the account, its devices, its groups, and its messages in the order of
/// `n`.
#[utoipa::path(
    get,
    path = "/v1/export",
    tag = "accounts",
    responses((
        status = 200,
        description = "Lines of JSON, each an `ExportLine`.",
        body = String,
        content_type = "application/jsonl",
    )),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn export(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user = rest.caller(&headers).await?.user;
    let place = rest.copies.begin(&user)?;
    // The first part now: what is wrong is told as a problem, not in the middle of a copy.
    let about = about(&rest, &user).await?;
    let name = format!("attachment; filename=\"{user}.jsonl\"");
    let copy = lines(rest, user, about, place);
    let mut response = Body::from_stream(copy).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(HeaderValue::from_str(&name).map(|name| (CONTENT_DISPOSITION, name)));
    Ok(response)
}

fn lines<P: Send + 'static>(
    rest: Arc<Rest>,
    user: UserId,
    about: Vec<u8>,
    place: P,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let start = (rest, user, about, Stage::About, place);
    stream::try_unfold(start, |(rest, user, about, stage, place)| async move {
        let (part, next) = match stage {
            Stage::About => (about.clone(), Stage::Groups),
            Stage::Groups => {
                let part = groups(&rest, &user).await.map_err(broken)?;
                (part, Stage::Messages(Number(0)))
            }
            Stage::Messages(after) => messages(&rest, &user, after).await.map_err(broken)?,
            Stage::End => return Ok(None),
        };
        Ok(Some((Bytes::from(part), (rest, user, about, next, place))))
    })
}

fn broken(refusal: Refusal) -> std::io::Error {
    std::io::Error::other(refusal)
}

/// Asks once more when nobody answers: a copy of a long history outlives a failover.
async fn ask(rest: &Rest, user: &UserId, question: Question) -> Result<Answer, Refusal> {
    for _ in 1..TRIES {
        match rest.homes.ask(user, question.clone(), rest.timeout).await {
            Err(Refusal::Unavailable | Refusal::Overloaded) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
    rest.homes.ask(user, question, rest.timeout).await
}

async fn about(rest: &Rest, user: &UserId) -> Result<Vec<u8>, Problem> {
    let devices = match rest.homes.ask(user, Question::Devices, rest.timeout).await? {
        Answer::Devices(devices) => devices,
        _ => Vec::new(),
    };
    let mut part = line(&Line::Account { user: user.as_str() });
    for device in devices {
        let (last_seen_ms, acked_n) = (device.last_seen.0, device.acked.0);
        part.extend(line(&Line::Device { device: device.device.as_str(), last_seen_ms, acked_n }));
    }
    part.extend(people(rest, user).await?);
    Ok(part)
}

/// What a user says of themselves, has set, and whom they block.
async fn people(rest: &Rest, user: &UserId) -> Result<Vec<u8>, Refusal> {
    let mut part = Vec::new();
    let own = Question::Profile { by: user.clone() };
    if let Answer::Profile(profile) = rest.homes.ask(user, own, rest.timeout).await? {
        let Profile { name, about, avatar } = *profile;
        let (name, about, avatar) = (name.as_deref(), about.as_deref(), avatar.as_deref());
        part.extend(line(&Line::Profile { name, about, avatar }));
    }
    if let Answer::Settings(set) = rest.homes.ask(user, Question::Settings, rest.timeout).await? {
        part.extend(line(&Line::Settings { last_seen: set.last_seen.as_str() }));
    }
    if let Answer::Blocked(users) = rest.homes.ask(user, Question::Blocked, rest.timeout).await? {
        for user in users {
            part.extend(line(&Line::Blocked { user: user.as_str() }));
        }
    }
    Ok(part)
}

async fn groups(rest: &Rest, user: &UserId) -> Result<Vec<u8>, Refusal> {
    let Answer::Groups(groups) = ask(rest, user, Question::Groups).await? else {
        return Ok(Vec::new());
    };
    let row = |(group, title, admin): (actors::ids::GroupId, Box<str>, bool)| {
        let role = if admin { "admin" } else { "member" };
        line(&Line::Group { group: group.as_str(), title: &title, role })
    };
    Ok(groups.into_iter().flat_map(row).collect())
}

async fn messages(rest: &Rest, user: &UserId, after: Number) -> Result<(Vec<u8>, Stage), Refusal> {
    let wanted = Wanted { after: Some(after), limit: LIMIT_MAX, ..Wanted::default() };
    let answer = ask(rest, user, Question::History(Box::new(wanted))).await?;
    let (entries, next) = match answer {
        Answer::History { entries, more, .. } => {
            let next = entries.last().filter(|_| more).map(|entry| entry.n);
            (entries, next)
        }
        Answer::Searched { entries, upto, .. } => (entries, Some(upto)),
        _ => (Vec::new(), None),
    };
    let mut part = Vec::new();
    for message in entries.iter().filter_map(|entry| history::exported(entry, user)) {
        part.extend(line(&Line::Message(message)));
    }
    Ok((part, next.map_or(Stage::End, Stage::Messages)))
}

fn line(row: &Line<'_>) -> Vec<u8> {
    let mut line = serde_json::to_vec(row).unwrap_or_default();
    line.push(b'\n');
    line
}
