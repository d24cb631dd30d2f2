//! Push: who is told of devices that sleep through messages, as `cluster.toml` says it.

use std::time::Duration;

use serde::Deserialize;

use super::{Secret, units};

/// Who is told of devices that sleep through messages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Where the operator's push service is, `http://…`.
    pub url: String,
    /// By it the service knows that a request is from this cluster.
    pub secret: Secret,
    /// How long a device has to acknowledge a message.
    #[serde(rename = "push_after", default = "after", deserialize_with = "units::span")]
    pub after: Duration,
    /// How long the service may take to answer.
    #[serde(default = "timeout", deserialize_with = "units::span")]
    pub timeout: Duration,
}

const fn after() -> Duration {
    Duration::from_secs(20)
}

const fn timeout() -> Duration {
    Duration::from_secs(5)
}
