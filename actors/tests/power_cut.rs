//! Power cut: what was answered as written is there after the power goes.
//!
//! A child process writes into a file system on a loop device; it is stopped, the file behind the
//! device is copied as it is, and the store is opened from the copy: only what had reached the
//! device is in it. Needs root and loop devices; without them the tests say so and pass.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use actors::ids::{Incarnation, NodeId, ShardId};
use actors::store::{
    Births, Checkpoint, DiskTrust, Durability, LogStart, Record, Recovery, Replicas, Store,
    StoreError, StoreOptions, Wanted, Wholeness, install_real_fsync,
};
use raft::eraftpb::{Entry, HardState};

const DIR: &str = "ROOKERY_POWER_CUT_DIR";
const MODE: &str = "ROOKERY_POWER_CUT_MODE";
const SHARDS: u16 = 4;
const KEYS: u8 = 40;
const CHECKPOINTS: u64 = 30;

/// What the child does, and with which precaution left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Journal and checkpoints, everything as in production.
    Proven,
    /// The journal is not flushed.
    JournalInMemory,
    /// Only checkpoints after one first record, as in production.
    Checkpoints,
    /// The same, but sled's flush is not made real.
    CheckpointsUnflushed,
}

/// The last index of each shard that the child was told is on disk.
#[derive(Debug, Default)]
struct Answered {
    journal: BTreeMap<ShardId, u64>,
    checkpoints: BTreeMap<ShardId, u64>,
}

#[test]
fn what_was_answered_survives_a_power_cut() {
    let Some(After { answered, recovery, store, _disk }) = cut(Mode::Proven) else { return };
    assert_eq!(answered.journal.len(), usize::from(SHARDS), "{answered:?}");
    assert!(!recovery.checkpoints_lost);
    for (shard, index) in &answered.journal {
        let found = &recovery.shards[shard];
        let log = found.journal.as_ref().unwrap();
        let last = log.start.index + log.entries.len() as u64;
        assert!(last >= *index, "shard {shard}: {index} was answered, the log ends at {last}");
        assert!(log.entries.iter().all(|found| *found == entry(found.index)));
        assert_eq!(found.state, Wholeness::Whole, "shard {shard}");
    }
    check_images(&answered, &recovery, &store);
}

#[test]
fn checkpoints_alone_survive_a_power_cut() {
    let Some(After { answered, recovery, store, _disk }) = cut(Mode::Checkpoints) else { return };
    check_images(&answered, &recovery, &store);
}

#[test]
fn this_test_notices_a_journal_that_is_not_flushed() {
    let Some(after) = cut(Mode::JournalInMemory) else { return };
    let After { answered, recovery, .. } = &after;
    let lost = answered.journal.iter().any(|(shard, index)| {
        let log = recovery.shards.get(shard).and_then(|found| found.journal.as_ref());
        log.is_none_or(|log| log.start.index + (log.entries.len() as u64) < *index)
    });
    assert!(lost, "nothing was flushed and yet nothing is lost: {answered:?}");
}

#[test]
fn this_test_notices_flushes_of_sled_that_are_not_real() {
    let Some(after) = cut(Mode::CheckpointsUnflushed) else { return };
    let After { answered, recovery, .. } = &after;
    let lost = answered.checkpoints.iter().any(|(shard, index)| {
        let image = recovery.shards.get(shard).and_then(|found| found.image.as_ref());
        image.is_none_or(|image| image.at.index < *index)
    });
    assert!(lost, "no flush was real and yet nothing is lost: {answered:?}");
}

