//! Rest: the HTTP API for clients: accounts, sending, and who is there; the socket begins here, too, and what both are
//! is told to programs.
//!
//! Owns      the brakes on logins, on sending and on all requests, which die with the process.
//! Promises  every refusal is a problem (RFC 9457) with the protocol's code and the request's id; every request ends within
//!           its time-out; nothing private is left in a cache; there is no call that the OpenAPI document lacks.
//! Never     serves what is the operator's; reads a body without a bound.
//! Fails by  answering `unavailable` while a home has no majority; a client repeats with the same `cid`.

mod accounts;
mod brakes;
mod callers;
mod documents;
mod etag;
mod groups;
mod health;
mod history;
mod input;
mod leaving;
mod manners;
mod messages;
mod people;
mod presence;
mod problem;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actors::clock;
use actors::ids::UserId;
use actors::message::people::Card;
use actors::message::{self, Accepted, Refusal};
use actors::packet::{Answer, Question};
use actors::router::CardsFor;
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{PasswordRefused, Passwords, Tokens};
use crate::config::Config;
use brakes::Brakes;
use callers::Settled;
use documents::Documents;

pub use documents::openapi;
pub use health::Ready;
pub use problem::{Code, Problem};
pub use serve::{Io, Peer, Seat, Seats, bind, serve};

pub(crate) use health::routes as health_routes;

/// An answer that is still to come.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What this room needs of the mailboxes' homes, wherever they are.
pub trait Homes: Send + Sync {
    /// Asks a mailbox's home, again and again until it answers or the time is over (`Unavailable`).
    fn ask<'a>(
        &'a self,
        user: &'a UserId,
        question: Question,
        within: Duration,
    ) -> Pending<'a, Result<Answer, Refusal>>;

    /// One of these users whom nobody knows, if there is any.
    fn unknown_of(
        &self,
        users: Vec<UserId>,
        within: Duration,
    ) -> Pending<'_, Result<Option<UserId>, Refusal>>;

    /// What these users are called, as far as their homes say it soon.
    fn cards<'a>(
        &'a self,
        users: Vec<UserId>,
        by: &'a UserId,
        what: CardsFor,
    ) -> Pending<'a, BTreeMap<UserId, Card>>;

    /// Sends one message outside any stream, in the same way.
    fn send_once(
        &self,
        send: message::Send,
        within: Duration,
    ) -> Pending<'_, Result<Accepted, Refusal>>;
}

/// Turns `GET /v1/socket` into a WebSocket. The request carries [`Peer`] and [`Seat`] as extensions.
pub type Upgrade = Arc<dyn Fn(Request<Body>) -> Response + Send + Sync>;

/// What the handlers share.
pub struct Rest {
    homes: Arc<dyn Homes>,
    tokens: Arc<Tokens>,
    passwords: Passwords,
    brakes: Brakes,
    settled: Settled,
    open_registration: bool,
    login: bool,
    token_life: Duration,
    session: Duration,
    cors_origins: Vec<String>,
    timeout: Duration,
    body_max: usize,
    message_body_max: usize,
    places: Arc<Semaphore>,
    copies: leaving::Copies,
}

impl Rest {
    /// Takes its limits from the configuration. Hashes one password on the spot.
    pub fn new(
        config: &Config,
        homes: Arc<dyn Homes>,
        tokens: Arc<Tokens>,
    ) -> Result<Self, PasswordRefused> {
        let limits = &config.limits;
        let auth = &config.auth;
        let session = if auth.session.is_zero() { Duration::MAX } else { auth.session };
        Ok(Self {
            homes,
            tokens,
            passwords: Passwords::new(config.logins_parallel())?,
            brakes: Brakes::new(limits),
            settled: Settled::default(),
            open_registration: auth.open_registration,
            login: auth.login,
            token_life: auth.token_life.min(session),
            session: auth.session,
            cors_origins: config.http.cors_origins.clone(),
            timeout: limits.http_timeout,
            body_max: limits.frame_bytes_max as usize,
            message_body_max: limits.body_bytes_max as usize,
            places: Arc::new(Semaphore::new(limits.http_requests_in_flight_max as usize)),
            copies: leaving::Copies::default(),
        })
    }

    /// Reads a request's body, JSON within bounds, and takes a place. Not before the body is there: else whoever sends many
    /// bodies slowly, even without a token, would leave no place for others.
    async fn body(
        &self,
        request: Request<Body>,
    ) -> Result<(Vec<u8>, OwnedSemaphorePermit), Problem> {
        let bytes = input::json(request, self.body_max).await?;
        Ok((bytes, self.enter()?))
    }

    /// Takes one of the places for requests, until the permit is dropped; of a request with a body see `body`.
    fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let detail = "too many requests at once; try again a little later";
            Problem::new(Code::Unavailable, detail).after(Duration::from_secs(1))
        })
    }
}

/// How `GET /v1/socket` becomes a socket, and what is said there (AsyncAPI, as JSON).
pub struct Sockets {
    /// Makes one.
    pub upgrade: Upgrade,
    /// Describes them.
    pub document: Bytes,
}

