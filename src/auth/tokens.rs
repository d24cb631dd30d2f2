//! Tokens: what a client shows instead of its password; a JWT (RFC 7519) signed by the cluster's secret (HS256), or one of
//! the operator's own issuer.
//!
//! Why both at one door: which of them a token is says its `alg` alone, and a secret never meets a public key: what is signed
//! by HS256 is verified with our secrets only, everything else with the issuer's keys only.

use std::time::Duration;

use actors::clock;
use actors::ids::{Timestamp, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::issuer::Issuer;
use super::keys::KeysRefused;
use crate::config::Config;

/// A clock of another node may be so much ahead.
const LEEWAY: Duration = Duration::from_secs(5);
/// Nothing longer is decoded; ours are far shorter, and an issuer may put much into its own.
const BYTES_MAX: usize = 8_192;
/// Characters of the name that a secret gets in the tokens it signs.
const KID_CHARACTERS: usize = 8;

/// What a token says; moments are in seconds, as the RFC has them.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    iss: String,
    #[serde(default)]
    iat: u64,
    exp: u64,
    /// When the password was shown (OpenID Connect Core, section 2); missing in a token that was never renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<u64>,
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
    /// Who says so.
    pub by: By,
}

/// Who says whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The cluster itself; the password was shown at this moment.
    Ourselves {
        /// When.
        since: Timestamp,
    },
    /// The operator's issuer: its users may have no mailbox yet.
    Issuer,
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
    /// It is well signed, but not for us or not of our form: for the operator to mend.
    #[error(
        "the token is signed by the issuer of this cluster, but its `iss`, its `aud` or the claim that names the user is not what the cluster is set to"
    )]
    Unfit,
    /// It is good later: a clock is wrong.
    #[error("the token is not good yet; the clock of its issuer is ahead")]
    Early,
}

/// Why a token is not renewed.
#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// It is the issuer's: get a new one there.
    #[error("this token is not of this cluster but of its issuer; get a new one there")]
    Foreign,
    /// The password was shown too long ago: log in again.
    #[error("the login was too long ago; log in again")]
    TooOld,
    /// See there.
    #[error(transparent)]
    Failed(#[from] SigningFailed),
}

/// A secret and what it is called in the tokens it signs.
struct Named<K> {
    kid: Option<String>,
    key: K,
}

/// Issues tokens and takes them back.
pub struct Tokens {
    name: String,
    encoding: Named<EncodingKey>,
    /// The secret that signs now, and those before it; none when only the issuer's tokens are taken.
    decoding: Vec<Named<DecodingKey>>,
    validation: Validation,
    issuer: Option<Issuer>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Takes the cluster's secret, and its name as the issuer.
    #[must_use]
    pub fn new(secret: &str, name: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[name]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Expiry is ours to judge, so that the clock is read in one place; `aud` is not used.
        validation.validate_exp = false;
        validation.validate_aud = false;
        let key = EncodingKey::from_secret(secret.as_bytes());
        Self {
            name: name.to_owned(),
            encoding: Named { kid: kid_of(&key), key },
            decoding: vec![verifying(secret)],
            validation,
            issuer: None,
        }
    }

    /// Takes all that the configuration says; reads the issuer's keys.
    pub fn of(config: &Config) -> Result<Self, KeysRefused> {
        let auth = &config.auth;
        let mut tokens = Self::new(auth.token_secret.reveal(), &config.cluster.name);
        tokens.decoding.extend(auth.old_secrets.iter().map(|secret| verifying(secret.reveal())));
        if !auth.own_tokens {
            tokens.decoding.clear();
        }
        tokens.issuer = auth.issuer.clone().map(Issuer::open).transpose()?;
        Ok(tokens)
    }

