//! Tests of the operator's HTTP, against a node that is played.

use std::sync::Arc;

use actors::message::Refusal;
use axum::body::Body;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use super::{
    ClusterView, NodeState, NodeView, Observed, Recorder, ReplicaView, SessionView, ShardView,
    WhereView, Whom, router,
};
use crate::rest::Pending;

struct Played {
    ready: bool,
}

fn replicas() -> Vec<ReplicaView> {
    vec![ReplicaView { node: "a".into(), applied: Some(9), behind: Some(0), joining: false }]
}

impl Observed for Played {
    fn cluster(&self) -> ClusterView {
        let node = NodeView {
            name: "a".into(),
            url: "http://127.0.0.1:8080".into(),
            admin_url: "http://127.0.0.1:8180".into(),
            state: NodeState::Up,
            pid: Some(42),
            version: Some("0.1.0".into()),
            leads: 1,
            sessions: 7,
        };
        let shard = ShardView { shard: 0, leader: Some("a".into()), replicas: replicas(), term: 3 };
        ClusterView { cluster: "dev".into(), nodes: vec![node], shards: vec![shard] }
    }

    fn where_is(&self, whom: Whom) -> Pending<'_, Result<WhereView, Refusal>> {
        Box::pin(async move {
            let Whom::User(user) = whom else {
                return Err(Refusal::NotFound);
            };
            let session = SessionView { node: "b".into(), device: user.to_string() };
            let leader = Some("a".into());
            Ok(WhereView { shard: 5, leader, replicas: replicas(), sessions: vec![session] })
        })
    }

    fn ready(&self) -> bool {
        self.ready
    }
}

async fn ask(ready: bool, path: &str) -> (u16, String, String) {
    let (recorder, handle) = Recorder::local();
    let routes = router(Arc::new(Played { ready }), handle);
    metrics::with_local_recorder(&recorder, || {
        metrics::histogram!("test_seconds").record(0.003);
        metrics::histogram!("test_bytes").record(300.0);
    });
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = routes.clone().call(request).await.unwrap();
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn check(path: &str, status: u16, expected: Value) {
    let (got, _, text) = ask(true, path).await;
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((got, &body), (status, &expected), "{path}");
}

#[tokio::test]
async fn the_cluster_is_shown_as_the_protocol_says() {
    let expected = json!({
        "cluster": "dev",
        "nodes": [{
            "name": "a", "url": "http://127.0.0.1:8080", "admin_url": "http://127.0.0.1:8180",
            "state": "up", "pid": 42, "version": "0.1.0", "leads": 1, "sessions": 7
        }],
        "shards": [{
            "shard": 0, "leader": "a", "term": 3,
            "replicas": [{"node": "a", "applied": 9, "behind": 0}]
        }]
    });
    check("/admin/cluster", 200, expected).await;
}

#[tokio::test]
async fn a_user_is_found() {
    let expected = json!({
        "shard": 5, "leader": "a", "replicas": [{"node": "a", "applied": 9, "behind": 0}],
        "sessions": [{"node": "b", "device": "alice"}]
    });
    check("/admin/where?user=alice", 200, expected).await;
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let code = async |path: &str| {
        let (status, kind, text) = ask(true, path).await;
        assert_eq!(kind, "application/problem+json", "{path}");
        let body: Value = serde_json::from_str(&text).unwrap();
        (status, body["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(code("/admin/where").await, (400, "bad_request".into()));
    assert_eq!(code("/admin/where?user=").await, (400, "bad_request".into()));
    assert_eq!(code("/admin/where?user=A%20B").await, (400, "bad_request".into()));
    assert_eq!(code("/admin/where?group=none").await, (404, "not_found".into()));
    assert_eq!(code("/admin/nothing").await, (404, "not_found".into()));
    assert_eq!(code("/v1/login").await, (404, "not_found".into()));
}

#[tokio::test]
async fn a_node_without_leaders_lives_but_is_not_ready() {
    assert_eq!(ask(false, "/healthz").await.0, 200);
    assert_eq!(ask(true, "/readyz").await.0, 200);
    let (status, _, text) = ask(false, "/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("\"unavailable\""), "{text}");
}

#[tokio::test]
async fn metrics_are_histograms_with_bounds() {
    let (status, kind, text) = ask(true, "/metrics").await;
    assert_eq!(status, 200);
    assert!(kind.starts_with("text/plain"), "{kind}");
    assert!(text.contains("test_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    assert!(text.contains("test_bytes_bucket{le=\"1024\"} 1"), "{text}");
}
