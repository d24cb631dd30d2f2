//! Msgpack: reads values in place (msgpack.org specification), and turns objects into JSON text.

use super::raw::Raw;
use super::writer::escape;

/// How deep an object may nest when it is turned into JSON.
const DEPTH_MAX: u8 = 32;

/// What a value begins with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Head {
    Nil,
    Bool(bool),
    Whole(u64),
    Negative(i64),
    Float(f64),
    Text(usize),
    /// Bytes or an extension: passed over, never understood.
    Opaque(usize),
    List(usize),
    Map(usize),
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Reads the first byte and the number behind it.
fn head(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let low = |mask: u8| usize::from(first & mask);
    let number = |width: usize| {
        let (number, rest) = rest.split_at_checked(width)?;
        Some((big_endian(number), rest))
    };
    let length = |width: usize| {
        let (length, rest) = number(width)?;
        Some((usize::try_from(length).ok()?, rest))
    };
    let signed = |width: usize| {
        let (number, rest) = number(width)?;
        let shift = 64 - 8 * u32::try_from(width).ok()?;
        let value = (number << shift).cast_signed() >> shift;
        Some((u64::try_from(value).map_or(Head::Negative(value), Head::Whole), rest))
    };
    Some(match first {
        0x00..=0x7f => (Head::Whole(u64::from(*first)), rest),
        0x80..=0x8f => (Head::Map(low(0x0f)), rest),
        0x90..=0x9f => (Head::List(low(0x0f)), rest),
        0xa0..=0xbf => (Head::Text(low(0x1f)), rest),
        0xc0 => (Head::Nil, rest),
        0xc1 => return None,
        0xc2 | 0xc3 => (Head::Bool(*first == 0xc3), rest),
        0xc4..=0xc6 => length(1 << (first - 0xc4)).map(|(n, rest)| (Head::Opaque(n), rest))?,
        // An extension has a type byte besides.
        0xc7..=0xc9 => length(1 << (first - 0xc7)).map(|(n, rest)| (Head::Opaque(n + 1), rest))?,
        0xca => number(4).map(|(n, rest)| (float32(n), rest))?,
        0xcb => number(8).map(|(n, rest)| (Head::Float(f64::from_bits(n)), rest))?,
        0xcc..=0xcf => number(1 << (first - 0xcc)).map(|(n, rest)| (Head::Whole(n), rest))?,
        0xd0..=0xd3 => signed(1 << (first - 0xd0))?,
        0xd4..=0xd8 => (Head::Opaque((1 << (first - 0xd4)) + 1), rest),
        0xd9..=0xdb => length(1 << (first - 0xd9)).map(|(n, rest)| (Head::Text(n), rest))?,
        0xdc | 0xdd => length(2 << (first - 0xdc)).map(|(n, rest)| (Head::List(n), rest))?,
        0xde | 0xdf => length(2 << (first - 0xde)).map(|(n, rest)| (Head::Map(n), rest))?,
        0xe0..=0xff => (Head::Negative(i64::from(first.cast_signed())), rest),
    })
}

fn float32(bits: u64) -> Head {
    Head::Float(f64::from(f32::from_bits(u32::try_from(bits).unwrap_or_default())))
}

/// Splits the first value off.
fn value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    // Each value takes a byte at least, so a lying length ends the loop early.
    let mut left: usize = 1;
    while left > 0 {
        left -= 1;
        let (head, after) = head(rest)?;
        rest = match head {
            Head::Text(length) => {
                std::str::from_utf8(after.get(..length)?).ok()?;
                after.get(length..)?
            }
            Head::Opaque(length) => after.get(length..)?,
            Head::List(length) => {
                left = left.checked_add(length)?;
                after
            }
            Head::Map(length) => {
                left = left.checked_add(length.checked_mul(2)?)?;
                after
            }
            _ => after,
        };
    }
    Some(bytes.split_at(bytes.len() - rest.len()))
}

/// The named fields of a map that is the whole of `bytes`.
pub(super) fn fields<'a, const N: usize>(
    bytes: &'a [u8],
    names: &[&str; N],
) -> Option<[Option<Raw<'a>>; N]> {
    let (Head::Map(length), mut rest) = head(bytes)? else { return None };
    let mut fields = [None; N];
    for _ in 0..length {
        let (key, after) = value(rest)?;
        let (found, after) = value(after)?;
        rest = after;
        let key = text(key);
        if let Some(place) = names.iter().position(|name| key == Some(name)) {
            fields[place] = Some(Raw::Msgpack(found));
        }
    }
    rest.is_empty().then_some(fields)
}

/// Whether `bytes` are one whole value, and something else than a map.
pub(super) fn is_no_object(bytes: &[u8]) -> bool {
    let whole = value(bytes).is_some_and(|(_, rest)| rest.is_empty());
    whole && !matches!(head(bytes), Some((Head::Map(_), _)))
}

pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    match head(bytes)? {
        (Head::Text(length), rest) if rest.len() == length => std::str::from_utf8(rest).ok(),
        _ => None,
    }
}

pub(super) fn texts(bytes: &[u8]) -> Option<Vec<String>> {
    let (Head::List(length), mut rest) = head(bytes)? else { return None };
    let mut texts = Vec::new();
    for _ in 0..length {
        let (found, after) = value(rest)?;
        texts.push(text(found)?.to_owned());
        rest = after;
    }
    rest.is_empty().then_some(texts)
}

/// A whole number; also one that a client's language keeps as a float.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match head(bytes)?.0 {
        Head::Whole(number) => Some(number),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
        Head::Float(float) if float.fract() == 0.0 && (0.0..EXACT).contains(&float) => {
            Some(float as u64)
        }
        _ => None,
    }
}

/// A map as JSON text; none if it holds what JSON cannot say.
pub(super) fn object(bytes: &[u8]) -> Option<String> {
    let (Head::Map(_), _) = head(bytes)? else { return None };
    let mut json = Vec::new();
    let rest = write_json(bytes, DEPTH_MAX, &mut json)?;
    if rest.is_empty() { String::from_utf8(json).ok() } else { None }
}

fn write_json<'a>(bytes: &'a [u8], depth: u8, json: &mut Vec<u8>) -> Option<&'a [u8]> {
    let depth = depth.checked_sub(1)?;
    let (head, mut rest) = head(bytes)?;
    match head {
        Head::Nil => json.extend(b"null"),
        Head::Bool(value) => json.extend(value.to_string().as_bytes()),
        Head::Whole(number) => json.extend(number.to_string().as_bytes()),
        Head::Negative(number) => json.extend(number.to_string().as_bytes()),
        Head::Float(number) if number.is_finite() => serde_json::to_writer(json, &number).ok()?,
        Head::Float(_) | Head::Opaque(_) => return None,
        Head::Text(length) => {
            let (text, after) = rest.split_at_checked(length)?;
            escape(std::str::from_utf8(text).ok()?, json);
            rest = after;
        }
        Head::List(length) => {
            json.push(b'[');
            for place in 0..length {
                separate(place, json);
                rest = write_json(rest, depth, json)?;
            }
            json.push(b']');
        }
        Head::Map(length) => {
            json.push(b'{');
            for place in 0..length {
                separate(place, json);
                rest = write_key(rest, json)?;
                rest = write_json(rest, depth, json)?;
            }
            json.push(b'}');
        }
    }
    Some(rest)
}

fn separate(place: usize, json: &mut Vec<u8>) {
    if place > 0 {
        json.push(b',');
    }
}

fn write_key<'a>(bytes: &'a [u8], json: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (key, rest) = value(bytes)?;
    escape(text(key)?, json);
    json.push(b':');
    Some(rest)
}
