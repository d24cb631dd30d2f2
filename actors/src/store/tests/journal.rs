//! What the journal remembers, compared with a model that never forgets.

use proptest::prelude::*;
use raft::eraftpb::ConfState;

use super::*;

#[test]
fn records_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, before) = journal(dir.path());
    assert_eq!(before, BTreeMap::new());
    let conf_state = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let first = Record {
        hard_state: Some(voted(3, 2, 1)),
        conf_state: Some(conf_state.clone()),
        ..appended(4, 7, 1..=3)
    };
    assert_eq!(write(&journal, vec![first]), [(ShardId(4), 7)]);
    write(&journal, vec![appended(4, 8, 3..=5), appended(0, 1, 1..=1)]);
    journal.close();
    let (_journal, after) = super::journal(dir.path());
    let log = &after[&ShardId(4)];
    assert_eq!(log.hard_state, voted(3, 2, 1));
    assert_eq!(log.conf_state, Some(conf_state));
    assert_eq!(log.entries, (1..=5).map(|index| entry(index, 1)).collect::<Vec<_>>());
    assert_eq!(after[&ShardId(0)].entries.len(), 1);
}

#[test]
fn the_term_before_a_compacted_log_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    let compact = Some(LogStart { index: 5, term: 1 });
    write(&journal, vec![Record { compact, ..appended(1, 1, 1..=5) }]);
    journal.close();
    let (journal, after) = super::journal(dir.path());
    assert_eq!(after[&ShardId(1)].start, LogStart { index: 5, term: 1 });
    assert_eq!(after[&ShardId(1)].entries, []);
    assert_eq!(after[&ShardId(1)].term(5), Some(1));
    write(&journal, vec![appended(1, 2, 6..=7)]);
    journal.close();
    assert_eq!(super::journal(dir.path()).1[&ShardId(1)].entries.len(), 2);
}

#[test]
fn a_commit_index_alone_costs_no_flush_and_is_kept_at_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    write(&journal, vec![appended(1, 1, 1..=9)]);
    let hard_state = Some(voted(0, 0, 9));
    write(&journal, vec![Record { shard: ShardId(1), hard_state, ..Record::default() }]);
    assert_eq!(journal.stats().batches, 1);
    assert_eq!(journal.stats().records, 2);
    journal.close();
    let (_journal, after) = super::journal(dir.path());
    assert_eq!(after[&ShardId(1)].hard_state.commit, 9);
}

#[test]
fn a_log_with_a_hole_is_never_written_nor_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (fatal, failed) = kept_failure();
    let (journal, _) = Journal::open(dir.path(), small(fatal)).unwrap();
    write(&journal, vec![appended(1, 1, 1..=3)]);
    let answered: Written = Arc::new(|tickets| panic!("answered {tickets:?}"));
    journal.write(vec![appended(1, 2, 5..=6)], Written::clone(&answered));
    let error = failed.recv_timeout(WAIT).unwrap();
    assert!(matches!(error, StoreError::Misuse { index: 5, first: 1, last: 3, .. }), "{error}");
    journal.write(vec![appended(1, 3, 4..=4)], answered);
    drop(journal);
}

#[test]
fn submissions_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    let done: Written = Arc::new(move |tickets| {
        into.lock().unwrap().extend(tickets.into_iter().map(|(_, ticket)| ticket));
    });
    for ticket in 1..=500 {
        journal.write(vec![appended(1, ticket, ticket..=ticket)], Written::clone(&done));
    }
    journal.close();
    assert_eq!(*seen.lock().unwrap(), (1..=500).collect::<Vec<_>>());
    assert_eq!(journal.waiting_bytes(), 0);
    assert!(journal.stats().batches < 500, "nothing shared a flush: {:?}", journal.stats());
}

#[test]
fn old_files_go_when_their_log_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    for index in 1..=2_000 {
        let compact = (index % 50 == 0).then_some(at(index));
        write(&journal, vec![Record { compact, ..appended(1, index, index..=index) }]);
    }
    // A shard that writes nothing any more must not keep files for ever either.
    let held: u64 = files(dir.path(), "").iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(held < 64 * 1024, "{held} bytes are held");
    journal.close();
    assert_eq!(super::journal(dir.path()).1[&ShardId(1)].start, at(2_000));
}

