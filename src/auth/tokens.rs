//! Tokens: what a client shows instead of its password; a JWT (RFC 7519) signed by the cluster's secret (HS256).

use std::time::Duration;

use actors::clock;
use actors::ids::{Timestamp, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// A clock of another node may be so much ahead.
const LEEWAY: Duration = Duration::from_secs(5);
/// No token of ours is longer, and nothing longer is decoded.
const BYTES_MAX: usize = 4_096;

/// What a token says; moments are in seconds, as the RFC has them.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    iss: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
}

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// What the client shows.
    pub token: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The user.
    pub user: UserId,
    /// Until when it is good; a socket is closed with 4101 then.
    pub expires_at: Timestamp,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It was good once: log in again.
    #[error("the token has expired; log in again")]
    Expired,
    /// It is not one of this cluster's: log in.
    #[error("the token is not one of this cluster")]
    Invalid,
}

/// Issues tokens and takes them back.
pub struct Tokens {
    issuer: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Takes the cluster's secret, and its name as the issuer.
    #[must_use]
    pub fn new(secret: &str, issuer: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Expiry is ours to judge, so that the clock is read in one place; `aud` is not used.
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            issuer: issuer.to_owned(),
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            validation,
        }
    }

    /// Makes a token for a user; fails only if the machine's cryptography does.
    pub fn issue(&self, user: &UserId, life: Duration) -> Result<Issued, SigningFailed> {
        self.issue_at(user, life, clock::wall())
    }

    /// Makes a token as of a moment.
    pub fn issue_at(
        &self,
        user: &UserId,
        life: Duration,
        now: Timestamp,
    ) -> Result<Issued, SigningFailed> {
        let iat = now.0 / 1_000;
        let exp = iat.saturating_add(life.as_secs());
        let claims = Claims { sub: user.to_string(), iss: self.issuer.clone(), iat, exp };
        let header = Header::new(Algorithm::HS256);
        let token =
            jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(SigningFailed)?;
        Ok(Issued { token, expires_at: Timestamp(exp.saturating_mul(1_000)) })
    }

    /// Tells whose token it is, if it is good now.
    pub fn verify(&self, token: &str) -> Result<Verified, TokenRefused> {
        self.verify_at(token, clock::wall())
    }

    /// Tells whose token it is, if it is good at a moment.
    pub fn verify_at(&self, token: &str, now: Timestamp) -> Result<Verified, TokenRefused> {
        if token.len() > BYTES_MAX {
            return Err(TokenRefused::Invalid);
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|_| TokenRefused::Invalid)?;
        let user = UserId::parse(&data.claims.sub).map_err(|_| TokenRefused::Invalid)?;
        let expires_at = Timestamp(data.claims.exp.saturating_mul(1_000));
        if expires_at.after(LEEWAY) <= now {
            return Err(TokenRefused::Expired);
        }
        Ok(Verified { user, expires_at })
    }
}

/// A token could not be signed: our own failure.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct SigningFailed(#[source] jsonwebtoken::errors::Error);

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp(1_800_000_000_500);

    fn alice() -> UserId {
        UserId::parse("alice").unwrap()
    }

    fn token() -> String {
        Tokens::new(SECRET, "dev").issue_at(&alice(), DAY, NOW).unwrap().token
    }

    #[test]
    fn a_token_says_whose_it_is_and_until_when() {
        let tokens = Tokens::new(SECRET, "dev");
        let issued = tokens.issue_at(&alice(), DAY, NOW).unwrap();
        assert_eq!(issued.expires_at, Timestamp(1_800_086_400_000));
        let verified = tokens.verify_at(&issued.token, NOW).unwrap();
        assert_eq!(verified, Verified { user: alice(), expires_at: issued.expires_at });
    }

    #[test]
    fn a_token_of_now_is_good_now() {
        let tokens = Tokens::new(SECRET, "dev");
        let issued = tokens.issue(&alice(), DAY).unwrap();
        assert_eq!(tokens.verify(&issued.token).unwrap().user, alice());
    }

    #[test]
    fn a_token_expires_with_little_leeway() {
        let tokens = Tokens::new(SECRET, "dev");
        let end = NOW.after(DAY);
        assert!(tokens.verify_at(&token(), end.after(Duration::from_secs(4))).is_ok());
        let late = tokens.verify_at(&token(), end.after(Duration::from_secs(5)));
        assert_eq!(late, Err(TokenRefused::Expired));
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let check = |tokens: Tokens| {
            assert_eq!(tokens.verify_at(&token(), NOW), Err(TokenRefused::Invalid));
        };
        check(Tokens::new("another secret of thirty-two bytes", "dev"));
        check(Tokens::new(SECRET, "another-cluster"));
    }

    #[test]
    fn damaged_and_made_up_tokens_are_refused() {
        let tokens = Tokens::new(SECRET, "dev");
        let good = token();
        let (head, sign) = good.rsplit_once('.').unwrap();
        let long = "x".repeat(5_000);
        // {"alg":"none"}
        let none = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
        let hs512 = jsonwebtoken::encode(
            &Header::new(Algorithm::HS512),
            &Claims { sub: "alice".into(), iss: "dev".into(), iat: 0, exp: 9_999_999_999 },
            &EncodingKey::from_secret(SECRET.as_bytes()),
        )
        .unwrap();
        let texts = ["", ".", "..", "a.b.c", head, &long, &none, &hs512];
        for text in texts {
            assert_eq!(tokens.verify_at(text, NOW), Err(TokenRefused::Invalid), "{text}");
        }
        let turned: String = sign.chars().rev().collect();
        let text = format!("{head}.{turned}");
        assert_eq!(tokens.verify_at(&text, NOW), Err(TokenRefused::Invalid));
    }

    #[test]
    fn a_token_must_name_a_user_and_an_end() {
        #[derive(Serialize)]
        struct Endless<'a> {
            sub: &'a str,
            iss: &'a str,
        }
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let tokens = Tokens::new(SECRET, "dev");
        let endless = Endless { sub: "alice", iss: "dev" };
        let text = jsonwebtoken::encode(&Header::default(), &endless, &key).unwrap();
        assert_eq!(tokens.verify_at(&text, NOW), Err(TokenRefused::Invalid));
        let claims = Claims { sub: "Not A User".into(), iss: "dev".into(), iat: 0, exp: u64::MAX };
        let text = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(tokens.verify_at(&text, NOW), Err(TokenRefused::Invalid));
    }
}
