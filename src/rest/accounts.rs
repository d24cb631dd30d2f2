//! Accounts: making one, and logging in: a password for a token.

use std::net::IpAddr;
use std::sync::Arc;

use actors::clock;
use actors::ids::UserId;
use actors::message::Refusal;
use actors::packet::{Answer, Question};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::problem::{Code, Problem};
use super::{Peer, Rest, input};
use crate::auth::Verdict;

/// Longest password, in bytes.
const PASSWORD_BYTES_MAX: usize = 256;
/// Shortest password of a new account, in bytes.
const PASSWORD_BYTES_MIN: usize = 8;

/// A user and a password, as sent.
#[derive(Deserialize)]
struct Draft<'a> {
    #[serde(borrow)]
    user: Option<&'a RawValue>,
    #[serde(borrow)]
    password: Option<&'a RawValue>,
}

/// A user and a password, in their form.
pub(super) struct Login {
    user: UserId,
    password: String,
}

/// What a client gets for it.
#[derive(Serialize)]
struct Admitted {
    user: String,
    token: String,
    expires_at: u64,
}

/// `POST /v1/register`
pub(super) async fn register(
    State(rest): State<Arc<Rest>>,
    peer: Option<Extension<Peer>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    if !rest.open_registration {
        let detail = "this cluster takes no registrations; ask its operator for an account";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    let bytes = input::json(request, rest.body_max).await?;
    let login = login_of(&bytes)?;
    if login.password.len() < PASSWORD_BYTES_MIN {
        let must = format!("must be {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes");
        return Err(Problem::field("password", &must));
    }
    slow_address(&rest, address(peer))?;
    let hash = rest.passwords.hash(login.password).await?;
    let question = Question::Register(hash.clone());
    match rest.homes.ask(&login.user, question, rest.timeout).await {
        Ok(_) => {}
        // An earlier try of this very request may have been applied although its answer was lost.
        Err(Refusal::Taken) if credentials(&rest, &login.user).await? == Some(hash) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    admit(&rest, &login.user, StatusCode::CREATED)
}

/// `POST /v1/login`
pub(super) async fn login(
    State(rest): State<Arc<Rest>>,
    peer: Option<Extension<Peer>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let _place = rest.enter()?;
    let bytes = input::json(request, rest.body_max).await?;
    let login = login_of(&bytes)?;
    let address = address(peer);
    slow_address(&rest, address)?;
    let guess = (login.user.clone(), address);
    let brake = &rest.login_failures;
    brake.take(&guess, clock::wall()).map_err(|wait| {
        let detail = "too many wrong passwords; wait a little";
        Problem::new(Code::RateLimited, detail).after(wait)
    })?;
    let verdict = judge(&rest, &login.user, login.password).await;
    // Only wrong passwords are guesses.
    if !matches!(verdict, Ok(Verdict::Wrong)) {
        brake.give_back(&guess);
    }
    match verdict? {
        Verdict::Right => admit(&rest, &login.user, StatusCode::OK),
        Verdict::Wrong => Err(Problem::new(Code::Unauthenticated, "wrong user or password")),
    }
}

async fn judge(rest: &Rest, user: &UserId, password: String) -> Result<Verdict, Problem> {
    let stored = credentials(rest, user).await?;
    Ok(rest.passwords.verify(stored, password).await?)
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
    let draft: Draft<'_> = input::object(bytes)?;
    let user = input::text("user", draft.user)?;
    let user = input::name("user", UserId::parse(&user))?;
    let password = input::text("password", draft.password)?;
    if password.len() > PASSWORD_BYTES_MAX {
        let must = format!("must be {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes");
        return Err(Problem::field("password", &must));
    }
    Ok(Login { user, password })
}

fn admit(rest: &Rest, user: &UserId, status: StatusCode) -> Result<Response, Problem> {
    let issued = rest.tokens.issue(user, rest.token_life)?;
    let admitted =
        Admitted { user: user.to_string(), token: issued.token, expires_at: issued.expires_at.0 };
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(admitted)).into_response())
}

/// Where a request comes from; of IPv6 the part that one household has.
fn address(peer: Option<Extension<Peer>>) -> Option<IpAddr> {
    let Extension(Peer(peer)) = peer?;
    Some(match peer.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into()),
        v4 => v4,
    })
}

fn slow_address(rest: &Rest, address: Option<IpAddr>) -> Result<(), Problem> {
    // Behind a proxy on this machine all clients come from loopback.
    let Some(address) = address.filter(|ip| !ip.is_loopback() && *ip != loopback_net()) else {
        return Ok(());
    };
    rest.logins_per_address.take(&address, clock::wall()).map_err(|wait| {
        let detail = "too many logins and registrations from this address; wait a little";
        Problem::new(Code::RateLimited, detail).after(wait)
    })
}

/// What `address` makes of `::1`.
const fn loopback_net() -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
}
