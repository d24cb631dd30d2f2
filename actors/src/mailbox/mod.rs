//! Mailbox: keeps what one user has not yet read.
//!
//! Owns      nothing that lasts: the mailbox itself is part of the shard's replicated state (`rules`, `log`, `ledger`, `cids`), and
//!           on disk it is `image`. The actor owns the `Desk`: whose turn it is, and what waits to be merged.
//! Promises  messages of one session are proposed in the order they were sent; every proposal is answered once, or its
//!           stream is told to be broken.
//! Never     looks inside a body, knows whether the user is online, touches disk or network, or outlives the leadership
//!           it was started for: the lane gives each term's actors a port of their own and ignores older ones.
//! Fails by  losing its streams and what waits to be merged: sessions repeat their unanswered sends and entries that were
//!           acknowledged in the last instant come once more.
//!
//! An actor that the lane stops on `Idle` forgets its streams, which is safe for the same reason (see `desk`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::concurrency::JoinHandle;
use ractor::{Actor, ActorProcessingErr, ActorRef, MessagingErr};

use crate::clock;
use crate::ids::UserId;

pub mod cids;
pub mod desk;
mod erase;
mod expiry;
pub mod groups;
pub mod history;
pub mod image;
pub mod ledger;
pub mod log;
pub mod marks;
mod people;
mod questions;
mod rows;
pub mod rules;
pub mod talks;
#[cfg(test)]
mod tests;

use desk::{Desk, Input, Output};

/// After this long without anything to do the lane is told that the actor may stop.
pub const IDLE: Duration = Duration::from_secs(30);

/// What the actor is told.
#[derive(Debug)]
pub enum Msg {
    /// Something for the desk.
    Input(Input),
    /// Perhaps nothing has happened for `IDLE`.
    IdleDue,
    /// Fail now. Only for showing that a crash of this actor loses nothing; it can be sent only inside the process.
    Crash,
}

impl ractor::Message for Msg {}

/// Who does what a desk wants done.
pub trait Port: Send + Sync {
    /// Carries these out, in this order.
    fn carry_out(&self, user: &UserId, outputs: Vec<Output>);
}

/// The actor of one mailbox, on the node that leads its shard.
pub struct Mailbox;

/// What the actor starts with.
pub struct Arguments {
    /// Whose mailbox.
    pub owner: UserId,
    /// Its tickets come after this one; those of no other actor of this mailbox may.
    pub tickets: u64,
    /// Who carries out what the desk wants done.
    pub port: Arc<dyn Port>,
}

/// What the actor holds.
pub struct State {
    desk: Desk,
    port: Arc<dyn Port>,
    started: Instant,
    /// When something last happened, since `started`.
    touched: Duration,
    idle_timer: Timer,
}

type Timer = JoinHandle<Result<(), MessagingErr<Msg>>>;

impl Actor for Mailbox {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        Arguments { owner, tickets, port }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            desk: Desk::numbered_from(owner, tickets),
            port,
            started: clock::monotonic(),
            touched: Duration::ZERO,
            idle_timer: myself.send_after(IDLE, || Msg::IdleDue),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Input(input) => state.input(&myself, input),
            Msg::IdleDue => state.idle_due(&myself),
            Msg::Crash => panic!("told to crash"),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Msg>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.idle_timer.abort();
        Ok(())
    }
}

impl State {
    fn now(&self) -> Duration {
        clock::monotonic().saturating_duration_since(self.started)
    }

    fn input(&mut self, myself: &ActorRef<Msg>, input: Input) {
        self.touched = self.now();
        let mut outputs = Vec::new();
        self.desk.handle(self.touched, input, &mut outputs);
        outputs.retain(|output| match output {
            Output::FlushIn(after) => {
                myself.send_after(*after, || Msg::Input(Input::FlushDue));
                false
            }
            Output::Propose { .. } | Output::Tell(..) | Output::Idle { .. } => true,
        });
        if !outputs.is_empty() {
            self.port.carry_out(self.desk.owner(), outputs);
        }
    }

    /// One timer for the actor's whole life: it looks how long ago the last input was, and waits for the rest.
    fn idle_due(&mut self, myself: &ActorRef<Msg>) {
        let quiet = self.now().saturating_sub(self.touched);
        let wait = IDLE.checked_sub(quiet).filter(|rest| !rest.is_zero());
        if wait.is_none() && self.desk.is_idle() {
            let handled = self.desk.handled();
            self.port.carry_out(self.desk.owner(), vec![Output::Idle { handled }]);
        }
        self.idle_timer = myself.send_after(wait.unwrap_or(IDLE), || Msg::IdleDue);
    }
}
