//! Mint: makes tokens as the cluster would, since registering thousands of users takes too long.

use std::path::Path;

use actors::clock;
use serde::{Deserialize, Serialize};

use crate::Arguments;

/// Where `rookery dev` has its configuration, unless it is told otherwise.
const DEV_CONFIG: &str = "./data/dev/cluster.toml";

/// Makes tokens as the cluster would.
pub(crate) struct Mint {
    secret: String,
    cluster: String,
    /// Where the secret is from.
    source: String,
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
            return Ok(Some(Self { secret, cluster, source: "--token-secret".to_owned() }));
        }
        let path = arguments.config.as_deref().unwrap_or(Path::new(DEV_CONFIG));
        let source = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(_) if arguments.config.is_none() => {
                eprintln!("no {source}: users register one by one");
                return Ok(None);
            }
            Err(error) => anyhow::bail!("--config {source}: {error}"),
        };
        let config: Config = toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!(
                "{source} is not the configuration of a cluster ({}): --config names another",
                error.message()
            )
        })?;
        let (secret, cluster) = (config.auth.token_secret, config.cluster.name);
        Ok(Some(Self { secret, cluster, source }))
    }

    /// What to say when a node does not take these tokens.
    pub(crate) fn not_taken(&self) -> String {
        format!(
            "the cluster does not take tokens made for cluster {:?} with the secret of {}: give the configuration that \
             its nodes run with (--config), or its secret and name (--token-secret, --cluster)",
            self.cluster, self.source
        )
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let now = clock::wall().0 / 1_000;
        let claims = Claims { sub: user, iss: &self.cluster, iat: now, exp: now + 24 * 3_600 };
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)
            .expect("HS256 signs anything")
    }
}