/// Everything on the clients' listener.
pub fn router(rest: Arc<Rest>, ready: Ready, sockets: Sockets) -> Router {
    let cors = manners::cors(&rest.cors_origins);
    let (documents, _) = documents::routes().split_for_parts();
    let documents = in_common(documents, &rest).with_state(Documents::new(sockets.document));
    let (calls, _) = calls().split_for_parts();
    let (socket, _) = self::sockets().split_for_parts();
    let routes = in_common(calls, &rest)
        .with_state(rest)
        .merge(documents)
        // How many of these come is the gateway's to say.
        .merge(socket.with_state(sockets.upgrade))
        .merge(health_routes(ready));
    let routes = finish(routes);
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// All calls of clients, with what they are.
fn calls() -> OpenApiRouter<Arc<Rest>> {
    OpenApiRouter::new()
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::renew))
        .routes(routes!(accounts::password))
        .routes(routes!(messages::send, history::search))
        .routes(routes!(history::one))
        .routes(routes!(history::conversations))
        .routes(routes!(history::page))
        .routes(routes!(groups::create, groups::list))
        .routes(routes!(groups::info, groups::update))
        .routes(routes!(groups::leave))
        .routes(routes!(groups::add))
        .routes(routes!(groups::set_role, groups::remove))
        .routes(routes!(history::group_log))
        .routes(routes!(groups::receipts))
        .routes(routes!(leaving::erase))
        .routes(routes!(leaving::export))
        .routes(routes!(presence::get))
        .routes(routes!(people::profile_of))
        .routes(routes!(people::profile, people::describe))
        .routes(routes!(people::settings, people::set))
        .routes(routes!(people::blocked))
        .routes(routes!(people::block, people::unblock))
}

/// The way to the socket.
fn sockets() -> OpenApiRouter<Upgrade> {
    OpenApiRouter::new().routes(routes!(socket))
}

/// Opens the WebSocket.
///
/// The subprotocol is `rookery.v1.json` (also when none is offered) or `rookery.v1.msgpack`. What is said on it:
/// `/v1/asyncapi.json`.
#[utoipa::path(
    get,
    path = "/v1/socket",
    tag = "socket",
    responses((status = 101, description = "It is a WebSocket from here on.")),
    security(()),
    extensions(("x-codes" = json!(["bad_request", "426 bad_request", "unavailable"]))),
)]
async fn socket(State(upgrade): State<Upgrade>, request: Request<Body>) -> Response {
    upgrade(request)
}

/// What all calls of clients have in common: addresses are slowed, and what is still the same is not sent again.
fn in_common<S: Clone + Send + Sync + 'static>(routes: Router<S>, rest: &Arc<Rest>) -> Router<S> {
    routes
        .route_layer(middleware::from_fn(etag::etag))
        .route_layer(middleware::from_fn_with_state(Arc::clone(rest), brakes::slow))
}

/// Refuses in our own words what no route takes, counts all, and gives every answer its id.
pub(crate) fn finish(routes: Router) -> Router {
    routes
        .fallback(async || Problem::new(Code::NotFound, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            let problem = Problem::new(Code::BadRequest, "this path does not take this method");
            problem.status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .layer(middleware::from_fn(count))
        .layer(middleware::from_fn(manners::manners))
}

/// Counts requests and measures how long they take, by route and never by path.
async fn count(path: Option<MatchedPath>, request: Request<Body>, next: Next) -> Response {
    let route = path.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let start = clock::monotonic();
    let response = next.run(request).await;
    tracing::debug!(route, status = response.status().as_u16(), "answered");
    let status = response.status().as_u16().to_string();
    metrics::counter!("rookery_http_requests_total", "route" => route.clone(), "status" => status)
        .increment(1);
    metrics::histogram!("rookery_http_request_seconds", "route" => route)
        .record(start.elapsed().as_secs_f64());
    response
}

/// Where a request came from, for the brakes.
#[must_use]
pub fn peer_of(request: &Request<Body>) -> Option<SocketAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0)
}

/// For fuzzing: reads bytes as the body of each request, and as what proves who sends it; answers whether they were any.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let Ok(from) = UserId::parse("bob") else { return false };
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_bytes(bytes).map(|value| (AUTHORIZATION, value)));
    let tokens = Tokens::new("0123456789abcdef0123456789abcdef", "chat");
    let token = input::bearer(&headers).is_ok_and(|token| tokens.verify(token).is_ok());
    headers.extend(HeaderValue::from_bytes(bytes).map(|value| (input::IDEMPOTENCY_KEY, value)));
    headers.extend(HeaderValue::from_bytes(bytes).map(|value| (manners::REQUEST_ID, value)));
    let named = manners::request_id(&headers).as_bytes() == bytes;
    let login = accounts::login_of(bytes).map(|_| ()).map_err(IntoResponse::into_response);
    let change = accounts::change_of(bytes).map(|_| ()).map_err(IntoResponse::into_response);
    let key = input::idempotency_key(&headers).ok().flatten();
    let profile = people::profile_in(bytes).map_err(IntoResponse::into_response);
    let settings = people::last_seen_in(bytes).map_err(IntoResponse::into_response);
    let send = messages::compose(bytes.len(), from, key, bytes);
    let send = send.map_err(IntoResponse::into_response);
    let known = login.is_ok() || change.is_ok() || send.is_ok();
    token || named || known || profile.is_ok() || settings.is_ok()
}
