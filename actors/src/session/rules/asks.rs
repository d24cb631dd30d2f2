//! Asks: what a session wants of its own mailbox, kept until it is answered so that a new home can be asked again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Session, Stage};
use crate::ids::{Conversation, GroupId, Number, Seq, ShardId, UserId, shard_of};
use crate::message::{Entry, Refusal};
use crate::packet::{Answer, Ask, Question, ToHome};
use crate::session::{Output, RequestRef};

/// What was asked of the own mailbox and may have to be repeated.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    questions: BTreeMap<RequestRef, (Question, Duration)>,
    /// Asked of groups' mailboxes.
    elsewhere: BTreeMap<RequestRef, Elsewhere>,
    /// The first one is asked, the others wait for their turn.
    pulls: VecDeque<Pull>,
    /// Has no answer: repeated for a while in case its home is lost with it.
    reads: BTreeMap<Conversation, (Seq, Duration)>,
}

/// A question to a group's mailbox, and since when it waits.
#[derive(Debug)]
struct Elsewhere {
    owner: UserId,
    question: Question,
    since: Duration,
    /// When to ask again.
    again: Duration,
}

#[derive(Debug)]
struct Pull {
    request: RequestRef,
    after: Number,
    limit: u16,
    since: Duration,
    asked: Option<Duration>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.questions.is_empty()
            && self.elsewhere.is_empty()
            && self.pulls.is_empty()
            && self.reads.is_empty()
    }
}

impl Session {
    /// The user has read a conversation up to and including `seq`.
    pub fn read(
        &mut self,
        conv: Conversation,
        seq: Seq,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let max = self.limits.asks_max;
        let reads = &mut self.waiting().reads;
        if reads.len() >= max && !reads.contains_key(&conv) {
            return Err(Refusal::Overloaded);
        }
        let read = reads.entry(conv.clone()).or_insert((seq, now));
        *read = (read.0.max(seq), now);
        if self.stage == Stage::Attached {
            self.ask(Ask::Read { conv, seq }, out);
        }
        Ok(())
    }

    /// Asks for entries after `after` again; answered by `Pulled`.
    pub fn pull(
        &mut self,
        request: RequestRef,
        after: Number,
        limit: u16,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let max = self.limits.asks_max;
        let pulls = &mut self.waiting().pulls;
        if pulls.len() >= max {
            out.push(Output::Pulled { request, result: Err(Refusal::Overloaded) });
            return;
        }
        pulls.push_back(Pull { request, after, limit, since: now, asked: None });
        self.ask_pull(now, out);
    }

    /// Asks something of the own mailbox; answered by `Answered`.
    pub fn question(
        &mut self,
        request: RequestRef,
        question: Question,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let max = self.limits.asks_max;
        let questions = &mut self.waiting().questions;
        if questions.len() >= max {
            out.push(Output::Answered { request, answer: Err(Refusal::Overloaded) });
            return;
        }
        questions.insert(request, (question.clone(), now));
        if self.stage == Stage::Attached {
            self.ask(Ask::Question { request: request.0, question }, out);
        }
    }

    /// Asks something of a group's mailbox, again and again: every such question can be repeated. Answered by `Answered`.
    pub fn question_group(
        &mut self,
        request: RequestRef,
        group: &GroupId,
        question: Question,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let (max, again) = (self.limits.asks_max, now + self.limits.answer);
        let waiting = &mut self.waiting().elsewhere;
        if waiting.len() >= max {
            out.push(Output::Answered { request, answer: Err(Refusal::Overloaded) });
            return;
        }
        let owner = UserId::of_group(group);
        out.push(self.elsewhere(request, &owner, &question));
        let asked = Elsewhere { owner, question, since: now, again };
        self.waiting().elsewhere.insert(request, asked);
    }

    fn elsewhere(&self, request: RequestRef, owner: &UserId, question: &Question) -> Output {
        let ask = Ask::Question { request: request.0, question: question.clone() };
        let (shard, user) = (shard_of(owner, self.shards), owner.clone());
        Output::Home(ToHome { shard, user, session: self.id, ask })
    }

    /// The home of a shard is lost, or another is found: questions to it are asked again at `at`.
    pub(super) fn ask_elsewhere_at(&mut self, shard: ShardId, at: Duration) {
        let shards = self.shards;
        let waiting = self.waiting.iter_mut().flat_map(|waiting| waiting.elsewhere.values_mut());
        for asked in waiting.filter(|asked| shard_of(&asked.owner, shards) == shard) {
            asked.again = asked.again.min(at);
        }
    }