#[test]
fn a_shard_that_never_compacts_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = journal(dir.path());
    write(&journal, vec![appended(3, 1, 1..=100)]);
    for index in 1..=2_000 {
        let compact = (index % 50 == 0).then_some(at(index));
        write(&journal, vec![Record { compact, ..appended(1, index, index..=index) }]);
        if journal.pinned().contains(&ShardId(3)) {
            return;
        }
    }
    panic!("shard 3 keeps old files and was never named");
}

/// One thing that Raft may ask of the journal, to be fitted to the state of the log.
#[derive(Debug, Clone)]
enum Step {
    Append { count: u64 },
    Overwrite { back: u64, count: u64 },
    Compact { keep: u64 },
    Reset { ahead: u64 },
    ResetBack { back: u64 },
    Vote { vote: u64 },
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_u64..40).prop_map(|count| Step::Append { count }),
        2 => (1_u64..20, 1_u64..10).prop_map(|(back, count)| Step::Overwrite { back, count }),
        3 => (0_u64..10).prop_map(|keep| Step::Compact { keep }),
        1 => (1_u64..50).prop_map(|ahead| Step::Reset { ahead }),
        1 => (0_u64..30).prop_map(|back| Step::ResetBack { back }),
        1 => (1_u64..4).prop_map(|vote| Step::Vote { vote }),
        1 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

/// Turns a step into a record and does to the model what the record should do to the disk.
fn record(shard: ShardId, step: &Step, model: &mut Recovered) -> Record {
    let mut record = Record { shard, ..Record::default() };
    let last = model.start.index + model.entries.len() as u64;
    let term = model.entries.last().map_or(model.start.term, |entry| entry.term);
    match *step {
        Step::Append { count } => {
            record.entries = (last + 1..=last + count).map(|index| entry(index, term)).collect();
        }
        Step::Overwrite { back, count } => {
            let committed = model.hard_state.commit.max(model.start.index);
            let from = last.saturating_sub(back).max(committed) + 1;
            record.entries = (from..from + count).map(|index| entry(index, term + 1)).collect();
        }
        Step::Compact { keep } => {
            let index = last.saturating_sub(keep).max(model.start.index);
            record.compact = model.term(index).map(|term| LogStart { index, term });
        }
        Step::Reset { ahead } => {
            record.reset = Some(LogStart { index: last + ahead, term: term + 1 });
        }
        Step::ResetBack { back } => {
            let floor = model.hard_state.commit.max(model.start.index);
            let index = last.saturating_sub(back).max(floor);
            record.reset = Some(LogStart { index, term: term + 1 });
        }
        Step::Vote { vote } => {
            record.hard_state = Some(voted(term + 7, vote, model.hard_state.commit));
        }
        Step::Commit => {
            let old = &model.hard_state;
            record.hard_state = Some(voted(old.term, old.vote, last));
        }
        Step::Reopen => {}
    }
    model.take(&record);
    record
}

impl Recovered {
    fn take(&mut self, record: &Record) {
        if let Some(start) = record.reset {
            self.start = start;
            self.entries.clear();
        }
        if let Some(first) = record.entries.first() {
            self.entries.truncate((first.index - self.start.index - 1) as usize);
            self.entries.extend(record.entries.iter().cloned());
        }
        if let Some(start) = record.compact {
            self.entries.drain(..(start.index - self.start.index) as usize);
            self.start = start;
        }
        if let Some(hard_state) = &record.hard_state {
            self.hard_state = hard_state.clone();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Purging runs after every batch here, so old files are rewritten and removed all the time.
    #[test]
    fn a_reopened_journal_equals_the_model(
        steps in prop::collection::vec((0_u16..4, step()), 1..250),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut open, _) = journal(dir.path());
        let mut models = BTreeMap::<ShardId, Recovered>::new();
        for (shard, step) in &steps {
            let shard = ShardId(*shard);
            if let Step::Reopen = step {
                open.close();
                drop(open);
                let (again, found) = journal(dir.path());
                models.retain(|_, model| *model != Recovered::default());
                prop_assert_eq!(&found, &models);
                open = again;
                continue;
            }
            let record = record(shard, step, models.entry(shard).or_default());
            write(&open, vec![record]);
        }
        open.close();
        drop(open);
        let (_journal, found) = journal(dir.path());
        models.retain(|_, model| *model != Recovered::default());
        prop_assert_eq!(found, models);
    }
}