    /// Follows the file of the issuer's keys, for ever; without an issuer there is nothing to do.
    pub async fn watch(&self) {
        if let Some(issuer) = &self.issuer {
            issuer.watch().await;
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
        self.sign(user, now, now.after(life), None)
    }

    /// Makes a token for the user of another one that is still good. `session` after the password was shown there are no
    /// more; zero: no end.
    pub fn renew(
        &self,
        verified: &Verified,
        life: Duration,
        session: Duration,
    ) -> Result<Issued, NotRenewed> {
        self.renew_at(verified, life, session, clock::wall())
    }

    /// Renews as of a moment.
    pub fn renew_at(
        &self,
        verified: &Verified,
        life: Duration,
        session: Duration,
        now: Timestamp,
    ) -> Result<Issued, NotRenewed> {
        let By::Ourselves { since } = verified.by else {
            return Err(NotRenewed::Foreign);
        };
        let mut end = now.after(life);
        if !session.is_zero() {
            end = end.min(since.after(session));
        }
        if end <= now {
            return Err(NotRenewed::TooOld);
        }
        Ok(self.sign(&verified.user, now, end, Some(since.0 / 1_000))?)
    }

    fn sign(
        &self,
        user: &UserId,
        now: Timestamp,
        end: Timestamp,
        auth_time: Option<u64>,
    ) -> Result<Issued, SigningFailed> {
        let (iat, exp) = (now.0 / 1_000, end.0 / 1_000);
        let claims = Claims { sub: user.to_string(), iss: self.name.clone(), iat, exp, auth_time };
        let mut header = Header::new(Algorithm::HS256);
        header.kid.clone_from(&self.encoding.kid);
        let token =
            jsonwebtoken::encode(&header, &claims, &self.encoding.key).map_err(SigningFailed)?;
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
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Invalid)?;
        // What must be understood is not (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(TokenRefused::Invalid);
        }
        match (header.alg, &self.issuer) {
            (Algorithm::HS256, _) => self.verify_own(token, header.kid.as_deref(), now),
            (_, Some(issuer)) => issuer.verify_at(token, &header, now),
            (_, None) => Err(TokenRefused::Invalid),
        }
    }

    /// Tells whose token it is that one of our secrets signed.
    fn verify_own(
        &self,
        token: &str,
        kid: Option<&str>,
        now: Timestamp,
    ) -> Result<Verified, TokenRefused> {
        // Tokens did not always name their secret.
        let named = |secret: &&Named<DecodingKey>| kid.is_none() || secret.kid.as_deref() == kid;
        let claims = self.decoding.iter().filter(named).find_map(|secret| {
            jsonwebtoken::decode::<Claims>(token, &secret.key, &self.validation).ok()
        });
        let claims = claims.ok_or(TokenRefused::Invalid)?.claims;
        let user = UserId::parse(&claims.sub).map_err(|_| TokenRefused::Invalid)?;
        let moment = |seconds: u64| Timestamp(seconds.saturating_mul(1_000));
        let expires_at = moment(claims.exp);
        if expires_at.after(LEEWAY) <= now {
            return Err(TokenRefused::Expired);
        }
        let since = moment(claims.auth_time.unwrap_or(claims.iat));
        Ok(Verified { user, expires_at, by: By::Ourselves { since } })
    }
}

fn verifying(secret: &str) -> Named<DecodingKey> {
    let kid = kid_of(&EncodingKey::from_secret(secret.as_bytes()));
    Named { kid, key: DecodingKey::from_secret(secret.as_bytes()) }
}

