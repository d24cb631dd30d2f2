//! Promise: what a node says of itself is true. Each call and each example of its documents is made, and each answer is as
//! they say. (That all other tests' answers are, too, is seen in `web` and `socket`.)

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::{Value, json};

use crate::described::examples_of;
use crate::harness::{Cluster, User};
use crate::socket::Socket;
use crate::web::{self, Answer, call, call_with};

/// The message that examples speak of; the one that was sent stands in its place.
const MID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// Calls that others need to have been made; the rest come after them, in the order of their paths.
const FIRST: &[&str] = &[
    "POST /v1/register",
    "POST /v1/login",
    "POST /v1/token",
    "POST /v1/groups",
    "POST /v1/messages",
    "POST /v1/groups/{group}/members",
    "PUT /v1/groups/{group}/members/{user}",
];
/// Calls after which others could not be made.
const LAST: &[&str] = &[
    "DELETE /v1/groups/{group}/members/{user}",
    "POST /v1/groups/{group}/leave",
    "DELETE /v1/blocked/{user}",
    "POST /v1/password",
    "DELETE /v1/account",
];
/// Requests that others need to have been made, and those after which others could not be.
const OPS_FIRST: &[&str] = &["auth", "send", "group.create"];
const OPS_LAST: &[&str] = &["unblock", "group.remove", "group.leave", "device.remove"];

/// What a test of one call needs.
struct Walk<'a> {
    url: String,
    token: String,
    mid: String,
    call: String,
    method: Method,
    path: &'a str,
    operation: &'a Value,
}

/// What stands between the first and the last.
fn place(name: &str, first: &[&str], last: &[&str]) -> usize {
    let at = |list: &[&str]| list.iter().position(|one| *one == name);
    at(first).or_else(|| at(last).map(|at| 1_000 + at)).unwrap_or(100)
}

impl Walk<'_> {
    /// The path with its examples, and the query with those that must be there.
    fn target(&self) -> String {
        let (mut path, mut query) = (self.path.to_owned(), Vec::new());
        for parameter in self.operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let example = parameter["example"].as_str().unwrap_or_default().replace(MID, &self.mid);
            match parameter["in"].as_str() {
                Some("path") => path = path.replace(&format!("{{{name}}}"), &example),
                Some("query") if parameter["required"] == true => {
                    query.push(format!("{name}={example}"))
                }
                _ => {}
            }
        }
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("{}{path}{query}", self.url)
    }

    async fn ask(
        &self,
        token: Option<&str>,
        body: Option<&Value>,
        more: &[(&str, &str)],
    ) -> Answer {
        call_with(self.method.clone(), &self.target(), token, body, more).await.unwrap()
    }

    /// Makes the call with each of its examples; answers what each got.
    async fn examples(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for example in examples_of(self.operation) {
            let text = example.map(|example| example.to_string().replace(MID, &self.mid));
            let body = text.map(|text| serde_json::from_str(&text).unwrap());
            answers.push(self.ask(Some(&self.token), body.as_ref(), &[]).await);
        }
        answers
    }

    /// Makes it as it must not be made, in all ways that calls have in common.
    async fn refusals(&self) {
        let body = json!({});
        let has_body = self.operation.get("requestBody").is_some();
        if self.operation.get("security").is_none() {
            let answer = self.ask(None, has_body.then_some(&body), &[]).await;
            assert_eq!((answer.status, &answer.body["code"]), (401, &json!("unauthenticated")));
            assert!(answer.headers.contains_key("www-authenticate"), "{}", self.call);
        }
        if has_body {
            let token = Some(self.token.as_str());
            let large = json!({"more": "x".repeat(70_000)});
            // Where no field must be there, nothing is asked for, and told how it is.
            let empty = if self.call == "PATCH /v1/profile" { 200 } else { 400 };
            let wrong =
                [(Some(json!([])), 400), (Some(body), empty), (None, 415), (Some(large), 413)];
            for (body, status) in wrong {
                let answer = self.ask(token, body.as_ref(), &[]).await;
                assert_eq!(answer.status, status, "{}: {}", self.call, answer.text);
            }
        }
        let answer = call(Method::TRACE, &self.target(), None, None).await.unwrap();
        let problem =
            answer.headers.get("content-type").is_some_and(|k| k == "application/problem+json");
        assert_eq!((answer.status, problem), (405, true), "{}", self.call);
        let allowed = answer.headers["allow"].to_str().unwrap();
        assert!(allowed.contains(self.method.as_str()), "{}: {allowed}", self.call);
    }
}

