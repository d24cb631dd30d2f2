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

/// A long value that tells which it is.
fn long(key: u8, version: u64) -> Vec<u8> {
    let length = 16 * 1024 + usize::from(key) * 37 + version as usize % 1_000;
    let mut bytes = vec![key ^ version as u8; length];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// Checkpoints whose files of long values hold a few of them.
fn with_small_files(dir: &Path) -> Store {
    let mut small = options();
    small.checkpoints.value_file_bytes = 128 * 1024;
    Store::open(dir, &wanted(), small).unwrap().0
}

fn put(store: &Store, index: u64, puts: Pairs, deletes: Vec<Vec<u8>>) {
    let checkpoint = Checkpoint { puts, deletes, ..checkpoint(5, index, &[], &[]) };
    stored(&store.checkpoints, vec![checkpoint]);
}

fn values_dir(dir: &Path) -> PathBuf {
    dir.join("state/1/values")
}

fn bytes_in(dir: &Path) -> u64 {
    files(dir, "").iter().map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn long_values_lie_beside_sled_and_travel_and_come_back() {
    let dir = voted_dir();
    let store = with_small_files(dir.path());
    let keys = 0..40_u8;
    let all: Pairs = keys.clone().map(|key| (vec![key], long(key, 3))).collect();
    put(&store, 3, all.clone(), Vec::new());
    put(&store, 4, vec![(vec![99], b"short".to_vec())], Vec::new());
    store.close();
    drop(store);
    assert!(files(&values_dir(dir.path()), "").len() > 3, "several files");
    assert!(bytes_in(&values_dir(dir.path())) > 40 * 16 * 1024);
    let store = with_small_files(dir.path());
    let disk = &store.checkpoints;
    let keys: Vec<_> = keys.map(|key| vec![key]).collect();
    let read = asked(|reply| disk.load(S, keys.clone(), reply)).unwrap();
    assert!(read.iter().zip(&all).all(|(read, (_, put))| read.as_ref() == Some(put)));
    // To another node, and there beside what it had.
    let chunk = asked(|reply| disk.export(S, None, 2 << 20, reply)).unwrap();
    assert_eq!((chunk.pairs.len(), chunk.last), (41, Last::Yes));
    asked(|reply| disk.import_begin(S, reply)).unwrap();
    asked(|reply| disk.import_chunk(S, chunk.pairs.clone(), reply)).unwrap();
    let image = ShardImage { at: at(20), ..ShardImage::default() };
    asked(|reply| disk.import_finish(S, image, reply)).unwrap();
    assert_eq!(disk.scan(S, b"").unwrap(), chunk.pairs);
}

#[test]
fn a_damaged_long_value_is_an_error_that_names_it() {
    let dir = voted_dir();
    let store = with_small_files(dir.path());
    put(&store, 3, vec![(b"a".to_vec(), long(1, 1)), (b"b".to_vec(), long(2, 1))], Vec::new());
    let file = files(&values_dir(dir.path()), "").pop().unwrap();
    let load = |key: &[u8]| asked(|reply| store.checkpoints.load(S, vec![key.to_vec()], reply));
    // The value, its head, its key, and all of it.
    for at in [40, 2, 4, 7, 12] {
        flip(&file, at);
        let error = load(b"a").unwrap_err();
        assert!(error.to_string().contains("00050000000161"), "{error}");
        assert_eq!(load(b"b").unwrap(), [Some(long(2, 1))]);
        flip(&file, at);
    }
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(20_000).unwrap();
    assert_eq!(load(b"a").unwrap(), [Some(long(1, 1))]);
    assert!(load(b"b").is_err(), "cut off");
    std::fs::remove_file(&file).unwrap();
    assert!(load(b"a").unwrap_err().to_string().contains("gone"));
}

#[test]
fn what_nobody_needs_any_more_leaves_the_disk() {
    let dir = voted_dir();
    let store = with_small_files(dir.path());
    let mut index = 2;
    let mut write = |store: &Store, puts: Pairs, deletes| {
        index += 1;
        put(store, index, puts, deletes);
    };
    for key in 0..60_u8 {
        write(&store, vec![(vec![key], long(key, 1))], Vec::new());
    }
    // A little is left in each file, and it is damaged nowhere.
    let gone: Vec<Vec<u8>> = (0..60_u8).filter(|key| key % 6 > 0).map(|key| vec![key]).collect();
    let before = bytes_in(&values_dir(dir.path()));
    write(&store, Vec::new(), gone);
    for _ in 0..40 {
        write(&store, vec![(b"short".to_vec(), b"value".to_vec())], Vec::new());
    }
    let after = bytes_in(&values_dir(dir.path()));
    assert!(after * 2 < before, "{before} before, {after} after");
    let pairs = store.checkpoints.scan(S, b"").unwrap();
    let expected: Pairs = (0..10_u8).map(|n| (vec![n * 6], long(n * 6, 1))).collect();
    assert_eq!(pairs[..10], expected);
}

#[test]
fn a_file_with_a_damaged_value_stays() {
    let dir = voted_dir();
    let store = with_small_files(dir.path());
    let all: Pairs = (0..8_u8).map(|key| (vec![key], long(key, 1))).collect();
    put(&store, 3, all, Vec::new());
    let first = files(&values_dir(dir.path()), "").remove(0);
    flip(&first, 100);
    put(&store, 4, Vec::new(), (1..8_u8).map(|key| vec![key]).collect());
    for index in 5..20 {
        put(&store, index, vec![(vec![9], b"value".to_vec())], Vec::new());
    }
    assert!(store.checkpoints.scan(S, b"\0").is_err(), "it can still be told that it is damaged");
    flip(&first, 100);
    assert_eq!(store.checkpoints.scan(S, b"\0").unwrap(), [(vec![0], long(0, 1))]);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, usize),
    Delete(u8),
    Import,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..24_u8, 0..3_usize).prop_map(|(key, size)| Step::Put(key, size)),
        5 => (0..24_u8).prop_map(Step::Delete),
        1 => Just(Step::Import),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn keys_hold_what_was_put_whatever_was_moved_and_files_do_not_grow_without_end(steps in steps()) {
        let dir = voted_dir();
        let mut store = with_small_files(dir.path());
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut index = 2;
        for step in steps {
            index += 1;
            let (mut puts, mut deletes) = (Vec::new(), Vec::new());
            match step {
                Step::Put(key, size) => {
                    let value = if size == 0 { vec![key; 30] } else { long(key, index) };
                    puts.push((vec![key], value));
                }
                Step::Delete(key) => deletes.push(vec![key]),
                Step::Import => {
                    let disk = &store.checkpoints;
                    asked(|reply| disk.import_begin(S, reply)).unwrap();
                    let pairs: Pairs = model.clone().into_iter().collect();
                    asked(|reply| disk.import_chunk(S, pairs, reply)).unwrap();
                    let image = ShardImage { at: at(index), ..ShardImage::default() };
                    asked(|reply| disk.import_finish(S, image, reply)).unwrap();
                    continue;
                }
                Step::Reopen => {
                    store.close();
                    drop(store);
                    store = with_small_files(dir.path());
                }
            }
            model.extend(puts.iter().cloned());
            deletes.iter().for_each(|key| drop(model.remove(key)));
            put(&store, index, puts, deletes);
            let there: BTreeMap<_, _> = store.checkpoints.scan(S, b"").unwrap().into_iter().collect();
            prop_assert!(there == model, "at {index}");
        }
        // All is counted, nothing is left to remove, and what is half dead has had its turn.
        let began = crate::clock::monotonic();
        let live: usize = model.values().map(Vec::len).filter(|len| *len >= 16 * 1024).sum();
        loop {
            index += 1;
            put(&store, index, vec![(vec![200], b"short".to_vec())], Vec::new());
            let bytes = bytes_in(&values_dir(dir.path()));
            if bytes <= 2 * live as u64 + 6 * 128 * 1024 {
                break;
            }
            prop_assert!(began.elapsed() < WAIT, "{bytes} bytes for {live}");
        }
        model.insert(vec![200], b"short".to_vec());
        let there: BTreeMap<_, _> = store.checkpoints.scan(S, b"").unwrap().into_iter().collect();
        prop_assert!(there == model, "at the end");
    }
}
