//! Promise: clusters of one, two, three and five nodes work, and tell the truth about what a majority is.

use serde_json::json;

use crate::harness::Cluster;
use crate::socket::Socket;
use crate::traffic::Traffic;

/// Chats through the first and the last node.
async fn check(nodes: u16) -> Cluster {
    let cluster = Cluster::start(nodes).await;
    let view = cluster.view("a").await;
    assert_eq!(view["nodes"].as_array().map(Vec::len), Some(usize::from(nodes)));
    for shard in view["shards"].as_array().unwrap() {
        let replicas = shard["replicas"].as_array().map(Vec::len);
        assert_eq!(replicas, Some(usize::from(nodes.min(3))), "{shard}");
    }
    let leads = view["nodes"].as_array().unwrap().iter().filter(|node| node["leads"] != 0).count();
    assert_eq!(leads, usize::from(nodes), "every node leads some shards: {}", view["nodes"]);
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let urls = cluster.urls();
    let traffic = Traffic::start(&alice, &urls[..1], &bob, &urls[urls.len() - 1..]);
    traffic.goes_on(50).await;
    traffic.finish().await;
    cluster
}

#[tokio::test]
async fn one_node_works_alone() {
    let cluster = check(1).await;
    cluster.kill9("a");
    cluster.start_all();
    cluster.ready().await;
}

#[tokio::test]
async fn two_nodes_need_each_other() {
    let cluster = check(2).await;
    let alice = cluster.user("alice").await;
    let bob = cluster.user("bob").await;
    let mut a = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    cluster.kill9("b");
    let d = json!({"to": bob.conv(), "cid": "alone", "kind": "text", "body": ""});
    let err = a.request("send", d).await.expect_err("one of two is no majority");
    assert_eq!(err["code"], "unavailable");
    cluster.start_node("b");
    cluster.ready().await;
    let mut a = Socket::login(&cluster.url("b"), &alice.token, "phone").await;
    a.send(&bob.conv(), "alone", "").await;
}

#[tokio::test]
async fn five_nodes_work_and_any_may_die() {
    let cluster = check(5).await;
    let alice = cluster.user("alice").await;
    let bob = cluster.user("bob").await;
    let roads: Vec<String> = ["a", "b", "c"].map(|name| cluster.url(name)).to_vec();
    let traffic = Traffic::start(&alice, &roads, &bob, &roads);
    traffic.goes_on(50).await;
    // One after the other: three replicas of five nodes bear one death at a time everywhere, two only for some shards.
    for victim in ["d", "e"] {
        cluster.kill9(victim);
        traffic.goes_on(50).await;
        cluster.start_node(victim);
        cluster.node_ready(victim).await;
    }
    traffic.finish().await;
}
