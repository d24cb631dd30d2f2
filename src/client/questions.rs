//! Questions: what the application asks of a node, until it is answered.
//!
//! Owns      the questions that wait for their turn, and of those that were asked what it takes to ask again.
//! Promises  a question asked with insistence is asked again on the next socket and after a refusal that may pass, for a
//!           minute; then its asker hears why. Any other is asked once at most.
//! Never     keeps an order between questions: who needs one waits for the answer before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::closing::Backoff;
use super::said::Fault;

/// How long a question is repeated: a cluster that stands for longer needs more than patience.
const INSISTS_FOR: Duration = Duration::from_secs(60);

/// How often a question may be asked.
#[derive(Debug)]
enum Repeat {
    Never,
    /// Until the moment given; not before the other one.
    Until(Duration, Duration, Backoff),
}

#[derive(Debug)]
struct Question {
    op: String,
    d: Value,
    repeat: Repeat,
    /// What it was refused with last.
    refusal: Option<Fault>,
}

/// See the plaque.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: BTreeMap<u64, Question>,
    /// Asked with insistence, and not answered yet.
    asked: BTreeMap<u64, Question>,
    next: u64,
}

impl Questions {
    /// How many wait for their turn or for being asked again.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// Takes in what is asked once; its ticket.
    pub(super) fn once(&mut self, op: &str, d: Value) -> u64 {
        self.push(op, d, Repeat::Never)
    }

    /// Takes in what is asked until it is answered; its ticket.
    pub(super) fn insist(&mut self, op: &str, d: Value, now: Duration) -> u64 {
        self.push(op, d, Repeat::Until(now + INSISTS_FOR, now, Backoff::default()))
    }

    fn push(&mut self, op: &str, d: Value, repeat: Repeat) -> u64 {
        self.next += 1;
        let question = Question { op: op.to_owned(), d, repeat, refusal: None };
        self.waiting.insert(self.next, question);
        self.next
    }

    /// The next one to ask on a live socket.
    pub(super) fn take(&mut self, now: Duration) -> Option<(u64, String, Value)> {
        let ready = |question: &Question| match question.repeat {
            Repeat::Never => true,
            Repeat::Until(_, not_before, _) => not_before <= now,
        };
        let ticket = *self.waiting.iter().find(|(_, question)| ready(question))?.0;
        let question = self.waiting.remove(&ticket)?;
        if matches!(question.repeat, Repeat::Never) {
            return Some((ticket, question.op, question.d));
        }
        let said = (ticket, question.op.clone(), question.d.clone());
        self.asked.insert(ticket, question);
        Some(said)
    }

    /// It was answered.
    pub(super) fn answered(&mut self, ticket: u64) {
        self.asked.remove(&ticket);
    }

    /// It was refused; the refusal, if its asker is to hear it. `chance` is a fresh random number in 0 … 1.
    pub(super) fn refused(
        &mut self,
        ticket: u64,
        fault: Fault,
        now: Duration,
        chance: f64,
    ) -> Option<Fault> {
        let Some(mut question) = self.asked.remove(&ticket) else {
            return Some(fault);
        };
        let Repeat::Until(until, not_before, backoff) = &mut question.repeat else {
            return Some(fault);
        };
        let asked = Duration::from_millis(fault.retry_after_ms.unwrap_or(0));
        *not_before = now + backoff.next(chance).max(asked);
        if !fault.retry || *not_before >= *until {
            return Some(fault);
        }
        question.refusal = Some(fault);
        self.waiting.insert(ticket, question);
        None
    }

    /// The socket it was asked on is gone. True if it will be asked again.
    pub(super) fn lost(&mut self, ticket: u64) -> bool {
        let question = self.asked.remove(&ticket);
        let again = question.is_some();
        self.waiting.extend(question.map(|question| (ticket, question)));
        again
    }

    /// Those whose time is over, and why they were not answered.
    pub(super) fn given_up(&mut self, now: Duration) -> Vec<(u64, Option<Fault>)> {
        let over = |question: &Question| match question.repeat {
            Repeat::Never => false,
            Repeat::Until(until, ..) => until <= now,
        };
        let mut given_up = Vec::new();
        for questions in [&mut self.waiting, &mut self.asked] {
            let gone = questions.extract_if(.., |_, question| over(question));
            given_up.extend(gone.map(|(ticket, question)| (ticket, question.refusal)));
        }
        given_up
    }

    /// The client has stopped: everything that waits.
    pub(super) fn drain(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// When there is something to give up, or with a live socket to ask.
    #[must_use]
    pub(super) fn wake(&self, is_live: bool) -> Option<Duration> {
        let untils =
            self.waiting.values().chain(self.asked.values()).filter_map(|question| match question
                .repeat
            {
                Repeat::Never => None,
                Repeat::Until(until, ..) => Some(until),
            });
        let turns = self.waiting.values().filter_map(|question| match question.repeat {
            Repeat::Until(_, not_before, _) if is_live => Some(not_before),
            _ => None,
        });
        untils.chain(turns).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ops(questions: &mut Questions, now: Duration) -> Vec<String> {
        std::iter::from_fn(|| questions.take(now)).map(|(_, op, _)| op).collect()
    }

    #[test]
    fn only_what_is_asked_with_insistence_is_asked_again_on_the_next_socket() {
        let mut questions = Questions::default();
        let (once, again) = (
            questions.once("device.list", json!({})),
            questions.insist("group.create", json!({}), ms(0)),
        );
        assert_eq!(ops(&mut questions, ms(0)), ["device.list", "group.create"]);
        assert!(!questions.lost(once));
        assert!(questions.lost(again));
        assert_eq!(ops(&mut questions, ms(0)), ["group.create"]);
        questions.answered(again);
        assert!(!questions.lost(again), "what is answered is not asked again");
        assert_eq!(questions.len(), 0);
    }

    #[test]
    fn a_refusal_that_may_pass_is_waited_out_as_long_as_the_node_asks() {
        let mut questions = Questions::default();
        let ticket = questions.insist("group.create", json!({}), ms(0));
        questions.take(ms(0));
        let mut busy = Fault::here("rate_limited", "", true);
        busy.retry_after_ms = Some(700);
        assert_eq!(questions.refused(ticket, busy, ms(10), 1.0), None);
        assert_eq!(questions.take(ms(709)), None);
        assert_eq!(
            (questions.wake(true), questions.wake(false)),
            (Some(ms(710)), Some(ms(60_000)))
        );
        assert!(questions.take(ms(710)).is_some());
        let no = Fault::here("forbidden", "", false);
        assert_eq!(questions.refused(ticket, no.clone(), ms(711), 1.0), Some(no));
        assert_eq!(questions.wake(true), None);
    }

    #[test]
    fn after_a_minute_the_asker_hears_the_last_refusal() {
        let mut questions = Questions::default();
        let refused = questions.insist("group.list", json!({}), ms(0));
        let silent = questions.insist("group.info", json!({}), ms(0));
        questions.take(ms(0));
        questions.take(ms(0));
        let busy = Fault::here("unavailable", "no leader", true);
        questions.refused(refused, busy.clone(), ms(10), 0.0);
        assert_eq!(questions.given_up(ms(59_999)), []);
        assert_eq!(questions.given_up(ms(60_000)), [(refused, Some(busy)), (silent, None)]);
    }
}
