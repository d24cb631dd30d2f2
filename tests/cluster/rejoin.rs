//! Promise: a node that lost its disk never votes as if it had it; it comes back empty and is filled by the others.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Cluster, ROOKERY, User, eventually};
use crate::socket::Socket;
use crate::traffic::Traffic;

/// What a node says while it may not take part.
const WAITS: &str = "this node has lost its data";

async fn says(cluster: &Cluster, name: &str, word: &str) {
    eventually(&format!("node {name} should say `{word}`"), || async {
        cluster.log(name).contains(word).then_some(())
    })
    .await;
}

/// `kill -9`, and the disk is gone.
fn lose(cluster: &Cluster, name: &str) {
    cluster.kill9(name);
    fs::remove_dir_all(cluster.data(name)).unwrap();
}

/// Where a node's data is put while it is away.
fn aside(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.data(name).with_extension("away")
}

/// Waits until every shard has all its replicas, and none is behind.
async fn whole(cluster: &Cluster, asked: &str) {
    eventually("every shard should have all its replicas", || async {
        let view = cluster.view(asked).await;
        let shards = view["shards"].as_array().expect("shards");
        let good = |replica: &Value| replica["behind"] == 0 && replica.get("joining").is_none();
        let whole = |shard: &Value| {
            let replicas = shard["replicas"].as_array().expect("replicas");
            shard["leader"].is_string() && replicas.len() == 3 && replicas.iter().all(good)
        };
        shards.iter().all(whole).then_some(())
    })
    .await;
    let status = Command::new(ROOKERY)
        .args(["status", "--url", &cluster.admin_url(asked)])
        .stdout(Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(0), "and `rookery status` finds nothing missing");
}

/// Stores messages that nobody fetches, big enough for logs to be cut.
async fn store(cluster: &Cluster, via: &str, from: &User, to: &User, count: u64) {
    let mut socket = Socket::login(&cluster.url(via), &from.token, "phone").await;
    for i in 0..count {
        let body = format!("{i} {}", "x".repeat(12_000));
        socket.send(&to.conv(), &format!("{via}-{count}-{i}"), &body).await;
    }
    socket.leave().await;
}

/// Fetches them, and looks whether they are all there, once and in order.
async fn fetch(cluster: &Cluster, via: &str, user: &User, count: u64) {
    let mut socket = Socket::login(&cluster.url(via), &user.token, "phone").await;
    for n in 1..=count {
        let event = socket.event("message").await;
        assert_eq!((&event["n"], &event["d"]["seq"]), (&json!(n), &json!(n)));
        socket.ack(n).await;
    }
    socket.leave().await;
}

#[tokio::test]
async fn a_node_whose_disk_was_lost_is_filled_again_and_votes_again() {
    let cluster = Cluster::with(3, "[storage]\ncheckpoint_seconds = 1").await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let carol = cluster.user("carol").await;
    store(&cluster, "a", &alice, &carol, 150).await;
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    traffic.goes_on(100).await;
    for (lost, gone) in [("b", "c"), ("b", "a")] {
        lose(&cluster, lost);
        traffic.goes_on(50).await;
        cluster.start_node(lost);
        cluster.node_ready(lost).await;
        whole(&cluster, lost).await;
        traffic.goes_on(50).await;
        // From here on there is no majority without the one that was empty.
        cluster.kill9(gone);
        traffic.goes_on(100).await;
        cluster.start_node(gone);
        cluster.node_ready(gone).await;
        whole(&cluster, gone).await;
    }
    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    traffic.goes_on(50).await;
    traffic.finish().await;
    fetch(&cluster, "b", &carol, 150).await;
}

#[tokio::test]
async fn each_disk_may_be_lost_one_after_the_other() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    for name in cluster.names() {
        traffic.goes_on(50).await;
        lose(&cluster, &name);
        cluster.start_node(&name);
        cluster.node_ready(&name).await;
        whole(&cluster, &name).await;
    }
    // Nobody is left of those who took part at the beginning.
    cluster.kill9_all();
    cluster.start_all();
    cluster.ready().await;
    traffic.goes_on(50).await;
    traffic.finish().await;
}

