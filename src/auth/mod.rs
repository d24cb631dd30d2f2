//! Auth: who may come in, by password once and by token from then on; or by a token of the operator's own issuer.
//!
//! Owns      nothing on disk: accounts live in their users' mailboxes; here are the keys and the brakes.
//! Promises  at most so many passwords are hashed at once; guessing is slowed per user and per address, in bounded memory,
//!           and guesses from other addresses lock nobody out where they logged in before; a file of keys that is broken
//!           changes nothing.
//! Never     tells whether a user exists: an unknown one takes as long and reads the same as a wrong password; verifies a
//!           signature made with a secret by a public key, or one that is none.
//! Fails by  forgetting its brakes when the node stops; a token stays valid until it expires.

mod brake;
mod familiar;
mod issuer;
mod keys;
mod passwords;
#[cfg(test)]
pub(crate) mod signer;
#[cfg(test)]
mod tests;
mod tokens;

/// For fuzzing: reads bytes as the issuer's file, in both forms; answers whether they were one.
pub(crate) fn fuzz(bytes: &[u8]) -> bool {
    let read = |form| keys::Keys::parse(form, std::path::Path::new("keys"), bytes).is_ok();
    read(keys::Form::Jwks) | read(keys::Form::Pem)
}

pub use brake::Brake;
pub use familiar::Familiar;
pub use keys::KeysRefused;
pub use passwords::{PasswordRefused, Passwords, Verdict};
pub use tokens::{By, Issued, NotRenewed, SigningFailed, TokenRefused, Tokens, Verified};
