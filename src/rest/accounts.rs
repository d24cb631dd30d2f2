//! Accounts: making one, logging in: a password for a token; renewing that, and changing the password.

use std::net::IpAddr;
use std::sync::Arc;

use actors::ids::UserId;
use actors::message::Refusal;
use actors::packet::{Answer, Question};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::brakes::household;
use super::problem::{Code, Problem};
use super::{Rest, input, peer_of};
use crate::auth::{Issued, Verdict};
use crate::shapes::User;

/// Longest password, in bytes.
const PASSWORD_BYTES_MAX: usize = 256;
/// Shortest password of a new account, in characters: bytes would let two of some alphabets do.
const PASSWORD_CHARACTERS_MIN: usize = 8;

/// A user and a password, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = Login)]
struct Draft<'a> {
    #[serde(borrow)]
    #[schema(value_type = User)]
    user: Option<&'a RawValue>,
    /// At most 256 bytes.
    #[serde(borrow)]
    #[schema(value_type = String, max_length = 256)]
    password: Option<&'a RawValue>,
}

/// A user and the password that shall be, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = Registration)]
struct NewDraft<'a> {
    #[serde(borrow)]
    #[schema(value_type = User)]
    user: Option<&'a RawValue>,
    /// At least 8 characters, at most 256 bytes.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 8, max_length = 256)]
    password: Option<&'a RawValue>,
}

/// A user and a password, in their form.
pub(super) struct Login {
    user: UserId,
    password: String,
}

/// Two passwords, as sent.
#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordChange)]
struct ChangeDraft<'a> {
    /// The password that is.
    #[serde(borrow)]
    #[schema(value_type = String, max_length = 256)]
    old: Option<&'a RawValue>,
    /// The one that shall be: at least 8 characters, at most 256 bytes.
    #[serde(borrow)]
    #[schema(value_type = String, min_length = 8, max_length = 256)]
    new: Option<&'a RawValue>,
}

/// The password that is, and the one that shall be.
pub(super) struct Change {
    old: String,
    new: String,
}

/// What a client gets for it.
#[derive(Serialize, ToSchema)]
struct Admitted {
    #[schema(value_type = User)]
    user: String,
    /// A JWT, for `Authorization: Bearer` and for the socket's `auth`.
    token: String,
    /// When it ends, in milliseconds since the Unix epoch.
    expires_at: u64,
}

/// Makes an account.
///
/// Only where the node allows open registration.
#[utoipa::path(
    post,
    path = "/v1/register",
    tag = "accounts",
    request_body(
        content = NewDraft,
        example = json!({"user": "alice", "password": "correct horse battery"}),
    ),
    responses((status = 201, description = "The account and its first token.", body = Admitted)),
    security(()),
    extensions(("x-codes" = json!(["conflict", "forbidden"]))),
)]
pub(super) async fn register(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    if !rest.open_registration {
        let detail = "this cluster takes no registrations; ask its operator for an account";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    let from = peer_of(&request).map(household);
    let (bytes, _place) = rest.body(request).await?;
    let login = registration_of(&bytes)?;
    rest.brakes.registration(from)?;
    let hash = rest.passwords.hash(login.password).await?;
    let question = Question::Register(hash.clone());
    match rest.homes.ask(&login.user, question, rest.timeout).await {
        Ok(_) => {}
        // An earlier try of this very request may have been applied although its answer was lost.
        Err(Refusal::Taken) if credentials(&rest, &login.user).await? == Some(hash) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let issued = rest.tokens.issue(&login.user, rest.token_life)?;
    Ok(admit(&login.user, issued, StatusCode::CREATED))
}

/// Gives a token for a password.
#[utoipa::path(
    post,
    path = "/v1/login",
    tag = "accounts",
    request_body(
        content = Draft,
        example = json!({"user": "alice", "password": "correct horse battery"}),
    ),
    responses((status = 200, description = "A token.", body = Admitted)),
    security(()),
    extensions(("x-codes" = json!(["unauthenticated", "forbidden", "gone"]))),
)]
pub(super) async fn login(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let passwords = "this cluster takes no passwords; get a token from its operator";
    rest.takes_passwords(passwords)?;
    let from = peer_of(&request).map(household);
    let (bytes, _place) = rest.body(request).await?;
    let login = login_of(&bytes)?;
    match judge(&rest, &login.user, login.password, from).await? {
        Some(_) => {
            let issued = rest.tokens.issue(&login.user, rest.token_life)?;
            Ok(admit(&login.user, issued, StatusCode::OK))
        }
        None => Err(Problem::new(Code::Unauthenticated, "wrong user or password")),
    }
}