#[test]
fn a_store_without_real_flushes_is_refused() {
    if std::env::var_os(DIR).is_some_and(|dir| dir == "refuse") {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::new(Arc::new(|error| panic!("{error}")));
        let opened = Store::open(dir.path(), &wanted(), options);
        assert!(matches!(opened.err(), Some(StoreError::FlushNotReal)));
        return;
    }
    // In a process of its own, since the filter cannot be taken off again.
    let ended = child("a_store_without_real_flushes_is_refused", "refuse", Mode::Proven);
    let output = ended.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Not a test: the child of the others writes here until it is killed.
#[test]
fn writes_until_it_is_killed() {
    let (Some(dir), Ok(mode)) = (std::env::var_os(DIR), std::env::var(MODE)) else { return };
    let mode = match mode.as_str() {
        "Proven" => Mode::Proven,
        "JournalInMemory" => Mode::JournalInMemory,
        "Checkpoints" => Mode::Checkpoints,
        "CheckpointsUnflushed" => Mode::CheckpointsUnflushed,
        other => panic!("mode {other}"),
    };
    let mut options = StoreOptions::new(Arc::new(|error| panic!("{error}")));
    if mode == Mode::CheckpointsUnflushed {
        options.disk = DiskTrust::Unsafe;
    } else {
        install_real_fsync().unwrap();
    }
    if mode == Mode::JournalInMemory {
        // In one large file, since each new file flushes the one before.
        options.journal.durability = Durability::Memory;
    } else {
        // Small files, so that the cut also meets rotation and purging.
        (options.journal.file_bytes, options.journal.journal_bytes) = (64 << 10, 128 << 10);
        options.journal.purge_every = Duration::from_millis(20);
        options.checkpoints.value_file_bytes = 256 << 10;
    }
    let (store, _) = Store::open(Path::new(&dir), &wanted(), options).unwrap();
    // It takes part from now on; what it writes without that would not be its own.
    let incarnation = Some(Incarnation::FIRST);
    store.book.keep(&Births { incarnation, ..store.births.clone() }).unwrap();
    let (_never, for_ever) = channel::<()>();
    for index in 1.. {
        if mode == Mode::CheckpointsUnflushed && index > CHECKPOINTS {
            // Later ones would fill space whose place in the file is already known to the disk.
            let _ = for_ever.recv();
        }
        let to_journal = matches!(mode, Mode::Proven | Mode::JournalInMemory) || index == 1;
        if to_journal {
            journal_all(&store, index);
        }
        if mode != Mode::JournalInMemory && (index % 20 == 0 || !to_journal) {
            checkpoint_all(&store, index, mode);
        }
        if mode == Mode::Proven && index % 20 == 0 {
            compact_all(&store, index);
        }
    }
}

fn journal_all(store: &Store, index: u64) {
    let shards = (0..SHARDS).map(ShardId);
    let records = shards.map(|shard| Record {
        shard,
        ticket: index,
        entries: vec![entry(index)],
        hard_state: Some(HardState { term: 1, vote: 1, ..HardState::default() }),
        ..Record::default()
    });
    let (tell, told) = channel();
    store.journal.write(records.collect(), Arc::new(move |all| tell.send(all).unwrap()));
    for (shard, index) in told.recv().unwrap() {
        answer("J", shard, index);
    }
}

fn checkpoint_all(store: &Store, index: u64, mode: Mode) {
    let mark = index.to_be_bytes();
    // The last ones are long: they lie apart from the others, and are flushed in any case.
    let long = KEYS - if mode == Mode::CheckpointsUnflushed { 0 } else { 4 };
    let size = |key| if key < long { 20 + usize::from(key) } else { 2_100 };
    let puts: Vec<_> = (0..KEYS).map(|key| (vec![key], mark.repeat(size(key)))).collect();
    let shards = (0..SHARDS).map(ShardId);
    let checkpoints = shards.map(|shard| Checkpoint {
        shard,
        at: LogStart { index, term: 1 },
        replicas: Replicas { voters: vec![1], learners: Vec::new() },
        head: mark.to_vec(),
        puts: puts.clone(),
        deletes: Vec::new(),
    });
    let (tell, told) = channel();
    store.checkpoints.write(checkpoints.collect(), Box::new(move |all| tell.send(all).unwrap()));
    for (shard, index) in told.recv().unwrap() {
        answer("C", shard, index);
    }
}

fn compact_all(store: &Store, index: u64) {
    let compact = Some(LogStart { index, term: 1 });
    let shards = (0..SHARDS).map(ShardId);
    let records = shards.map(|shard| Record { shard, compact, ..Record::default() });
    store.journal.write(records.collect(), Arc::new(|_| ()));
}

#[expect(clippy::print_stdout, reason = "the child's only way to tell")]
fn answer(what: &str, shard: ShardId, index: u64) {
    println!("\n{what} {shard} {index}");
}

/// Each checkpoint is at least as new as was answered, and all its keys are of one index.
fn check_images(answered: &Answered, recovery: &Recovery, store: &Store) {
    assert_eq!(answered.checkpoints.len(), usize::from(SHARDS), "{answered:?}");
    for (shard, index) in &answered.checkpoints {
        let image = recovery.shards[shard].image.clone().unwrap();
        assert!(image.at.index >= *index, "shard {shard}: {index} was answered, {:?}", image.at);
        let mark = image.at.index.to_be_bytes();
        assert_eq!(image.head, mark);
        let pairs = store.checkpoints.scan(*shard, b"").unwrap();
        assert_eq!(pairs.len(), usize::from(KEYS));
        let whole = |value: &[u8]| value.chunks(mark.len()).all(|part| part == mark);
        assert!(pairs.iter().all(|(_, value)| whole(value)), "shard {shard} is torn");
    }
}

fn entry(index: u64) -> Entry {
    let data = vec![index as u8; 100 + (index % 400) as usize].into();
    Entry { index, term: 1, data, ..Entry::default() }
}

fn wanted() -> Wanted {
    Wanted {
        cluster: "cut".to_owned(),
        node: "north".to_owned(),
        node_id: NodeId(1),
        shards: SHARDS,
        members: vec!["north".to_owned()],
    }
}

/// What was promised before the cut, and what is there after it. The store goes before its file
/// system.
struct After {
    answered: Answered,
    recovery: Recovery,
    store: Store,
    _disk: Disk,
}

/// Lets a child write for a while, cuts the power, and opens what is left.
fn cut(mode: Mode) -> Option<After> {
    let disk = Disk::new()?;
    let mut child = child("writes_until_it_is_killed", &text(&disk.mount), mode);
    let told = lines(&mut child);
    let mut answered = Answered::default();
    while !answered.enough(mode) {
        let line = told.recv_timeout(Duration::from_secs(60)).expect("the child writes");
        answered.take(&line);
    }
    assert!(run("kill", &["-STOP", &child.id().to_string()]));
    wait_stopped(child.id());
    let copy = disk.folder.path().join("copy.img");
    assert!(run("cp", &["--sparse=always", &text(&disk.image), &text(&copy)]));
    child.kill().unwrap();
    child.wait().unwrap();
    // What the child had printed before it was stopped was answered too.
    told.iter().for_each(|line| answered.take(&line));
    let disk = disk.after_the_cut(&copy);
    let fatal = Arc::new(|error| panic!("{error}"));
    let options = StoreOptions { disk: DiskTrust::Unsafe, ..StoreOptions::new(fatal) };
    let (store, recovery) = Store::open(&disk.mount, &wanted(), options).unwrap();
    Some(After { answered, recovery, store, _disk: disk })
}

impl Answered {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [what @ ("J" | "C"), shard, index] = words[..] else { return };
        let (Ok(shard), Ok(index)) = (shard.parse(), index.parse()) else { return };
        let known = if what == "J" { &mut self.journal } else { &mut self.checkpoints };
        known.insert(ShardId(shard), index);
    }

    fn enough(&self, mode: Mode) -> bool {
        let (known, least) = match mode {
            Mode::Proven => (&self.checkpoints, 600),
            Mode::JournalInMemory => (&self.journal, 600),
            Mode::Checkpoints | Mode::CheckpointsUnflushed => (&self.checkpoints, CHECKPOINTS),
        };
        known.values().filter(|index| **index >= least).count() == usize::from(SHARDS)
    }
}

