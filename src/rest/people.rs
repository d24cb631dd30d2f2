//! People: whom a user blocks, who may see them, and what they say of themselves; by the rules of the socket.

use std::sync::Arc;

use actors::ids::UserId;
use actors::message::Refusal;
use actors::message::people::{BadText, Call, LastSeen, Profile, Settings};
use actors::packet::{Answer, Question};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::{Code, Problem};
use super::{Rest, input};
use crate::shapes::{SeenBy, User};

/// What somebody is to be known by, as sent. What is not there stays as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = ProfileDraft)]
struct Draft<'a> {
    /// At most 128 bytes; empty removes it.
    #[serde(borrow)]
    #[schema(
        value_type = Option<String>,
        max_length = 128,
        pattern = "^([^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*)?$",
    )]
    name: Option<&'a RawValue>,
    /// At most 512 bytes; empty removes it.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 512, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    about: Option<&'a RawValue>,
    /// At most 1 KiB that nodes do not look into; empty removes it.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, max_length = 1024, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    avatar: Option<&'a RawValue>,
}

/// What is to be set, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = SettingsDraft)]
struct SettingsDraft<'a> {
    #[serde(borrow)]
    #[schema(value_type = SeenBy)]
    last_seen: Option<&'a RawValue>,
}

/// What somebody says of themselves.
#[derive(Serialize, ToSchema)]
#[schema(as = Profile)]
struct Shown {
    #[schema(value_type = User)]
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    about: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    avatar: Option<Box<str>>,
}

/// What is set.
#[derive(Serialize, ToSchema)]
#[schema(as = Settings)]
struct Set {
    #[schema(value_type = SeenBy)]
    last_seen: &'static str,
}

/// Whom one blocks.
#[derive(Serialize, ToSchema)]
#[schema(as = Blocked)]
struct BlockedUsers {
    #[schema(value_type = Vec<User>)]
    users: Vec<String>,
}

/// Shows what somebody says of themselves; to whom they block, no more than their name.
#[utoipa::path(
    get,
    path = "/v1/users/{user}/profile",
    operation_id = "profile_of",
    tag = "users",
    params(("user" = User, Path, description = "Whose.", example = "bob")),
    responses((status = 200, description = "The profile.", body = Shown)),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn profile_of(
    State(rest): State<Arc<Rest>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let user = input::name("user", UserId::parse(&user))?;
    let answer = rest.homes.ask(&user, Question::Profile { by }, rest.timeout).await;
    shown(&user, answer.map_err(|refusal| of_user(refusal, &user))?)
}

/// Shows the caller's own profile.
#[utoipa::path(
    get,
    path = "/v1/profile",
    operation_id = "own_profile",
    tag = "users",
    responses((status = 200, description = "The profile.", body = Shown)),
)]
pub(super) async fn profile(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    let question = Question::Profile { by: user.clone() };
    let answer = own(&rest, &user, question).await?;
    shown(&user, answer.unwrap_or(Answer::Profile(Box::default())))
}

/// Changes what is given of the caller's profile.
#[utoipa::path(
    patch,
    path = "/v1/profile",
    operation_id = "describe",
    tag = "users",
    request_body(content = Draft, example = json!({"name": "Alice", "about": "at sea"})),
    responses((status = 200, description = "All of it as it is now.", body = Shown)),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn describe(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let user = rest.caller(request.headers()).await?.user;
    let (bytes, _place) = rest.body(request).await?;
    let question = match profile_in(&bytes)? {
        // Without a field nothing changes.
        profile if profile.is_empty() => Question::Profile { by: user.clone() },
        profile => Question::People(Call::Describe(profile)),
    };
    shown(&user, rest.homes.ask(&user, question, rest.timeout).await?)
}

/// Shows who may see when the caller was last there.
#[utoipa::path(
    get,
    path = "/v1/settings",
    operation_id = "settings",
    tag = "users",
    responses((status = 200, description = "What is set.", body = Set)),
)]
pub(super) async fn settings(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    let answer = own(&rest, &user, Question::Settings).await?;
    set_so(answer.unwrap_or(Answer::Settings(Settings::default())))
}

/// Sets who may see when the caller was last there.
#[utoipa::path(
    patch,
    path = "/v1/settings",
    operation_id = "set",
    tag = "users",
    request_body(content = SettingsDraft, example = json!({"last_seen": "everyone"})),
    responses((status = 200, description = "What is set now.", body = Set)),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn set(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let user = rest.caller(request.headers()).await?.user;
    let (bytes, _place) = rest.body(request).await?;
    let Some(last_seen) = last_seen_in(&bytes)? else {
        return Err(Problem::field("last_seen", "is missing"));
    };
    rest.brakes.setting(&user)?;
    let question = Question::People(Call::LastSeen(last_seen));
    set_so(rest.homes.ask(&user, question, rest.timeout).await?)
}