    fn tick_elsewhere(&mut self, now: Duration, out: &mut Vec<Output>) {
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        let (parked, answer) = (self.limits.parked, self.limits.answer);
        waiting.elsewhere.retain(|request, asked| {
            let late = now.saturating_sub(asked.since) >= parked;
            if late {
                let answer = Err(Refusal::Unavailable);
                out.push(Output::Answered { request: *request, answer });
            } else if now >= asked.again {
                asked.again = now + answer;
                out.push(self.elsewhere(*request, &asked.owner, &asked.question));
            }
            !late
        });
        self.waiting = Some(waiting);
    }

    /// Says again what the home before may not have heard.
    pub(super) fn repeat(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.life > 1 {
            self.acknowledge(out);
        }
        if let Some(streams) = &mut self.streams {
            streams.cids().ask_again();
        }
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        for (conv, (seq, _)) in &waiting.reads {
            self.ask(Ask::Read { conv: conv.clone(), seq: *seq }, out);
        }
        for (request, (question, _)) in &waiting.questions {
            self.ask(Ask::Question { request: request.0, question: question.clone() }, out);
        }
        if let Some(pull) = waiting.pulls.front_mut() {
            pull.asked = None;
        }
        self.waiting = Some(waiting);
        self.ask_pull(now, out);
    }

    pub(super) fn pulled(
        &mut self,
        life: u32,
        mut entries: Vec<Entry>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if self.stage != Stage::Attached || life != self.life {
            return;
        }
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let Some(pull) = waiting.pulls.front() else {
            return;
        };
        // Entries from elsewhere answer an earlier pull, twice.
        let wanted = pull.after.0 + 1..=pull.after.0.saturating_add(u64::from(pull.limit));
        let strange = entries.first().is_some_and(|entry| !wanted.contains(&entry.n.0));
        if pull.asked.is_none() || strange {
            return;
        }
        let request = pull.request;
        // What was not pushed yet comes by itself, within the window.
        entries.retain(|entry| entry.n <= self.sent && wanted.contains(&entry.n.0));
        waiting.pulls.pop_front();
        out.push(Output::Pulled { request, result: Ok(entries) });
        self.ask_pull(now, out);
        self.tidy();
    }

    pub(super) fn answered(
        &mut self,
        request: RequestRef,
        answer: Result<Answer, Refusal>,
        out: &mut Vec<Output>,
    ) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let own = waiting.questions.remove(&request).is_some();
        if own || waiting.elsewhere.remove(&request).is_some() {
            out.push(Output::Answered { request, answer });
            self.tidy();
        }
    }

    fn ask_pull(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.stage != Stage::Attached {
            return;
        }
        let life = self.life;
        let Some(pull) = self.waiting.as_mut().and_then(|w| w.pulls.front_mut()) else {
            return;
        };
        if pull.asked.is_none() {
            pull.asked = Some(now);
            let ask = Ask::Pull { life, after: pull.after, limit: pull.limit };
            self.ask(ask, out);
        }
    }

    pub(super) fn tick_waiting(&mut self, now: Duration, out: &mut Vec<Output>) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let (parked, answer) = (self.limits.parked, self.limits.answer);
        let late = |since: Duration| now.saturating_sub(since) >= parked;
        waiting.reads.retain(|_, (_, since)| !late(*since));
        waiting.questions.retain(|request, (_, since)| {
            if late(*since) {
                let answer = Err(Refusal::Unavailable);
                out.push(Output::Answered { request: *request, answer });
            }
            !late(*since)
        });
        while waiting.pulls.front().is_some_and(|pull| late(pull.since)) {
            let Some(pull) = waiting.pulls.pop_front() else {
                break;
            };
            let result = Err(Refusal::Unavailable);
            out.push(Output::Pulled { request: pull.request, result });
        }
        if let Some(pull) = waiting.pulls.front_mut() {
            pull.asked = pull.asked.filter(|asked| now.saturating_sub(*asked) < answer);
        }
        self.ask_pull(now, out);
        self.tick_elsewhere(now, out);
        self.tidy();
    }

    /// Asks the own mailbox of `cid`s, if sends wait for it and it was not asked already.
    pub(super) fn ask_cids(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.stage != Stage::Attached {
            return;
        }
        let Some(streams) = &mut self.streams else {
            return;
        };
        if let Some((request, question)) = streams.cids().question(now, self.limits.answer) {
            self.ask(Ask::Question { request, question }, out);
        }
    }

    pub(super) fn cids_told(
        &mut self,
        request: u32,
        answer: Result<Answer, Refusal>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if let Ok(Answer::Cids { taken, all }) = answer {
            self.with_streams(now, |streams, turn| {
                let told = streams.cids().answered(request, taken, all);
                streams.told(turn, told, out);
            });
        }
    }

    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_default()
    }

    /// Gives back the memory of an idle session.
    fn tidy(&mut self) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.is_empty()) {
            self.waiting = None;
        }
    }
}
