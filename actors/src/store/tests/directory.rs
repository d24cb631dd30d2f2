//! Whose directory it is, and who may work in it.

use super::*;

fn refused(dir: &Path, wanted: &Wanted) -> StoreError {
    match Store::open(dir, wanted, options()) {
        Err(error) => error,
        Ok(_) => panic!("the directory was taken"),
    }
}

fn born() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = store(dir.path());
    write(&store.journal, vec![appended(1, 1, 1..=3)]);
    store.close();
    dir
}

#[test]
fn an_identity_is_drawn_once_and_found_again() {
    let dir = born();
    let first = Identity::read(dir.path()).unwrap().unwrap();
    let (store, recovery) = store(dir.path());
    assert_eq!(store.identity, first);
    assert_eq!(first.is, wanted());
    assert_eq!(first.cluster_id, ClusterId::of("chat"));
    assert_eq!(recovery.shards[&ShardId(1)].journal.as_ref().unwrap().entries.len(), 3);
    let other = tempfile::tempdir().unwrap();
    let (other, _) = super::store(other.path());
    assert_ne!(other.identity.store_id, first.store_id);
}

#[test]
fn anothers_directory_is_refused_and_the_difference_named() {
    let dir = born();
    let mut others = BTreeMap::new();
    others.insert("cluster", Wanted { cluster: "other".to_owned(), ..wanted() });
    others.insert("node", Wanted { node: "south".to_owned(), ..wanted() });
    others.insert("node_id", Wanted { node_id: NodeId(2), ..wanted() });
    others.insert("shards", Wanted { shards: 64, ..wanted() });
    others.insert("members", Wanted { members: vec!["north".to_owned()], ..wanted() });
    for (line, other) in others {
        match refused(dir.path(), &other) {
            StoreError::Foreign { what, found, wanted, file } => {
                assert_eq!(what, line);
                assert_ne!(found, wanted);
                assert!(file.ends_with("node.id"));
            }
            error => panic!("{line}: {error}"),
        }
    }
    store(dir.path());
}

#[test]
fn a_locked_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = store(dir.path());
    let error = refused(dir.path(), &wanted());
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    first.close();
    drop(first);
    store(dir.path());
}

#[test]
fn a_newer_format_is_refused_without_reading_on() {
    let dir = born();
    std::fs::write(dir.path().join("node.id"), format!("format = {}\nsomething new\n", FORMAT + 1))
        .unwrap();
    let error = refused(dir.path(), &wanted());
    assert!(error.needs_newer_program(), "{error}");
}

#[test]
fn a_damaged_identity_is_refused_whatever_byte_it_is() {
    let dir = born();
    let file = dir.path().join("node.id");
    let good = std::fs::read(&file).unwrap();
    for at in 0..good.len() {
        flip(&file, at);
        let error = Identity::read(dir.path()).unwrap_err();
        let known = matches!(error, StoreError::IdentityDamaged { .. } | StoreError::Newer { .. });
        assert!(known, "byte {at}: {error}");
        std::fs::write(&file, &good).unwrap();
    }
    std::fs::write(&file, &good[..good.len() - 1]).unwrap();
    assert!(Identity::read(dir.path()).is_err());
}

#[test]
fn data_without_an_identity_is_refused() {
    let dir = born();
    std::fs::remove_file(dir.path().join("node.id")).unwrap();
    let error = refused(dir.path(), &wanted());
    assert!(matches!(error, StoreError::IdentityMissing { .. }), "{error}");
}

#[test]
fn a_lost_journal_is_not_an_empty_one() {
    let dir = born();
    std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let error = refused(dir.path(), &wanted());
    assert!(matches!(error, StoreError::JournalMissing { .. }), "{error}");
}

#[test]
fn a_name_that_would_break_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(dir.path(), &Wanted { cluster: "a\nb".to_owned(), ..wanted() });
    assert!(matches!(error, StoreError::Unwritable { .. }), "{error}");
}

#[test]
fn the_filter_makes_flushes_real() {
    install_real_fsync().unwrap();
    install_real_fsync().unwrap();
    assert!(real_fsync_installed());
}
