//! Leaving: a user takes a copy of all there is of them, or wants to be forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
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
use serde::Serialize;
use serde_json::json;

use super::problem::Problem;
use super::{Rest, history};

/// How often a home that does not answer is asked again before a copy breaks off.
const TRIES: usize = 10;
/// Between two such tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What an erased user hears.
#[derive(Serialize)]
struct Erased {
    erased: bool,
    groups_left: usize,
    remains: [&'static str; 4],
}

/// `DELETE /v1/account?confirm=<user>`
pub(super) async fn erase(
    State(rest): State<Arc<Rest>>,
    Query(params): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    if params.get("confirm").map(String::as_str) != Some(user.as_str()) {
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

/// Where a copy stands.
enum Stage {
    About,
    Groups,
    Messages(Number),
    End,
}

/// `GET /v1/export`
pub(super) async fn export(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
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
    let mut part = line(&json!({"type": "account", "user": user.to_string()}));
    for device in devices {
        let (name, seen) = (device.device.to_string(), device.last_seen.0);
        let row = json!({"type": "device", "device": name, "last_seen_ms": seen, "acked_n": device.acked.0});
        part.extend(line(&row));
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
        let row = json!({"type": "profile", "name": name, "about": about, "avatar": avatar});
        part.extend(line(&row));
    }
    if let Answer::Settings(set) = rest.homes.ask(user, Question::Settings, rest.timeout).await? {
        part.extend(line(&json!({"type": "settings", "last_seen": set.last_seen.as_str()})));
    }
    if let Answer::Blocked(users) = rest.homes.ask(user, Question::Blocked, rest.timeout).await? {
        for user in users {
            part.extend(line(&json!({"type": "blocked", "user": user.as_str()})));
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
        line(&json!({"type": "group", "group": group.to_string(), "title": title, "role": role}))
    };
    Ok(groups.into_iter().flat_map(row).collect())
}

async fn messages(rest: &Rest, user: &UserId, after: Number) -> Result<(Vec<u8>, Stage), Refusal> {
    let wanted = Wanted { after: Some(after), limit: LIMIT_MAX, ..Wanted::default() };
    let answer = ask(rest, user, Question::History(Box::new(wanted))).await?;
    let Answer::History { entries, more, .. } = answer else { return Ok((Vec::new(), Stage::End)) };
    let mut part = Vec::new();
    for message in entries.iter().filter_map(|entry| history::exported(entry, user)) {
        part.extend(line(&message));
    }
    let next = match entries.last() {
        Some(entry) if more => Stage::Messages(entry.n),
        _ => Stage::End,
    };
    Ok((part, next))
}

fn line<T: Serialize>(row: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(row).unwrap_or_default();
    line.push(b'\n');
    line
}