/// Every call of the document: name, method, path and what is said of it, in an order in which all can be made.
fn calls(document: &Value) -> Vec<(String, Method, &str, &Value)> {
    let mut calls = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            calls.push((format!("{method} {path}"), method, path.as_str(), operation));
        }
    }
    calls.sort_by_key(|(call, ..)| place(call, FIRST, LAST));
    for known in FIRST.iter().chain(LAST) {
        assert!(
            calls.iter().any(|(call, ..)| call == known),
            "{known} is not in the document any more"
        );
    }
    calls
}

/// A cluster of one node, which has the users that examples speak of; and bob's token.
async fn stage() -> (Cluster, String, String) {
    let cluster = Cluster::with(1, "[limits]\nhttp_requests_per_second = 10000").await;
    let url = cluster.first_url();
    let bob = web::register(&url, "bob").await;
    web::register(&url, "carol").await;
    (cluster, url, bob)
}

#[tokio::test]
async fn every_call_of_the_document_answers_as_it_says() {
    let (_cluster, url, _) = stage().await;
    let document = web::get(&format!("{url}/v1/openapi.json")).await.unwrap().body;
    assert_eq!(document, rookery::rest::openapi());
    let (mut token, mut mid) = (String::new(), MID.to_owned());
    for (call, method, path, operation) in calls(&document) {
        let walk = Walk {
            url: url.clone(),
            token: token.clone(),
            mid: mid.clone(),
            call,
            method,
            path,
            operation,
        };
        if walk.path == "/v1/socket" {
            let answer = walk.ask(None, None, &[]).await;
            assert_eq!((answer.status, &answer.body["code"]), (426, &json!("bad_request")));
            continue;
        }
        if !token.is_empty() {
            walk.refusals().await;
        }
        let mut seen = BTreeSet::new();
        for answer in walk.examples().await {
            let (status, call) = (answer.status, &walk.call);
            assert!(
                (200..400).contains(&status),
                "{call}: its example is refused: {}\nIf it can only be made before or after others, say so in FIRST or \
                 LAST of tests/cluster/documents.rs.",
                answer.text
            );
            seen.insert(status.to_string());
            let text = |field: &str| answer.body[field].as_str().map(str::to_owned);
            token = text("token").unwrap_or(token);
            mid = text("mid").filter(|_| walk.method == Method::POST).unwrap_or(mid);
            if let Some(tag) = answer.headers.get("etag") {
                let again =
                    walk.ask(Some(&token), None, &[("if-none-match", tag.to_str().unwrap())]).await;
                assert_eq!((again.status, again.text.as_str()), (304, ""), "{call}");
            }
        }
        let promised =
            operation["responses"].as_object().unwrap().keys().filter(|s| s.starts_with('2'));
        let unseen: Vec<&String> = promised.filter(|status| !seen.contains(*status)).collect();
        assert!(unseen.is_empty(), "{}: no example gets {unseen:?}", walk.call);
    }
}

#[tokio::test]
async fn the_page_is_served_whole() {
    let (_cluster, url, _) = stage().await;
    let page = web::get(&format!("{url}/v1/docs")).await.unwrap();
    assert!(page.text.contains("swagger-ui"), "{}", page.text);
    for (part, kind) in
        [("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")]
    {
        let answer = web::get(&format!("{url}/v1/docs/{part}")).await.unwrap();
        assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, kind));
        assert!(!answer.headers.contains_key("content-encoding"), "nobody asked for {part} packed");
        assert!(answer.text.len() > 100_000, "{}", answer.text.len());
    }
    let moved = web::get(&format!("{url}/v1/docs/")).await.unwrap();
    assert_eq!((moved.status, moved.headers["location"].to_str().unwrap()), (308, "../docs"));
}

