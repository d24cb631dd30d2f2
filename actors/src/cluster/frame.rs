//! Frame: what one cast to another node holds: a head, and packets packed back to back.
//!
//! ```text
//!  0 version u8        1
//!  1 kind u8           0 hello, 1 credit only, 2 control, 3 normal, 4 bulk packets
//!  2 flags u8          bit 0: the packet goes on in the next frame of this kind
//!  3 reserved u8       0
//!  4 crc32 u32         over everything but itself
//!  8 from u16          number of the sending node
//! 10 reserved u16      0
//! 12 boot u64          which start of it
//! 20 life u32          which session of that start the sender uses
//! 24 echo u32          the newest life of the receiver that the sender knows; 0: none
//! 28 clock u32         the sender's monotonic clock, microseconds, wrapping; never 0
//! 32 clock echo u32    the receiver's newest clock plus the time since it came in; 0: none
//! 36 taken 3 × u64     bytes of control, normal, bulk bodies taken in all from the life `echo`
//! 60 body              hello: a `Hello`; packets: (length u32 | packet, as `codec` encodes it)*
//! ```
//! All numbers are little endian. A packet too long for one frame is cut over several of the same kind, which hold
//! nothing else. Frames of one session arrive in order; a new session is a new life, and starts afresh.

use serde::{Deserialize, Serialize};

use crate::cluster::rules::Class;
use crate::codec::{self, DECODED_BYTES_MAX};
use crate::ids::{BootId, NodeId};
use crate::packet::Packet;

/// Bytes of a frame at the most, head included.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one encoded packet at the most.
pub const PACKET_BYTES_MAX: usize = DECODED_BYTES_MAX - 1024;
/// Bytes before the body.
pub const HEAD_BYTES: usize = 60;

const VERSION: u8 = 1;
const MORE: u8 = 1;
const LENGTH_BYTES: usize = 4;

/// What a frame's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who speaks, at the start of a session.
    Hello,
    /// Nothing: the head says what was taken.
    Credit,
    /// Packets.
    Packets(Class),
}

/// Whether the last packet of a frame ends in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It does.
    Whole,
    /// It goes on in the next frame of this kind.
    More,
}

/// The head of a frame, see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the body is.
    pub kind: Kind,
    /// Whether the last packet is whole.
    pub rest: Rest,
    /// The sending node.
    pub from: NodeId,
    /// Which start of it.
    pub boot: BootId,
    /// Which of its sessions.
    pub life: u32,
    /// The receiver's life it knows.
    pub echo: u32,
    /// Its clock.
    pub clock: u32,
    /// The receiver's clock.
    pub clock_echo: u32,
    /// What it has taken.
    pub taken: [u64; 3],
}

/// Who speaks, and to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster's name.
    pub cluster: Box<str>,
    /// The node that is spoken to.
    pub to: NodeId,
}

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Shorter than a head, or longer than a frame may be.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// Written by another version of the program.
    #[error("frame version {0}")]
    Version(u8),
    /// Of a kind this version does not know.
    #[error("frame kind {0}")]
    Kind(u8),
    /// Damaged.
    #[error("checksum mismatch")]
    Checksum,
}

/// A packet no frame can carry: cut it into smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {0} bytes is too long for a link")]
pub struct TooLong(pub usize);

