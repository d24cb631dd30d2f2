//! The chat itself: actors, mailboxes, agreement and storage. It has never heard of HTTP, WebSocket or JSON.

pub mod clock;
pub mod cluster;
pub mod codec;
pub mod ids;
pub mod mailbox;
pub mod message;
pub mod node;
pub mod packet;
pub mod placement;
pub mod restart;
pub mod router;
pub mod session;
pub mod shard;
pub mod store;
pub mod user;
