//! Documents: what the API is, said by the code that it is made of (OpenAPI 3.1), and a page to read and to try it.
//!
//! A new call is described where it is handled: `#[utoipa::path]` on its handler, which `routes!` puts into router and
//! document alike. What all calls have in common is added here: `codes` looks at what a call takes. So a handler names in
//! `x-codes` only the codes that are its own, with their status where it is not the usual one (`"426 bad_request"`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Code, Problem, status};
use super::{health, leaving, problem};

/// Where in the document the answer is that all refusals are.
const PROBLEM: &str = "#/components/responses/Problem";
/// What the page may load and ask: nothing of other hosts. Its styles are partly written into its elements.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'",
);
/// The page; what it is made of lies below it.
const PAGE: &str = include_str!("documents/page.html");
/// What the page begins with.
const START: &str = include_str!("documents/start.js");

/// The documents, ready to be sent.
pub(super) struct Documents {
    openapi: Bytes,
    asyncapi: Bytes,
}

impl Documents {
    /// Those of this version, with the socket's as the gateway says it.
    pub(super) fn new(asyncapi: Bytes) -> Arc<Self> {
        let openapi = serde_json::to_vec(&openapi()).unwrap_or_default().into();
        Arc::new(Self { openapi, asyncapi })
    }
}

/// What no single call says.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "rookery",
        description = "The HTTP API of a rookery cluster: any node answers alike. Refusals are \
            `application/problem+json` (RFC 9457) with a `code`; `x-codes` of an operation lists those it may give, by \
            status. Numbers stay below 2^53, times are milliseconds since the Unix epoch. The socket is described by \
            `/v1/asyncapi.json`. Every answer has an `X-Request-Id`. A JSON answer to a GET below `/v1` has an `ETag`: \
            send it back in `If-None-Match`, and 304 says that nothing has changed."
    ),
    servers((url = "/", description = "this node")),
    tags(
        (name = "accounts", description = "Coming and going."),
        (name = "messages", description = "Sending, and reading what was written."),
        (name = "groups", description = "The calls of the socket once more."),
        (name = "users", description = "Others."),
        (name = "socket", description = "The WebSocket, which most of a client's life happens on."),
        (name = "documents", description = "What you are reading."),
        (name = "health", description = "For whoever runs the node."),
    ),
    components(schemas(problem::Body<'_>, leaving::Line<'_>)),
    security(("bearer" = [])),
)]
struct Common;

/// The OpenAPI document of all there is on the clients' listener.
#[must_use]
pub fn openapi() -> Value {
    let mut all = Common::openapi();
    all.merge(super::calls().into_openapi());
    all.merge(super::sockets().into_openapi());
    all.merge(routes().into_openapi());
    all.merge(health::described().into_openapi());
    // All of it is text, lists and maps with text for keys.
    let mut document = serde_json::to_value(all).unwrap_or_default();
    complete(&mut document);
    document
}

/// The calls that answer with documents.
pub(super) fn routes() -> OpenApiRouter<Arc<Documents>> {
    OpenApiRouter::new()
        .routes(routes!(openapi_document))
        .routes(routes!(asyncapi_document))
        .routes(routes!(page))
        .routes(routes!(page_with_slash))
        .routes(routes!(part_of_page))
}

/// Describes the HTTP API: this document.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "documents",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
    security(()),
)]
async fn openapi_document(State(documents): State<Arc<Documents>>) -> Response {
    json_of(documents.openapi.clone())
}

/// Describes the socket.
#[utoipa::path(
    get,
    path = "/v1/asyncapi.json",
    tag = "documents",
    responses((status = 200, description = "AsyncAPI 3.0.", body = Object)),
    security(()),
)]
async fn asyncapi_document(State(documents): State<Arc<Documents>>) -> Response {
    json_of(documents.asyncapi.clone())
}

/// Shows the HTTP API in a browser, to read and to try.
#[utoipa::path(
    get,
    path = "/v1/docs",
    tag = "documents",
    responses((status = 200, description = "A page.", body = String, content_type = "text/html")),
    security(()),
)]
async fn page() -> Response {
    let kind = (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    ([kind, (CONTENT_SECURITY_POLICY, POLICY)], PAGE).into_response()
}

/// Sends who typed a slash too many to the page.
#[utoipa::path(
    get,
    path = "/v1/docs/",
    tag = "documents",
    responses((status = 308, description = "It is at `/v1/docs`.")),
    security(()),
)]
async fn page_with_slash() -> Response {
    // Relative, so that it is true behind a proxy that has it all below a path of its own.
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, HeaderValue::from_static("../docs"))])
        .into_response()
}

