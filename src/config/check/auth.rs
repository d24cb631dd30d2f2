//! Auth: what the configuration may say about who comes in.

use std::collections::BTreeSet;

use super::super::problem::Findings;
use super::super::{Auth, Issuer};
use super::placeholder;

/// So many secrets may be on their way out.
const OLD_SECRETS_MAX: usize = 8;

/// Looks at secrets, at the issuer, and at whether anybody can come in at all.
pub(super) fn check(findings: &mut Findings, auth: &Auth) {
    secrets(findings, auth);
    findings.days("auth.token_days", auth.token_life);
    findings.days("auth.session_days", auth.session);
    if !auth.session.is_zero() && auth.session < auth.token_life {
        let what = "is less than auth.token_days, so tokens end with it";
        findings.unwise("auth.session_days", what);
    }
    if !auth.own_tokens {
        without_own(findings, auth);
    }
    if auth.open_registration && !auth.login {
        let what = "who registers can not log in again, for auth.login is false";
        findings.unwise("auth.open_registration", what);
    }
    if let Some(of) = &auth.issuer {
        issuer(findings, of);
    }
}

fn secrets(findings: &mut Findings, auth: &Auth) {
    let mut seen = BTreeSet::new();
    let old = (1..).zip(&auth.old_secrets).map(|(i, s)| (format!("auth.old_secrets[{i}]"), s));
    let all = std::iter::once(("auth.token_secret".to_owned(), &auth.token_secret)).chain(old);
    for (key, secret) in all {
        let secret = secret.reveal();
        if !(32..=1_024).contains(&secret.len()) {
            findings.wrong(&*key, format!("must be 32 to 1024 bytes, not {}", secret.len()));
        }
        if !seen.insert(secret) {
            findings.wrong(&*key, "is there already; what is no longer to be taken is left out");
        }
        placeholder(findings, &key, secret);
    }
    if auth.old_secrets.len() > OLD_SECRETS_MAX {
        let what = format!("at most {OLD_SECRETS_MAX} secrets, not {}", auth.old_secrets.len());
        findings.wrong("auth.old_secrets", what);
    }
}

/// Nobody may get a token that is not taken then.
fn without_own(findings: &mut Findings, auth: &Auth) {
    if auth.issuer.is_none() {
        let what = "is false and there is no [auth.issuer], so nobody could come in";
        findings.wrong("auth.own_tokens", what);
    }
    if auth.login {
        let what = "must be false with auth.own_tokens = false, for it gives such tokens";
        findings.wrong("auth.login", what);
    }
    if auth.open_registration {
        let what = "must be false with auth.own_tokens = false, for it gives such tokens";
        findings.wrong("auth.open_registration", what);
    }
}

fn issuer(findings: &mut Findings, issuer: &Issuer) {
    match (&issuer.public_key, &issuer.jwks) {
        (None, None) => {
            let what = "needs public_key = \"file.pem\" or jwks = \"file.json\"";
            findings.wrong("auth.issuer", what);
        }
        (Some(_), Some(_)) => {
            findings.wrong("auth.issuer.jwks", "is there beside public_key; leave one of them out");
        }
        _ => {}
    }
    findings.within("auth.issuer.leeway_s", issuer.leeway.as_secs());
    findings.within("auth.issuer.reload_s", issuer.reload.as_secs());
    let names = [
        ("auth.issuer.issuer", issuer.issuer.as_deref()),
        ("auth.issuer.audience", issuer.audience.as_deref()),
        ("auth.issuer.user_claim", Some(issuer.user_claim.as_str())),
    ];
    for (key, name) in names {
        if name == Some("") {
            findings.wrong(key, "must not be empty; leave it out instead");
        }
    }
    if issuer.audience.is_none() {
        let what = "has no audience, so tokens that it makes for other services open this one, too";
        findings.unwise("auth.issuer", what);
    }
}
