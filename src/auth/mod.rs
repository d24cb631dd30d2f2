//! Auth: who may come in, by password once and by token from then on.
//!
//! Owns      nothing on disk: accounts live in their users' mailboxes; here are the keys and the brakes.
//! Promises  at most so many passwords are hashed at once; guessing is slowed per user and per address, in bounded memory.
//! Never     tells whether a user exists: an unknown one takes as long and reads the same as a wrong password.
//! Fails by  forgetting its brakes when the node stops; a token stays valid until it expires.

mod brake;
mod passwords;
mod tokens;

pub use brake::Brake;
pub use passwords::{PasswordRefused, Passwords, Verdict};
pub use tokens::{Issued, SigningFailed, TokenRefused, Tokens, Verified};