/// Writes the head into a frame whose first bytes were left for it; keeps a `More` that is there already.
pub fn stamp(frame: &mut [u8], head: &Head) {
    let kind = match head.kind {
        Kind::Hello => 0,
        Kind::Credit => 1,
        Kind::Packets(Class::Control) => 2,
        Kind::Packets(Class::Normal) => 3,
        Kind::Packets(Class::Bulk) => 4,
    };
    frame[0] = VERSION;
    frame[1] = kind;
    frame[2] |= u8::from(head.rest == Rest::More) * MORE;
    frame[8..10].copy_from_slice(&head.from.0.to_le_bytes());
    frame[12..20].copy_from_slice(&head.boot.0.to_le_bytes());
    frame[20..24].copy_from_slice(&head.life.to_le_bytes());
    frame[24..28].copy_from_slice(&head.echo.to_le_bytes());
    frame[28..32].copy_from_slice(&head.clock.to_le_bytes());
    frame[32..36].copy_from_slice(&head.clock_echo.to_le_bytes());
    for (class, taken) in head.taken.iter().enumerate() {
        frame[36 + 8 * class..44 + 8 * class].copy_from_slice(&taken.to_le_bytes());
    }
    let crc = checksum(frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Builds a frame that carries no packets.
#[must_use]
pub fn bare(head: &Head, hello: Option<&Hello>) -> Vec<u8> {
    let mut frame = vec![0; HEAD_BYTES];
    if let Some(hello) = hello {
        frame.extend(codec::encode(hello));
    }
    stamp(&mut frame, head);
    frame
}

/// Reads and checks the head of a frame.
pub fn read(frame: &[u8]) -> Result<Head, BadFrame> {
    if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&frame.len()) {
        return Err(BadFrame::Length(frame.len()));
    }
    if frame[0] != VERSION {
        return Err(BadFrame::Version(frame[0]));
    }
    if frame[4..8] != checksum(frame).to_le_bytes() {
        return Err(BadFrame::Checksum);
    }
    let kind = match frame[1] {
        0 => Kind::Hello,
        1 => Kind::Credit,
        2 => Kind::Packets(Class::Control),
        3 => Kind::Packets(Class::Normal),
        4 => Kind::Packets(Class::Bulk),
        other => return Err(BadFrame::Kind(other)),
    };
    let rest = if frame[2] & MORE == 0 { Rest::Whole } else { Rest::More };
    Ok(Head {
        kind,
        rest,
        from: NodeId(u16::from_le_bytes(array(frame, 8))),
        boot: BootId(u64::from_le_bytes(array(frame, 12))),
        life: u32::from_le_bytes(array(frame, 20)),
        echo: u32::from_le_bytes(array(frame, 24)),
        clock: u32::from_le_bytes(array(frame, 28)),
        clock_echo: u32::from_le_bytes(array(frame, 32)),
        taken: [36, 44, 52].map(|at| u64::from_le_bytes(array(frame, at))),
    })
}

/// Reads the packets of a body, and counts those that could not be read.
#[must_use]
pub fn unpack(mut body: &[u8]) -> (Vec<Packet>, u64) {
    let mut packets = Vec::new();
    let mut undecodable = 0;
    while !body.is_empty() {
        let Some((length, rest)) = body.split_at_checked(LENGTH_BYTES) else {
            return (packets, undecodable + 1);
        };
        let length = u32::from_le_bytes(array(length, 0));
        let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
        let Some((packet, rest)) = split else {
            return (packets, undecodable + 1);
        };
        match codec::decode(packet) {
            Ok(packet) => packets.push(packet),
            Err(_) => undecodable += 1,
        }
        body = rest;
    }
    (packets, undecodable)
}

/// Reads the body of a hello.
#[must_use]
pub fn unpack_hello(body: &[u8]) -> Option<Hello> {
    codec::decode(body).ok()
}

/// Packs packets of one class into frames, encoding each straight to where it will be sent from.
#[derive(Debug, Default)]
pub struct Packer {
    open: Vec<u8>,
    full: Vec<Vec<u8>>,
    /// The length of the frame before: room for the next.
    usual: usize,
}

impl Packer {
    /// Adds a packet; answers the bytes it takes in bodies.
    pub fn push(&mut self, packet: &Packet) -> Result<u64, TooLong> {
        if self.open.is_empty() {
            self.open.reserve(self.usual);
            self.open.resize(HEAD_BYTES, 0);
        }
        let start = self.open.len();
        self.open.extend([0; LENGTH_BYTES]);
        codec::append(&mut self.open, packet);
        let length = self.open.len() - start - LENGTH_BYTES;
        let Some(prefix) = u32::try_from(length).ok().filter(|_| length <= PACKET_BYTES_MAX) else {
            self.open.truncate(start);
            return Err(TooLong(length));
        };
        self.open[start..start + LENGTH_BYTES].copy_from_slice(&prefix.to_le_bytes());
        if self.open.len() > FRAME_BYTES_MAX {
            self.overflow(start);
        }
        Ok((length + LENGTH_BYTES) as u64)
    }

    /// The frames so far, without heads; nothing is left.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        if self.open.len() > HEAD_BYTES {
            self.usual = self.open.len();
            self.full.push(std::mem::take(&mut self.open));
        }
        std::mem::take(&mut self.full)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The packet that begins at `start` does not fit in with those before it.
    fn overflow(&mut self, start: usize) {
        let packet = self.open.split_off(start);
        if start > HEAD_BYTES {
            self.full.push(std::mem::take(&mut self.open));
        }
        let mut pieces = packet.chunks(FRAME_BYTES_MAX - HEAD_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let mut frame = Vec::with_capacity(HEAD_BYTES + piece.len());
            frame.resize(HEAD_BYTES, 0);
            frame.extend_from_slice(piece);
            frame[2] = u8::from(pieces.peek().is_some()) * MORE;
            self.full.push(frame);
        }
        self.open.clear();
        // Only a frame with one whole packet may be added to.
        if packet.len() <= FRAME_BYTES_MAX - HEAD_BYTES {
            self.open = self.full.pop().unwrap_or_default();
        }
    }
}

/// Joins packets that were cut over several frames.
#[derive(Debug, Default)]
pub struct Joiner([Vec<u8>; 3]);

impl Joiner {
    /// Takes the body of a frame; calls back with a body of whole packets once there is one.
    ///
    /// Answers `None` when more is needed. A body that grows past the longest packet is dropped and counts as one
    /// undecodable packet.
    pub fn join(&mut self, class: Class, rest: Rest, body: &[u8]) -> Option<(Vec<Packet>, u64)> {
        let parts = &mut self.0[class.index()];
        if parts.is_empty() && rest == Rest::Whole {
            return Some(unpack(body));
        }
        if parts.len() + body.len() > PACKET_BYTES_MAX + LENGTH_BYTES {
            *parts = Vec::new();
            return Some((Vec::new(), 1));
        }
        parts.extend_from_slice(body);
        match rest {
            Rest::More => None,
            Rest::Whole => Some(unpack(&std::mem::take(parts))),
        }
    }
}

/// For fuzzing: reads a frame in every way there is, also past a head that is wrong; answers its packets, and whether it
/// was anything.
pub(crate) fn fuzz(bytes: &[u8]) -> (Vec<Packet>, bool) {
    let mut mended = bytes.to_vec();
    if mended.len() >= HEAD_BYTES {
        mended[0] = VERSION;
        let crc = checksum(&mended);
        mended[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    let known = read(bytes).or_else(|_| read(&mended)).is_ok();
    let body = bytes.get(HEAD_BYTES..).unwrap_or_default();
    let hello = unpack_hello(body).is_some();
    let mut joiner = Joiner::default();
    let _more = joiner.join(Class::Bulk, Rest::More, body);
    let _twice = joiner.join(Class::Bulk, Rest::Whole, body);
    let (packets, _) = unpack(body);
    let something = known || hello || !packets.is_empty();
    (packets, something)
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// The `N` bytes at `at`, which the caller has checked are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
