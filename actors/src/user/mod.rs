//! User: while connected, the one who hands a user's log to their sessions.
//!
//! Owns      which sessions are attached, and how far each was sent the log and has acknowledged it.
//! Promises  a session gets every entry once and in order, at most a window ahead of its acknowledgements; of two sessions
//!           of one device the newest stays.
//! Never     keeps an entry, changes the log, or waits: entries come from the lane, as they are logged or as it reads them.
//!           Nor does it outlive the leadership it was started for (see `mailbox`).
//! Fails by  forgetting who is attached: the lane tells the sessions `Closed(Lost)` and they attach again, going on after
//!           the last entry they were sent.
//!
//! Who is there is known from the same attachments, and told to those who watch (`presence`): a rule of the shard's
//! leader, for also who is not connected can be watched.
//!
//! Resting: an actor takes ten times the memory of what it knows. While nothing happens to a user, the lane keeps what
//! the actor knew and the actor ends; the next thing that happens starts another, which goes on from there.

use std::sync::Arc;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};

use crate::ids::UserId;

pub mod presence;
pub mod rules;

use rules::{Input, Output};

/// What the actor is told.
#[derive(Debug)]
pub enum Msg {
    /// Something for the rules.
    Input(Box<Input>),
    /// Nothing has happened for a while: tell the port what there is to know, which may end the actor.
    Rest,
    /// Fail now. Only for showing that a crash of this actor loses nothing; it can be sent only inside the process.
    Crash,
}

impl ractor::Message for Msg {}

/// Who does what a user wants done.
pub trait Port: Send + Sync {
    /// Carries these out, in this order.
    fn carry_out(&self, user: &UserId, outputs: Vec<Output>);

    /// What this actor knows: unless it was sent more inputs than `known` has handled, it may stop.
    fn rest(&self, actor: ActorId, user: &UserId, known: rules::User);
}

/// The actor of one connected user.
pub struct User;

/// What the actor starts with.
pub struct Arguments {
    /// Which user.
    pub user: UserId,
    /// What is known of them.
    pub known: rules::User,
    /// Who carries out what the rules want done.
    pub port: Arc<dyn Port>,
}

/// What the actor holds.
pub struct State {
    user: UserId,
    rules: rules::User,
    port: Arc<dyn Port>,
}

impl Actor for User {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        _: ActorRef<Msg>,
        Arguments { user, known, port }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { user, rules: known, port })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Input(input) => state.input(*input),
            Msg::Rest => state.port.rest(myself.get_id(), &state.user, state.rules.clone()),
            Msg::Crash => panic!("told to crash"),
        }
        Ok(())
    }
}

impl State {
    fn input(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.rules.handle(input, &mut outputs);
        if !outputs.is_empty() {
            self.port.carry_out(&self.user, outputs);
        }
    }
}