#[tokio::test]
async fn a_node_whose_journal_is_damaged_is_filled_again() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    traffic.goes_on(100).await;
    cluster.kill9("b");
    let journal = cluster.data("b").join("journal");
    let logs = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path());
    let log = logs.into_iter().find(|path| path.extension().is_some_and(|e| e == "raftlog"));
    let log = log.expect("a journal file");
    let bytes = fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something in it");
    let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
    file.write_all_at(&[!bytes[end / 2]], end as u64 / 2).unwrap();
    traffic.goes_on(50).await;
    cluster.start_node("b");
    cluster.node_ready("b").await;
    whole(&cluster, "b").await;
    let kept = cluster.data("b").join("journal.damaged-1").join(log.file_name().unwrap());
    let mut damaged = bytes;
    damaged[end / 2] = !damaged[end / 2];
    assert_eq!(fs::read(kept).unwrap(), damaged, "what was damaged is set aside as it was");
    assert!(cluster.log("b").contains("set aside"), "{}", cluster.log("b"));
    cluster.kill9("c");
    traffic.goes_on(100).await;
    traffic.finish().await;
}

#[tokio::test]
async fn an_emptied_node_makes_no_majority_with_one_that_missed_the_newest() {
    let cluster = Cluster::start(3).await;
    let alice = cluster.user("alice").await;
    let bob = cluster.user("bob").await;
    cluster.kill9("c");
    // Confirmed by a and b alone.
    store(&cluster, "a", &alice, &bob, 20).await;
    cluster.kill9("a");
    lose(&cluster, "b");
    cluster.start_node("b");
    cluster.start_node("c");
    says(&cluster, "b", WAITS).await;
    let view = cluster.view("c").await;
    let shards = view["shards"].as_array().expect("shards");
    assert!(shards.iter().all(|shard| shard["leader"].is_null()), "{view}");
    for name in ["b", "c"] {
        let mut socket = Socket::connect(&cluster.url(name)).await;
        let d = json!({"token": alice.token, "device": "phone"});
        let entered = socket.request("auth", d).await;
        let d = json!({"to": bob.conv(), "cid": name, "kind": "text", "body": "no"});
        let err = match entered {
            Ok(_) => socket.request("send", d).await.expect_err("there is no majority"),
            Err(err) => err,
        };
        assert_eq!((&err["code"], &err["retry"]), (&json!("unavailable"), &json!(true)));
    }
    cluster.start_node("a");
    cluster.ready().await;
    fetch(&cluster, "c", &bob, 20).await;
    whole(&cluster, "b").await;
}

#[tokio::test]
async fn disks_that_are_only_not_there_yet_cost_nothing() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    store(&cluster, "a", &alice, &bob, 10).await;
    cluster.kill9_all();
    for name in ["b", "c"] {
        fs::rename(cluster.data(name), aside(&cluster, name)).unwrap();
    }
    cluster.start_all();
    for name in ["b", "c"] {
        says(&cluster, name, WAITS).await;
    }
    for name in ["b", "c"] {
        lose(&cluster, name);
        fs::rename(aside(&cluster, name), cluster.data(name)).unwrap();
        cluster.start_node(name);
    }
    cluster.ready().await;
    fetch(&cluster, "b", &bob, 10).await;
}

#[tokio::test]
async fn a_disk_whose_place_was_taken_is_refused() {
    let cluster = Cluster::start(3).await;
    cluster.kill9("b");
    fs::rename(cluster.data("b"), aside(&cluster, "b")).unwrap();
    cluster.start_node("b");
    // Its place is taken from here on. That all is whole says nothing yet: the others may not have missed it at all.
    says(&cluster, "b", "takes part incarnation=2").await;
    whole(&cluster, "a").await;
    lose(&cluster, "b");
    fs::rename(aside(&cluster, "b"), cluster.data("b")).unwrap();
    cluster.start_node("b");
    assert_eq!(cluster.exit("b").await.code(), Some(3), "{}", cluster.log("b"));
    let log = cluster.log("b");
    let last = log.lines().rev().find(|line| line.starts_with("error: ")).expect("an error");
    assert!(last.contains(cluster.data("b").to_str().unwrap()), "{last}");
}

#[tokio::test]
async fn a_cluster_is_born_though_its_nodes_come_one_by_one_and_are_killed_meanwhile() {
    let cluster = Cluster::prepared(3, "");
    cluster.start_node("a");
    says(&cluster, "a", "this data directory is new").await;
    cluster.start_node("b");
    says(&cluster, "b", "this data directory is new").await;
    cluster.kill9("a");
    cluster.start_node("c");
    says(&cluster, "c", "this data directory is new").await;
    cluster.kill9("b");
    cluster.start_all();
    cluster.ready().await;
    whole(&cluster, "a").await;
    for name in cluster.names() {
        assert!(!cluster.log(&name).contains("is lost for good"), "nobody was replaced");
    }
}
