//! What the journal makes of files that were cut or damaged.

use proptest::prelude::*;

use super::*;

/// Writes this many batches of one entry each, and ends cleanly.
fn filled(dir: &Path, entries: u64) {
    let (journal, _) = journal(dir);
    for index in 1..=entries {
        write(&journal, vec![appended(1, index, index..=index)]);
    }
    journal.close();
}

fn reopened(dir: &Path) -> Result<usize, StoreError> {
    let (journal, found) = Journal::open(dir, small(no_failure()))?;
    let log = found.get(&ShardId(1)).cloned().unwrap_or_default();
    for (at, found) in log.entries.iter().enumerate() {
        assert_eq!(*found, entry(at as u64 + 1, 1));
    }
    // It must also be possible to go on.
    let next = log.entries.len() as u64 + 1;
    write(&journal, vec![appended(1, 0, next..=next)]);
    Ok(log.entries.len())
}

fn is_damage(result: Result<usize, StoreError>, name: &str) {
    match result {
        Err(StoreError::JournalDamaged { file, .. }) => {
            assert!(file.to_string_lossy().ends_with(name), "{} for {name}", file.display());
        }
        other => panic!("{name} is damaged, yet {other:?}"),
    }
}

#[test]
fn a_torn_tail_is_cut_and_costs_only_the_last_batch() {
    for cut in [1, 4, 20, 60] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        let newest = files(dir.path(), ".raftlog").pop().unwrap();
        let length = newest.metadata().unwrap().len();
        std::fs::File::options().write(true).open(&newest).unwrap().set_len(length - cut).unwrap();
        assert_eq!(reopened(dir.path()).unwrap(), 9, "cut {cut}");
    }
}

#[test]
fn zeros_that_a_kill_leaves_behind_the_last_batch_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10);
    let newest = files(dir.path(), ".raftlog").pop().unwrap();
    let length = newest.metadata().unwrap().len();
    std::fs::File::options().write(true).open(&newest).unwrap().set_len(length + 9_999).unwrap();
    assert_eq!(reopened(dir.path()).unwrap(), 10);
}

#[test]
fn damage_in_the_middle_of_the_newest_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10);
    let newest = files(dir.path(), ".raftlog").pop().unwrap();
    let middle = newest.metadata().unwrap().len() as usize / 2;
    flip(&newest, middle);
    let before = std::fs::read(&newest).unwrap();
    is_damage(reopened(dir.path()), "0000000000000001.raftlog");
    assert_eq!(std::fs::read(&newest).unwrap(), before, "nothing may be cut from a damaged file");
}

#[test]
fn damage_in_an_older_file_is_an_error_even_at_its_end() {
    for from_end in [2, 900] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 80);
        let files = files(dir.path(), ".raftlog");
        assert!(files.len() >= 2, "{files:?}");
        let length = files[0].metadata().unwrap().len() as usize;
        flip(&files[0], length - from_end);
        is_damage(reopened(dir.path()), "0000000000000001.raftlog");
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 150);
    let files = files(dir.path(), ".raftlog");
    assert!(files.len() >= 3, "{files:?}");
    std::fs::remove_file(&files[1]).unwrap();
    is_damage(reopened(dir.path()), "0000000000000003.raftlog");
}

#[test]
fn a_destroyed_head_of_the_newest_file_is_an_error_when_batches_follow() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5);
    let newest = files(dir.path(), ".raftlog").pop().unwrap();
    flip(&newest, 3);
    is_damage(reopened(dir.path()), "0000000000000001.raftlog");
}

#[test]
fn damage_to_rewritten_entries_is_an_error_below_the_anchor_only() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    write(&journal, vec![Record { hard_state: Some(voted(3, 2, 0)), ..appended(2, 1, 1..=3) }]);
    // Purging goes on beside the writes, at a pace of its own.
    let newest = || files(dir.path(), ".rewrite").pop().unwrap();
    let mut index = 0;
    while newest().metadata().unwrap().len() <= 200 {
        index += 1;
        let compact = (index % 20 == 0).then_some(at(index));
        write(&journal, vec![Record { compact, ..appended(1, index, index..=index) }]);
        assert!(index < 100_000, "nothing is rewritten");
    }
    journal.close();
    let newest = newest();
    // What a power cut during a purge leaves behind.
    let mut bytes = std::fs::read(&newest).unwrap();
    let good = bytes.len();
    bytes.extend([9; 300]);
    std::fs::write(&newest, bytes).unwrap();
    let (journal, found) = super::journal(dir.path());
    assert_eq!(found[&ShardId(2)].hard_state, voted(3, 2, 0));
    journal.close();
    flip(&newest, good / 2);
    let name = newest.file_name().unwrap().to_string_lossy().into_owned();
    is_damage(reopened(dir.path()), &name);
}

#[test]
fn a_damaged_head_of_the_newest_file_is_an_error_at_every_byte() {
    const HEAD_BYTES: usize = 69;
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 70);
    let newest = files(dir.path(), ".raftlog").pop().unwrap();
    for at in 0..HEAD_BYTES {
        flip(&newest, at);
        assert!(reopened(dir.path()).is_err(), "byte {at}");
        flip(&newest, at);
    }
    assert_eq!(reopened(dir.path()).unwrap(), 70);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn one_bad_byte_anywhere_is_an_error_or_costs_the_last_batch(
        place in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 70);
        let files = files(dir.path(), ".raftlog");
        let lengths = files.iter().map(|file| file.metadata().unwrap().len() as usize);
        let mut at = place.index(lengths.clone().sum());
        for (file, length) in files.iter().zip(lengths) {
            if at < length {
                flip(file, at);
                break;
            }
            at -= length;
        }
        if let Ok(entries) = reopened(dir.path()) {
            prop_assert!(entries >= 69, "only {entries} of 70 are left");
        }
    }
}

/// A file whose bytes were changed, cut, grown, or moved about.
fn spoiled(mut bytes: Vec<u8>, steps: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (place, what, value) in steps {
        let at = place.index(bytes.len() + 1);
        match what {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            2 => drop(bytes.splice(at..bytes.len().min(at + 8), [*value; 8])),
            3 => drop(bytes.drain(at..bytes.len().min(at + usize::from(*value)))),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= value),
        }
    }
    bytes
}

#[test]
fn a_batch_that_claims_to_end_at_the_end_of_all_numbers_is_only_a_bad_one() {
    for footer in [u64::MAX, u64::MAX - 3, u64::MAX - 17] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        let newest = files(dir.path(), ".raftlog").pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes.extend([0, 0, 0, 0, 0, 0, 40, 0]);
        bytes.extend(footer.to_be_bytes());
        bytes.extend([0; 64]);
        std::fs::write(&newest, bytes).unwrap();
        assert_eq!(reopened(dir.path()).unwrap(), 10);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_done_to_its_files_a_journal_opens_or_is_refused(
        which in any::<prop::sample::Index>(),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..7, any::<u8>()), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 70);
        let mut all = files(dir.path(), ".raftlog");
        all.extend(files(dir.path(), ".rewrite"));
        let file = &all[which.index(all.len())];
        let bytes = spoiled(std::fs::read(file).unwrap(), &steps);
        std::fs::write(file, bytes).unwrap();
        match Journal::open(dir.path(), small(kept_failure().0)) {
            Ok((_journal, found)) => prop_assert!(found.len() <= 1),
            Err(error) => prop_assert!(error.is_lost_journal(), "{error}"),
        }
    }
}
