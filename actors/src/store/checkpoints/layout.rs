//! Layout: what keys and values of the checkpoints look like on disk.
//!
//! ```text
//! key    shard u16 BE | generation u32 BE | the shard's own key
//!        shard u16 BE | FF FF FF FF                               its ShardImage
//! value  version u8 = 1 | crc32 of key and bytes, u32 LE | bytes
//!        version u8 = 2 | crc32 of key and bytes, u32 LE | file u64 LE | at u64 LE | length u32 LE
//!                                                          a long value: where its record is in the value log
//! ```
//! The key is in the checksum so that a value under a wrong key is seen too. An image's bytes are
//! bincode.

use crate::codec::{self, BadBytes};
use crate::ids::ShardId;

use super::ShardImage;
use super::value_log::Place;

/// The longest value.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

const HERE: u8 = 1;
const IN_LOG: u8 = 2;
const HEAD: usize = 5;

/// What stands under a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// The value itself.
    Here(&'a [u8]),
    /// Where its record is in the value log.
    InLog(Place),
}

/// Bytes before the shard's own key.
pub(super) const PREFIX: usize = 6;

/// The generation that holds the image instead of keys.
pub(super) const IMAGE: u32 = u32::MAX;

pub(super) fn prefix(shard: ShardId, generation: u32) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..2].copy_from_slice(&shard.0.to_be_bytes());
    prefix[2..].copy_from_slice(&generation.to_be_bytes());
    prefix
}

pub(super) fn key(shard: ShardId, generation: u32, own: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX + own.len());
    key.extend_from_slice(&prefix(shard, generation));
    key.extend_from_slice(own);
    key
}

/// Shard and generation of a key.
pub(super) fn place(key: &[u8]) -> Option<(ShardId, u32)> {
    let (shard, rest) = key.split_first_chunk::<2>()?;
    let (generation, _) = rest.split_first_chunk::<4>()?;
    Some((ShardId(u16::from_be_bytes(*shard)), u32::from_be_bytes(*generation)))
}

pub(super) fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    sealed(HERE, key, bytes)
}

pub(super) fn seal_place(key: &[u8], place: Place) -> Vec<u8> {
    let Place { file, at, length } = place;
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&file.to_le_bytes());
    bytes[8..16].copy_from_slice(&at.to_le_bytes());
    bytes[16..].copy_from_slice(&length.to_le_bytes());
    sealed(IN_LOG, key, &bytes)
}

fn sealed(version: u8, key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD + bytes.len());
    value.push(version);
    value.extend_from_slice(&checksum(key, bytes).to_le_bytes());
    value.extend_from_slice(bytes);
    value
}

pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<Value<'a>, BadBytes> {
    let (head, bytes) = value.split_at_checked(HEAD).ok_or(BadBytes::Short(value.len()))?;
    if !(HERE..=IN_LOG).contains(&head[0]) {
        return Err(BadBytes::Version { found: head[0], newest: IN_LOG });
    }
    if head[1..] != checksum(key, bytes).to_le_bytes() {
        return Err(BadBytes::Checksum);
    }
    if head[0] == HERE {
        return Ok(Value::Here(bytes));
    }
    let place = bytes.split_first_chunk::<8>().and_then(|(file, rest)| {
        let (at, length) = rest.split_first_chunk::<8>()?;
        let (file, at) = (u64::from_le_bytes(*file), u64::from_le_bytes(*at));
        Some(Place { file, at, length: u32::from_le_bytes(length.try_into().ok()?) })
    });
    place.map(Value::InLog).ok_or(BadBytes::Malformed)
}

/// Where a value's record is in the value log, if it is there and can be told.
pub(super) fn place_of(key: &[u8], value: &[u8]) -> Option<Place> {
    if value.first() != Some(&IN_LOG) {
        return None;
    }
    match open(key, value) {
        Ok(Value::InLog(place)) => Some(place),
        _ => None,
    }
}

pub(super) fn seal_image(shard: ShardId, image: &ShardImage) -> Vec<u8> {
    seal(&prefix(shard, IMAGE), &codec::encode(image))
}

pub(super) fn open_image(shard: ShardId, value: &[u8]) -> Result<ShardImage, BadBytes> {
    match open(&prefix(shard, IMAGE), value)? {
        Value::Here(bytes) => codec::decode(bytes),
        Value::InLog(_) => Err(BadBytes::Malformed),
    }
}

/// For fuzzing: reads a key or an image, also past a head that is wrong; answers whether it was one.
pub(in crate::store) fn fuzz(bytes: &[u8]) -> bool {
    let (place, shard) = (place(bytes).is_some(), ShardId(1));
    let image = open_image(shard, bytes);
    let image =
        image.or_else(|_| codec::decode::<ShardImage>(bytes.get(HEAD..).unwrap_or_default()));
    image.is_ok() || place
}

/// For fuzzing: an image as it is written.
pub(in crate::store) fn seed() -> Vec<u8> {
    let mut image = ShardImage { generation: 3, head: b"head".to_vec(), ..ShardImage::default() };
    image.replicas.voters = vec![1, 2, 65_539];
    seal_image(ShardId(1), &image)
}

pub(super) fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(bytes);
    hasher.finalize()
}

/// A key as people can read and search it.
pub(super) fn readable(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
