//! What can go wrong with the disk, and what the operator or the node must then do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::BadBytes;
use crate::ids::ShardId;

/// Why the store did not open, or stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another process works in this directory: stop it first, or name another directory.
    #[error("{} is locked by another node: stop it or choose another directory", file.display())]
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// Written by a newer program: upgrade this one; nothing was touched.
    #[error("{} has format {found}, this program reads up to {newest}: upgrade it", file.display())]
    Newer {
        /// The file that says so.
        file: PathBuf,
        /// What it says.
        found: u32,
        /// What this program reads.
        newest: u32,
    },
    /// The directory belongs to another cluster, node or layout: correct the configuration or the
    /// path.
    #[error("{} says {what} {found}, the configuration {wanted}: correct one", file.display())]
    Foreign {
        /// The identity file.
        file: PathBuf,
        /// Which line of it.
        what: &'static str,
        /// What it says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A name that cannot be written into the identity file: rename it.
    #[error("{what} {name:?} must be one line of at most 200 bytes and not empty")]
    Unwritable {
        /// What was being named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A file that says what the directory is was damaged: restore it from a copy, or move the whole directory away;
    /// with two other nodes running, this one then comes back empty and is filled by them.
    #[error("{} is damaged ({why}): restore it, or move the data directory away", file.display())]
    IdentityDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is data without an identity file: restore the file, or move the directory away.
    #[error("{} is missing beside data: restore it, or move the data away", file.display())]
    IdentityMissing {
        /// The identity file.
        file: PathBuf,
    },
    /// The journal was lost: this replica must come back as a new one.
    #[error("{} is lost, with votes and log: no other nodes can refill it; restore a copy", dir.display())]
    JournalMissing {
        /// Where it should be.
        dir: PathBuf,
    },
    /// The journal is damaged before its end: this replica must come back as a new one.
    #[error("{} is damaged at byte {at}: {why}; votes and log are lost", file.display())]
    JournalDamaged {
        /// The damaged file, or the journal's directory when the file is not known.
        file: PathBuf,
        /// Offset of the damage; 0 when it is not known.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// Writing the journal failed: the process must stop; on restart only what is on disk counts.
    #[error("writing the journal {} failed, the node must stop: {why}", dir.display())]
    JournalWrite {
        /// The journal's directory.
        dir: PathBuf,
        /// What the disk or the library answered.
        why: String,
    },
    /// A record broke the journal's contract: a defect of this program; the process must stop.
    #[error("shard {shard}: {rule} (index {index}, log {first}..={last}); this is a defect")]
    Misuse {
        /// The shard.
        shard: ShardId,
        /// The rule that was broken.
        rule: &'static str,
        /// The offending index.
        index: u64,
        /// First index of the log.
        first: u64,
        /// Last index of the log.
        last: u64,
    },
    /// sled failed: the process must stop; the journal still has everything since the last
    /// checkpoint.
    #[error("checkpoints {}: {source}", dir.display())]
    Checkpoints {
        /// sled's directory.
        dir: PathBuf,
        /// What sled answered.
        #[source]
        source: sled::Error,
    },
    /// One stored value cannot be read: rebuild this replica from its peers.
    #[error("checkpoints {}: value of key {key} is bad: {why}", dir.display())]
    BadValue {
        /// sled's directory.
        dir: PathBuf,
        /// The key, in hexadecimal.
        key: String,
        /// What is wrong with the value.
        #[source]
        why: BadBytes,
    },
    /// The read was overtaken by a snapshot or the shard has no checkpoint: ask again.
    #[error("shard {shard} has no checkpoint or it was replaced while being read: try again")]
    Replaced {
        /// The shard.
        shard: ShardId,
    },
    /// A chunk arrived for a shard that receives no snapshot: begin again.
    #[error("shard {shard} is not receiving a snapshot: begin again")]
    NotImporting {
        /// The shard.
        shard: ShardId,
    },
    /// The store's threads have stopped; the node is going down.
    #[error("the store has stopped")]
    Stopped,
    /// `sync_file_range` is not switched off: call `install_real_fsync` first thing in `main`.
    #[error("sled's flush would not reach the disk: no system-call filter; see --unsafe-disk")]
    FlushNotReal,
    /// The system-call filter cannot be had here: run elsewhere, or with `--unsafe-disk`.
    #[error("cannot install the system-call filter that makes sled's flush real: {why}")]
    NoFilter {
        /// What the kernel or the platform answered.
        why: String,
    },
    /// A file operation failed: look at the disk, its space and its permissions.
    #[error("cannot {action} {}: {source}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        file: PathBuf,
        /// What the system answered.
        #[source]
        source: Arc<std::io::Error>,
    },
}

impl StoreError {
    /// True when only a newer program can read this directory (its own exit code).
    #[must_use]
    pub fn needs_newer_program(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }

    /// True when votes and log are gone for good.
    pub(super) const fn is_lost_journal(&self) -> bool {
        matches!(self, Self::JournalMissing { .. } | Self::JournalDamaged { .. })
    }
}

/// Names file and action in an error of the operating system.
pub(super) fn io(
    action: &'static str,
    file: &Path,
) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let file = file.to_owned();
    move |source| StoreError::Io { action, file, source: Arc::new(source) }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync directory", dir))
}

/// Gives a file new contents, durably and in one step: a power cut leaves the old ones or the new.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    use std::io::Write as _;
    let (file, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
    std::fs::File::create(&fresh)
        .and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()))
        .map_err(io("write", &fresh))?;
    std::fs::rename(&fresh, &file).map_err(io("rename", &fresh))?;
    sync_dir(dir)
}
