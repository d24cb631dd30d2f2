//! Promise: kill any node: nothing with a check mark is lost, nobody sees anything twice, and the chat goes on.

use std::time::Duration;

use crate::harness::{Cluster, User, eventually};
use crate::socket::Socket;
use crate::traffic::Traffic;

/// Two users and the three nodes: the recipient's mailbox is led by `leader`, the sender's by somebody else.
async fn scene(leader: &str) -> (Cluster, User, User) {
    let cluster = Cluster::start(3).await;
    let elsewhere = cluster.others(leader).remove(0);
    let alice = cluster.user_led_by("alice", &elsewhere).await;
    let bob = cluster.user_led_by("bob", leader).await;
    (cluster, alice, bob)
}

fn via(cluster: &Cluster, first: &[&str]) -> Vec<String> {
    first.iter().map(|name| cluster.url(name)).collect()
}

#[tokio::test]
async fn the_chat_survives_the_death_of_the_leader() {
    let (cluster, alice, bob) = scene("c").await;
    let traffic = Traffic::start(&alice, &via(&cluster, &["a"]), &bob, &via(&cluster, &["b"]));
    traffic.goes_on(100).await;
    cluster.kill9("c");
    traffic.goes_on(200).await;
    assert_ne!(cluster.leader_of(&bob.name, "a").await, "c");
    cluster.start_node("c");
    cluster.node_ready("c").await;
    traffic.goes_on(100).await;
    traffic.finish().await;
}

#[tokio::test]
async fn the_chat_survives_the_death_of_a_follower_and_of_the_gateways() {
    let (cluster, alice, bob) = scene("a").await;
    // Bob listens through c, which only follows; alice's gateway b dies after it.
    let traffic = Traffic::start(
        &alice,
        &via(&cluster, &["b", "a", "c"]),
        &bob,
        &via(&cluster, &["c", "a", "b"]),
    );
    traffic.goes_on(100).await;
    for victim in ["c", "b", "a"] {
        cluster.kill9(victim);
        traffic.goes_on(100).await;
        cluster.start_node(victim);
        cluster.node_ready(victim).await;
    }
    traffic.goes_on(100).await;
    traffic.finish().await;
}

/// Says how long messages waited for their check marks; a figure to read, not a promise.
fn show(what: &str, mut waited: Vec<Duration>) {
    waited.sort_unstable();
    let at = |share: usize| waited[(waited.len() - 1) * share / 100];
    println!(
        "{what}: {} messages, p50 {:?}, p99 {:?}, max {:?}",
        waited.len(),
        at(50),
        at(99),
        at(100)
    );
}

#[tokio::test]
async fn who_is_on_a_node_that_lives_only_waits_a_little_when_another_dies() {
    let cluster = Cluster::start(3).await;
    let mut pairs = Vec::new();
    for leader in ["a", "b", "c", "c"] {
        let (from, to) = (cluster.user("alice").await, cluster.user_led_by("bob", leader).await);
        let roads = ["a", "b"].map(|name| cluster.url(name));
        pairs.push((leader, Traffic::start(&from, &roads[..1], &to, &roads[1..])));
    }
    for (_, traffic) in &pairs {
        traffic.goes_on(100).await;
    }
    cluster.kill9("c");
    for (_, traffic) in &pairs {
        traffic.goes_on(200).await;
    }
    for (leader, traffic) in pairs {
        show(&format!("to a mailbox led by {leader}, c killed"), traffic.finish_timed().await);
    }
}

#[tokio::test]
async fn a_node_that_is_stopped_names_another_to_its_clients() {
    let cluster = Cluster::start(3).await;
    let alice = cluster.user("alice").await;
    cluster.kill9("b");
    eventually("node b should be known to be down", || async {
        let view = cluster.view("a").await;
        let nodes = view["nodes"].as_array().expect("nodes");
        nodes.iter().any(|node| node["name"] == "b" && node["state"] == "down").then_some(())
    })
    .await;
    let mut socket = Socket::login(&cluster.url("a"), &alice.token, "phone").await;
    let leave = async {
        let goaway = socket.event("goaway").await;
        assert_eq!(goaway["d"]["url"], cluster.url("c"), "{goaway}");
        socket.leave().await;
    };
    let (status, ()) = tokio::join!(cluster.terminate("a"), leave);
    assert_eq!(status.code(), Some(0));
}

/// Waits until node b leads so many shards, as node a sees it.
async fn b_leads(cluster: &Cluster, so_many: impl Fn(u64) -> bool) {
    eventually("node b should lead the right number of shards", || async {
        let view = cluster.view("a").await;
        let nodes = view["nodes"].as_array().expect("nodes");
        let b = nodes.iter().find(|node| node["name"] == "b").expect("node b");
        b["leads"].as_u64().is_some_and(&so_many).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restarted_node_takes_its_leaderships_back() {
    let cluster = Cluster::start(3).await;
    let half_its_share = |leads| leads >= 64 / 3 / 2;
    b_leads(&cluster, half_its_share).await;
    cluster.kill9("b");
    b_leads(&cluster, |leads| leads == 0).await;
    cluster.start_node("b");
    b_leads(&cluster, half_its_share).await;
}

#[tokio::test]
async fn the_whole_cluster_can_be_killed_and_started_again() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    for _ in 0..2 {
        traffic.goes_on(100).await;
        cluster.kill9_all();
        cluster.start_all();
        cluster.ready().await;
    }
    traffic.goes_on(100).await;
    traffic.finish().await;
}

#[tokio::test]
async fn nodes_can_be_restarted_one_after_the_other() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    for name in cluster.names() {
        traffic.goes_on(50).await;
        let status = cluster.terminate(&name).await;
        assert_eq!(status.code(), Some(0), "node {name} stopped as asked");
        cluster.start_node(&name);
        cluster.node_ready(&name).await;
    }
    traffic.goes_on(50).await;
    traffic.finish().await;
}
