//! Tests of the documents: that router and document have the same calls, and that examples are what they seem.

use std::collections::BTreeSet;

use actors::ids::{Cid, GroupId, UserId};
use axum::body::Body;
use axum::http::{Request, header};
use serde_json::Value;

use super::{Stage, stage};
use crate::described::{Described, examples_of};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

fn described() -> Described {
    Described::new(crate::rest::openapi())
}

/// The paths that a router takes; `axum` tells them only to who debugs.
fn routed(stage: &Stage) -> BTreeSet<String> {
    let shown = format!("{:?}", stage.router);
    let paths = shown.split('"').filter(|part| part.starts_with('/'));
    let paths: BTreeSet<String> = paths.map(str::to_owned).collect();
    assert!(paths.contains("/v1/messages"), "the router shows no paths any more: {shown}");
    paths
}

#[tokio::test]
async fn router_and_document_have_the_same_calls() {
    let (stage, described) = (stage(), described());
    let document = described.document();
    let mut paths = routed(&stage);
    paths.extend(document["paths"].as_object().unwrap().keys().cloned());
    let mut complaints = Vec::new();
    for path in &paths {
        let target = path.replace(['{', '}'], "");
        for method in METHODS {
            let request = Request::builder().method(method).uri(&target).body(Body::empty());
            let reply = stage.ask_of(stage.router.clone(), request.unwrap()).await;
            let status = reply.status;
            let nowhere = reply.body["detail"] == "there is nothing at this path";
            let listed = document["paths"][path].get(method.to_lowercase()).is_some();
            match (status == 405 || nowhere, listed) {
                (false, false) => complaints.push(format!(
                    "{method} {path} is served and not described: write `#[utoipa::path]` above its handler and add it \
                     by `.routes(routes!(…))` of utoipa_axum, not by `.route(…)`"
                )),
                (true, true) => complaints.push(format!(
                    "{method} {path} is described and not served ({status}): merge its routes in `rest::router`"
                )),
                _ => {}
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_call_is_described_in_full() {
    let described = described();
    let document = described.document();
    let (mut names, mut complaints) = (BTreeSet::new(), Vec::new());
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let call = format!("{method} {path}");
            let name = operation["operationId"].as_str().unwrap_or_default().to_owned();
            if !names.insert(name.clone()) {
                complaints
                    .push(format!("{call}: another call is `{name}`, too: give an `operation_id`"));
            }
            if operation["summary"].as_str().is_none_or(str::is_empty)
                || operation["tags"][0].is_null()
            {
                complaints.push(format!("{call}: say what it does (`///`) and give it a `tag`"));
            }
            let body = operation.get("requestBody").is_some();
            for example in examples_of(operation) {
                match (example, body) {
                    (None, true) => complaints.push(format!("{call}: its body needs an example")),
                    (Some(example), _) => {
                        let schema =
                            &operation["requestBody"]["content"]["application/json"]["schema"];
                        let wrong = described.fits(schema, &example).err();
                        complaints.extend(wrong.map(|why| format!("{call}: example: {why}")));
                    }
                    (None, false) => {}
                }
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "path" && parameter.get("example").is_none() {
                    complaints.push(format!("{call}: `{}` needs an example", parameter["name"]));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_group_of_the_examples_is_the_one_they_make() {
    let (alice, cid) = (UserId::parse("alice").unwrap(), Cid::parse("holidays").unwrap());
    let group = GroupId::made_by(&alice, &cid).to_string();
    let shown =
        crate::rest::openapi()["paths"]["/v1/groups/{group}"]["get"]["parameters"][0]["example"]
            .clone();
    assert_eq!(shown, group);
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let stage = stage();
    let get = async |path: &str| stage.ask(Request::get(path).body(Body::empty()).unwrap()).await;
    let page = get("/v1/docs").await;
    assert_eq!(page.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("http"), "{policy}");
    let Value::String(html) = page.body else { panic!("a page") };
    assert!(!html.contains("//"), "{html}");
    let parts: Vec<&str> = html.split('"').filter(|word| word.starts_with("docs/")).collect();
    assert_eq!(parts.len(), 3, "{html}");
    for part in parts {
        let reply = get(&format!("/v1/{part}")).await;
        assert_eq!(reply.status, 200, "{part}");
        assert!(
            !reply.headers.contains_key(header::CONTENT_ENCODING),
            "nobody asked for {part} packed"
        );
    }
    let moved = get("/v1/docs/").await;
    assert_eq!(
        (moved.status, &moved.headers[header::LOCATION]),
        (308, &"../docs".parse().unwrap())
    );
    get("/v1/docs/index.html").await.refuses(404, "not_found", "no such part");
    for document in ["/v1/openapi.json", "/v1/asyncapi.json"] {
        let reply = get(document).await;
        assert_eq!((reply.status, reply.body.is_object()), (200, true), "{document}");
        assert!(reply.headers.contains_key(header::ETAG));
    }
}
