//! Births: which birth of this node its data is from, and which births of the others it has met.
//!
//! ```text
//! births           sealed `Births`
//! journal/birth    sealed `StoreId`: the birth whose votes and log the journal holds
//! ```
//! A node whose data was lost must not pass for the one that still had it: that one may have voted and confirmed. So
//! every data directory has a birth, drawn at random; the births of a node are told apart by everybody who met them,
//! and each gets an incarnation of its own, counted from 1, which is part of its replicas' ids in Raft. Which
//! incarnation is not for the directory to say: it is agreed with the other nodes (`crate::birth`).
//!
//! The file is replaced as a whole, flushed, before anything rests on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::error::{io, replace, sync_dir};
use super::identity::{Identity, StoreId, Wanted};
use crate::codec::{self, BadBytes};
use crate::ids::{Incarnation, NodeId};

const FILE: &str = "births";
const MARK: &str = "birth";
const VERSION: u8 = 1;

/// What is known of a node: the newest birth that was met or told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The birth; unknown of a node that was there before births were recorded, until it says.
    pub birth: Option<StoreId>,
}

/// What a data directory holds of births.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Births {
    /// This directory's.
    pub birth: StoreId,
    /// Its incarnation; none while it has not been agreed. Without one a node takes part in nothing.
    pub incarnation: Option<Incarnation>,
    /// What is known of the other nodes; and of this one, the incarnation it had before it lost its data.
    pub known: BTreeMap<NodeId, Known>,
}

/// Where a directory keeps them.
#[derive(Debug, Clone)]
pub struct Book {
    dir: PathBuf,
}

impl Births {
    /// Those of a new directory.
    #[must_use]
    pub const fn new(birth: StoreId) -> Self {
        Self { birth, incarnation: None, known: BTreeMap::new() }
    }

    /// Those of a directory from before births were recorded: all its nodes have taken part already.
    fn before_births(identity: &Identity, wanted: &Wanted) -> Self {
        let unknown = Known { incarnation: Incarnation::FIRST, birth: None };
        let nodes = (1..).map(NodeId).take(wanted.members.len());
        Self {
            birth: identity.store_id,
            incarnation: Some(Incarnation::FIRST),
            known: nodes.filter(|node| *node != wanted.node_id).map(|n| (n, unknown)).collect(),
        }
    }

    /// The data is lost: what follows is another birth, and remembers which incarnation is over.
    pub(super) fn bear_again(&mut self, me: NodeId) {
        if let Some(incarnation) = self.incarnation.take() {
            self.known.insert(me, Known { incarnation, birth: Some(self.birth) });
        }
        self.birth = StoreId::draw();
    }
}

impl Book {
    /// The book of a directory.
    pub(super) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes this what the directory holds, durably and in one step. Blocks until it is on disk.
    pub fn keep(&self, births: &Births) -> Result<(), StoreError> {
        replace(&self.dir, FILE, &codec::seal(VERSION, births))
    }

    /// Reads what a directory with this identity holds; one of the old format is brought up to date.
    pub(super) fn open(
        &self,
        identity: &mut Identity,
        wanted: &Wanted,
        journal: &Path,
    ) -> Result<Births, StoreError> {
        let births = if identity.format > 1 {
            self.read()?
        } else {
            let births = Births::before_births(identity, wanted);
            self.keep(&births)?;
            if journal.exists() {
                mark(journal, births.birth)?;
            }
            births
        };
        if identity.format < super::FORMAT {
            // Last: from now on the file above must be there, and older programs stay away.
            identity.format = super::FORMAT;
            identity.write(&self.dir)?;
        }
        Ok(births)
    }

    fn read(&self) -> Result<Births, StoreError> {
        let file = self.dir.join(FILE);
        let damaged = |why| StoreError::IdentityDamaged { file: file.clone(), why };
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(damaged("it is missing"));
            }
            Err(error) => return Err(io("read", &file)(error)),
        };
        codec::open(VERSION, &bytes).map_err(|error| match error {
            BadBytes::Version { found, newest } if found > newest => {
                let (found, newest) = (u32::from(found), u32::from(newest));
                StoreError::Newer { file: file.clone(), found, newest }
            }
            _ => damaged("it cannot be read"),
        })
    }
}

/// For fuzzing: reads what the two files may hold; answers whether it was any of it.
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    codec::open_anyway::<Births>(VERSION, bytes).is_some()
        || codec::open_anyway::<StoreId>(VERSION, bytes).is_some()
}

/// For fuzzing: births as they are written.
pub(super) fn seed() -> Vec<u8> {
    let known = Known { incarnation: Incarnation::FIRST, birth: Some(StoreId(9)) };
    let known = [(NodeId(2), known), (NodeId(3), Known { birth: None, ..known })].into();
    let births = Births { known, ..Births::new(StoreId(7)) };
    codec::seal(VERSION, &births)
}

/// Notes in the journal whose votes it holds, so that one that was emptied does not pass for one that is new.
pub(super) fn mark(journal: &Path, birth: StoreId) -> Result<(), StoreError> {
    replace(journal, MARK, &codec::seal(VERSION, &birth))
}

/// Whether the journal is the one of this birth.
pub(super) fn is_marked(journal: &Path, birth: StoreId) -> Result<bool, StoreError> {
    let file = journal.join(MARK);
    match std::fs::read(&file) {
        Ok(bytes) => Ok(codec::open(VERSION, &bytes) == Ok(birth)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("read", &file)(error)),
    }
}

/// Moves what can no longer be trusted to `<name>.damaged-<n>`, durably; answers where the journal went.
pub(super) fn set_aside(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let mut moved = None;
    // The journal last: as long as it is there this is not done.
    for name in ["state", "journal"] {
        let from = dir.join(name);
        if !from.exists() {
            continue;
        }
        let mut free = (1_u64..).map(|n| dir.join(format!("{name}.damaged-{n}")));
        let Some(to) = free.find(|to| !to.exists()) else { continue };
        std::fs::rename(&from, &to).map_err(io("set aside", &from))?;
        moved = Some(to);
    }
    sync_dir(dir)?;
    Ok(moved)
}
