//! Raw: a value of a frame that was checked but not yet looked into.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::msgpack;

/// A value as it stands in the frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    Json(&'a str),
    Msgpack(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// The named fields of an object; others are ignored, of repeated ones the last counts.
    pub(super) fn fields<const N: usize>(self, names: &[&str; N]) -> Option<[Option<Raw<'a>>; N]> {
        match self {
            Self::Json(text) => {
                let mut json = serde_json::Deserializer::from_str(text);
                let fields = Names(names).deserialize(&mut json).ok()?;
                json.end().ok()?;
                Some(fields)
            }
            Self::Msgpack(bytes) => msgpack::fields(bytes, names),
        }
    }

    /// The text, if it is one.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
        match self {
            Self::Json(text) if text.contains('\\') => {
                serde_json::from_str(text).ok().map(|Text(text)| text)
            }
            Self::Json(text) => {
                text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map(Cow::Borrowed)
            }
            Self::Msgpack(bytes) => msgpack::text(bytes).map(Cow::Borrowed),
        }
    }

    /// The texts, if it is a list of them.
    pub(super) fn texts(self) -> Option<Vec<String>> {
        match self {
            Self::Json(text) => serde_json::from_str(text).ok(),
            Self::Msgpack(bytes) => msgpack::texts(bytes),
        }
    }

    /// The number, if it is a whole one from 0 and below 2⁵³.
    pub(super) fn number(self) -> Option<u64> {
        let number = match self {
            Self::Json(text) => serde_json::from_str(text).ok()?,
            Self::Msgpack(bytes) => msgpack::number(bytes)?,
        };
        (number < 1 << 53).then_some(number)
    }

    /// True or false.
    pub(super) fn flag(self) -> Option<bool> {
        match self {
            Self::Json(text) => text.parse().ok(),
            Self::Msgpack(bytes) => match bytes {
                [0xc2] => Some(false),
                [0xc3] => Some(true),
                _ => None,
            },
        }
    }

    /// The object as JSON text, if it is one.
    pub(super) fn object(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Json(text) => text.starts_with('{').then_some(Cow::Borrowed(text)),
            Self::Msgpack(bytes) => msgpack::object(bytes).map(Cow::Owned),
        }
    }

    /// Whether it is one whole value, and something else than an object.
    pub(super) fn is_no_object(self) -> bool {
        match self {
            Self::Json(text) => {
                !text.trim_start().starts_with('{')
                    && serde_json::from_str::<IgnoredAny>(text).is_ok()
            }
            Self::Msgpack(bytes) => msgpack::is_no_object(bytes),
        }
    }

    pub(super) fn is_null(self) -> bool {
        match self {
            Self::Json(text) => text == "null",
            Self::Msgpack(bytes) => bytes == [0xc0],
        }
    }
}

struct Names<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Names<'_, N> {
    type Value = [Option<Raw<'de>>; N];

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Names<'_, N> {
    type Value = [Option<Raw<'de>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = [None; N];
        while let Some(place) = map.next_key_seed(Name(self.0))? {
            match place {
                Some(place) => {
                    let value: &RawValue = map.next_value()?;
                    fields[place] = Some(Raw::Json(value.get()));
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}
