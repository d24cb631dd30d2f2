//! Callers: who sends a request, by the token they show; every call that is not a login begins here.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use actors::ids::UserId;
use actors::packet::Question;
use axum::http::HeaderMap;

use super::problem::Problem;
use super::{Rest, input};
use crate::auth::{By, Verified};

/// Users of the issuer who are known to have a mailbox; past so many, each is asked for once more.
const SETTLED_MAX: usize = 50_000;

/// Users of the issuer who are known to have a mailbox.
#[derive(Default)]
pub(super) struct Settled(Mutex<BTreeSet<UserId>>);

impl Settled {
    fn has(&self, user: &UserId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(user)
    }

    fn add(&self, user: UserId) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= SETTLED_MAX {
            users.clear();
        }
        users.insert(user);
    }
}

impl Rest {
    /// Tells who sends a request, unless they send too many. A user of the operator's issuer has a mailbox from then on:
    /// nobody else makes one for them, and without it no answer would reach them.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Verified, Problem> {
        let verified = self.tokens.verify(input::bearer(headers)?)?;
        self.brakes.request(&verified.user)?;
        if verified.by == By::Issuer && !self.settled.has(&verified.user) {
            self.homes.ask(&verified.user, Question::Open, self.timeout).await?;
            self.settled.add(verified.user.clone());
        }
        Ok(verified)
    }
}
