//! Tests of the HTTP API: each call and each refusal, against homes that are played.

mod accounts;
mod documents;
mod leaving;
mod manners;
mod messages;
mod pages;
mod passwords;
mod people;
mod presence;
mod serving;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use actors::ids::{Epoch, MessageId, Seq, Timestamp, UserId};
use actors::mailbox::rules::Mailbox;
use actors::message::people::Card;
use actors::message::{self, Accepted, Refusal};
use actors::packet::{Answer, Presence, Question};
use actors::router::CardsFor;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use super::{Homes, Pending, Rest, Sockets, router};
use crate::auth::Tokens;
use crate::config::Config;
use crate::described::{Described, Said};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Homes that are played: accounts in a map, and one answer to all sends.
struct Played {
    accounts: Mutex<BTreeMap<UserId, Box<str>>>,
    sent: Mutex<Vec<message::Send>>,
    /// For whom a mailbox was asked for.
    opened: Mutex<Vec<UserId>>,
    asks: Result<(), Refusal>,
    sends: Result<Accepted, Refusal>,
    /// The mailbox that is asked about people; alice's.
    people: Mutex<Mailbox>,
    /// The answer to questions about messages.
    pages: Option<Answer>,
    /// Applies a registration but says it was taken, as after a lost answer.
    forgetful: bool,
}

impl Default for Played {
    fn default() -> Self {
        let accepted =
            Accepted { mid: MessageId(7), seq: Seq(3), at: Timestamp(1_000), dup: false };
        Self {
            accounts: Mutex::default(),
            sent: Mutex::default(),
            opened: Mutex::default(),
            asks: Ok(()),
            sends: Ok(accepted),
            people: Mutex::new(Mailbox::new(UserId::parse("alice").unwrap(), Epoch(1))),
            pages: None,
            forgetful: false,
        }
    }
}

impl Homes for Played {
    fn ask<'a>(
        &'a self,
        user: &'a UserId,
        question: Question,
        _within: Duration,
    ) -> Pending<'a, Result<Answer, Refusal>> {
        let mut accounts = self.accounts.lock().unwrap();
        let answer = match (self.asks, question) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Question::Register(_)) if accounts.contains_key(user) => Err(Refusal::Taken),
            (Ok(()), Question::Register(hash)) => {
                accounts.insert(user.clone(), hash);
                if self.forgetful { Err(Refusal::Taken) } else { Ok(Answer::Done) }
            }
            (Ok(()), Question::Open) => {
                self.opened.lock().unwrap().push(user.clone());
                Ok(Answer::Done)
            }
            (Ok(()), Question::Password { old, new }) => match accounts.get_mut(user) {
                Some(hash) if *hash == old => {
                    *hash = new;
                    Ok(Answer::Done)
                }
                Some(_) => Err(Refusal::Conflict),
                None => Err(Refusal::NotFound),
            },
            (Ok(()), Question::Credentials) => match accounts.get(user) {
                Some(hash) => Ok(Answer::Credentials(Some(hash.clone()))),
                None => Err(Refusal::NotFound),
            },
            (Ok(()), Question::Presence { by }) if accounts.contains_key(user) => {
                // Who asks is told back as the time.
                let last_seen = (by.as_str() == "alice").then_some(Timestamp(9));
                let presence = Presence { online: last_seen.is_none(), last_seen };
                Ok(Answer::Presence(vec![(user.clone(), presence)]))
            }
            (Ok(()), Question::Presence { .. }) => Err(Refusal::NotFound),
            (Ok(()), question @ (Question::Profile { .. } | Question::People(_)))
            | (Ok(()), question @ (Question::Settings | Question::Blocked)) => {
                people::answer(&mut self.people.lock().unwrap(), user, question)
            }
            (Ok(()), Question::History(_) | Question::GroupLog { .. }) => {
                Ok(self.pages.clone().unwrap_or(Answer::Done))
            }
            (Ok(()), _) => Ok(Answer::Done),
        };
        Box::pin(async { answer })
    }

    fn unknown_of(
        &self,
        users: Vec<UserId>,
        _within: Duration,
    ) -> Pending<'_, Result<Option<UserId>, Refusal>> {
        let accounts = self.accounts.lock().unwrap();
        let unknown = users.into_iter().find(|user| !accounts.contains_key(user));
        Box::pin(async move { Ok(unknown) })
    }

    fn cards<'a>(
        &'a self,
        users: Vec<UserId>,
        _by: &'a UserId,
        _what: CardsFor,
    ) -> Pending<'a, BTreeMap<UserId, Card>> {
        Box::pin(async move { users.into_iter().map(|user| (user, Card::default())).collect() })
    }

    fn send_once(
        &self,
        send: message::Send,
        _within: Duration,
    ) -> Pending<'_, Result<Accepted, Refusal>> {
        self.sent.lock().unwrap().push(send);
        let answer = self.sends;
        Box::pin(async move { answer })
    }
}

