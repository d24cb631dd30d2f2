//! Recover: opens raft-engine and reads all it holds into memory, trusting none of it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use raft_engine::Config;

use super::ahead::Ahead;
use super::{Engine, Entries, LogStart, Recovered, StoreError};
use crate::codec;
use crate::ids::ShardId;
use crate::store::error::io;

/// Key of the sealed `LogStart` of a region.
pub(super) const START: &[u8] = b"start";
/// Key of the `HardState` of a region.
pub(super) const HARD: &[u8] = b"hard";
/// Key of the `ConfState` of a region.
pub(super) const CONF: &[u8] = b"conf";
/// Version of the sealed `LogStart`.
pub(super) const START_VERSION: u8 = 1;

/// Opens the engine; its panics (it has some for logs with holes) become errors.
pub(super) fn open(config: Config, dir: &Path) -> Result<Engine, StoreError> {
    match catch_unwind(AssertUnwindSafe(|| Engine::open_with_file_system(config, Arc::new(Ahead))))
    {
        Ok(Ok(engine)) => Ok(engine),
        // Space, permissions and limits are for the operator to mend; they do not make the journal bad.
        Ok(Err(raft_engine::Error::Io(error))) if !tells_damage(&error) => {
            Err(io("open the journal in", dir)(error))
        }
        Ok(Err(error)) => Err(damaged(dir, error.to_string())),
        Err(panic) => Err(damaged(dir, super::writer::panic_text(panic.as_ref()))),
    }
}

/// Whether an error of the system speaks of what is in the files, or may.
fn tells_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        NotFound, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    let mendable =
        [NotFound, OutOfMemory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
    let many = error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code));
    !many && !mendable.contains(&error.kind())
}

/// Reads every shard's log and states.
pub(super) fn read(
    engine: &Engine,
    dir: &Path,
) -> Result<BTreeMap<ShardId, Recovered>, StoreError> {
    let mut shards = BTreeMap::new();
    for region in engine.raft_groups() {
        let shard = region.checked_sub(1).and_then(|shard| u16::try_from(shard).ok());
        let shard = shard.ok_or_else(|| damaged(dir, format!("it holds region {region}")))?;
        let whole = region_log(engine, region).and_then(|recovered| {
            whole(&recovered)?;
            Ok(recovered)
        });
        let recovered = whole.map_err(|why| damaged(dir, format!("shard {shard}: {why}")))?;
        shards.insert(ShardId(shard), recovered);
    }
    Ok(shards)
}

fn region_log(engine: &Engine, region: u64) -> Result<Recovered, String> {
    let text = |error: raft_engine::Error| error.to_string();
    let start = match engine.get(region, START) {
        Some(bytes) => codec::open(START_VERSION, &bytes).map_err(|error| error.to_string())?,
        None => LogStart::default(),
    };
    let mut recovered = Recovered {
        hard_state: engine.get_message(region, HARD).map_err(text)?.unwrap_or_default(),
        conf_state: engine.get_message(region, CONF).map_err(text)?,
        start,
        entries: Vec::new(),
    };
    if let (Some(first), Some(last)) = (engine.first_index(region), engine.last_index(region)) {
        // The entry at the start is kept on purpose (see `writer`), and counts for nothing.
        let first = first.max(start.index + 1);
        let into = &mut recovered.entries;
        if first <= last {
            engine
                .fetch_entries_to::<Entries>(region, first, last + 1, None, into)
                .map_err(text)?;
        }
    }
    Ok(recovered)
}

/// A log goes on where it starts, has no gaps, and its terms never fall.
fn whole(recovered: &Recovered) -> Result<(), String> {
    let mut before = recovered.start;
    for entry in &recovered.entries {
        if entry.index != before.index + 1 || entry.term < before.term {
            return Err(format!(
                "entry {} of term {} follows entry {} of term {}",
                entry.index, entry.term, before.index, before.term
            ));
        }
        before = LogStart { index: entry.index, term: entry.term };
    }
    // A commit index is written with or after the entry it speaks of.
    let commit = recovered.hard_state.commit;
    if commit > before.index {
        return Err(format!("entry {commit} is committed but the log ends at {}", before.index));
    }
    Ok(())
}

fn damaged(dir: &Path, why: String) -> StoreError {
    StoreError::JournalDamaged { file: dir.to_owned(), at: 0, why }
}
