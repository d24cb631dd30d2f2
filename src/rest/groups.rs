//! Groups: the calls of the socket once more, over HTTP, by the same rules.

mod forms;

use std::sync::Arc;

use actors::ids::{GroupId, UserId};
use actors::message::Refusal;
use actors::message::group::{Call, Info, MEMBERS_MAX, TEXT_BYTES_MAX, TITLE_BYTES_MAX};
use actors::packet::{Answer, Question};
use actors::router::CardsFor;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;

use super::problem::{Code, Problem};
use super::{Rest, input};
use crate::shapes::{self, Group, User};
use forms::{
    Changes, Done, Draft, GroupChanges, List, Listed, Made, Mark, Member, Receipts, RoleDraft,
};
use forms::{Shown, Users};

const fn role(admin: bool) -> &'static str {
    if admin { "admin" } else { "member" }
}

/// Makes a group.
///
/// Who makes it is its admin. The same `cid` again gives the same group.
#[utoipa::path(
    post,
    path = "/v1/groups",
    operation_id = "group_create",
    tag = "groups",
    params((
        "Idempotency-Key" = Option<shapes::Cid>, Header,
        description = "Stands for a `cid` that the body leaves out. If both are there, they must be the same.",
    )),
    request_body(
        content = Draft,
        example = json!({"title": "Holidays", "members": ["bob"], "cid": "holidays"}),
    ),
    responses((status = 201, description = "The group.", body = Made)),
    extensions(("x-codes" = json!(["not_found", "conflict", "too_large"]))),
)]
pub(super) async fn create(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let by = rest.caller(request.headers()).await?.user;
    rest.brakes.group(&by)?;
    let key = input::idempotency_key(request.headers())?;
    let (bytes, _place) = rest.body(request).await?;
    let draft: Draft<'_> = input::object(&bytes)?;
    let title = title(&input::text("title", draft.title)?)?;
    let members = draft.members.map(|raw| names("members", raw)).transpose()?.unwrap_or_default();
    let group = GroupId::made_by(&by, &input::cid(draft.cid, key)?);
    let others = members.iter().filter(|user| **user != by).cloned().collect();
    known(&rest, others, "members").await?;
    ask(&rest, &group, by, Call::Create { title, members }).await?;
    Ok((StatusCode::CREATED, Json(Made { group: group.to_string() })).into_response())
}

/// Lists the groups that one is in.
#[utoipa::path(
    get,
    path = "/v1/groups",
    operation_id = "group_list",
    tag = "groups",
    responses((status = 200, description = "The groups, with one's own role.", body = List)),
)]
pub(super) async fn list(
    State(rest): State<Arc<Rest>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let groups = match rest.homes.ask(&by, Question::Groups, rest.timeout).await {
        Ok(Answer::Groups(groups)) => groups,
        Ok(_) | Err(Refusal::NotFound) => Vec::new(),
        Err(refusal) => return Err(refusal.into()),
    };
    let listed = groups.into_iter().map(|(group, title, admin)| Listed {
        group: group.to_string(),
        title,
        role: role(admin),
    });
    Ok(Json(List { groups: listed.collect() }).into_response())
}

/// Shows a group that one is in.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}",
    operation_id = "group_info",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7")),
    responses((status = 200, description = "The group and its members.", body = Shown)),
    extensions(("x-codes" = json!(["not_found", "forbidden"]))),
)]
pub(super) async fn info(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let asked = Question::GroupInfo { by: by.clone() };
    let Answer::Group(_, info) = question(&rest, &group, asked).await? else {
        return Err(Problem::internal());
    };
    let Info { title, icon, status, members, created_at } = *info;
    let count = members.len();
    let users = members.iter().map(|(user, _)| user.clone()).collect();
    let mut cards = rest.homes.cards(users, &by, CardsFor::Members).await;
    let member = |(user, admin): (UserId, bool)| {
        let name = cards.remove(&user).and_then(|card| card.name);
        Member { user: user.to_string(), role: role(admin), name }
    };
    let members = members.into_iter().map(member).collect();
    let (group, created_at) = (group.to_string(), created_at.0);
    Ok(Json(Shown { group, title, icon, status, members, created_at, count }).into_response())
}

