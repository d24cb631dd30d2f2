//! Tests of the operator's issuer: whose tokens are taken, and what a new file of keys changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actors::ids::{Timestamp, UserId};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::issuer::{Issuer, Looked};
use super::keys::{self, Form, Keys};
use super::signer::{Signer, jwks};
use super::{By, KeysRefused, TokenRefused, Tokens, Verified};
use crate::config::Config;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp(1_800_000_000_500);
const END: u64 = 1_800_000_600;

/// A file of keys, and what the configuration says about it besides.
struct Office {
    dir: TempDir,
    lines: &'static str,
}

impl Office {
    fn new(file: &str) -> Self {
        let office = Self { dir: tempfile::tempdir().unwrap(), lines: "audience = 'chat'" };
        office.write(file);
        office
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn config(&self, form: &str) -> Config {
        let text = Config::dev(1, 8080, Path::new("data"), SECRET, "0123456789abcdef");
        let path = self.path();
        let text =
            format!("{text}\n[auth.issuer]\n{form} = '{}'\n{}\n", path.display(), self.lines);
        Config::parse("dev.toml", &text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn tokens(&self, form: &str) -> Tokens {
        Tokens::of(&self.config(form)).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn claims() -> Value {
    json!({"sub": "alice", "aud": "chat", "iss": "https://id.example.org", "exp": END})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn tokens_of_each_kind_are_taken_from_a_set_and_from_pem() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256, Algorithm::PS256] {
        let signer = Signer::new("k1", algorithm);
        let alice = Verified {
            user: UserId::parse("alice").unwrap(),
            expires_at: Timestamp(END * 1_000).after(Duration::from_secs(30)),
            by: By::Issuer,
        };
        let token = signer.sign(&claims());
        let set = Office::new(&jwks(&[&signer])).tokens("jwks");
        assert_eq!(set.verify_at(&token, NOW), Ok(alice.clone()), "{algorithm:?}");
        let pem = Office::new(&signer.pem()).tokens("public_key");
        assert_eq!(pem.verify_at(&token, NOW), Ok(alice), "{algorithm:?}");
    }
}

#[test]
fn the_clusters_own_tokens_go_on_beside_it_unless_told_otherwise() {
    let signer = Signer::new("k1", Algorithm::ES256);
    let office = Office::new(&jwks(&[&signer]));
    let alice = UserId::parse("alice").unwrap();
    let own = Tokens::new(SECRET, "dev").issue_at(&alice, Duration::from_secs(60), NOW).unwrap();
    let mut config = office.config("jwks");
    assert!(Tokens::of(&config).unwrap().verify_at(&own.token, NOW).is_ok());
    config.auth.own_tokens = false;
    let tokens = Tokens::of(&config).unwrap();
    assert_eq!(tokens.verify_at(&own.token, NOW), Err(TokenRefused::Invalid));
    assert!(tokens.verify_at(&signer.sign(&claims()), NOW).is_ok());
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let signer = Signer::new("k1", Algorithm::RS256);
    let files = [("public_key", signer.pem()), ("jwks", jwks(&[&signer]))];
    for (form, file) in &files {
        let tokens = Office::new(file).tokens(form);
        for secret in [file.as_bytes(), signer.jwk()["n"].as_str().unwrap().as_bytes()] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let header = Header { kid: Some("k1".into()), ..Header::new(algorithm) };
                let key = EncodingKey::from_secret(secret);
                let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
                assert_eq!(tokens.verify_at(&token, NOW), Err(TokenRefused::Invalid));
            }
        }
        // {"alg":"none"}
        let token = signer.sign(&claims());
        let body = token.split('.').nth(1).unwrap();
        for signature in ["", token.rsplit('.').next().unwrap()] {
            let none = format!("eyJhbGciOiJub25lIn0.{body}.{signature}");
            assert_eq!(tokens.verify_at(&none, NOW), Err(TokenRefused::Invalid));
        }
    }
}

#[test]
fn a_key_signs_only_by_the_algorithm_it_is_for() {
    let rsa = Signer::new("k1", Algorithm::RS256);
    let tokens = Office::new(&jwks(&[&rsa])).tokens("jwks");
    let header = |algorithm| Header { kid: Some("k1".into()), ..Header::new(algorithm) };
    let check = |algorithm| tokens.verify_at(&rsa.sign_as(&header(algorithm), &claims()), NOW);
    assert!(check(Algorithm::RS256).is_ok());
    // The set says that the key is for RS256; and RS384 is for none.
    assert_eq!(check(Algorithm::PS256), Err(TokenRefused::Invalid));
    assert_eq!(check(Algorithm::RS384), Err(TokenRefused::Invalid));
    let mut critical = header(Algorithm::RS256);
    critical.crit = Some(vec!["b64".into()]);
    assert_eq!(
        tokens.verify_at(&rsa.sign_as(&critical, &claims()), NOW),
        Err(TokenRefused::Invalid)
    );
}

#[test]
fn the_key_is_the_one_that_the_token_names() {
    let (one, two) = (Signer::new("k1", Algorithm::ES256), Signer::new("k2", Algorithm::ES256));
    let stranger = Signer::new("k1", Algorithm::ES256);
    let tokens = Office::new(&jwks(&[&one, &two])).tokens("jwks");
    assert!(tokens.verify_at(&one.sign(&claims()), NOW).is_ok());
    assert!(tokens.verify_at(&two.sign(&claims()), NOW).is_ok());
    assert_eq!(tokens.verify_at(&stranger.sign(&claims()), NOW), Err(TokenRefused::Invalid));
    let check = |kid: Option<&str>| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        tokens.verify_at(&two.sign_as(&header, &claims()), NOW)
    };
    assert!(check(None).is_ok(), "a token that names none is tried with all");
    assert_eq!(check(Some("k1")), Err(TokenRefused::Invalid));
    assert_eq!(check(Some("k3")), Err(TokenRefused::Invalid));
}

#[test]
fn a_token_must_be_for_us_and_name_a_user() {
    let signer = Signer::new("k1", Algorithm::EdDSA);
    let mut office = Office::new(&jwks(&[&signer]));
    office.lines = "audience = 'chat'\nissuer = 'https://id.example.org'";
    let tokens = office.tokens("jwks");
    let check = |claims: Value| tokens.verify_at(&signer.sign(&claims), NOW).map(|_| ());
    assert_eq!(check(claims()), Ok(()));
    assert_eq!(check(with("aud", json!(["mail", "chat"]))), Ok(()));
    let unfit = [
        with("aud", json!("mail")),
        without("aud"),
        with("iss", json!("https://id.example.com")),
        without("iss"),
        without("sub"),
        with("sub", json!("Alice Smith")),
        with("sub", json!(7)),
        with("sub", json!("g:club")),
        without("exp"),
        with("exp", json!("tomorrow")),
        with("exp", json!(-1)),
    ];
    for claims in unfit {
        assert_eq!(check(claims.clone()), Err(TokenRefused::Unfit), "{claims}");
    }
}

#[test]
fn without_an_audience_every_one_is_taken_and_the_user_may_be_in_another_claim() {
    let signer = Signer::new("k1", Algorithm::EdDSA);
    let mut office = Office::new(&jwks(&[&signer]));
    office.lines = "user_claim = 'preferred_username'";
    let tokens = office.tokens("jwks");
    let named = with("preferred_username", json!("bob"));
    let check = |claims: &Value| tokens.verify_at(&signer.sign(claims), NOW);
    assert_eq!(check(&named).unwrap().user.as_str(), "bob");
    assert_eq!(check(&claims()), Err(TokenRefused::Unfit));
}

#[test]
fn clocks_may_differ_by_the_leeway() {
    let signer = Signer::new("k1", Algorithm::EdDSA);
    let mut office = Office::new(&jwks(&[&signer]));
    office.lines = "leeway_s = 10\naudience = 'chat'";
    let tokens = office.tokens("jwks");
    let now = NOW.0 / 1_000;
    let check = |claims: Value| tokens.verify_at(&signer.sign(&claims), NOW).map(|_| ());
    assert_eq!(check(with("exp", json!(now - 9))), Ok(()));
    assert_eq!(check(with("exp", json!(now - 10))), Err(TokenRefused::Expired));
    assert_eq!(check(with("exp", json!(0))), Err(TokenRefused::Expired));
    let half = json!(f64::from(u32::try_from(now).unwrap()) + 0.5);
    assert_eq!(check(with("exp", half)), Ok(()), "a moment may have a fraction");
    assert_eq!(check(with("nbf", json!(now + 10))), Ok(()));
    assert_eq!(check(with("nbf", json!(now + 11))), Err(TokenRefused::Early));
}

#[test]
fn a_new_file_brings_new_keys_and_a_broken_one_keeps_the_old() {
    let (one, two) = (Signer::new("k1", Algorithm::ES256), Signer::new("k2", Algorithm::ES256));
    let office = Office::new(&jwks(&[&one]));
    let issuer = Issuer::open(office.config("jwks").auth.issuer.unwrap()).unwrap();
    let look = || issuer.look(keys::read(&office.path()));
    let good = |signer: &Signer| {
        let token = signer.sign(&claims());
        issuer.verify_at(&token, &jsonwebtoken::decode_header(&token).unwrap(), NOW).is_ok()
    };
    assert_eq!(look(), Looked::Same);
    assert_eq!((good(&one), good(&two)), (true, false));
    office.write(&jwks(&[&one, &two]));
    assert_eq!(look(), Looked::Taken);
    assert_eq!((good(&one), good(&two)), (true, true));
    for broken in ["", "{", "{\"keys\":[]}", &one.pem()] {
        office.write(broken);
        assert!(matches!(look(), Looked::Kept(_)), "{broken}");
        assert_eq!(look(), Looked::Same, "it is told once");
        assert_eq!((good(&one), good(&two)), (true, true));
    }
    std::fs::remove_file(office.path()).unwrap();
    assert!(matches!(look(), Looked::Kept(_)));
    assert_eq!(look(), Looked::Same);
    office.write(&jwks(&[&two]));
    assert_eq!(look(), Looked::Taken);
    assert_eq!((good(&one), good(&two)), (false, true));
}

#[tokio::test]
async fn the_file_is_followed_without_being_told() {
    let (one, two) = (Signer::new("k1", Algorithm::ES256), Signer::new("k2", Algorithm::ES256));
    let office = Office::new(&jwks(&[&one]));
    let mut settings = office.config("jwks").auth.issuer.unwrap();
    settings.reload = Duration::from_millis(10);
    let issuer = Issuer::open(settings).unwrap();
    let token = two.sign(&claims());
    let header = jsonwebtoken::decode_header(&token).unwrap();
    assert!(issuer.verify_at(&token, &header, NOW).is_err());
    office.write(&jwks(&[&two]));
    let until = async {
        while issuer.verify_at(&token, &header, NOW).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = issuer.watch() => unreachable!("it watches for ever"),
        met = tokio::time::timeout(Duration::from_secs(20), until) => met.unwrap(),
    }
}

#[test]
fn what_is_no_file_of_public_keys_is_refused_and_says_why() {
    let ec = Signer::new("k1", Algorithm::ES256);
    let check = |form: Form, file: &str, says: &str| {
        let refused = Keys::parse(form, Path::new("keys"), file.as_bytes()).err();
        let refused = refused.unwrap_or_else(|| panic!("taken: {file}")).to_string();
        assert!(refused.starts_with("auth.issuer: keys: ") && refused.contains(says), "{refused}");
    };
    let one = |jwk: Value| json!({"keys": [jwk]}).to_string();
    let changed = |name: &str, value: Value| {
        let mut jwk = ec.jwk();
        jwk[name] = value;
        one(jwk)
    };
    check(Form::Jwks, "nonsense", "is not a JWK set");
    check(Form::Jwks, "[]", "is not a JWK set");
    check(Form::Jwks, "{\"keys\":[]}", "none at all");
    check(Form::Jwks, &one(json!({"kty": "oct", "k": "c2VjcmV0"})), "is a secret");
    check(Form::Jwks, &changed("d", json!("AAAA")), "private key");
    check(Form::Jwks, &changed("use", json!("enc")), "not for signatures");
    check(Form::Jwks, &changed("key_ops", json!(["sign"])), "not for signatures");
    check(Form::Jwks, &changed("crv", json!("P-384")), "another curve");
    check(Form::Jwks, &changed("alg", json!("ES384")), "another algorithm");
    check(Form::Jwks, &changed("x", json!("AAAA")), "damaged");
    check(Form::Jwks, &one(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})), "2048 bits");
    check(Form::Jwks, &one(json!({"kty": "AKP", "pub": "AAAA"})), "unknown kind");
    let many = json!({"keys": vec![ec.jwk(); 33]}).to_string();
    check(Form::Jwks, &many, "at most 32");
    check(Form::Pem, "nonsense", "BEGIN PUBLIC KEY");
    check(Form::Pem, &ec.pem().replace("PUBLIC", "PRIVATE"), "private key");
    check(Form::Pem, &ec.pem().replace('M', "!"), "not a public key");
    check(Form::Pem, &jwks(&[&ec]), "BEGIN PUBLIC KEY");
    let mixed = json!({"keys": [{"kty": "AKP"}, ec.jwk(), {"kty": "oct", "k": "AAAA"}]});
    let keys = Keys::parse(Form::Jwks, Path::new("keys"), mixed.to_string().as_bytes()).unwrap();
    assert_eq!(keys.names(), ["k1"], "one that is not understood does no harm to the others");
}

#[test]
fn a_cluster_does_not_start_without_the_issuers_keys() {
    let office = Office::new("nonsense");
    let refused = Tokens::of(&office.config("jwks")).unwrap_err();
    assert!(matches!(refused, KeysRefused::Malformed { .. }), "{refused}");
    std::fs::remove_file(office.path()).unwrap();
    let refused = Tokens::of(&office.config("jwks")).unwrap_err();
    assert!(refused.to_string().contains(&office.path().display().to_string()), "{refused}");
    office.write(&"x".repeat((1 << 20) + 1));
    let refused = Tokens::of(&office.config("jwks")).unwrap_err();
    assert!(refused.to_string().contains("at most 1048576 bytes"), "{refused}");
}
