//! Opening: gets a usable sled database whatever was left behind, and never deletes a damaged one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::layout::{self, IMAGE};
use super::value_log::{self, ValueLog};
use super::{CheckpointOptions, Checkpoints, Disk, ShardImage, StoreError};
use crate::codec::BadBytes;
use crate::ids::ShardId;
use crate::store::error::{io, sync_dir};

/// The size of sled's segments. A leaf of its tree holds up to 16 values, of up to `VALUE_BYTES_MAX` in databases from before
/// the value log; what does not fit into a quarter of a segment goes into a file of its own (a *blob*) each time the leaf is written. That cost more than all else
/// here, and it is not safe: after a kill sled removes blobs that are newer than its log and then takes the leaf as it was
/// before, without a word, so that a checkpoint was new in part.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// The checkpoints, and whether they are the ones that were written.
pub(in crate::store) struct Opened {
    pub(in crate::store) checkpoints: Checkpoints,
    pub(in crate::store) images: BTreeMap<ShardId, ShardImage>,
    /// Where a damaged database was put; then this one is new and empty.
    pub(in crate::store) set_aside: Option<PathBuf>,
}

/// What lies in the database.
#[derive(Default)]
pub(super) struct Found {
    pub(super) images: BTreeMap<ShardId, ShardImage>,
    /// Leftovers of snapshots that were never finished and of generations that were replaced.
    pub(super) trash: Vec<(ShardId, u32)>,
}

/// Opens the newest database below `<data>/state`, or sets it aside and begins an empty one.
pub(in crate::store) fn open(
    data: &Path,
    options: CheckpointOptions,
) -> Result<Opened, StoreError> {
    let state = data.join("state");
    std::fs::create_dir_all(&state).map_err(io("create directory", &state))?;
    let newest = numbers(&state, "")?.into_iter().max();
    let mut number = newest.unwrap_or_else(|| 1 + set_aside_before(data));
    let mut set_aside = None;
    let (disk, found) = loop {
        let dir = state.join(number.to_string());
        match attempt(&dir, &options) {
            Ok(opened) => break opened,
            Err(error) if set_aside.is_none() && is_damage(&error) => {
                let aside = data.join(format!("state.damaged-{number}"));
                tracing::error!(%error, aside = %aside.display(), "checkpoints set aside");
                std::fs::rename(&dir, &aside).map_err(io("set aside", &dir))?;
                set_aside = Some(aside);
                number += 1;
            }
            Err(error) => return Err(error),
        }
    };
    sync_dir(&state)?;
    sync_dir(data)?;
    let images = found.images.clone();
    let log = ValueLog::open(value_log::dir_of(&disk.dir), options.value_file_bytes)?;
    sync_dir(&disk.dir)?;
    let checkpoints = Checkpoints::start(disk, log, found, options)?;
    Ok(Opened { checkpoints, images, set_aside })
}

/// Space and permissions are for the operator to mend; they do not make the data bad.
fn is_damage(error: &StoreError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
    let kind = match error {
        StoreError::Checkpoints { source: sled::Error::Io(source), .. } => source.kind(),
        StoreError::Checkpoints { .. } => return true,
        StoreError::BadValue { why: BadBytes::Version { found, newest }, .. } => {
            return found <= newest;
        }
        StoreError::BadValue { .. } => return true,
        StoreError::Io { source, .. } => source.kind(),
        _ => return false,
    };
    !matches!(kind, PermissionDenied | ReadOnlyFilesystem | StorageFull)
}

fn attempt(dir: &Path, options: &CheckpointOptions) -> Result<(Disk, Found), StoreError> {
    if dir.exists() {
        sweep(dir)?;
    }
    let db = open_within(dir, options.cache_bytes, options.open_within)?;
    let disk = Disk { db, dir: dir.to_owned(), images: Arc::default() };
    let found = look(&disk)?;
    Ok((Disk { images: Arc::new(RwLock::new(found.images.clone())), ..disk }, found))
}

