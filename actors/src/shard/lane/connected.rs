//! Connected: the users attached through a lane: their sessions, and their actors while something happens to them.

use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorId, ActorRef};

use super::children::{self, Carrier, Children};
use crate::ids::{DeviceId, NodeId, SessionId, ShardId, UserId};
use crate::packet::{Closed, Tell};
use crate::user::{self, User, rules};

/// The actor of a user to whom nothing has happened for this long rests.
const REST_AFTER: Duration = Duration::from_secs(5);
/// Actors asked to rest at once.
const REST_AT_ONCE: usize = 400;

/// A session that attached, as far as the lane saw.
struct Attached {
    session: SessionId,
    life: u32,
    device: DeviceId,
    /// When it was heard last.
    heard: Duration,
}

/// A user's actor, or what it knew.
enum Body {
    Active(ActorRef<user::Msg>),
    Resting(rules::User),
}

/// A connected user, and who is attached through them.
pub(super) struct Connected {
    body: Body,
    sessions: Vec<Attached>,
    /// Inputs sent.
    sent: u64,
    /// Inputs sent when it was last looked whether something happens to them, and since when there were so many.
    looked: (u64, Duration),
}

impl Connected {
    fn new(limits: rules::Limits) -> Self {
        let body = Body::Resting(rules::User::new(limits));
        Self { body, sessions: Vec::new(), sent: 0, looked: (0, Duration::ZERO) }
    }

    /// Whom to tell that their attachment is lost.
    pub(super) fn lost(self) -> Vec<(SessionId, u32)> {
        self.sessions.into_iter().map(|attached| (attached.session, attached.life)).collect()
    }

    /// Makes the actor fail. There is none while the user rests.
    pub(super) fn crash(&self) {
        if let Body::Active(actor) = &self.body {
            let _gone = actor.cast(user::Msg::Crash);
        }
    }
}

impl Children {
    /// Hands something to a user's actor, which is started if need be.
    pub(super) fn user(&mut self, shard: ShardId, term: u64, user: UserId, input: rules::Input) {
        let limits = self.limits;
        let connected = self.by_user.entry(user.clone()).or_insert_with(|| Connected::new(limits));
        if let rules::Input::Attach { session, life, device, .. } = &input {
            let (session, life, device) = (*session, *life, device.clone());
            connected.sessions.retain(|known| known.session != session);
            // Most users have one device.
            connected.sessions.reserve_exact(1);
            connected.sessions.push(Attached { session, life, device, heard: Duration::MAX });
            self.moved.push(user.clone());
        }
        self.hand(shard, term, &user, input);
    }

    /// Hands something to the actor of a user that a session believes to be attached to; tells when it is not.
    pub(super) fn attached(
        &mut self,
        shard: ShardId,
        term: u64,
        (user, session): (&UserId, SessionId),
        input: rules::Input,
    ) -> Option<Tell> {
        let life = match &input {
            rules::Input::Acknowledge { life, .. } | rules::Input::Pull { life, .. } => *life,
            _ => return None,
        };
        if self.device_of(user, session).is_some() {
            self.hand(shard, term, user, input);
            return None;
        }
        Some(Tell::Closed { life, why: Closed::Lost })
    }

    /// Hands something to the actor of a user if they are connected; answers whose last device goes by it.
    pub(super) fn connected(
        &mut self,
        shard: ShardId,
        term: u64,
        user: &UserId,
        input: rules::Input,
    ) -> Option<DeviceId> {
        let mut last = None;
        if let Some(connected) = self.by_user.get_mut(user)
            && let rules::Input::Detach { session, .. } = &input
        {
            let at = connected.sessions.iter().position(|known| known.session == *session);
            let gone = at.map(|at| connected.sessions.remove(at));
            if connected.sessions.is_empty() {
                last = gone.map(|gone| gone.device);
                self.moved.push(user.clone());
                if matches!(connected.body, Body::Resting(_)) {
                    self.by_user.remove(user);
                    return last;
                }
            }
        }
        self.hand(shard, term, user, input);
        last
    }

    fn hand(&mut self, shard: ShardId, term: u64, user: &UserId, input: rules::Input) {
        let Some(connected) = self.by_user.get_mut(user) else { return };
        if let Body::Resting(known) = &connected.body {
            let port = Arc::new(Carrier { lane: self.lane.clone(), shard, term });
            let (known, name) = (known.clone(), user.clone());
            let arguments = user::Arguments { user: name, known, port };
            let parent = self.users.get_cell();
            // Without a supervisor all sessions are about to be told.
            let Some(actor) = children::start(User, arguments, parent) else { return };
            self.owners.insert(actor.get_id(), user.clone());
            connected.body = Body::Active(actor);
        }
        if let Body::Active(actor) = &connected.body {
            connected.sent += 1;
            let _gone_is_told = actor.cast(user::Msg::Input(Box::new(input)));
        }
    }

