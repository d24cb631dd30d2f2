//! Tests of the store: what it remembers across restarts, and what it makes of damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft::eraftpb::{Entry, HardState};

use super::*;
use crate::ids::NodeId;

mod births;
mod checkpoints;
mod damage;
mod directory;
mod journal;

const WAIT: Duration = Duration::from_secs(120);

fn no_failure() -> Fatal {
    Arc::new(|error| panic!("the store failed: {error}"))
}

/// A callback that keeps the first failure for the test.
fn kept_failure() -> (Fatal, Receiver<StoreError>) {
    let (tell, told) = channel();
    (Arc::new(move |error| drop(tell.send(error))), told)
}

/// Small files, so that a few records fill several.
fn small(fatal: Fatal) -> JournalOptions {
    let options = JournalOptions::new(fatal);
    let (file_bytes, journal_bytes, purge_every) = (4096, 8192, Duration::ZERO);
    JournalOptions { file_bytes, journal_bytes, purge_every, ..options }
}

fn journal(dir: &Path) -> (Journal, BTreeMap<ShardId, Recovered>) {
    Journal::open(dir, small(no_failure())).unwrap()
}

fn write(journal: &Journal, records: Vec<Record>) -> Vec<(ShardId, u64)> {
    let (tell, told) = channel();
    let count = records.len();
    journal.write(records, Arc::new(move |tickets| tell.send(tickets).unwrap()));
    let tickets = told.recv_timeout(WAIT).unwrap();
    assert_eq!(tickets.len(), count);
    tickets
}

fn entry(index: u64, term: u64) -> Entry {
    let data = vec![index as u8; 20 + index as usize % 100].into();
    Entry { index, term, data, ..Entry::default() }
}

fn appended(shard: u16, ticket: u64, indexes: std::ops::RangeInclusive<u64>) -> Record {
    let entries = indexes.map(|index| entry(index, 1)).collect();
    Record { shard: ShardId(shard), ticket, entries, ..Record::default() }
}

fn voted(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

fn wanted() -> Wanted {
    Wanted {
        cluster: "chat".to_owned(),
        node: "north".to_owned(),
        node_id: NodeId(1),
        shards: 8,
        members: ["north", "south", "west"].map(str::to_owned).to_vec(),
    }
}

fn options() -> StoreOptions {
    let mut options = StoreOptions { disk: DiskTrust::Unsafe, ..StoreOptions::new(no_failure()) };
    options.checkpoints.flush_every = Duration::ZERO;
    options
}

/// Opens a directory whose incarnation is agreed, at the latest from now on.
fn store(dir: &Path) -> (Store, Recovery) {
    let (store, recovery) = Store::open(dir, &wanted(), options()).unwrap();
    if store.births.incarnation.is_none() {
        let incarnation = Some(crate::ids::Incarnation::FIRST);
        store.book.keep(&Births { incarnation, ..store.births.clone() }).unwrap();
    }
    (store, recovery)
}

fn at(index: u64) -> LogStart {
    LogStart { index, term: 1 }
}

fn checkpoint(shard: u16, index: u64, puts: &[(&str, &str)], deletes: &[&str]) -> Checkpoint {
    let bytes = |text: &str| text.as_bytes().to_vec();
    Checkpoint {
        shard: ShardId(shard),
        at: at(index),
        replicas: Replicas { voters: vec![1, 2, 3], learners: Vec::new() },
        head: format!("head {index}").into_bytes(),
        puts: puts.iter().map(|(key, value)| (bytes(key), bytes(value))).collect(),
        deletes: deletes.iter().map(|key| bytes(key)).collect(),
    }
}

fn stored(checkpoints: &Checkpoints, what: Vec<Checkpoint>) -> Vec<(ShardId, u64)> {
    let (tell, told) = channel();
    checkpoints.write(what, Box::new(move |shards| tell.send(shards).unwrap()));
    told.recv_timeout(WAIT).unwrap()
}

/// Asks with a reply port and waits for what comes back.
fn asked<T: Send + 'static>(ask: impl FnOnce(Reply<T>)) -> Result<T, StoreError> {
    let (tell, told) = channel();
    ask(Box::new(move |answer| tell.send(answer).unwrap()));
    told.recv_timeout(WAIT).unwrap()
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let items = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    let mut files: Vec<PathBuf> =
        items.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    files.sort();
    files
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}
