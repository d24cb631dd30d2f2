//! Push: tells the operator's push service, by HTTP, which devices sleep through messages, so that it can wake them.
//!
//! Owns      what waits to be told, in memory only.
//! Promises  each notice is tried until the service takes it, refuses it for good, or an hour has passed; never more than a
//!           few at once, and never more waiting than there is room for.
//! Never     holds up a lane, says who wrote or what, or follows a redirect.
//! Fails by  forgetting: the next leader of a user tells what came in the last hour again, under the same `id`.
//!
//! Who is to be told of is decided where the mailbox is (`actors::shard::home`), on the node that leads it. Plain `http` only:
//! a service elsewhere is reached through a proxy on this machine.

mod http;
mod rules;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::clock;
use actors::shard::home::Notice;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::Rng;
use tokio::sync::mpsc;

use http::Service;
use rules::{Answer, Next, Queue, Then};

pub use http::BadAddress;

/// Notices between the lanes and the queue.
const UNDER_WAY_MAX: usize = 4_096;

/// Where the service is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its address, `http://…`.
    pub url: String,
    /// By it the service knows that a request is from this cluster.
    pub secret: String,
    /// How long it may take to answer.
    pub timeout: Duration,
}

/// Takes notices; never waits.
pub type Teller = Arc<dyn Fn(Notice) + Send + Sync>;

/// Starts telling, on the runtime this is called on, until the teller is dropped.
///
/// # Errors
/// [`BadAddress`] if the address is none.
pub fn start(settings: &Settings) -> Result<Teller, BadAddress> {
    let service = Arc::new(Service::new(settings)?);
    let (teller, notices) = mpsc::channel(UNDER_WAY_MAX);
    tokio::spawn(tell(service, notices));
    Ok(Arc::new(move |notice| {
        if teller.try_send(notice).is_err() {
            count("dropped");
        }
    }))
}

/// Tells until nobody can have anything to tell any more.
async fn tell(service: Arc<Service>, mut notices: mpsc::Receiver<Notice>) {
    let started = clock::monotonic();
    let mut queue = Queue::default();
    let mut flying = FuturesUnordered::new();
    loop {
        let wait = loop {
            match queue.next(since(started)) {
                Next::Send(ticket, notice) => {
                    let service = Arc::clone(&service);
                    flying.push(async move { (ticket, service.post(&notice).await) });
                }
                Next::Wait(wait) => break wait,
            }
        };
        metrics::gauge!("rookery_push_waiting").set(f64::from(queue.waiting()));
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => queue.take(notice, since(started)).into_iter().for_each(count),
                None => return,
            },
            Some((ticket, answer)) = flying.next() => {
                answered(&mut queue, ticket, answer, since(started));
            }
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

fn since(started: Instant) -> Duration {
    clock::monotonic().saturating_duration_since(started)
}

fn answered(queue: &mut Queue, ticket: u64, answer: Answer, now: Duration) {
    let Some((notice, then)) = queue.answered(ticket, answer, now, rand::rng().random()) else {
        return;
    };
    count(then.label());
    match then {
        Then::Refuse(status) => {
            tracing::warn!(status, user = %notice.user, device = %notice.device, "the push service refused a notice; it is dropped");
        }
        Then::GiveUp => {
            tracing::warn!(user = %notice.user, device = %notice.device, "the push service could not be told for an hour; the notice is dropped");
        }
        Then::Forget => {
            tracing::debug!(user = %notice.user, device = %notice.device, "the push service knows this device no more");
        }
        Then::Done | Then::Again(_) | Then::Replaced => {}
    }
}

fn count(result: &'static str) {
    metrics::counter!("rookery_push_total", "result" => result).increment(1);
}