    /// Lets the actors of users to whom nothing has happened for a while rest; a few at a time, for after a storm of
    /// logins all are quiet together.
    pub(super) fn rest(&mut self, now: Duration) {
        let mut asked = 0;
        for connected in self.by_user.values_mut() {
            let Body::Active(actor) = &connected.body else { continue };
            let (sent, since) = connected.looked;
            if sent != connected.sent {
                connected.looked = (connected.sent, now);
            } else if now >= since + REST_AFTER && asked < REST_AT_ONCE {
                asked += 1;
                connected.looked = (sent, now);
                let _gone_is_told = actor.cast(user::Msg::Rest);
            }
        }
    }

    /// What an actor knows: unless more was sent to it since, it ends.
    pub(super) fn rested(&mut self, actor: ActorId, user: &UserId, known: rules::User) {
        if let Some(connected) = self.by_user.get_mut(user)
            && let Body::Active(active) = &connected.body
            && active.get_id() == actor
            && connected.sent == known.handled()
        {
            self.owners.remove(&actor);
            active.stop(None);
            connected.body = Body::Resting(known);
            // Something came for them just after their last session had gone.
            if connected.sessions.is_empty() {
                self.by_user.remove(user);
            }
        }
    }

    /// The last session of a user was gone after so many inputs: unless more came since, their actor ends.
    pub(super) fn left(&mut self, user: &UserId, handled: u64) {
        if self.by_user.get(user).is_some_and(|connected| connected.sent == handled) {
            self.end_user(user);
        }
    }

    pub(super) fn end_user(&mut self, user: &UserId) {
        self.moved.push(user.clone());
        if let Some(Body::Active(actor)) = self.by_user.remove(user).map(|c| c.body) {
            self.owners.remove(&actor.get_id());
            actor.stop(None);
        }
    }

    /// All attachments are lost; answers whom to tell.
    pub(super) fn all_lost(&mut self) -> Vec<(SessionId, u32)> {
        let mut lost = Vec::new();
        for (user, connected) in self.by_user.drain() {
            self.moved.push(user);
            if let Body::Active(actor) = &connected.body {
                self.owners.remove(&actor.get_id());
            }
            lost.extend(connected.lost());
        }
        lost
    }

    /// A user's sockets: on which gateway, and of which device.
    pub(super) fn sessions_of(&self, user: &UserId) -> Vec<(NodeId, DeviceId)> {
        let connected = self.by_user.get(user).into_iter();
        connected.flat_map(|c| &c.sessions).map(|a| (a.session.node, a.device.clone())).collect()
    }

    /// A user's sessions.
    pub(super) fn sessions_at(&self, user: &UserId) -> impl Iterator<Item = SessionId> {
        let connected = self.by_user.get(user).into_iter();
        connected.flat_map(|connected| &connected.sessions).map(|attached| attached.session)
    }

    /// Whether a user is connected, if only until the actor has heard that the last session is gone.
    pub(super) fn is_connected(&self, user: &UserId) -> bool {
        self.by_user.contains_key(user)
    }

    /// Whether a session of a user is attached.
    pub(super) fn is_attached(&self, user: &UserId) -> bool {
        self.by_user.get(user).is_some_and(|connected| !connected.sessions.is_empty())
    }

    /// A session was heard.
    pub(super) fn heard(&mut self, user: &UserId, session: SessionId, now: Duration) {
        let connected = self.by_user.get_mut(user).into_iter();
        let mut sessions = connected.flat_map(|connected| &mut connected.sessions);
        if let Some(attached) = sessions.find(|attached| attached.session == session) {
            attached.heard = now;
        }
    }

    /// Attachments of which somebody says so, by session and when it was heard last.
    pub(super) fn those(
        &self,
        wanted: impl Fn(SessionId, Duration) -> bool,
    ) -> Vec<(UserId, SessionId, u32)> {
        let mut found = Vec::new();
        for (user, connected) in &self.by_user {
            let those = connected.sessions.iter().filter(|a| wanted(a.session, a.heard));
            found.extend(those.map(|a| (user.clone(), a.session, a.life)));
        }
        found
    }

    /// A user's sessions, if this is none of them.
    pub(super) fn sessions_beside(
        &self,
        user: &UserId,
        session: SessionId,
    ) -> impl Iterator<Item = SessionId> {
        let connected = self.by_user.get(user).into_iter();
        let sessions = connected.map(|connected| &connected.sessions);
        let beside = sessions.filter(move |all| all.iter().all(|a| a.session != session));
        beside.flatten().map(|a| a.session)
    }

