//! What the checkpoints remember, show and refuse.

use proptest::prelude::*;

use super::*;

const S: ShardId = ShardId(5);

fn load(checkpoints: &Checkpoints, keys: &[&str]) -> Vec<Option<String>> {
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    let values = asked(|reply| checkpoints.load(S, keys, reply)).unwrap();
    values.into_iter().map(|value| value.map(|value| String::from_utf8(value).unwrap())).collect()
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

/// A directory whose shard 5 has voted, as every shard has before its first checkpoint.
fn voted_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store(dir.path());
    write(&store.journal, vec![appended(5, 1, 1..=9)]);
    store.close();
    dir
}

fn pairs(all: &[(&str, &str)]) -> Pairs {
    all.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

#[test]
fn changes_and_their_index_are_there_after_a_restart() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1"), ("b", "2")], &[])]);
    let done = stored(&store.checkpoints, vec![checkpoint(5, 4, &[("b", "3")], &["a"])]);
    assert_eq!(done, [(S, 4)]);
    store.close();
    drop(store);
    let (store, recovery) = super::store(dir.path());
    let image = recovery.shards[&S].image.clone().unwrap();
    assert_eq!((image.at, image.head.as_slice()), (at(4), b"head 4".as_slice()));
    assert_eq!(image.replicas.voters, [1, 2, 3]);
    assert_eq!(load(&store.checkpoints, &["a", "b"]), [None, text("3")]);
    assert_eq!(store.checkpoints.scan_keys(S, b"").unwrap(), [b"b".to_vec()]);
    assert_eq!(store.checkpoints.scan(S, b"b").unwrap(), pairs(&[("b", "3")]));
    assert_eq!(store.checkpoints.scan_keys(ShardId(6), b"").unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn checkpoints_share_a_flush_and_nothing_is_called_stored_before_it() {
    let dir = voted_dir();
    let mut rare = options();
    rare.checkpoints.flush_every = Duration::from_secs(3600);
    let (store, _) = Store::open(dir.path(), &wanted(), rare).unwrap();
    let (tell, told) = channel();
    for index in [3, 4] {
        let tell = tell.clone();
        let done = Box::new(move |shards| tell.send(shards).unwrap());
        store.checkpoints.write(vec![checkpoint(5, index, &[("a", "1")], &[])], done);
    }
    asked(|reply| store.checkpoints.import_begin(ShardId(6), reply)).unwrap();
    assert!(told.try_recv().is_err(), "both were written, neither is flushed");
    store.close();
    assert_eq!([told.try_recv(), told.try_recv()], [Ok(vec![(S, 3)]), Ok(vec![(S, 4)])]);
}

#[test]
fn a_snapshot_is_invisible_until_it_is_whole() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    let disk = &store.checkpoints;
    stored(disk, vec![checkpoint(5, 3, &[("a", "old"), ("gone", "old")], &[])]);
    asked(|reply| disk.import_begin(S, reply)).unwrap();
    asked(|reply| disk.import_chunk(S, pairs(&[("a", "new"), ("b", "new")]), reply)).unwrap();
    assert_eq!(load(disk, &["a", "gone"]), [text("old"), text("old")]);
    let image = ShardImage { at: at(20), head: b"new head".to_vec(), ..ShardImage::default() };
    asked(|reply| disk.import_finish(S, image, reply)).unwrap();
    assert_eq!(load(disk, &["a", "b", "gone"]), [text("new"), text("new"), None]);
    assert_eq!(disk.image(S).unwrap().at, at(20));
    let again = asked(|reply| disk.import_chunk(S, pairs(&[("c", "late")]), reply));
    assert!(matches!(again, Err(StoreError::NotImporting { .. })), "{again:?}");
}

#[test]
fn a_log_that_was_not_told_of_a_snapshot_goes_on_after_it() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    asked(|reply| store.checkpoints.import_begin(S, reply)).unwrap();
    let image = ShardImage { at: LogStart { index: 20, term: 3 }, ..ShardImage::default() };
    asked(|reply| store.checkpoints.import_finish(S, image, reply)).unwrap();
    store.close();
    drop(store);
    for _ in 0..2 {
        let (store, recovery) = super::store(dir.path());
        let log = recovery.shards[&S].journal.clone().unwrap();
        assert_eq!((log.start, log.entries.len()), (LogStart { index: 20, term: 3 }, 0));
        assert_eq!(log.hard_state, voted(3, 0, 20));
        store.close();
    }
}

