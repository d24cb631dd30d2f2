//! `rookery token`: a token for a user, for clusters that accept no registration.

use std::path::Path;
use std::time::Duration;

use actors::ids::UserId;
use rookery::auth::Tokens;

use super::{Failure, Outcome, check, say};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Prints a token that the cluster of this configuration accepts.
pub(crate) fn run(config: &Path, user: &str, days: u32) -> Outcome {
    let config = check::load(config)?;
    if !config.auth.own_tokens {
        let what =
            "auth.own_tokens is false, so the cluster would not take it: get one from its issuer";
        return Err(Failure::configuration(what.to_owned()));
    }
    let user = UserId::parse(user).map_err(|error| Failure::configuration(error.to_string()))?;
    let tokens = Tokens::new(config.auth.token_secret.reveal(), &config.cluster.name);
    let issued =
        tokens.issue(&user, DAY * days).map_err(|error| Failure::new(error.to_string()))?;
    say(issued.token);
    Ok(())
}
