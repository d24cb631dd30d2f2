//! Auth: who may come in, as `cluster.toml` says it.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Secret, units};

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Signs tokens; whoever has it can be any user.
    pub token_secret: Secret,
    /// What signed tokens before; taken for verifying only.
    #[serde(default)]
    pub old_secrets: Vec<Secret>,
    /// Whether anybody may make an account.
    #[serde(default)]
    pub open_registration: bool,
    /// Whether a password gives a token.
    #[serde(default = "yes")]
    pub login: bool,
    /// Whether tokens of the cluster itself are taken; without them, there must be an issuer.
    #[serde(default = "yes")]
    pub own_tokens: bool,
    /// How long a token is valid.
    #[serde(default = "token_life", rename = "token_days", deserialize_with = "units::days")]
    pub token_life: Duration,
    /// How long tokens are renewed before the password is asked for again; zero: for ever.
    #[serde(default, rename = "session_days", deserialize_with = "units::days")]
    pub session: Duration,
    /// Who else says who a user is.
    #[serde(default)]
    pub issuer: Option<Issuer>,
}

const fn yes() -> bool {
    true
}

/// An issuer of tokens that is the operator's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The file of its public key, in PEM; this or `jwks`.
    pub public_key: Option<PathBuf>,
    /// The file of its public keys as a JWK set (RFC 7517).
    pub jwks: Option<PathBuf>,
    /// What its tokens must have as `iss`.
    pub issuer: Option<String>,
    /// What its tokens must have in `aud`.
    pub audience: Option<String>,
    /// By how much its clock and ours may differ.
    #[serde(default = "leeway", rename = "leeway_s", deserialize_with = "units::seconds")]
    pub leeway: Duration,
    /// The claim that names the user.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// How often the file is looked at for new keys.
    #[serde(default = "reload", rename = "reload_s", deserialize_with = "units::seconds")]
    pub reload: Duration,
}

const fn leeway() -> Duration {
    Duration::from_secs(30)
}

fn user_claim() -> String {
    "sub".to_owned()
}

const fn reload() -> Duration {
    Duration::from_secs(30)
}

const fn token_life() -> Duration {
    Duration::from_secs(30 * units::DAY)
}