/// Gives a new token for one that is still good.
///
/// 401 when the password was shown too long ago; 403 for a token of the operator's issuer, which gives new ones itself.
#[utoipa::path(
    post,
    path = "/v1/token",
    tag = "accounts",
    responses((status = 200, description = "A token.", body = Admitted)),
    extensions(("x-codes" = json!(["forbidden"]))),
)]
pub(super) async fn renew(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let caller = rest.caller(request.headers()).await?;
    // Who was erased is not to come in for ever by one token after the other.
    match rest.homes.ask(&caller.user, Question::Devices, rest.timeout).await {
        Ok(_) | Err(Refusal::NotFound) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    let issued = rest.tokens.renew(&caller, rest.token_life, rest.session)?;
    Ok(admit(&caller.user, issued, StatusCode::OK))
}

/// Sets another password, for who knows the one that is.
///
/// Tokens stay good: none can be called back. 403 when `old` is wrong, 409 when another request changed it meanwhile.
#[utoipa::path(
    post,
    path = "/v1/password",
    tag = "accounts",
    request_body(
        content = ChangeDraft,
        example = json!({"old": "correct horse battery", "new": "staple battery horse"}),
    ),
    responses((status = 204, description = "It is changed.")),
    extensions(("x-codes" = json!(["forbidden", "conflict"]))),
)]
pub(super) async fn password(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    rest.takes_passwords("this cluster takes no passwords; there is none to change")?;
    let user = rest.caller(request.headers()).await?.user;
    let from = peer_of(&request).map(household);
    let (bytes, _place) = rest.body(request).await?;
    let Change { old, new } = change_of(&bytes)?;
    let Some(old) = judge(&rest, &user, old, from).await? else {
        // The token is good, so this is no 401: clients would throw it away.
        let detail = "`old` is not the password of this user";
        return Err(Problem::new(Code::Forbidden, detail).of("old"));
    };
    let new = rest.passwords.hash(new).await?;
    match rest.homes.ask(&user, Question::Password { old, new }, rest.timeout).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(Refusal::Conflict) => {
            let detail = "the password was changed by another request meanwhile";
            Err(Problem::new(Code::Conflict, detail))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

impl Rest {
    fn takes_passwords(&self, detail: &'static str) -> Result<(), Problem> {
        if self.login { Ok(()) } else { Err(Problem::new(Code::Forbidden, detail)) }
    }
}

/// Compares a password with the stored hash, which it returns if it is right. Slows who guesses.
async fn judge(
    rest: &Rest,
    user: &UserId,
    password: String,
    from: Option<IpAddr>,
) -> Result<Option<Box<str>>, Problem> {
    rest.brakes.login(user, from)?;
    let guess = rest.brakes.guess(user, from)?;
    let judged = compare(rest, user, password).await;
    match &judged {
        Ok(Some(_)) => guess.right(),
        // Only wrong passwords are guesses.
        Ok(None) => {}
        Err(_) => guess.give_back(),
    }
    judged
}

async fn compare(
    rest: &Rest,
    user: &UserId,
    password: String,
) -> Result<Option<Box<str>>, Problem> {
    let stored = credentials(rest, user).await?;
    match rest.passwords.verify(stored.clone(), password).await? {
        Verdict::Right => Ok(stored),
        Verdict::Wrong => Ok(None),
    }
}

/// The stored hash of a user's password; none for an unknown user and for one without a password.
async fn credentials(rest: &Rest, user: &UserId) -> Result<Option<Box<str>>, Problem> {
    match rest.homes.ask(user, Question::Credentials, rest.timeout).await {
        Ok(Answer::Credentials(stored)) => Ok(stored),
        Err(Refusal::NotFound) => Ok(None),
        Err(refusal) => Err(refusal.into()),
        Ok(other) => {
            tracing::error!(%user, answer = ?other, "not an answer to this question");
            Err(Problem::internal())
        }
    }
}

pub(super) fn login_of(bytes: &[u8]) -> Result<Login, Problem> {
    let Draft { user, password } = input::object(bytes)?;
    login_from(user, password)
}

fn registration_of(bytes: &[u8]) -> Result<Login, Problem> {
    let NewDraft { user, password } = input::object(bytes)?;
    let login = login_from(user, password)?;
    long_enough("password", &login.password)?;
    Ok(login)
}

fn login_from(user: Option<&RawValue>, password: Option<&RawValue>) -> Result<Login, Problem> {
    let user = input::text("user", user)?;
    let user = input::name("user", UserId::parse(&user))?;
    let password = input::text("password", password)?;
    short_enough("password", &password)?;
    Ok(Login { user, password })
}

pub(super) fn change_of(bytes: &[u8]) -> Result<Change, Problem> {
    let draft: ChangeDraft<'_> = input::object(bytes)?;
    let old = input::text("old", draft.old)?;
    let new = input::text("new", draft.new)?;
    short_enough("old", &old)?;
    short_enough("new", &new)?;
    long_enough("new", &new)?;
    Ok(Change { old, new })
}

fn short_enough(field: &'static str, password: &str) -> Result<(), Problem> {
    if password.len() <= PASSWORD_BYTES_MAX { Ok(()) } else { Err(wrong_length(field)) }
}

fn long_enough(field: &'static str, password: &str) -> Result<(), Problem> {
    let long = password.chars().count() >= PASSWORD_CHARACTERS_MIN;
    if long { Ok(()) } else { Err(wrong_length(field)) }
}

fn wrong_length(field: &'static str) -> Problem {
    let must = format!(
        "must have at least {PASSWORD_CHARACTERS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes"
    );
    Problem::field(field, &must)
}

fn admit(user: &UserId, issued: Issued, status: StatusCode) -> Response {
    let admitted =
        Admitted { user: user.to_string(), token: issued.token, expires_at: issued.expires_at.0 };
    (status, [(CACHE_CONTROL, "no-store")], Json(admitted)).into_response()
}