/// The API in front of played homes, with settings appended to those of a development cluster.
struct Stage {
    router: Router,
    rest: Arc<Rest>,
    homes: Arc<Played>,
    token: String,
}

fn stage_with(homes: Played, change: impl Fn(&mut Config)) -> Stage {
    let text = Config::dev(1, 8080, std::path::Path::new("data"), SECRET, "0123456789abcdef");
    let mut config = Config::parse("dev.toml", &text).unwrap();
    change(&mut config);
    let tokens = Arc::new(Tokens::of(&config).unwrap());
    let alice = UserId::parse("alice").unwrap();
    let token = tokens.issue(&alice, Duration::from_secs(60)).unwrap().token;
    let homes = Arc::new(homes);
    let rest = Arc::new(Rest::new(&config, homes.clone(), tokens).unwrap());
    let upgrade = Arc::new(|request: Request<Body>| {
        let from = super::peer_of(&request).map_or("nowhere".to_owned(), |p| p.to_string());
        (StatusCode::IM_A_TEAPOT, from).into_response()
    });
    let sockets = Sockets { upgrade, document: Bytes::from_static(b"{}") };
    let router = router(Arc::clone(&rest), Arc::new(|| true), sockets);
    Stage { router, rest, homes, token }
}

fn stage() -> Stage {
    stage_with(Played::default(), |_| {})
}

/// What came back.
struct Reply {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Value,
    bytes: Vec<u8>,
}

impl Stage {
    /// Asks, and looks whether the document knows such an answer.
    async fn ask(&self, request: Request<Body>) -> Reply {
        static DESCRIBED: LazyLock<Described> = LazyLock::new(|| Described::new(super::openapi()));
        let (method, target) = (request.method().to_string(), request.uri().to_string());
        let reply = self.ask_of(self.router.clone(), request).await;
        let kind = reply.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let (status, body) = (reply.status, reply.bytes.as_slice());
        let said = Said { method: &method, target: &target, status, kind, body };
        // The way to the socket is played here.
        if status != StatusCode::IM_A_TEAPOT.as_u16() {
            DESCRIBED.wrong_with(&said).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        reply
    }

    /// Asks another router than that of the API.
    async fn ask_of(&self, mut router: Router, request: Request<Body>) -> Reply {
        let response = router.call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        let bytes = bytes.to_vec();
        Reply { status: head.status.as_u16(), headers: head.headers, body, bytes }
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        self.post_as(&self.token, path, body).await
    }

    async fn post_as(&self, token: &str, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(body.into());
        self.ask(request.unwrap()).await
    }

    async fn get(&self, path: &str, token: &str) -> Reply {
        let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    async fn send(&self, message: Value) -> Reply {
        self.post("/v1/messages", message.to_string()).await
    }
}

impl Reply {
    /// Expects a problem of this status and code, whose detail says `says`.
    #[track_caller]
    fn refuses(&self, status: u16, code: &str, says: &str) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["code"], code, "{}", self.body);
        assert_eq!(self.body["status"], status, "{}", self.body);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert!(self.body["title"].is_string() && self.body["retry"].is_boolean());
        assert_eq!(self.body["request_id"], self.headers["x-request-id"].to_str().unwrap());
        assert_eq!(self.headers[header::CACHE_CONTROL], "no-store");
        let detail = self.body["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{detail}");
        self
    }
}

fn message() -> Value {
    json!({"to": "u:bob", "cid": "c-1", "kind": "text", "body": "hi"})
}

fn account(user: &str, password: &str) -> String {
    json!({"user": user, "password": password}).to_string()
}
