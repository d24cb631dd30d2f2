//! Keys: the public keys of the operator's issuer, as its file has them: one in PEM, or a JWK set (RFC 7517).

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most keys in a file: each may be tried for a token that names none.
const KEYS_MAX: usize = 32;
/// Shortest modulus of RSA, in characters of base64url: 2048 bits (RFC 7518, section 3.3).
const MODULUS_CHARACTERS_MIN: usize = 342;

/// In what form a file has its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One public key.
    Pem,
    /// A JWK set.
    Jwks,
}

/// Why a file of keys is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeysRefused {
    /// It cannot be read: name a file that can.
    #[error("auth.issuer: {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not as it must be.
    #[error("auth.issuer: {}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what must be.
        what: String,
    },
}

/// One key.
pub(super) struct Key {
    kid: Option<String>,
    /// With what it may have signed; never empty, never a kind that needs a secret.
    algorithms: Vec<Algorithm>,
    /// For the library.
    pub(super) key: DecodingKey,
}

/// All keys of a file.
pub(super) struct Keys(Vec<Key>);

/// A JWK set whose keys are looked at one by one, so that one of an unknown kind does no harm to the others.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Reads a file as it is now.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, KeysRefused> {
    let unreadable = |source| KeysRefused::Unreadable { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_BYTES_MAX {
        let what = format!("a file of keys has at most {FILE_BYTES_MAX} bytes, not {length}");
        return Err(KeysRefused::Malformed { path: path.to_owned(), what });
    }
    std::fs::read(path).map_err(unreadable)
}

impl Keys {
    /// Takes what a file has.
    pub(super) fn parse(form: Form, path: &Path, bytes: &[u8]) -> Result<Self, KeysRefused> {
        let parsed = match form {
            Form::Pem => pem(bytes).map(|key| vec![key]),
            Form::Jwks => set(bytes),
        };
        let malformed = |what| KeysRefused::Malformed { path: path.to_owned(), what };
        parsed.map(Self).map_err(malformed)
    }

    /// The keys that can have signed a token: by this algorithm, and called so if it says how.
    pub(super) fn of(&self, algorithm: Algorithm, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| {
            let other = matches!((kid, &key.kid), (Some(asked), Some(has)) if asked != has);
            key.algorithms.contains(&algorithm) && !other
        })
    }

    /// What the keys are called.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|key| key.kid.as_deref().unwrap_or("-")).collect()
    }
}

fn pem(bytes: &[u8]) -> Result<Key, String> {
    let text = String::from_utf8_lossy(bytes);
    if text.contains("PRIVATE KEY-----") {
        return Err("has a private key; that stays with the issuer: put the public one here".into());
    }
    if !text.contains("-----BEGIN PUBLIC KEY-----") && !text.contains("-----BEGIN RSA PUBLIC KEY") {
        return Err("has no `-----BEGIN PUBLIC KEY-----`".into());
    }
    let key = DecodingKey::from_rsa_pem(bytes)
        .or_else(|_| DecodingKey::from_ec_pem(bytes))
        .or_else(|_| DecodingKey::from_ed_pem(bytes))
        .map_err(|_| "is not a public key of RSA, P-256 or Ed25519".to_owned())?;
    let jwk = Jwk::from_decoding_key(&key, None);
    let jwk = jwk.map_err(|_| "is not a public key of RSA, P-256 or Ed25519".to_owned())?;
    usable(&jwk).map_err(str::to_owned)
}

fn set(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_slice(bytes)
        .map_err(|error| format!("is not a JWK set, {{\"keys\": […]}}: {error}"))?;
    let (mut keys, mut useless) = (Vec::new(), Vec::new());
    for value in set.keys {
        if value.get("kty").is_some_and(|kty| kty != "oct") && value.get("d").is_some() {
            return Err("has a private key; that stays with the issuer".into());
        }
        let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| "is of an unknown kind");
        match jwk.and_then(|jwk| usable(&jwk)) {
            Ok(key) => keys.push(key),
            // RFC 7517, section 5: what is not understood is ignored.
            Err(why) => useless.push(why),
        }
    }
    if keys.is_empty() {
        let why = useless.first().copied().unwrap_or("there is none at all");
        return Err(format!("has no key to verify tokens with; the first {why}"));
    }
    if keys.len() > KEYS_MAX {
        return Err(format!("has {} keys; at most {KEYS_MAX}", keys.len()));
    }
    Ok(keys)
}

/// A key that can verify, if it is one.
fn usable(jwk: &Jwk) -> Result<Key, &'static str> {
    let common = &jwk.common;
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let verifies =
        common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return Err("is not for signatures");
    }
    let (mut algorithms, length) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if rsa.n.len() < MODULUS_CHARACTERS_MIN => {
            return Err("is of RSA with less than 2048 bits");
        }
        AlgorithmParameters::RSA(_) => (vec![Algorithm::RS256, Algorithm::PS256], None),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (vec![Algorithm::ES256], Some(65))
        }
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => {
            (vec![Algorithm::EdDSA], Some(32))
        }
        AlgorithmParameters::EllipticCurve(_) | AlgorithmParameters::OctetKeyPair(_) => {
            return Err("is of another curve than P-256 and Ed25519");
        }
        AlgorithmParameters::OctetKey(_) => return Err("is a secret and no public key"),
        _ => return Err("is of an unknown kind"),
    };
    if let Some(only) = common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
    }
    if algorithms.is_empty() {
        return Err("is for another algorithm than RS256, PS256, ES256 and EdDSA");
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "is damaged")?;
    if length.is_some() && key.try_get_as_bytes().ok().map(<[u8]>::len) != length {
        return Err("is damaged");
    }
    Ok(Key { kid: common.key_id.clone(), algorithms, key })
}
