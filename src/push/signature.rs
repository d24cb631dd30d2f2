//! Signature: by which the push service knows that a request is from this cluster (HMAC-SHA256, RFC 2104), and the `id`
//! by which it knows a notice that it has had already.

use std::fmt::Write;

use actors::ids::Timestamp;
use actors::shard::home::Notice;
use aws_lc_rs::{digest, hmac};

/// Signs what is sent, and when: `sha256=` and the HMAC of the timestamp, a dot, and the body, in hexadecimal.
pub(super) fn sign(key: &hmac::Key, at: Timestamp, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(at.0.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    format!("sha256={}", hex(context.sign().as_ref()))
}

/// Makes a key of a secret.
pub(super) fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

/// The same for the same entry of the same log, device and conversation, whoever tells it: 32 hexadecimal digits.
pub(super) fn id(notice: &Notice) -> String {
    let Notice { user, device, conv, epoch, n, .. } = notice;
    // No name holds a line break.
    let text = format!("{user}\n{device}\n{conv}\n{epoch}\n{n}");
    hex(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
