//! Mint: makes tokens as the cluster would, since registering thousands of users takes too long.

use actors::clock;
use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::Arguments;

/// Makes tokens as the cluster would.
pub(crate) struct Mint {
    secret: String,
    cluster: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iss: &'a str,
    iat: u64,
    exp: u64,
}

impl Mint {
    /// Takes the secret from the command line, or from the cluster's configuration if there is one.
    pub(crate) fn find(arguments: &Arguments) -> anyhow::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Config {
            cluster: Cluster,
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Cluster {
            name: String,
        }
        #[derive(Deserialize)]
        struct Auth {
            token_secret: String,
        }
        if let Some(secret) = &arguments.token_secret {
            let (secret, cluster) = (secret.clone(), arguments.cluster.clone());
            return Ok(Some(Self { secret, cluster }));
        }
        let Ok(text) = std::fs::read_to_string(&arguments.config) else {
            eprintln!("no {}: users register one by one", arguments.config.display());
            return Ok(None);
        };
        let config: Config = toml::from_str(&text).context("unexpected configuration")?;
        let (secret, cluster) = (config.auth.token_secret, config.cluster.name);
        Ok(Some(Self { secret, cluster }))
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let now = clock::wall().0 / 1_000;
        let claims = Claims { sub: user, iss: &self.cluster, iat: now, exp: now + 24 * 3_600 };
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)
            .expect("HS256 signs anything")
    }
}
