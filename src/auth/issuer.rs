//! Issuer: takes the tokens of the operator's own issuer, and follows the file of its keys.
//!
//! Why the whole file is read again and its time not asked: a file that is put in the place of another by a link, as
//! container platforms do it, may well be older; and it is small.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use actors::ids::{Timestamp, UserId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde_json::{Map, Value};

use super::keys::{self, Form, Key, Keys, KeysRefused};
use super::tokens::{By, TokenRefused, Verified};
use crate::config;

/// What became of a look at the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is as it was.
    Same,
    /// It has new keys, which are used from now on.
    Taken,
    /// It cannot be used; the keys are those from before.
    Kept(String),
}

/// What the last look at the file showed, so that each finding is told once.
#[derive(PartialEq, Eq)]
enum Seen {
    Bytes(Vec<u8>),
    Unreadable(String),
}

/// The operator's issuer.
pub(super) struct Issuer {
    path: PathBuf,
    form: Form,
    validation: Validation,
    user_claim: String,
    leeway: Duration,
    reload: Duration,
    keys: RwLock<Arc<Keys>>,
    seen: Mutex<Seen>,
}

impl Issuer {
    /// Reads the keys for the first time; without any there is no start.
    pub(super) fn open(settings: config::Issuer) -> Result<Self, KeysRefused> {
        let (form, path) = match (settings.public_key, settings.jwks) {
            (Some(path), _) => (Form::Pem, path),
            (None, path) => (Form::Jwks, path.unwrap_or_default()),
        };
        let bytes = keys::read(&path)?;
        let keys = Keys::parse(form, &path, &bytes)?;
        let mut validation = Validation::new(Algorithm::ES256);
        // Time is ours to judge, so that the clock is read in one place.
        validation.validate_exp = false;
        let mut required = vec!["exp"];
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.validate_aud = settings.audience.is_some();
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            path,
            form,
            validation,
            user_claim: settings.user_claim,
            leeway: settings.leeway,
            reload: settings.reload,
            keys: RwLock::new(Arc::new(keys)),
            seen: Mutex::new(Seen::Bytes(bytes)),
        })
    }

    /// Tells whose token it is, if it is good at a moment.
    pub(super) fn verify_at(
        &self,
        token: &str,
        header: &Header,
        now: Timestamp,
    ) -> Result<Verified, TokenRefused> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let mut refused = TokenRefused::Invalid;
        for key in keys.of(header.alg, header.kid.as_deref()) {
            match claims(token, key, &validation) {
                Ok(claims) => return self.judge(&claims, now),
                // A well signed token says more than the key that did not sign it.
                Err(TokenRefused::Invalid) => {}
                Err(why) => refused = why,
            }
        }
        Err(refused)
    }

    fn judge(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Verified, TokenRefused> {
        let user = claims.get(&self.user_claim).and_then(Value::as_str);
        let user = user.and_then(|user| UserId::parse(user).ok()).ok_or(TokenRefused::Unfit)?;
        let end = moment(claims, "exp").ok_or(TokenRefused::Unfit)?;
        // A socket lives as long as a new one would be let in.
        let expires_at = end.after(self.leeway);
        if expires_at <= now {
            return Err(TokenRefused::Expired);
        }
        if moment(claims, "nbf").is_some_and(|start| start > now.after(self.leeway)) {
            return Err(TokenRefused::Early);
        }
        Ok(Verified { user, expires_at, by: By::Issuer })
    }

    /// Looks at the file every so often, for ever.
    pub(super) async fn watch(&self) {
        loop {
            tokio::time::sleep(self.reload).await;
            let path = self.path.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || keys::read(&path)).await else {
                continue;
            };
            match self.look(read) {
                Looked::Same => {}
                Looked::Taken => {
                    let keys =
                        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
                    tracing::info!(file = %self.path.display(), keys = ?keys.names(), "new keys of the issuer");
                }
                Looked::Kept(error) => {
                    tracing::error!(
                        error,
                        "the issuer's keys cannot be used; those from before stay"
                    );
                }
            }
        }
    }

    /// Takes what the file has now, if it is new and whole.
    pub(super) fn look(&self, read: Result<Vec<u8>, KeysRefused>) -> Looked {
        let now = match &read {
            Ok(bytes) => Seen::Bytes(bytes.clone()),
            Err(refused) => Seen::Unreadable(refused.to_string()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return Looked::Same;
        }
        *seen = now;
        match read.and_then(|bytes| Keys::parse(self.form, &self.path, &bytes)) {
            Ok(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                Looked::Taken
            }
            Err(refused) => Looked::Kept(refused.to_string()),
        }
    }
}

/// What a token says, if this key signed it and it is meant for us.
fn claims(
    token: &str,
    key: &Key,
    validation: &Validation,
) -> Result<Map<String, Value>, TokenRefused> {
    let decoded = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, validation);
    decoded.map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidIssuer
        | ErrorKind::InvalidAudience
        | ErrorKind::MissingRequiredClaim(_) => TokenRefused::Unfit,
        _ => TokenRefused::Invalid,
    })
}

/// A NumericDate: seconds since the epoch, which may have a fraction (RFC 7519, section 2).
fn moment(claims: &Map<String, Value>, name: &str) -> Option<Timestamp> {
    let value = claims.get(name)?;
    let whole = value.as_u64().or_else(|| {
        // Past 2⁵³ seconds nothing is exact, and nothing needs to be.
        let seconds = value.as_f64().filter(|seconds| (0.0..9e15).contains(seconds))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "looked at above"
        )]
        Some(seconds as u64)
    });
    Some(Timestamp(whole?.saturating_mul(1_000)))
}
