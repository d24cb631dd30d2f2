//! Fuzzing: runs whatever reads a client's or an operator's bytes, for the targets in `fuzz/` and for `tests/fuzzing.rs`.
//!
//! Owns      nothing: each room says itself what it reads. What nodes read of each other and of disks: [`actors::fuzzing`].
//! Promises  all that such bytes can reach before anybody is asked is tried; what was read is dropped.
//! Never     is called by a node.
//! Fails by  panicking, or by taking more memory than the bytes are worth: that is what is looked for.

use crate::config::Config;
use crate::{auth, client, gateway, rest};

/// Reads bytes as a client's frame and as a node's, in both formats; answers whether they were one.
#[must_use]
pub fn frames(bytes: &[u8]) -> bool {
    gateway::fuzz(bytes) | client::frames::fuzz(bytes)
}

/// Reads bytes as the body of each HTTP request, and as a token; answers whether they were one.
#[must_use]
pub fn http(bytes: &[u8]) -> bool {
    rest::fuzz(bytes)
}

/// Reads bytes as `cluster.toml` and as the keys of an issuer, and says what is wrong with it; answers whether nothing is.
#[must_use]
pub fn config(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse("cluster.toml", &text) {
        Ok(config) => {
            let _first = config.node("a").is_ok();
            config.replicas() <= config.ids().count()
        }
        Err(error) => {
            let keys = auth::fuzz(bytes);
            let told = error.to_string();
            let _report = format!("{told}{:?}", miette::Report::new(error));
            keys
        }
    }
}
