//! Promise: a minority never confirms; when the others are back, everything converges without a human.

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};
use crate::socket::Socket;
use crate::web;

#[tokio::test]
async fn a_minority_never_confirms_and_heals_by_itself() {
    let cluster = Cluster::start(3).await;
    let alice = cluster.user("alice").await;
    let bob = cluster.user_led_by("bob", "a").await;
    let mut a = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    a.send(&bob.conv(), "before", "before").await;
    cluster.stop("b");
    cluster.stop("c");
    let d = |cid: &str| json!({"to": bob.conv(), "cid": cid, "kind": "text", "body": cid});
    // The first may be on its way when the leader still believes in its majority; it is not confirmed either.
    for cid in ["cut-1", "cut-2"] {
        let err = a.request("send", d(cid)).await.expect_err("there is no majority");
        assert_eq!((&err["code"], &err["retry"]), (&json!("unavailable"), &json!(true)));
    }
    let ready = web::get(&format!("{}/readyz", cluster.url("a"))).await.unwrap();
    assert_eq!(ready.status, 503, "{ready:?}");
    eventually("no shard should be said to have a leader, and no node to lead", || async {
        let view = cluster.view("a").await;
        let led = view["shards"].as_array()?.iter().any(|shard| !shard["leader"].is_null());
        let leads = view["nodes"].as_array()?.iter().any(|node| node["leads"] != 0);
        (!led && !leads).then_some(())
    })
    .await;
    cluster.cont("b");
    cluster.cont("c");
    cluster.ready().await;

    // Alice's socket may have been closed meanwhile; her client repeats what was not confirmed.
    let mut a = Socket::login(&cluster.url("b"), &alice.token, "phone").await;
    for cid in ["cut-1", "cut-2"] {
        a.request("send", d(cid)).await.unwrap();
    }
    let mut b = Socket::login(&cluster.url("c"), &bob.token, "phone").await;
    let mut bodies = Vec::new();
    for event in b.backlog().await {
        bodies.push(event["d"]["body"].as_str().unwrap().to_owned());
    }
    assert_eq!(bodies, ["before", "cut-1", "cut-2"]);
}

#[tokio::test]
async fn a_frozen_leader_is_replaced_and_cannot_confirm_when_it_wakes() {
    let cluster = Cluster::start(3).await;
    let alice = cluster.user_led_by("alice", "b").await;
    let bob = cluster.user_led_by("bob", "a").await;
    let mut a = Socket::login(&cluster.url("b"), &alice.token, "phone").await;
    a.send(&bob.conv(), "m1", "1").await;
    cluster.stop("a");
    eventually("the others should elect a leader", || async {
        (cluster.leader_of(&bob.name, "b").await != "a").then_some(())
    })
    .await;
    a.send(&bob.conv(), "m2", "2").await;
    cluster.cont("a");
    a.send(&bob.conv(), "m3", "3").await;
    let mut b = Socket::login(&cluster.url("a"), &bob.token, "phone").await;
    let seqs: Vec<Value> =
        b.backlog().await.iter().map(|event| event["d"]["body"].clone()).collect();
    assert_eq!(seqs, ["1", "2", "3"]);
}
