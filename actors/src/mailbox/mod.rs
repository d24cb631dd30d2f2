//! Mailbox: keeps what one user has not yet read.

pub mod image;
pub mod ledger;
pub mod log;
pub mod rules;
