//! Codec: bytes between nodes and on disk, decoded with a limit and never trusted.
//!
//! ```text
//! sealed value:   version u8 | crc32 of the rest, u32 LE | bincode (varint) of the value
//! ```

use std::cell::Cell;

use serde::{Serialize, de::DeserializeOwned};

/// Bytes one decoded value may allocate at the most; far above any honest packet or stored value.
pub const DECODED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The same for what this cluster wrote as one value however long it is, checked and in pieces: a shard's head.
const DECODED_WHOLE_BYTES_MAX: usize = 512 * 1024 * 1024;

const HEAD: usize = 5;
/// What a thread keeps to encode into, so that no vector grows step by step; longer ones are let go.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBytes {
    /// Too short to hold a version and a checksum.
    #[error("too short: {0} bytes")]
    Short(usize),
    /// Written by a newer program: upgrade this one.
    #[error("format version {found} is not one of those this program reads (up to {newest})")]
    Version {
        /// What the bytes say.
        found: u8,
        /// What this program reads.
        newest: u8,
    },
    /// The bytes were damaged.
    #[error("checksum mismatch")]
    Checksum,
    /// The bytes do not hold such a value.
    #[error("malformed value")]
    Malformed,
    /// There are no bytes: the file they were in is gone.
    #[error("its file is gone")]
    Gone,
}

/// Writes behind what is there, without what `std::io::Write` costs for each small field.
struct Behind<'a>(&'a mut Vec<u8>);

impl bincode::enc::write::Writer for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// Encodes a value without version or checksum, for use inside something that has them.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    append(&mut scratch, value);
    let bytes = scratch.as_slice().to_vec();
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    bytes
}

/// Decodes what `encode` wrote; refuses trailing bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadBytes> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config()).map_err(|_| BadBytes::Malformed)?;
    if used == bytes.len() { Ok(value) } else { Err(BadBytes::Malformed) }
}

/// The same for a value that is as long as what waits in a shard.
pub fn decode_whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadBytes> {
    let config = bincode::config::standard().with_limit::<DECODED_WHOLE_BYTES_MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|_| BadBytes::Malformed)?;
    if used == bytes.len() { Ok(value) } else { Err(BadBytes::Malformed) }
}

/// Encodes a value behind what is already in `bytes`.
pub fn append<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_writer(value, Behind(bytes), bincode::config::standard())
        .expect("our own types always encode, and memory takes all bytes");
}

/// Decodes values that `append` wrote one behind the other.
pub fn decode_all<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<Vec<T>, BadBytes> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (value, used) =
            bincode::serde::decode_from_slice(bytes, config()).map_err(|_| BadBytes::Malformed)?;
        if used == 0 {
            return Err(BadBytes::Malformed);
        }
        values.push(value);
        bytes = &bytes[used..];
    }
    Ok(values)
}

/// Encodes a value behind a format version and a checksum.
pub fn seal<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![version, 0, 0, 0, 0];
    append(&mut bytes, value);
    let crc = crc32fast::hash(&bytes[HEAD..]);
    bytes[1..HEAD].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes what `seal` wrote with exactly this version.
pub fn open<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, BadBytes> {
    let (Some((head, body)), Some(&found)) = (bytes.split_at_checked(HEAD), bytes.first()) else {
        return Err(BadBytes::Short(bytes.len()));
    };
    if found != version {
        return Err(BadBytes::Version { found, newest: version });
    }
    if head[1..] != crc32fast::hash(body).to_le_bytes() {
        return Err(BadBytes::Checksum);
    }
    decode(body)
}

/// For fuzzing: like `open`, but past a head that is wrong, so that mutated bytes get to what is behind it.
pub(crate) fn open_anyway<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Option<T> {
    let opened = open(version, bytes);
    opened.or_else(|_| decode(bytes.get(HEAD..).unwrap_or_default())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_or_foreign_bytes_are_refused() {
        let bytes = seal(1, &(7_u32, "hi"));
        assert_eq!(open::<(u32, String)>(1, &bytes), Ok((7, "hi".to_owned())));
        assert_eq!(
            open::<(u32, String)>(2, &bytes),
            Err(BadBytes::Version { found: 1, newest: 2 })
        );
        assert_eq!(open::<(u32, String)>(1, &bytes[..3]), Err(BadBytes::Short(3)));
        for at in 5..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(open::<(u32, String)>(1, &bad), Err(BadBytes::Checksum));
        }
    }

    #[test]
    fn a_huge_length_does_not_allocate() {
        let mut bytes = vec![253];
        bytes.extend(u64::MAX.to_le_bytes());
        assert_eq!(decode::<Vec<u8>>(&bytes), Err(BadBytes::Malformed));
    }
}
