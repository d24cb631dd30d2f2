//! Which birth a directory is of, and what becomes of one whose votes and log are lost.

use super::*;
use crate::ids::Incarnation;

fn forgiving() -> StoreOptions {
    StoreOptions { lost_journal: LostJournal::BearAgain, ..options() }
}

fn open(dir: &Path) -> (Store, Recovery) {
    Store::open(dir, &wanted(), forgiving()).unwrap()
}

/// A directory that has taken part, in an incarnation.
fn grown(incarnation: u32) -> (tempfile::TempDir, Births) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let births = Births { incarnation: Some(Incarnation(incarnation)), ..store.births.clone() };
    store.book.keep(&births).unwrap();
    write(&store.journal, vec![appended(1, 1, 1..=2)]);
    write(&store.journal, vec![appended(1, 2, 3..=3)]);
    stored(&store.checkpoints, vec![checkpoint(1, 2, &[("a", "b")], &[])]);
    store.close();
    (dir, births)
}

/// Opens a directory that has lost what it had, and looks whether it begins anew.
fn begins_anew(dir: &Path, before: &Births) -> Births {
    let (store, recovery) = open(dir);
    assert_eq!(recovery.shards, BTreeMap::new());
    let births = store.births.clone();
    assert_eq!(births.incarnation, None, "it takes part in nothing by itself");
    assert_ne!(births.birth, before.birth);
    let over = Known { incarnation: before.incarnation.unwrap(), birth: Some(before.birth) };
    assert_eq!(births.known[&NodeId(1)], over, "it knows that it was there before");
    store.close();
    births
}

#[test]
fn a_new_directory_takes_part_in_nothing_until_it_is_told_its_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let births = store.births.clone();
    assert_eq!(births, Births::new(store.identity.store_id));
    store.close();
    drop(store);
    assert_eq!(open(dir.path()).0.births, births, "a restart is no other birth");
}

#[test]
fn what_was_kept_of_births_is_found_again() {
    let (dir, births) = grown(3);
    let (store, recovery) = open(dir.path());
    assert_eq!(store.births, births);
    assert_eq!(recovery.shards[&ShardId(1)].journal.as_ref().unwrap().entries.len(), 3);
}

#[test]
fn a_directory_from_before_births_has_taken_part_and_knows_that_others_have() {
    let (dir, _) = grown(1);
    let identity = Identity::read(dir.path()).unwrap().unwrap();
    Identity { format: 1, ..identity.clone() }.write(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("births")).unwrap();
    std::fs::remove_file(dir.path().join("journal/birth")).unwrap();
    for _ in 0..2 {
        let (store, recovery) = open(dir.path());
        assert_eq!(store.births.birth, identity.store_id);
        assert_eq!(store.births.incarnation, Some(Incarnation::FIRST));
        let unknown = Known { incarnation: Incarnation::FIRST, birth: None };
        let others = [(NodeId(2), unknown), (NodeId(3), unknown)];
        assert_eq!(store.births.known, BTreeMap::from(others));
        assert_eq!(recovery.shards.len(), 1);
        store.close();
    }
}

#[test]
fn a_directory_of_an_older_program_is_closed_to_it_from_now_on() {
    let (dir, births) = grown(1);
    let identity = Identity::read(dir.path()).unwrap().unwrap();
    Identity { format: 2, ..identity.clone() }.write(dir.path()).unwrap();
    let (store, recovery) = open(dir.path());
    assert_eq!((store.births.clone(), recovery.shards.len()), (births, 1));
    assert_eq!(Identity::read(dir.path()).unwrap().unwrap(), identity);
}

#[test]
fn a_lost_list_of_births_is_refused_whatever_byte_it_is() {
    let (dir, _) = grown(1);
    let file = dir.path().join("births");
    let good = std::fs::read(&file).unwrap();
    for at in 0..good.len() {
        flip(&file, at);
        let error = Store::open(dir.path(), &wanted(), forgiving()).err().unwrap();
        let known = matches!(error, StoreError::IdentityDamaged { .. } | StoreError::Newer { .. });
        assert!(known, "byte {at}: {error}");
        std::fs::write(&file, &good).unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    let error = Store::open(dir.path(), &wanted(), forgiving()).err().unwrap();
    assert!(matches!(error, StoreError::IdentityDamaged { .. }), "{error}");
}

#[test]
fn a_damaged_journal_is_set_aside_and_another_birth_begins() {
    let (dir, births) = grown(1);
    let log = files(&dir.path().join("journal"), ".raftlog").remove(0);
    // The first of several batches, so that it cannot be a torn end.
    flip(&log, 100);
    let damaged = std::fs::read(&log).unwrap();
    let again = begins_anew(dir.path(), &births);
    let aside = dir.path().join("journal.damaged-1").join(log.file_name().unwrap());
    assert_eq!(std::fs::read(aside).unwrap(), damaged, "nothing of it is deleted");
    assert!(dir.path().join("state.damaged-1").is_dir());
    assert_eq!(open(dir.path()).0.births, again);
}

#[test]
fn a_journal_that_was_emptied_is_not_a_new_one() {
    let (dir, births) = grown(1);
    for gone in ["journal", "state"] {
        std::fs::remove_dir_all(dir.path().join(gone)).unwrap();
        std::fs::create_dir(dir.path().join(gone)).unwrap();
    }
    begins_anew(dir.path(), &births);
}

#[test]
fn a_journal_of_another_birth_is_not_taken() {
    let ((dir, births), (other, _)) = (grown(1), grown(1));
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    std::fs::rename(other.path().join("journal"), dir.path().join("journal")).unwrap();
    begins_anew(dir.path(), &births);
}

#[test]
fn a_crash_while_setting_aside_brings_nothing_of_it_back() {
    let (dir, births) = grown(2);
    // As if the process had died right after it had made the new birth durable.
    let mut again = births.clone();
    again.bear_again(NodeId(1));
    Book::of(dir.path()).keep(&again).unwrap();
    assert_eq!(begins_anew(dir.path(), &births), again);
    assert!(dir.path().join("journal.damaged-1").is_dir());
}

#[test]
fn what_nobody_can_refill_is_refused_and_left_as_it_is() {
    let (dir, births) = grown(1);
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let error = Store::open(dir.path(), &wanted(), options()).err().unwrap();
    assert!(matches!(error, StoreError::JournalMissing { .. }), "{error}");
    assert!(dir.path().join("state").is_dir());
    begins_anew(dir.path(), &births);
}