#[test]
fn leftovers_of_an_unfinished_snapshot_are_removed() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    let disk = store.checkpoints.clone();
    stored(&disk, vec![checkpoint(5, 3, &[("a", "1")], &[])]);
    asked(|reply| disk.import_begin(S, reply)).unwrap();
    for part in 0..40 {
        let pairs: Vec<_> =
            (0..20_u32).map(|key| ([part, key as u8].to_vec(), vec![7; 100])).collect();
        asked(|reply| disk.import_chunk(S, pairs, reply)).unwrap();
    }
    store.close();
    drop((disk, store));
    let (store, _) = super::store(dir.path());
    // A finished order behind them proves that the leftovers had their turn.
    for index in 4..10 {
        stored(&store.checkpoints, vec![checkpoint(5, index, &[("b", "2")], &[])]);
    }
    let began = crate::clock::monotonic();
    while store.checkpoints.raw_keys() > 3 {
        assert!(began.elapsed() < WAIT, "{} keys are left", store.checkpoints.raw_keys());
        std::thread::yield_now();
    }
    assert_eq!(load(&store.checkpoints, &["a", "b"]), [text("1"), text("2")]);
}

#[test]
fn a_checkpoint_travels_in_chunks() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    let disk = &store.checkpoints;
    let names: Vec<String> = (0..100).map(|n| format!("k{n:03}")).collect();
    let puts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
    stored(disk, vec![checkpoint(5, 3, &puts, &[]), checkpoint(6, 3, &[("x", "y")], &[])]);
    let (mut after, mut all, mut chunks) = (None, Vec::new(), 0);
    loop {
        let chunk = asked(|reply| disk.export(S, after.clone(), 200, reply)).unwrap();
        assert_eq!(chunk.at, at(3));
        chunks += 1;
        all.extend(chunk.pairs);
        after = all.last().map(|(key, _)| key.clone());
        if chunk.last == Last::Yes {
            break;
        }
    }
    assert_eq!(all, pairs(&puts));
    assert!((5..=50).contains(&chunks), "{chunks} chunks");
    let none = asked(|reply| disk.export(ShardId(7), None, 200, reply));
    assert!(matches!(none, Err(StoreError::Replaced { .. })), "{none:?}");
}

#[test]
fn a_damaged_value_is_an_error_that_names_it() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1"), ("b", "2")], &[])]);
    store.checkpoints.raw_damage(S, b"a");
    let keys = vec![b"a".to_vec()];
    let error = asked(|reply| store.checkpoints.load(S, keys, reply)).unwrap_err();
    assert!(error.to_string().contains("00050000000161"), "{error}");
    assert!(store.checkpoints.scan(S, b"").is_err());
    assert_eq!(load(&store.checkpoints, &["b"]), [text("2")]);
}

#[test]
fn a_damaged_image_sets_the_checkpoints_aside_and_keeps_the_votes() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1")], &[])]);
    let compact = Some(at(3));
    write(&store.journal, vec![Record { shard: S, compact, ..Record::default() }]);
    store.checkpoints.raw_damage_image(S);
    store.close();
    drop(store);
    let (store, recovery) = super::store(dir.path());
    assert!(recovery.checkpoints_lost);
    assert!(dir.path().join("state.damaged-1").is_dir());
    assert_eq!(recovery.shards[&S].state, Wholeness::Lost);
    assert_eq!(recovery.shards[&S].journal.as_ref().unwrap().entries.len(), 6);
    // The refilled state is kept in the new directory.
    asked(|reply| store.checkpoints.import_begin(S, reply)).unwrap();
    let image = ShardImage { at: at(9), ..ShardImage::default() };
    asked(|reply| store.checkpoints.import_finish(S, image, reply)).unwrap();
    store.close();
    drop(store);
    let (_store, recovery) = super::store(dir.path());
    assert_eq!(recovery.shards[&S].state, Wholeness::Whole);
    assert!(!recovery.checkpoints_lost);
}

