//! Push: what the configuration may say about the operator's push service.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::Push;
use super::super::problem::Findings;
use super::{is_url, placeholder};

/// Looks at where the push service is, and how it is spoken to.
pub(super) fn check(findings: &mut Findings, push: Option<&Push>) {
    let Some(push) = push else { return };
    let rest = push.url.strip_prefix("http://");
    if rest.is_none() || !is_url(&push.url) {
        let what = format!(
            "must be http://host:port/path, not {:?}; https is not spoken: put a proxy in between",
            push.url
        );
        findings.wrong("push.url", what);
    } else if !rest.is_some_and(is_here) {
        let what = "is asked without encryption: who is written to when can be read on the way";
        findings.unwise("push.url", what);
    }
    let secret = push.secret.reveal();
    if !(16..=1_024).contains(&secret.len()) {
        let what = format!("must be 16 to 1024 bytes, not {}", secret.len());
        findings.wrong("push.secret", what);
    }
    placeholder(findings, "push.secret", secret);
    let (least, hour) = (Duration::from_millis(100), Duration::from_secs(3_600));
    for (key, span, most) in [
        ("push.push_after", push.after, hour),
        ("push.timeout", push.timeout, Duration::from_secs(60)),
    ] {
        if !(least..=most).contains(&span) {
            findings.wrong(key, format!("must be {least:?} to {most:?}, not {span:?}"));
        }
    }
}

/// Whether what follows `http://` is on this machine.
fn is_here(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let ip = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match authority.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => {
            let host = authority.split(':').next().unwrap_or_default();
            host == "localhost" || ip(host)
        }
    }
}