fn child(test: &str, dir: &str, mode: Mode) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(MODE, format!("{mode:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (tell, told) = channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    told
}

fn wait_stopped(child: u32) {
    let stat = format!("/proc/{child}/stat");
    let began = actors::clock::monotonic();
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(began.elapsed() < Duration::from_secs(10), "the child does not stop");
        std::thread::yield_now();
    }
}

/// A file system in a file; unmounted when dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, with the reason printed, where this cannot be had.
    #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("disk.img"), folder.path().join("mount"));
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        if !run("mkfs.ext4", &["-q", "-F", &text(&image)]) {
            eprintln!("skipped: mkfs.ext4 does not run here");
            return None;
        }
        // A long commit interval, so that nothing reaches the device by the mere passing of time.
        if !run("mount", &["-o", "loop,commit=300", &text(&image), &text(&mount)]) {
            eprintln!("skipped: a file cannot be mounted here (not root, or no loop devices)");
            return None;
        }
        Some(Self { image, mount, folder })
    }

    /// Mounts what had reached the device instead.
    fn after_the_cut(self, copy: &Path) -> Self {
        self.unmount();
        assert!(run("mount", &["-o", "loop", &text(copy), &text(&self.mount)]));
        self
    }

    /// A killed process may hold the mount a moment longer.
    fn unmount(&self) -> bool {
        (0..200).any(|_| run("umount", &[&text(&self.mount)]))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.unmount() {
            run("umount", &["-l", &text(&self.mount)]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