    /// The device of an attached session.
    pub(super) fn device_of(&self, user: &UserId, session: SessionId) -> Option<DeviceId> {
        let sessions = &self.by_user.get(user)?.sessions;
        sessions.iter().find(|a| a.session == session).map(|a| a.device.clone())
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::super::Msg;
    use super::*;
    use crate::ids::{BootId, Epoch, Number, Timestamp};
    use crate::message::{Position, Resumed};
    use crate::packet::Start;

    /// Stands where the lane is, and hands on what it is told.
    struct Probe;

    impl Actor for Probe {
        type Msg = Msg;
        type State = UnboundedSender<Msg>;
        type Arguments = UnboundedSender<Msg>;

        async fn pre_start(
            &self,
            _: ActorRef<Msg>,
            heard: UnboundedSender<Msg>,
        ) -> Result<Self::State, ActorProcessingErr> {
            Ok(heard)
        }

        async fn handle(
            &self,
            _: ActorRef<Msg>,
            message: Msg,
            heard: &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            let _nobody_listens = heard.send(message);
            Ok(())
        }
    }

    struct Stage {
        children: Children,
        heard: UnboundedReceiver<Msg>,
    }

    impl Stage {
        async fn new() -> Self {
            let (told, heard) = unbounded_channel();
            let (lane, _) = Actor::spawn(None, Probe, told).await.expect("a probe");
            let children = Children::start(&lane, rules::Limits::default()).await;
            Self { children: children.expect("children"), heard }
        }

        async fn hears(&mut self) -> Msg {
            const PATIENCE: Duration = Duration::from_secs(30);
            let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
            heard.expect("something is told").expect("the probe lives")
        }

        /// What the user's actor wants done next.
        async fn outputs(&mut self) -> Vec<rules::Output> {
            loop {
                if let Msg::User(_, _, _, outputs) = self.hears().await {
                    return outputs;
                }
            }
        }

        async fn attach(&mut self) {
            let resumed = Resumed::NotAsked;
            let position = Position { epoch: EPOCH, from: Number(3), head: Number(3), resumed };
            let attach = rules::Input::Attach {
                session: session(),
                life: 1,
                device: DeviceId::parse("phone").expect("a name"),
                since: Timestamp(1),
                start: Start::Device,
                position,
                acked: Number(0),
            };
            self.children.user(ShardId(0), 1, ann(), attach);
            self.outputs().await;
        }

        /// Lets time pass without anything happening; answers what the actor says when asked to rest.
        async fn asked_to_rest(&mut self) -> (ActorId, rules::User) {
            self.children.rest(Duration::from_secs(1));
            self.children.rest(Duration::from_secs(1) + REST_AFTER);
            loop {
                if let Msg::Rested(actor, _, known) = self.hears().await {
                    return (actor, known);
                }
            }
        }

        fn rests(&self) -> bool {
            matches!(self.children.by_user[&ann()].body, Body::Resting(_))
        }
    }

    const EPOCH: Epoch = Epoch(7);

    fn ann() -> UserId {
        UserId::parse("ann").expect("a name")
    }

    fn session() -> SessionId {
        SessionId { node: NodeId(1), boot: BootId(1), count: 1 }
    }

    fn acknowledge(n: u64) -> rules::Input {
        rules::Input::Acknowledge { session: session(), life: 1, n: Number(n) }
    }

    #[tokio::test]
    async fn a_user_to_whom_nothing_happens_rests_and_goes_on_where_they_were() {
        let mut stage = Stage::new().await;
        stage.attach().await;
        assert!(!stage.rests());
        let (actor, known) = stage.asked_to_rest().await;
        stage.children.rested(actor, &ann(), known);
        assert!(stage.rests());
        assert!(stage.children.device_of(&ann(), session()).is_some(), "still attached");
        let who = (&ann(), session());
        let lost = stage.children.attached(ShardId(0), 1, who, acknowledge(3));
        assert_eq!(lost, None);
        assert!(!stage.rests());
        // Only who remembers that three entries were sent takes the acknowledgement.
        let device = DeviceId::parse("phone").expect("a name");
        let cursor = rules::Output::Cursor { device, n: Number(3) };
        assert_eq!(stage.outputs().await, [cursor]);
    }

    #[tokio::test]
    async fn what_comes_while_the_actor_is_asked_keeps_it() {
        let mut stage = Stage::new().await;
        stage.attach().await;
        let (actor, known) = stage.asked_to_rest().await;
        stage.children.connected(ShardId(0), 1, &ann(), acknowledge(3));
        stage.children.rested(actor, &ann(), known);
        assert!(!stage.rests(), "it was sent more than it said it had handled");
        assert_eq!(stage.outputs().await.len(), 1);
    }

    #[tokio::test]
    async fn who_has_no_session_left_is_forgotten_when_their_actor_rests() {
        let mut stage = Stage::new().await;
        stage.attach().await;
        let detach = rules::Input::Detach { session: session(), life: 1 };
        let device = DeviceId::parse("phone").expect("a name");
        assert_eq!(stage.children.connected(ShardId(0), 1, &ann(), detach), Some(device));
        // Its end is not carried out, because this comes before.
        stage.children.connected(ShardId(0), 1, &ann(), acknowledge(3));
        let (actor, known) = stage.asked_to_rest().await;
        stage.children.rested(actor, &ann(), known);
        assert!(!stage.children.has(&ann()));
    }
}
