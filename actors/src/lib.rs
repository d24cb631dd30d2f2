//! The chat itself: actors, mailboxes, agreement and storage. It has never heard of HTTP, WebSocket or JSON.

pub mod clock;
pub mod codec;
pub mod ids;
pub mod mailbox;
pub mod message;
pub mod packet;
pub mod shard;
