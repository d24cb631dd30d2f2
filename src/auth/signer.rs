//! Signer: an issuer of tokens as an operator may have one, for tests here and of whole clusters.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// A private key with a name.
pub(crate) struct Signer {
    kid: String,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Vec<u8>,
}

impl Signer {
    /// Makes a key for this algorithm.
    pub(crate) fn new(kid: &str, algorithm: Algorithm) -> Self {
        let rng = SystemRandom::new();
        let der = |public: PublicKeyX509Der<'_>| public.as_ref().to_vec();
        let (key, public) = match algorithm {
            Algorithm::ES256 => {
                let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let document = EcdsaKeyPair::generate_pkcs8(kind, &rng).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(kind, document.as_ref()).unwrap();
                let public = der(pair.public_key().as_der().unwrap());
                (EncodingKey::from_ec_der(document.as_ref()), public)
            }
            Algorithm::EdDSA => {
                let document = Ed25519KeyPair::generate_pkcs8v1(&rng).unwrap();
                let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
                let public = der(pair.public_key().as_der().unwrap());
                (EncodingKey::from_ed_der(document.as_ref()), public)
            }
            _ => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let document: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                // PKCS#8 around PKCS#1: 26 bytes say that it is RSA.
                let key = EncodingKey::from_rsa_der(&document.as_ref()[26..]);
                (key, der(pair.public_key().as_der().unwrap()))
            }
        };
        Self { kid: kid.to_owned(), algorithm, key, public }
    }

    /// The public key, as a JWK with the name.
    pub(crate) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// The public key, in PEM.
    pub(crate) fn pem(&self) -> String {
        let text = STANDARD.encode(&self.public);
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// A token that says this, and which key signed it.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        self.sign_as(&header, claims)
    }

    /// A token with this header, which may say what it likes.
    pub(crate) fn sign_as(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }
}

/// A file of keys.
pub(crate) fn jwks(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}