/// Tells how far each member has got.
#[utoipa::path(
    get,
    path = "/v1/groups/{group}/receipts",
    operation_id = "group_receipts",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7")),
    responses((status = 200, description = "A row for each member.", body = Receipts)),
    extensions(("x-codes" = json!(["not_found", "forbidden"]))),
)]
pub(super) async fn receipts(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let Answer::Progress(members) = question(&rest, &group, Question::Progress { by }).await?
    else {
        return Err(Problem::internal());
    };
    let mark = |member: actors::message::group::Progress| Mark {
        user: member.user.to_string(),
        delivered: member.delivered.0,
        read: member.read.0,
    };
    Ok(Json(Receipts { receipts: members.into_iter().map(mark).collect() }).into_response())
}

/// Changes title, icon or status; admins only.
#[utoipa::path(
    patch,
    path = "/v1/groups/{group}",
    operation_id = "group_update",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7")),
    request_body(content = GroupChanges, example = json!({"title": "Holidays!", "icon": "palm"})),
    responses((status = 200, description = "It is changed.", body = Done)),
    extensions(("x-codes" = json!(["not_found", "forbidden", "too_large"]))),
)]
pub(super) async fn update(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let by = rest.caller(request.headers()).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let (bytes, _place) = rest.body(request).await?;
    let draft: Changes<'_> = input::object(&bytes)?;
    let text = |name, raw| input::optional_text(name, raw);
    let bounded_text =
        |name, raw| text(name, raw)?.map(|text| bounded(name, &text, TEXT_BYTES_MAX)).transpose();
    let new_title = text("title", draft.title)?.map(|text| title(&text)).transpose()?;
    let (icon, status) = (bounded_text("icon", draft.icon)?, bounded_text("status", draft.status)?);
    if new_title.is_none() && icon.is_none() && status.is_none() {
        return Err(Problem::field("title", "or icon or status must be there"));
    }
    ask(&rest, &group, by, Call::Update { title: new_title, icon, status }).await
}

/// Takes users in; admins only. Who is in stays in.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/members",
    operation_id = "group_add",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7")),
    request_body(content = Users, example = json!({"users": ["carol"]})),
    responses((status = 200, description = "They are in.", body = Done)),
    extensions(("x-codes" = json!(["not_found", "forbidden", "too_large"]))),
)]
pub(super) async fn add(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let by = rest.caller(request.headers()).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let (bytes, _place) = rest.body(request).await?;
    let draft: Users<'_> = input::object(&bytes)?;
    let users = draft.users.map(|raw| names("users", raw)).transpose()?.unwrap_or_default();
    if users.is_empty() {
        return Err(Problem::field("users", "must be a list of at least one user"));
    }
    known(&rest, users.clone(), "users").await?;
    ask(&rest, &group, by, Call::Add(users)).await
}