/// What the page is made of.
#[utoipa::path(
    get,
    path = "/v1/docs/{file}",
    operation_id = "page_part",
    tag = "documents",
    params(("file" = String, Path, description = "Which part.", example = "start.js")),
    responses((
        status = 200,
        description = "The part.",
        content((String = "text/javascript"), (String = "text/css")),
    )),
    security(()),
    extensions(("x-codes" = json!(["not_found"]))),
)]
async fn part_of_page(Path(file): Path<String>) -> Result<Response, Problem> {
    let own = |kind: &'static str| (CONTENT_TYPE, HeaderValue::from_static(kind));
    let kind = match &*file {
        "start.js" => return Ok(([own("text/javascript")], START).into_response()),
        "swagger-ui.css" => own("text/css"),
        "swagger-ui-bundle.js" => own("text/javascript"),
        _ => return Err(Problem::new(Code::NotFound, "the page has no such part")),
    };
    // Only its own beginning has settings, and ours stands in its place.
    let found = utoipa_swagger_ui::serve(&file, Arc::default()).ok().flatten();
    let Some(found) = found else { return Err(Problem::internal()) };
    let cached = (CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    let sniff = (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Invariant: the parts are built in as they are, since not everybody takes them packed (RFC 9110, section 12.5.3).
    debug_assert!(!found.gzpipped);
    Ok(([kind, cached, sniff], found.bytes).into_response())
}

fn json_of(document: Bytes) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], document).into_response()
}

/// Adds what all calls have in common.
fn complete(document: &mut Value) {
    document["components"]["securitySchemes"] = json!({"bearer": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A token from `/v1/register`, `/v1/login` or `/v1/token`, or of the operator's own issuer.",
    }});
    let text = json!({"schema": {"type": "string"}});
    document["components"]["responses"] = json!({"Problem": {
        "description": "Why the request was refused.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        "headers": {
            "X-Request-Id": text,
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
            "WWW-Authenticate": {"description": "With 401.", "schema": {"type": "string"}},
        },
    }});
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                finish(path, method, operation);
            }
        }
    }
}

fn finish(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let codes = codes(path, operation);
    let mut listed = Map::new();
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    for (status, codes) in codes {
        let words: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let status = status.to_string();
        responses[&status] = json!({"$ref": PROBLEM, "description": words.join(", ")});
        listed.insert(status, json!(codes));
    }
    if method == "get" && path.starts_with("/v1") && json_is_at(responses, "/200") {
        responses["304"] = json!({"description": "It is still what `If-None-Match` names."});
    }
    operation.insert("x-codes".to_owned(), listed.into());
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        // What may be left out is an `Option`; but nothing in a head or a query is null.
        if let Some(given) = parameter["schema"]["oneOf"].get(0).cloned() {
            parameter["schema"] = given;
        }
    }
}

fn json_is_at(responses: &Value, place: &str) -> bool {
    responses.pointer(&format!("{place}/content/application~1json")).is_some()
}

/// The codes that a call may give, by status: its own, and those of what it takes.
fn codes(path: &str, operation: &Map<String, Value>) -> BTreeMap<u16, BTreeSet<&'static str>> {
    let mut codes: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    let mut add = |code: Code, at: Option<StatusCode>| {
        codes.entry(at.unwrap_or(status(code)).as_u16()).or_default().insert(code.as_str());
    };
    // A connection too many is told so, whatever it asks for.
    add(Code::Unavailable, None);
    // See `manners`.
    add(Code::TooLarge, Some(StatusCode::URI_TOO_LONG));
    add(Code::TooLarge, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    let limited = path.starts_with("/v1") && path != "/v1/socket";
    if limited {
        add(Code::RateLimited, None);
        add(Code::Internal, None);
    }
    if operation.contains_key("requestBody") {
        add(Code::BadRequest, None);
        add(Code::BadRequest, Some(StatusCode::REQUEST_TIMEOUT));
        add(Code::BadRequest, Some(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        add(Code::TooLarge, None);
    }
    if operation.contains_key("parameters") {
        add(Code::BadRequest, None);
    }
    // Who says nothing of security is behind that of the document.
    if !operation.contains_key("security") {
        add(Code::Unauthenticated, None);
        add(Code::Gone, None);
    }
    let own = operation.get("x-codes").and_then(Value::as_array).into_iter().flatten();
    for text in own.filter_map(Value::as_str) {
        let (at, name) = text.split_once(' ').map_or((None, text), |(at, name)| (Some(at), name));
        let at = at.and_then(|at| StatusCode::from_bytes(at.as_bytes()).ok());
        let code = Code::ALL.into_iter().find(|code| code.as_str() == name);
        // Invariant: handlers name codes of the protocol, so none is dropped here.
        debug_assert!(code.is_some(), "`{text}` in the `x-codes` of {path} is no code");
        if let Some(code) = code {
            add(code, at);
        }
    }
    codes
}
