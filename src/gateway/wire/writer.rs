//! Writer: puts one frame into bytes, in either format.

use std::io::Write;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Format;

/// One frame being written. A map or list says how long it is before its parts follow.
#[derive(Debug)]
pub(super) struct Writer {
    format: Format,
    bytes: Vec<u8>,
    /// JSON: nothing stands before the next key or item of this map or list.
    first: bool,
}

impl Writer {
    pub(super) fn new(format: Format, about: usize) -> Self {
        Self { format, bytes: Vec::with_capacity(about), first: true }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn map(&mut self, length: usize) {
        match self.format {
            Format::Json => self.bytes.push(b'{'),
            Format::Msgpack => self.length(length, 15, [0x80, 0xde, 0xde, 0xdf]),
        }
        self.first = true;
    }

    pub(super) fn end_map(&mut self) {
        if self.format == Format::Json {
            self.bytes.push(b'}');
        }
        self.first = false;
    }

    pub(super) fn list(&mut self, length: usize) {
        match self.format {
            Format::Json => self.bytes.push(b'['),
            Format::Msgpack => self.length(length, 15, [0x90, 0xdc, 0xdc, 0xdd]),
        }
        self.first = true;
    }

    pub(super) fn end_list(&mut self) {
        if self.format == Format::Json {
            self.bytes.push(b']');
        }
        self.first = false;
    }

    /// Before each part of a list.
    pub(super) fn item(&mut self) {
        if self.format == Format::Json && !self.first {
            self.bytes.push(b',');
        }
        self.first = false;
    }

    /// A key that needs no escaping.
    pub(super) fn key(&mut self, key: &str) -> &mut Self {
        self.item();
        match self.format {
            Format::Json => {
                self.bytes.push(b'"');
                self.bytes.extend(key.as_bytes());
                self.bytes.extend(b"\":");
            }
            Format::Msgpack => self.text(key),
        }
        self
    }

    pub(super) fn text(&mut self, text: &str) {
        match self.format {
            Format::Json => escape(text, &mut self.bytes),
            Format::Msgpack => {
                self.length(text.len(), 31, [0xa0, 0xd9, 0xda, 0xdb]);
                self.bytes.extend(text.as_bytes());
            }
        }
    }

    pub(super) fn number(&mut self, number: u64) {
        match self.format {
            Format::Json => write!(self.bytes, "{number}").expect("memory takes all bytes"),
            Format::Msgpack => self.whole(number),
        }
    }

    pub(super) fn flag(&mut self, flag: bool) {
        match self.format {
            Format::Json => self.bytes.extend(if flag { &b"true"[..] } else { b"false" }),
            Format::Msgpack => self.bytes.push(if flag { 0xc3 } else { 0xc2 }),
        }
    }

    pub(super) fn null(&mut self) {
        match self.format {
            Format::Json => self.bytes.extend(b"null"),
            Format::Msgpack => self.bytes.push(0xc0),
        }
    }

    /// JSON text that was checked when it came in.
    pub(super) fn json(&mut self, json: &str) {
        match self.format {
            Format::Json => self.bytes.extend(json.as_bytes()),
            Format::Msgpack => {
                let start = self.bytes.len();
                let mut from = serde_json::Deserializer::from_str(json);
                if Convert(&mut self.bytes).deserialize(&mut from).is_err() {
                    self.bytes.truncate(start);
                    self.null();
                }
            }
        }
    }

    /// The head of a text (with its 8 bit form), map or list: `short` is the longest that fits the first byte.
    fn length(&mut self, length: usize, short: u8, [tiny, small, medium, large]: [u8; 4]) {
        let wide = u32::try_from(length).unwrap_or(u32::MAX);
        match wide {
            0..=255 if wide <= u32::from(short) => self.bytes.push(tiny | wide.to_le_bytes()[0]),
            0..=255 if small != medium => self.bytes.extend([small, wide.to_le_bytes()[0]]),
            0..=0xffff => {
                self.bytes.push(medium);
                self.bytes.extend(&wide.to_be_bytes()[2..]);
            }
            _ => {
                self.bytes.push(large);
                self.bytes.extend(wide.to_be_bytes());
            }
        }
    }

    fn whole(&mut self, number: u64) {
        let wide = number.to_be_bytes();
        match number {
            0..=0x7f => self.bytes.push(wide[7]),
            0x80..=0xff => self.bytes.extend([0xcc, wide[7]]),
            0x100..=0xffff => {
                self.bytes.push(0xcd);
                self.bytes.extend(&wide[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.bytes.push(0xce);
                self.bytes.extend(&wide[4..]);
            }
            _ => {
                self.bytes.push(0xcf);
                self.bytes.extend(wide);
            }
        }
    }
}

/// Writes a JSON string.
pub(super) fn escape(text: &str, json: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    json.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (place, byte) in bytes.iter().enumerate() {
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        json.extend(&bytes[copied..place]);
        copied = place + 1;
        match byte {
            b'"' => json.extend(b"\\\""),
            b'\\' => json.extend(b"\\\\"),
            b'\n' => json.extend(b"\\n"),
            b'\r' => json.extend(b"\\r"),
            b'\t' => json.extend(b"\\t"),
            other => {
                json.extend(b"\\u00");
                json.extend([HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]]);
            }
        }
    }
    json.extend(&bytes[copied..]);
    json.push(b'"');
}

/// Turns JSON into msgpack while it is parsed; parts are counted when their end is seen.
struct Convert<'b>(&'b mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Convert<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl Convert<'_> {
    fn write(self, act: impl FnOnce(&mut Writer)) {
        let bytes = std::mem::take(self.0);
        let mut writer = Writer { format: Format::Msgpack, bytes, first: true };
        act(&mut writer);
        *self.0 = writer.bytes;
    }

    /// Leaves room for a 32 bit length and returns where it is.
    fn open(&mut self, head: u8) -> usize {
        self.0.extend([head, 0, 0, 0, 0]);
        self.0.len() - 4
    }

    fn close(&mut self, place: usize, length: u32) {
        self.0[place..place + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl<'de> Visitor<'de> for Convert<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.write(Writer::null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.write(|writer| writer.flag(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.write(|writer| writer.number(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.push(0xd3);
        self.0.extend(value.to_be_bytes());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.push(0xcb);
        self.0.extend(value.to_be_bytes());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.write(|writer| writer.text(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let place = self.open(0xdd);
        let mut length = 0;
        while list.next_element_seed(Convert(self.0))?.is_some() {
            length += 1;
        }
        self.close(place, length);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let place = self.open(0xdf);
        let mut length = 0;
        while map.next_key_seed(Convert(self.0))?.is_some() {
            map.next_value_seed(Convert(self.0))?;
            length += 1;
        }
        self.close(place, length);
        Ok(())
    }
}