/// Removes snapshots that a killed open left half written: with one of them sled never opens again.
fn sweep(dir: &Path) -> Result<(), StoreError> {
    for item in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let path = item.map_err(io("list", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %path.display(), "removing a half written snapshot of sled");
            std::fs::remove_file(&path).map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// Opens on a thread of its own, since sled can hang on damaged files; that thread is then left
/// behind.
fn open_within(dir: &Path, cache_bytes: u64, within: Duration) -> Result<sled::Db, StoreError> {
    let (answer, opened) = channel();
    let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None);
    let config = config.segment_size(segment_size(dir));
    let lock = dir.join("db");
    std::thread::Builder::new()
        .name("checkpoints-open".to_owned())
        .spawn(move || {
            super::writer::yield_to_others();
            let _ =
                answer.send(wait_for_lock(&lock).map_err(Into::into).and_then(|()| config.open()));
        })
        .map_err(io("start a thread for", dir))?;
    let hangs = || sled::Error::Io(std::io::Error::other("sled did not open in time or panicked"));
    let result = opened.recv_timeout(within).unwrap_or_else(|_| Err(hangs()));
    result.map_err(|source| StoreError::Checkpoints { dir: dir.to_owned(), source })
}

/// The size sled was first opened with here, else ours; sled opens with no other.
fn segment_size(dir: &Path) -> usize {
    let conf = std::fs::read(dir.join("conf")).unwrap_or_default();
    let conf = String::from_utf8_lossy(&conf);
    let known = conf.lines().find_map(|line| line.split_once("segment_size:"));
    let known = known.and_then(|(_, size)| size.trim().parse().ok());
    // Sled panics on others; such a file is damaged, and found to be so.
    let fits = |size: &usize| size.is_power_of_two() && (256..=1 << 24).contains(size);
    known.filter(fits).unwrap_or(SEGMENT_BYTES)
}

/// Waits until the threads of an earlier database in this process have let go of its file: they do so some time after
/// it is dropped, and sled refuses a file that is locked. Other processes are kept out by the data directory's lock.
fn wait_for_lock(file: &Path) -> std::io::Result<()> {
    match std::fs::File::open(file) {
        Ok(file) => file.lock().and_then(|()| file.unlock()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Finds each shard's image, hopping from generation to generation.
fn look(disk: &Disk) -> Result<Found, StoreError> {
    let (mut found, mut from) = (Found::default(), Vec::new());
    let mut generations = Vec::new();
    while let Some(item) = disk.db.range(from..).next() {
        let (key, value) = item.map_err(disk.failed())?;
        let (shard, generation) =
            layout::place(&key).ok_or_else(|| disk.bad(&key, BadBytes::Malformed))?;
        if generation == IMAGE {
            let image = layout::open_image(shard, &value).map_err(|why| disk.bad(&key, why))?;
            found.images.insert(shard, image);
            let Some(next) = shard.0.checked_add(1) else { break };
            from = layout::key(ShardId(next), 0, b"");
        } else {
            generations.push((shard, generation));
            from = layout::key(shard, generation + 1, b"");
        }
    }
    generations.retain(|(shard, generation)| {
        found.images.get(shard).is_none_or(|image| image.generation != *generation)
    });
    found.trash = generations;
    Ok(found)
}

/// Numbers of the directories whose names are `prefix` and a number.
fn numbers(dir: &Path, prefix: &str) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for item in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let name = item.map_err(io("list", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn set_aside_before(data: &Path) -> u64 {
    numbers(data, "state.damaged-").unwrap_or_default().into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_made_with_other_segments_opens_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        let before = sled::Config::new().path(&path).segment_size(512 * 1024).open().unwrap();
        before.insert(b"key", b"value").unwrap();
        before.flush().unwrap();
        drop(before);
        assert_eq!(segment_size(&path), 512 * 1024);
        let db = open_within(&path, 1 << 20, Duration::from_secs(60)).unwrap();
        assert_eq!(db.get(b"key").unwrap().unwrap(), b"value");
        for (conf, size) in [("", SEGMENT_BYTES), ("segment_size: 7", SEGMENT_BYTES)] {
            std::fs::write(dir.path().join("conf"), conf).unwrap();
            assert_eq!(segment_size(dir.path()), size);
        }
    }
}