#[test]
fn a_database_that_does_not_open_is_set_aside() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1")], &[])]);
    store.close();
    drop(store);
    let snapshot = files(&dir.path().join("state/1"), "").into_iter();
    let snapshot = snapshot.filter(|file| file.to_string_lossy().contains("/snap.")).max().unwrap();
    flip(&snapshot, 2);
    let (_store, recovery) = super::store(dir.path());
    assert!(recovery.checkpoints_lost);
    assert!(dir.path().join("state.damaged-1/conf").is_file());
    assert!(dir.path().join("state/2/conf").is_file());
    // The whole log is still there, so nothing has to come from peers.
    assert_eq!(recovery.shards[&S].state, Wholeness::Whole);
}

#[test]
fn a_database_whose_last_owner_lets_go_late_is_not_set_aside() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1")], &[])]);
    store.close();
    drop(store);
    let held = std::fs::File::open(dir.path().join("state/1/db")).unwrap();
    held.lock().unwrap();
    let (tell, told) = channel();
    let path = dir.path().to_owned();
    let opening = std::thread::spawn(move || {
        let opened = super::store(&path);
        tell.send(()).unwrap();
        opened
    });
    let early = told.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "opened under another's lock");
    drop(held);
    let (store, recovery) = opening.join().unwrap();
    assert!(!recovery.checkpoints_lost);
    assert_eq!(load(&store.checkpoints, &["a"]), [text("1")]);
}

#[test]
fn a_half_written_snapshot_of_sled_is_removed() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    stored(&store.checkpoints, vec![checkpoint(5, 3, &[("a", "1")], &[])]);
    store.close();
    drop(store);
    std::fs::write(dir.path().join("state/1/snap.0000000000000ABC.generating"), b"").unwrap();
    let (store, recovery) = super::store(dir.path());
    assert!(!recovery.checkpoints_lost);
    assert_eq!(load(&store.checkpoints, &["a"]), [text("1")]);
}

#[test]
fn after_close_questions_are_refused() {
    let dir = voted_dir();
    let (store, _) = store(dir.path());
    store.close();
    let answer = asked(|reply| store.checkpoints.load(S, Vec::new(), reply));
    assert!(matches!(answer, Err(StoreError::Stopped)), "{answer:?}");
    let answer = asked(|reply| store.checkpoints.import_begin(S, reply));
    assert!(matches!(answer, Err(StoreError::Stopped)), "{answer:?}");
}

/// Changes the model and says how; of several changes to a key the last one counts.
fn changed(
    changes: &[(u8, Option<usize>)],
    fill: u8,
    model: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> (Pairs, Vec<Vec<u8>>) {
    let last: BTreeMap<u8, Option<usize>> = changes.iter().copied().collect();
    let (puts, deletes): (Vec<_>, Vec<_>) = last.into_iter().partition(|(_, size)| size.is_some());
    let puts: Pairs = puts
        .into_iter()
        .filter_map(|(key, size)| size.map(|size| (vec![key], vec![fill; size])))
        .collect();
    let deletes: Vec<Vec<u8>> = deletes.into_iter().map(|(key, _)| vec![key]).collect();
    model.retain(|key, _| !deletes.contains(key));
    model.extend(puts.iter().cloned());
    (puts, deletes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn reopened_checkpoints_equal_the_model(
        rounds in prop::collection::vec(
            prop::collection::vec((0_u8..20, prop::option::of(0_usize..3_000)), 0..12), 1..25),
        reopen_every in 2_usize..9,
    ) {
        let dir = voted_dir();
        let (mut open, _) = store(dir.path());
        let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
        for (index, changes) in rounds.iter().enumerate() {
            let (puts, deletes) = changed(changes, index as u8, &mut model);
            let base = checkpoint(5, index as u64 + 1, &[], &[]);
            stored(&open.checkpoints, vec![Checkpoint { puts, deletes, ..base }]);
            if index % reopen_every == 0 {
                open.close();
                drop(open);
                open = store(dir.path()).0;
            }
            let found = open.checkpoints.scan(S, b"").unwrap();
            prop_assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(open.checkpoints.image(S).unwrap().at.index, index as u64 + 1);
        }
    }
}
