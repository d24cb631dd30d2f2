//! Promise: a data directory that is damaged or not ours is refused with a clear word, never read as less than it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::harness::Cluster;
use crate::socket::Socket;
use crate::traffic::Traffic;

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files below a directory, the largest first.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |meta| meta.len())));
    found
}

/// The file of node a's journal that is written to.
fn journal(cluster: &Cluster) -> PathBuf {
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "raftlog");
    files(&cluster.data("a").join("journal")).into_iter().find(is_log).expect("a journal file")
}

/// Starts a node that must refuse its data directory, saying `word`.
async fn refused(cluster: &Cluster, name: &str, word: &str) {
    cluster.start_node(name);
    let status = cluster.exit(name).await;
    let log = cluster.log(name);
    assert_eq!(status.code(), Some(3), "{log}");
    let last = log.lines().rev().find(|line| line.starts_with("error: ")).expect("an error");
    let place = cluster.data(name).file_name().unwrap().to_str().unwrap().to_owned();
    assert!(last.contains(&place), "`{last}` should name the directory");
    assert!(log.to_lowercase().contains(word), "`{word}` should be said: {log}");
}

/// A cluster of one that has stored messages and was killed; and the user they wait for.
async fn killed_with_messages(count: u64) -> (Cluster, crate::harness::User) {
    let cluster = Cluster::start(1).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let mut a = Socket::login(&cluster.first_url(), &alice.token, "phone").await;
    for i in 1..=count {
        a.send(&bob.conv(), &format!("c{i}"), &format!("{i}{}", "x".repeat(1_000))).await;
    }
    cluster.kill9("a");
    (cluster, bob)
}

async fn expect_messages(cluster: &Cluster, bob: &crate::harness::User, count: u64) {
    let mut b = Socket::login(&cluster.first_url(), &bob.token, "phone").await;
    for n in 1..=count {
        assert_eq!(b.event("message").await["n"], n);
        b.ack(n).await;
    }
}

#[tokio::test]
async fn another_clusters_data_is_refused_and_left_alone() {
    let theirs = Cluster::start(1).await;
    theirs.kill9("a");
    let ours = Cluster::prepared(2, "");
    copy(&theirs.data("a"), &ours.data("a"));
    let before: Vec<u64> =
        files(&ours.data("a")).iter().map(|path| path.metadata().unwrap().len()).collect();
    refused(&ours, "a", "members").await;
    let after: Vec<u64> =
        files(&ours.data("a")).iter().map(|path| path.metadata().unwrap().len()).collect();
    assert_eq!(before, after, "a foreign directory is not changed");
}

#[tokio::test]
async fn another_nodes_data_is_refused() {
    let cluster = Cluster::start(2).await;
    cluster.kill9_all();
    fs::remove_dir_all(cluster.data("b")).unwrap();
    copy(&cluster.data("a"), &cluster.data("b"));
    refused(&cluster, "b", "node").await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let cluster = Cluster::start(1).await;
    // The same data under other ports.
    let second = Cluster::prepared(1, "");
    let text = fs::read_to_string(second.config_file()).unwrap();
    let (ours, theirs) = (second.data("a"), cluster.data("a"));
    let text = text.replace(ours.to_str().unwrap(), theirs.to_str().unwrap());
    fs::write(second.config_file(), text).unwrap();
    refused(&second, "a", "lock").await;
    cluster.node_ready("a").await;
}

#[tokio::test]
async fn a_damaged_identity_is_refused() {
    let (cluster, _bob) = killed_with_messages(1).await;
    let identity = cluster.data("a").join("node.id");
    let bytes = fs::read(&identity).unwrap();
    fs::write(&identity, &bytes[..bytes.len() / 2]).unwrap();
    refused(&cluster, "a", "node.id").await;
}

#[tokio::test]
async fn a_torn_tail_of_the_journal_costs_nothing_that_was_confirmed() {
    let (cluster, bob) = killed_with_messages(50).await;
    let journal = journal(&cluster);
    // What a power cut leaves of a write that was never confirmed.
    let end = journal.metadata().unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.write_all_at(&[0x5a; 777], end).unwrap();
    cluster.start_all();
    cluster.ready().await;
    expect_messages(&cluster, &bob, 50).await;
}

#[tokio::test]
async fn damage_inside_the_journal_never_passes_for_a_shorter_one() {
    let (cluster, _bob) = killed_with_messages(200).await;
    let journal = journal(&cluster);
    let mut bytes = fs::read(&journal).unwrap();
    // Somewhere among the messages, which are the `x`s.
    let at = bytes.windows(64).position(|window| window.iter().all(|byte| *byte == b'x'));
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("a journal with something in it");
    // Should the journal compress its entries one day: somewhere in the middle of what is written.
    let at = at.unwrap_or(end / 2);
    bytes[at] ^= 0xff;
    fs::write(&journal, bytes).unwrap();
    cluster.start_node("a");
    let ended = cluster.exit("a").await;
    assert_eq!(ended.code(), Some(3), "{}", cluster.log("a"));
    assert!(cluster.log("a").contains("error: "), "{}", cluster.log("a"));
}

#[tokio::test]
async fn lost_checkpoints_are_refilled_from_the_others() {
    let cluster = Cluster::start(3).await;
    let (alice, bob) = (cluster.user("alice").await, cluster.user("bob").await);
    let traffic = Traffic::start(&alice, &cluster.urls(), &bob, &cluster.urls());
    traffic.goes_on(100).await;
    cluster.kill9("b");
    for file in files(&cluster.data("b").join("state")) {
        let length = file.metadata().unwrap().len();
        fs::write(&file, vec![0xa5; usize::try_from(length.min(4_096)).unwrap()]).unwrap();
    }
    traffic.goes_on(50).await;
    cluster.start_node("b");
    cluster.node_ready("b").await;
    // Now b is needed: without it there is no majority.
    cluster.kill9("c");
    traffic.goes_on(50).await;
    traffic.finish().await;
}