/// What a secret is called: the same on every node, and of no use to who does not have it.
fn kid_of(key: &EncodingKey) -> Option<String> {
    let mut kid = jsonwebtoken::crypto::sign(b"kid", key, Algorithm::HS256).ok()?;
    kid.truncate(KID_CHARACTERS);
    Some(kid)
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
        let by = By::Ourselves { since: Timestamp(1_800_000_000_000) };
        assert_eq!(verified, Verified { user: alice(), expires_at: issued.expires_at, by });
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
    fn tokens_of_an_old_secret_stay_good_and_new_ones_are_of_the_new() {
        const NEW: &str = "fedcba9876543210fedcba9876543210";
        let mut both = Tokens::new(NEW, "dev");
        both.decoding.push(verifying(SECRET));
        assert!(both.verify_at(&token(), NOW).is_ok());
        let fresh = both.issue_at(&alice(), DAY, NOW).unwrap().token;
        assert!(Tokens::new(NEW, "dev").verify_at(&fresh, NOW).is_ok());
        let old = Tokens::new(SECRET, "dev").verify_at(&fresh, NOW);
        assert_eq!(old, Err(TokenRefused::Invalid));
        let third = Tokens::new("another secret of thirty-two bytes", "dev");
        let third = third.issue_at(&alice(), DAY, NOW).unwrap().token;
        assert_eq!(both.verify_at(&third, NOW), Err(TokenRefused::Invalid));
    }

    #[test]
    fn a_token_that_names_no_secret_is_tried_with_all() {
        let mut both = Tokens::new("fedcba9876543210fedcba9876543210", "dev");
        both.decoding.push(verifying(SECRET));
        let claims = Claims {
            sub: "alice".into(),
            iss: "dev".into(),
            iat: 0,
            exp: 9_999_999_999,
            auth_time: None,
        };
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let sign = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
            jsonwebtoken::encode(&header, &claims, &key).unwrap()
        };
        assert!(both.verify_at(&sign(None), NOW).is_ok());
        assert_eq!(both.verify_at(&sign(Some("other")), NOW), Err(TokenRefused::Invalid));
    }

    #[test]
    fn a_secret_is_not_in_its_name() {
        let kid = kid_of(&EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        assert_eq!(kid.len(), KID_CHARACTERS);
        assert!(!SECRET.contains(&kid));
        assert_ne!(kid_of(&EncodingKey::from_secret(b"another")).unwrap(), kid);
    }

    #[test]
    fn a_renewed_token_remembers_when_the_password_was_shown() {
        let tokens = Tokens::new(SECRET, "dev");
        let first = tokens.verify_at(&token(), NOW).unwrap();
        let week = 7 * DAY;
        let mut now = NOW;
        let mut verified = first.clone();
        for day in 1..7 {
            now = now.after(DAY);
            let issued = tokens.renew_at(&verified, 2 * DAY, week, now).unwrap();
            let end = NOW.after((day + 2) * DAY).min(NOW.after(week));
            assert_eq!(issued.expires_at.0 / 1_000, end.0 / 1_000, "on day {day}");
            verified = tokens.verify_at(&issued.token, now).unwrap();
            assert_eq!(verified.by, first.by);
        }
        let late = tokens.renew_at(&verified, DAY, week, NOW.after(week));
        assert!(matches!(late, Err(NotRenewed::TooOld)), "{late:?}");
        let endless = tokens.renew_at(&verified, DAY, Duration::ZERO, NOW.after(100 * week));
        assert!(endless.is_ok(), "{endless:?}");
        let foreign = Verified { by: By::Issuer, ..verified };
        let foreign = tokens.renew_at(&foreign, DAY, Duration::ZERO, NOW);
        assert!(matches!(foreign, Err(NotRenewed::Foreign)), "{foreign:?}");
    }

    #[test]
    fn damaged_and_made_up_tokens_are_refused() {
        let tokens = Tokens::new(SECRET, "dev");
        let good = token();
        let (head, sign) = good.rsplit_once('.').unwrap();
        let long = "x".repeat(9_000);
        // {"alg":"none"}
        let none = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
        let hs512 = jsonwebtoken::encode(
            &Header::new(Algorithm::HS512),
            &Claims {
                sub: "alice".into(),
                iss: "dev".into(),
                iat: 0,
                exp: 9_999_999_999,
                auth_time: None,
            },
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
        let claims = Claims {
            sub: "Not A User".into(),
            iss: "dev".into(),
            iat: 0,
            exp: u64::MAX,
            auth_time: None,
        };
        let text = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
        assert_eq!(tokens.verify_at(&text, NOW), Err(TokenRefused::Invalid));
    }
}