/// Puts a user out; admins only, but anybody may remove themselves. Who is not in stays out.
#[utoipa::path(
    delete,
    path = "/v1/groups/{group}/members/{user}",
    operation_id = "group_remove",
    tag = "groups",
    params(
        ("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7"),
        ("user" = User, Path, description = "Whom.", example = "carol"),
    ),
    responses((status = 200, description = "They are out.", body = Done)),
    extensions(("x-codes" = json!(["not_found", "forbidden"]))),
)]
pub(super) async fn remove(
    State(rest): State<Arc<Rest>>,
    Path((group, user)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let user = input::name("user", UserId::parse(&user))?;
    ask(&rest, &group, by, Call::Remove(vec![user])).await
}

/// Gives a member a role; admins only. The last admin stays one.
#[utoipa::path(
    put,
    path = "/v1/groups/{group}/members/{user}",
    operation_id = "group_role",
    tag = "groups",
    params(
        ("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7"),
        ("user" = User, Path, description = "Whom.", example = "carol"),
    ),
    request_body(content = RoleDraft, example = json!({"role": "admin"})),
    responses((status = 200, description = "They have it.", body = Done)),
    extensions(("x-codes" = json!(["not_found", "forbidden", "conflict"]))),
)]
pub(super) async fn set_role(
    State(rest): State<Arc<Rest>>,
    Path((group, user)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let by = rest.caller(request.headers()).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    let user = input::name("user", UserId::parse(&user))?;
    let (bytes, _place) = rest.body(request).await?;
    let draft: RoleDraft<'_> = input::object(&bytes)?;
    let admin = match input::text("role", draft.role)?.as_str() {
        "admin" => true,
        "member" => false,
        _ => return Err(Problem::field("role", "must be admin or member")),
    };
    ask(&rest, &group, by, Call::Role { user, admin }).await
}

/// Leaves a group. When the last admin goes, the oldest member becomes one.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/leave",
    operation_id = "group_leave",
    tag = "groups",
    params(("group" = Group, Path, description = "Which.", example = "XEQFQBPNY8S2KN2NMB33Y7")),
    responses((status = 200, description = "One is out.", body = Done)),
    extensions(("x-codes" = json!(["not_found", "forbidden"]))),
)]
pub(super) async fn leave(
    State(rest): State<Arc<Rest>>,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let by = rest.caller(&headers).await?.user;
    let group = input::name("group", GroupId::parse(&group))?;
    ask(&rest, &group, by, Call::Leave).await
}

async fn ask(rest: &Rest, group: &GroupId, by: UserId, call: Call) -> Result<Response, Problem> {
    question(rest, group, Question::Group { by, call: Box::new(call) }).await?;
    Ok(Json(Done {}).into_response())
}

async fn question(rest: &Rest, group: &GroupId, question: Question) -> Result<Answer, Problem> {
    let asked = rest.homes.ask(&UserId::of_group(group), question, rest.timeout).await;
    asked.map_err(|refusal| match refusal {
        Refusal::NotFound => {
            Problem::new(Code::NotFound, format!("no such group: {group}")).of("group")
        }
        refusal => refusal.into(),
    })
}

/// Refuses names that nobody has; each costs as much as a request.
async fn known(rest: &Rest, users: Vec<UserId>, field: &'static str) -> Result<(), Problem> {
    match rest.homes.unknown_of(users, rest.timeout).await? {
        None => Ok(()),
        Some(user) => Err(Problem::new(Code::NotFound, format!("no such user: {user}")).of(field)),
    }
}

fn title(title: &str) -> Result<Box<str>, Problem> {
    if title.trim().is_empty() {
        return Err(Problem::field("title", "must be a text that is not empty"));
    }
    bounded("title", title, TITLE_BYTES_MAX)
}

fn bounded(name: &'static str, text: &str, max: usize) -> Result<Box<str>, Problem> {
    if text.len() > max {
        let detail = format!("`{name}` has at most {max} bytes");
        return Err(Problem::new(Code::TooLarge, detail).of(name));
    }
    Ok(text.into())
}

fn names(field: &'static str, raw: &RawValue) -> Result<Vec<UserId>, Problem> {
    let names: Result<Vec<String>, _> = serde_json::from_str(raw.get());
    let names = names.map_err(|_| Problem::field(field, "must be a list of users"))?;
    if names.len() > MEMBERS_MAX {
        let detail = format!("`{field}` has at most {MEMBERS_MAX} users");
        return Err(Problem::new(Code::TooLarge, detail).of(field));
    }
    names.iter().map(|name| input::name(field, UserId::parse(name))).collect()
}
