//! Measured: what `benches/` measures of the gateway: frames read and written, without a socket.

use actors::message::{Accepted, Entry};

use super::wire::{Body, Outgoing, Request, Teller, decode};
use super::{Error, Format};

/// Reads a frame as a node reads a client's. Whether it was a message to send.
#[must_use]
pub fn reads_send(format: Format, bytes: &[u8]) -> bool {
    let frame = decode(format, bytes);
    matches!(frame.map(|frame| frame.request), Ok(Ok(Request::Send(_))))
}

/// Reads a frame as a node reads a client's. Whether it was an acknowledgement.
#[must_use]
pub fn reads_ack(format: Format, bytes: &[u8]) -> bool {
    let frame = decode(format, bytes);
    matches!(frame.map(|frame| frame.request), Ok(Ok(Request::Ack(_))))
}

/// Writes a numbered event.
#[must_use]
pub fn writes_event(format: Format, entry: Entry) -> Vec<u8> {
    Teller { format, device: None }.tell(&Outgoing::Entry(entry))
}

/// Writes the answer to a message: its check mark, or why there is none.
#[must_use]
pub fn writes_answer(format: Format, re: &str, result: Result<Accepted, Error>) -> Vec<u8> {
    let outgoing = match result {
        Ok(accepted) => Outgoing::Ok { re: re.into(), body: Body::Sent(accepted) },
        Err(error) => Outgoing::Err { re: Some(re.into()), error },
    };
    Teller { format, device: None }.tell(&outgoing)
}
