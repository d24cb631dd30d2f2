//! Lean: knows when nothing of a client's frames is half read, so that a socket's grown buffers can be let go.
//!
//! Why: the WebSocket library's buffers grow with the largest burst and never shrink, and do not say whether they are
//! empty. Following the frames' heads (RFC 6455, 5.2) from outside tells when they must be, and then the library's
//! part is made anew around the same connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that is watched while it is read.
#[derive(Debug)]
pub(super) struct Lean<Io> {
    io: Io,
    frames: Frames,
    /// Bytes read and written since the buffers were new.
    moved: usize,
}

impl<Io> Lean<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self { io, frames: Frames::default(), moved: 0 }
    }

    /// Whether all that was read are whole messages.
    pub(super) fn between_messages(&self) -> bool {
        self.frames.between_messages()
    }

    /// Bytes moved since this was asked last.
    pub(super) fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }
}

/// How far the frames on a connection have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Frames {
    /// Bytes of the payload still to come.
    left: u64,
    head: [u8; 14],
    have: u8,
    /// A message has begun whose last frame is still to come.
    parts: bool,
}

impl Frames {
    fn between_messages(self) -> bool {
        self.left == 0 && self.have == 0 && !self.parts
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if skipped > 0 {
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[usize::from(self.have)] = *first;
            self.have += 1;
            bytes = rest;
            self.begin();
        }
    }

    /// Begins the payload once the head is whole.
    fn begin(&mut self) {
        let short = self.head[1] & 0x7f;
        let wide: u8 = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 || self.have < 2 + wide + mask {
            return;
        }
        let long = &self.head[2..usize::from(2 + wide)];
        let length = long.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        self.left = if wide == 0 { u64::from(short) } else { length };
        let (last, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0f);
        // Control frames may come between the parts of a message.
        if opcode < 8 {
            self.parts = !last;
        }
        self.have = 0;
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Lean<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        let new = &buffer.filled()[before..];
        self.moved += new.len();
        self.frames.read(new);
        polled
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Lean<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.moved += written;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};
    use proptest::{prop_assert, proptest};

    /// A masked frame, as a client sends it.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            126..=65_535 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend([0xff; 4]);
        bytes.extend(std::iter::repeat_n(0x81, length));
        bytes
    }

    #[test]
    fn a_message_in_parts_is_not_over_before_its_last() {
        let mut frames = Frames::default();
        frames.read(&frame(0x01, 5));
        assert!(!frames.between_messages());
        frames.read(&frame(0x89, 3));
        assert!(!frames.between_messages());
        frames.read(&frame(0x80, 0));
        assert!(frames.between_messages());
    }

    proptest! {
        #[test]
        fn the_end_of_each_message_is_seen(
            lengths in prop::collection::vec(0_usize..70_000, 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(0x82, *length)).collect();
            let mut ends = vec![0];
            for length in &lengths {
                ends.push(ends[ends.len() - 1] + frame(0x82, *length).len());
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut frames, mut from) = (Frames::default(), 0);
            for cut in cuts {
                frames.read(&bytes[from..cut]);
                from = cut;
                prop_assert!(frames.between_messages() == ends.contains(&cut));
            }
        }
    }
}
