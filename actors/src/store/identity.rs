//! Identity: whose data this is, so that no node ever works on another's.
//!
//! ```text
//! node.id    format = 3
//!            cluster = <name>          cluster_id = <ULID>
//!            node = <name>             node_id = <number>
//!            store_id = <ULID>         shards = <number>
//!            member = <name>           once for each, in the order of their ids
//!            crc = <8 hexadecimal digits over all lines before>
//! ```
//! One pair a line. Written once, at birth, and never changed but for the format. The first line decides whether the
//! rest can be read. Format 1 has the same lines, but no `births` beside it (see there); format 2 all values in sled.

use std::fmt::{self, Write as _};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::error::{io, replace};
use crate::clock;
use crate::ids::NodeId;

/// Newest layout of a data directory that this program reads and the one it writes.
pub const FORMAT: u32 = 3;

const FILE: &str = "node.id";
const NAME_BYTES_MAX: usize = 200;

/// Names one cluster: made from its name, so that all its nodes agree on it without talking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

/// Names one birth of a data directory; drawn at random.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct StoreId(pub u128);

/// What the configuration says this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// This node's number: its place among the members, from 1.
    pub node_id: NodeId,
    /// Into how many shards the cluster was divided at its birth.
    pub shards: u16,
    /// Names of all nodes, in the order of their numbers.
    pub members: Vec<String>,
}

/// What the data directory says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The names and numbers, all as wanted.
    pub is: Wanted,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This directory, at its first birth.
    pub store_id: StoreId,
    /// The layout it was written in.
    pub(super) format: u32,
}

impl StoreId {
    /// Draws a new one.
    #[must_use]
    pub fn draw() -> Self {
        let chance = rand::Rng::random(&mut rand::rng());
        Self(ulid::Ulid::from_parts(clock::wall().0, chance).0)
    }
}

impl ClusterId {
    /// The id that a cluster of this name has.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(name.as_bytes()))
    }
}

impl Identity {
    /// Reads the directory's identity; `None` when there is no such file.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let file = dir.join(FILE);
        match std::fs::read(&file) {
            Ok(bytes) => parse(&file, &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &file)(error)),
        }
    }

    /// Refuses another's directory, saying which line differs.
    pub fn check(&self, dir: &Path, wanted: &Wanted) -> Result<(), StoreError> {
        let (is, file) = (&self.is, dir.join(FILE));
        let lines = [
            ("cluster", is.cluster.clone(), wanted.cluster.clone()),
            ("node", is.node.clone(), wanted.node.clone()),
            ("node_id", is.node_id.to_string(), wanted.node_id.to_string()),
            ("shards", is.shards.to_string(), wanted.shards.to_string()),
            ("members", is.members.join(", "), wanted.members.join(", ")),
        ];
        for (what, found, wanted) in lines {
            if found != wanted {
                return Err(StoreError::Foreign { file, what, found, wanted });
            }
        }
        Ok(())
    }

    /// Draws an identity; nothing is written yet.
    pub fn draw(wanted: &Wanted) -> Result<Self, StoreError> {
        let named = [("cluster", &wanted.cluster), ("node", &wanted.node)];
        for (what, name) in named.into_iter().chain(wanted.members.iter().map(|m| ("member", m))) {
            let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.trim() == *name;
            if !fits || name.chars().any(char::is_control) {
                return Err(StoreError::Unwritable { what, name: name.clone() });
            }
        }
        Ok(Self {
            is: wanted.clone(),
            cluster_id: ClusterId::of(&wanted.cluster),
            store_id: StoreId::draw(),
            format: FORMAT,
        })
    }

    /// Makes it the directory's, durably.
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        replace(dir, FILE, self.text().as_bytes())
    }

    fn text(&self) -> String {
        let is = &self.is;
        let mut text = format!(
            "format = {}\ncluster = {}\ncluster_id = {}\nnode = {}\nnode_id = {}\n\
             store_id = {}\nshards = {}\n",
            self.format, is.cluster, self.cluster_id, is.node, is.node_id, self.store_id, is.shards
        );
        for member in &is.members {
            let _ = writeln!(text, "member = {member}");
        }
        let crc = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc = {crc:08x}");
        text
    }
}

/// Takes the directory for this process; the lock goes with the file.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file = File::create(&path).map_err(io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { file: path }),
        Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
    }
}

/// Where the identity of a directory is.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Identity, StoreError> {
    let damaged = |why| StoreError::IdentityDamaged { file: file.to_owned(), why };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let (first, _) = text.split_once('\n').ok_or_else(|| damaged("cut short"))?;
    let found: u32 = number(first, "format").ok_or_else(|| damaged("no format on line 1"))?;
    if found > FORMAT {
        return Err(StoreError::Newer { file: file.to_owned(), found, newest: FORMAT });
    }
    let end = text.rfind("crc = ").ok_or_else(|| damaged("no checksum"))?;
    let (body, seal) = text.split_at(end);
    if seal != format!("crc = {:08x}\n", crc32fast::hash(body.as_bytes())) {
        return Err(damaged("checksum mismatch"));
    }
    let identity = fields(body).map(|identity| Identity { format: found, ..identity });
    identity.ok_or_else(|| damaged("a line is missing or malformed"))
}

/// For fuzzing: reads an identity, also past a checksum that is wrong; answers whether it was one.
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let body = text.rfind("crc = ").map_or(&*text, |end| &text[..end]);
    let mended = format!("{body}crc = {:08x}\n", crc32fast::hash(body.as_bytes()));
    let file = Path::new(FILE);
    parse(file, bytes).is_ok() || parse(file, mended.as_bytes()).is_ok()
}

/// For fuzzing: an identity as it is written.
pub(super) fn seed() -> Vec<u8> {
    let members = ["north", "south", "west"].map(str::to_owned).to_vec();
    let (cluster, node) = ("chat".to_owned(), "north".to_owned());
    let is = Wanted { cluster, node, node_id: NodeId(1), shards: 8, members };
    let (cluster_id, store_id) = (ClusterId::of("chat"), StoreId(7));
    Identity { is, cluster_id, store_id, format: FORMAT }.text().into_bytes()
}

fn fields(body: &str) -> Option<Identity> {
    let mut lines = body.lines().skip(1);
    let cluster = value(lines.next()?, "cluster")?.to_owned();
    let cluster_id = ulid::Ulid::from_string(value(lines.next()?, "cluster_id")?).ok()?;
    let node = value(lines.next()?, "node")?.to_owned();
    let node_id = NodeId(number(lines.next()?, "node_id")?);
    let store_id = ulid::Ulid::from_string(value(lines.next()?, "store_id")?).ok()?;
    let shards = number(lines.next()?, "shards")?;
    let members: Option<Vec<String>> =
        lines.map(|line| value(line, "member").map(str::to_owned)).collect();
    Some(Identity {
        is: Wanted { cluster, node, node_id, shards, members: members? },
        cluster_id: ClusterId(cluster_id.0),
        store_id: StoreId(store_id.0),
        format: FORMAT,
    })
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(" = ")
}

fn number<T: std::str::FromStr>(line: &str, key: &str) -> Option<T> {
    value(line, key)?.parse().ok()
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ulid::Ulid(self.0).fmt(f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ulid::Ulid(self.0).fmt(f)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