#[tokio::test]
async fn every_request_of_the_sockets_document_is_answered_as_it_says() {
    let (_cluster, url, bob) = stage().await;
    let document = web::get(&format!("{url}/v1/asyncapi.json")).await.unwrap().body;
    assert_eq!(document, rookery::gateway::asyncapi());
    let token = web::register(&url, "alice").await;
    let mut bob = Socket::login(&url, &bob, "phone").await;
    bob.send("u:alice", "b-1", "hello").await;
    Socket::login(&url, &token, "tablet").await.leave().await;

    let operations = document["operations"].as_object().unwrap();
    let mut ops: Vec<&String> = operations
        .iter()
        .filter(|(_, op)| op["action"] == "receive")
        .map(|(name, _)| name)
        .collect();
    ops.sort_by_key(|op| place(op, OPS_FIRST, OPS_LAST));
    let mut alice = Socket::connect(&url).await;
    for op in ops {
        let examples = document["components"]["messages"][op]["examples"].as_array().unwrap();
        for example in examples.iter().map(|example| &example["payload"]) {
            assert_eq!(example["op"], **op);
            let mut d = example["d"].clone();
            if op == "auth" {
                d["token"] = token.clone().into();
            }
            // What comes back is compared with the document where it is read.
            alice.request(op, d).await.unwrap_or_else(|err| {
                panic!(
                    "the example of `{op}` is refused: {err}\nIf it can only be sent before or after others, say so in \
                     OPS_FIRST or OPS_LAST of tests/cluster/documents.rs."
                )
            });
        }
    }
}

/// Reads on until each of these events was told.
async fn hears(socket: &mut Socket, events: &[&str]) {
    let mut missing: BTreeSet<&str> = events.iter().copied().collect();
    while !missing.is_empty() {
        let event = socket.next_event().await;
        missing.remove(event["ev"].as_str().unwrap());
    }
}

#[tokio::test]
async fn every_event_of_the_sockets_document_is_told_as_it_says() {
    let (cluster, url, _) = stage().await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut phone = Socket::connect(&url).await;
    let mut heard = BTreeSet::from(["hello"]);
    phone.auth(&alice.token, "phone", None).await;
    let mut hear = async |phone: &mut Socket, events: &[&'static str]| {
        hears(phone, events).await;
        heard.extend(events);
    };
    hear(&mut phone, &["caught_up"]).await;
    phone.tell("ping", json!({})).await;
    hear(&mut phone, &["pong"]).await;
    phone.request("watch", json!({"users": [bob.name]})).await.unwrap();
    let mut other = Socket::login(&url, &bob.token, "phone").await;
    hear(&mut phone, &["presence"]).await;
    other.request("typing", json!({"to": alice.conv(), "on": true})).await.unwrap();
    hear(&mut phone, &["typing"]).await;
    other.send(&alice.conv(), "b-1", "hi").await;
    hear(&mut phone, &["message"]).await;
    answered(&url, &alice, &mut phone, &bob, &mut other).await;
    hear(&mut phone, &["sent", "receipt", "group"]).await;
    tokio::join!(hear(&mut phone, &["goaway"]), cluster.terminate("a"));

    let document = rookery::gateway::asyncapi();
    let events = document["components"]["messages"].as_object().unwrap().keys();
    // 30 days are too long for a test here; `wire` has one.
    let events = events.filter_map(|name| name.strip_prefix("ev.")).filter(|ev| *ev != "expired");
    let silent: Vec<&str> = events.filter(|event| !heard.contains(event)).collect();
    assert!(silent.is_empty(), "let this test hear {silent:?}, too");
}

/// Alice writes from another device and makes a group, bob reads.
async fn answered(url: &str, alice: &User, phone: &mut Socket, bob: &User, other: &mut Socket) {
    let mut tablet = Socket::login(url, &alice.token, "tablet").await;
    let seq = tablet.send(&bob.conv(), "a-1", "hello yourself").await["seq"].clone();
    other.event("message").await;
    other.request("read", json!({"conv": alice.conv(), "seq": seq})).await.unwrap();
    let d = json!({"title": "Us", "members": [bob.name], "cid": "us"});
    phone.request("group.create", d).await.unwrap();
}
