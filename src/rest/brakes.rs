//! Brakes: how often a user and an address may do what, and what they hear when it was too often.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actors::clock;
use actors::ids::UserId;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};
use super::{Rest, peer_of};
use crate::auth::{Brake, Familiar};
use crate::config::Limits;

/// Groups a user may make at once, and each second after that; as on a socket.
const GROUPS_AT_ONCE: u32 = 100;
const GROUPS_PER_SECOND: u32 = 5;
/// Changes of settings at once, and how often after that; as on a socket.
const SETTINGS_AT_ONCE: u32 = 10;
const SETTINGS_EVERY: Duration = Duration::from_secs(1);

/// All brakes on HTTP; the socket has its own.
pub(super) struct Brakes {
    guesses: Brake,
    guesses_of_user: Brake,
    /// Where users have logged in before.
    familiar: Familiar,
    logins: Brake,
    /// Beyond those of their address, of users who have logged in there before.
    logins_of_familiar: Brake,
    messages: Brake,
    groups: Brake,
    settings: Brake,
    requests: Brake,
    requests_of_address: Brake,
}

/// A password that is looked at. Only a wrong one is a guess; any other is to be given back.
pub(super) struct Guess<'a> {
    brakes: &'a Brakes,
    user: &'a UserId,
    from: Option<IpAddr>,
    /// The user, if it counts among the guesses from all addresses together.
    counts_for: Option<&'a UserId>,
}

impl Guess<'_> {
    /// It was none: nobody knows whether the password is right.
    pub(super) fn give_back(self) {
        self.brakes.guesses.give_back(&(self.user, self.from));
        if let Some(user) = self.counts_for {
            self.brakes.guesses_of_user.give_back(user);
        }
    }

    /// The password is right.
    pub(super) fn right(self) {
        self.brakes.familiar.remember(&(self.user, self.from));
        self.give_back();
    }
}

impl Brakes {
    /// Takes the limits of the configuration.
    pub(super) fn new(limits: &Limits) -> Self {
        let per_minute = |n: u32| Brake::new(Duration::from_secs(60) / n.max(1), n);
        let per_second = |n: u32| {
            let n = n.max(1);
            Brake::new(Duration::from_secs(1) / n, n.saturating_mul(2))
        };
        Self {
            guesses: per_minute(limits.login_failures_per_minute),
            guesses_of_user: per_minute(limits.login_failures_per_user_per_minute),
            familiar: Familiar::default(),
            logins: per_minute(limits.logins_per_address_per_minute),
            logins_of_familiar: per_minute(limits.login_failures_per_minute),
            messages: per_second(limits.http_messages_per_second),
            groups: Brake::new(Duration::from_secs(1) / GROUPS_PER_SECOND, GROUPS_AT_ONCE),
            settings: Brake::new(SETTINGS_EVERY, SETTINGS_AT_ONCE),
            requests: per_second(limits.http_requests_per_second),
            requests_of_address: per_second(limits.http_requests_per_address_per_second),
        }
    }

    /// A password of `user` is about to be looked at.
    pub(super) fn guess<'a>(
        &'a self,
        user: &'a UserId,
        from: Option<IpAddr>,
    ) -> Result<Guess<'a>, Problem> {
        let now = clock::wall();
        let slowed = |wait| limited("too many wrong passwords; wait a little", wait);
        self.guesses.take(&(user, from), now).map_err(slowed)?;
        // Strangers who guess from many addresses lock nobody out where they have been before.
        let counts_for = (!self.familiar.knows(&(user, from))).then_some(user);
        if let Some(user) = counts_for
            && let Err(wait) = self.guesses_of_user.take(user, now)
        {
            self.guesses.give_back(&(user, from));
            return Err(slowed(wait));
        }
        Ok(Guess { brakes: self, user, from, counts_for })
    }

    /// Somebody wants to register.
    pub(super) fn registration(&self, from: Option<IpAddr>) -> Result<(), Problem> {
        let detail = "too many logins and registrations from this address; wait a little";
        take_of_address(&self.logins, from, detail)
    }

    /// Somebody wants to log in. Who has before, from there, is not locked out by others behind the same address.
    pub(super) fn login(&self, user: &UserId, from: Option<IpAddr>) -> Result<(), Problem> {
        let taken = self.registration(from);
        let key = (user, from);
        let may = || self.logins_of_familiar.take(&key, clock::wall()).is_ok();
        if taken.is_err() && self.familiar.knows(&key) && may() {
            return Ok(());
        }
        taken
    }

    /// Somebody asks for anything at all.
    pub(super) fn address(&self, from: Option<IpAddr>) -> Result<(), Problem> {
        let detail = "too many requests from this address; wait a little";
        take_of_address(&self.requests_of_address, from, detail)
    }

    /// A user asks for anything at all.
    pub(super) fn request(&self, user: &UserId) -> Result<(), Problem> {
        let slowed = |wait| limited("too many requests of this user; wait a little", wait);
        self.requests.take(user, clock::wall()).map_err(slowed)
    }

    /// A user makes a group.
    pub(super) fn group(&self, user: &UserId) -> Result<(), Problem> {
        let slowed = |wait| limited("too many new groups; wait a little", wait);
        self.groups.take(user, clock::wall()).map_err(slowed)
    }

    /// A user changes a setting that others are told of.
    pub(super) fn setting(&self, user: &UserId) -> Result<(), Problem> {
        let slowed = |wait| limited("settings are changed too often; wait a little", wait);
        self.settings.take(user, clock::wall()).map_err(slowed)
    }

    /// A user sends a message.
    pub(super) fn message(&self, user: &UserId) -> Result<(), Problem> {
        let slowed = |wait| limited("too many messages; wait a little", wait);
        self.messages.take(user, clock::wall()).map_err(slowed)
    }
}

fn take_of_address(
    brake: &Brake,
    from: Option<IpAddr>,
    detail: &'static str,
) -> Result<(), Problem> {
    // Behind a proxy on this machine all clients come from loopback.
    let Some(from) = from.filter(|ip| !ip.is_loopback() && *ip != loopback_net()) else {
        return Ok(());
    };
    brake.take(&from, clock::wall()).map_err(|wait| limited(detail, wait))
}

fn limited(detail: &'static str, wait: Duration) -> Problem {
    Problem::new(Code::RateLimited, detail).after(wait)
}

/// Where a request comes from; of IPv6 the part that one household has.
pub(super) fn household(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 64)).into()),
        v4 => v4,
    }
}

/// What `household` makes of `::1`.
const fn loopback_net() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Slows addresses, whatever they ask for.
pub(super) async fn slow(
    State(rest): State<Arc<Rest>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match rest.brakes.address(peer_of(&request).map(household)) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