/// Lists whom the caller blocks.
#[utoipa::path(
    get,
    path = "/v1/blocked",
    operation_id = "blocked",
    tag = "users",
    responses((status = 200, description = "They.", body = BlockedUsers)),
)]
pub(super) async fn blocked(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    let users = match own(&rest, &user, Question::Blocked).await? {
        Some(Answer::Blocked(users)) => users,
        _ => Vec::new(),
    };
    let users = users.iter().map(UserId::to_string).collect();
    Ok(Json(BlockedUsers { users }).into_response())
}

/// Blocks a user: what they write to the caller is refused, and the caller is hidden from them.
#[utoipa::path(
    put,
    path = "/v1/blocked/{user}",
    operation_id = "block",
    tag = "users",
    params(("user" = User, Path, description = "Whom.", example = "carol")),
    responses((status = 204, description = "They are blocked.")),
    extensions(("x-codes" = json!(["not_found", "too_large"]))),
)]
pub(super) async fn block(
    State(rest): State<Arc<Rest>>,
    Path(other): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    let other = input::name("user", UserId::parse(&other))?;
    let looked_up = rest.homes.unknown_of(vec![other.clone()], rest.timeout).await?;
    if looked_up.is_some() {
        return Err(of_user(Refusal::NotFound, &other));
    }
    change(&rest, &user, Call::Block(other)).await
}

/// Blocks a user no longer.
#[utoipa::path(
    delete,
    path = "/v1/blocked/{user}",
    operation_id = "unblock",
    tag = "users",
    params(("user" = User, Path, description = "Whom.", example = "carol")),
    responses((status = 204, description = "They are not blocked.")),
    extensions(("x-codes" = json!(["not_found"]))),
)]
pub(super) async fn unblock(
    State(rest): State<Arc<Rest>>,
    Path(other): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let user = rest.caller(&headers).await?.user;
    let other = input::name("user", UserId::parse(&other))?;
    change(&rest, &user, Call::Unblock(other)).await
}

async fn change(rest: &Rest, user: &UserId, call: Call) -> Result<Response, Problem> {
    match rest.homes.ask(user, Question::People(call), rest.timeout).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(Refusal::Oneself) => Err(Problem::field("user", "must be somebody else")),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Asks the caller's home; none when there is no such mailbox (yet).
async fn own(rest: &Rest, user: &UserId, question: Question) -> Result<Option<Answer>, Problem> {
    match rest.homes.ask(user, question, rest.timeout).await {
        Ok(answer) => Ok(Some(answer)),
        Err(Refusal::NotFound) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Whether a caller shows themselves to nobody, and so is shown nobody.
pub(super) async fn hides(rest: &Rest, user: &UserId) -> Result<bool, Problem> {
    let hides = Some(Answer::Settings(Settings { last_seen: LastSeen::Nobody }));
    Ok(own(rest, user, Question::Settings).await? == hides)
}

/// A refusal that is about a user who was named.
pub(super) fn of_user(refusal: Refusal, user: &UserId) -> Problem {
    match refusal {
        Refusal::NotFound => {
            Problem::new(Code::NotFound, format!("no such user: {user}")).of("user")
        }
        refusal => refusal.into(),
    }
}

fn shown(user: &UserId, answer: Answer) -> Result<Response, Problem> {
    let Answer::Profile(profile) = answer else { return Err(Problem::internal()) };
    let Profile { name, about, avatar } = *profile;
    Ok(Json(Shown { user: user.to_string(), name, about, avatar }).into_response())
}

fn set_so(answer: Answer) -> Result<Response, Problem> {
    let Answer::Settings(settings) = answer else { return Err(Problem::internal()) };
    Ok(Json(Set { last_seen: settings.last_seen.as_str() }).into_response())
}

/// What a body says of its sender.
pub(super) fn profile_in(bytes: &[u8]) -> Result<Profile, Problem> {
    let draft: Draft<'_> = input::object(bytes)?;
    let text = |field, raw| Ok::<_, Problem>(input::optional_text(field, raw)?.map(Box::from));
    let profile = Profile {
        name: text("name", draft.name)?,
        about: text("about", draft.about)?,
        avatar: text("avatar", draft.avatar)?,
    };
    profile.check().map_err(|bad| match bad {
        BadText::TooLong { field, max } => {
            let detail = format!("`{field}` has at most {max} bytes");
            Problem::new(Code::TooLarge, detail).of(field)
        }
        BadText::Control { field } => Problem::field(field, "must be without control characters"),
        BadText::Blank => Problem::field("name", "must be empty or more than blanks"),
    })?;
    Ok(profile)
}

/// Who is to see when its sender was last there, if a body says so.
pub(super) fn last_seen_in(bytes: &[u8]) -> Result<Option<LastSeen>, Problem> {
    let draft: SettingsDraft<'_> = input::object(bytes)?;
    let word = input::optional_text("last_seen", draft.last_seen)?;
    let wrong = || Problem::field("last_seen", "must be everyone, contacts or nobody");
    word.map(|word| LastSeen::parse(&word).ok_or_else(wrong)).transpose()
}
