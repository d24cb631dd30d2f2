//! Turns: what a node's lane does with one message, in the order of the production lane.

use actors::ids::{NodeId, Number, ReplicaId, ShardId, UserId, shard_of};
use actors::mailbox::desk::{self, Desk};
use actors::mailbox::rules::Policy;
use actors::message::{Accepted, Entry, What};
use actors::packet::{Answer, Ask, Closed, Packet, Tell, ToHome};
use actors::shard::home::{Home, Output, Quota, Read, Source};
use actors::shard::replica::{Origin, Outputs, carries_image};
use actors::shard::state::{Change, Command};
use actors::shard::wire;
use actors::user::rules::{self as user, User};
use raft::eraftpb::Message;

use crate::around::{Around, At, Event, Plant};
use crate::disk::Order;
use crate::host::{DeskActor, Lane, Node, UserActor, Who, node_id, place_of, set_timeout};
use crate::network::Network;

impl Node {
    pub(crate) fn lane_turn(&mut self, message: Lane, around: &mut Around) {
        match message {
            Lane::Ask(ask) => self.ask(ask, around),
            Lane::Packets(from, packets) => {
                packets.into_iter().for_each(|packet| self.packet(from, packet, around));
            }
            Lane::Raft(shard, message) => {
                let Some(hosted) = self.shards.get_mut(&shard) else { return };
                assert!(!carries_image(&message), "checkpoints go another way");
                hosted.replica.step(message);
                set_timeout(self.place, hosted, around.seed);
                self.touch(shard);
            }
            Lane::Written(tickets) => self.written(&tickets, around),
            Lane::Desk(shard, term, user, outputs) => {
                self.desk(shard, term, &user, outputs, around)
            }
            Lane::User(shard, term, user, outputs) => {
                self.user(shard, term, &user, outputs, around)
            }
            Lane::Tick => self.tick(around),
            Lane::Flush => self.flush(around),
            Lane::LinkUp => {
                let linked: Vec<_> = self.peers.keys().map(|peer| node_id(*peer)).collect();
                for (shard, hosted) in &mut self.shards {
                    hosted.replica.link_found(|other| linked.contains(&other));
                    self.due.insert(*shard);
                }
                self.schedule();
            }
            Lane::LinkDown(node) => {
                let linked: Vec<_> = self.peers.keys().map(|peer| node_id(*peer)).collect();
                for (shard, hosted) in &mut self.shards {
                    hosted.replica.link_lost(node, |other| linked.contains(&other));
                    self.due.insert(*shard);
                }
                self.schedule();
            }
            Lane::HomeMoved(shard) => {
                self.shards.values_mut().for_each(|hosted| hosted.home.moved(shard));
            }
            Lane::Transfer(shard, to) => {
                let Some(hosted) = self.shards.get_mut(&shard) else { return };
                hosted.replica.transfer(to);
                self.touch(shard);
            }
            Lane::Stored(shard, index) => self.stored(shard, index, around),
            Lane::Export(shard, to) => self.export(shard, to, around),
            Lane::Piece(shard, message, image) => self.piece(shard, message, image, around),
            Lane::Imported(shard, number) => self.imported(shard, number, around),
            Lane::Warmed(shard, life, user, read) => self.warmed(shard, life, &user, read, around),
            Lane::RunRead(shard, user, entries, read) => {
                let Some(hosted) = self.shards.get_mut(&shard) else { return };
                let mut out = Vec::new();
                hosted.home.run_loaded(&hosted.replica, &user, &entries, read, &mut out);
                self.carry_out(shard, out, around);
            }
        }
    }

    pub(crate) fn touch(&mut self, shard: ShardId) {
        self.due.insert(shard);
        self.schedule();
    }

    pub(crate) fn ask(&mut self, ask: ToHome, around: &mut Around) {
        let shard = ask.shard;
        let (wall, chance) = (self.agreed(around), around.chance.wide());
        let now = around.span(self.born);
        let mut out = Vec::new();
        let Some(hosted) = self.shards.get_mut(&shard) else {
            self.tell(ask.session, Tell::NotHome { shard });
            self.schedule();
            return;
        };
        if let Ask::Acknowledge { n, .. } = ask.ask {
            let attached = self.users.get(&ask.user).into_iter().flat_map(|user| &user.attached);
            let known = attached.into_iter().find(|(session, ..)| *session == ask.session);
            if let Some((.., device)) = known {
                hosted.home.acknowledged(&ask.user, device.clone(), n);
            }
        }
        hosted.home.ask(&mut hosted.replica, ask, (now, wall), chance, &mut out);
        self.touch(shard);
        self.carry_out(shard, out, around);
    }

    fn packet(&mut self, from: NodeId, packet: Packet, around: &mut Around) {
        match packet {
            Packet::Fetch(fetch) => {
                let of = shard_of(&UserId::of_group(&fetch.group), around.shards);
                let Some(hosted) = self.shards.get_mut(&of) else { return };
                let mut out = Vec::new();
                hosted.home.fetch(&hosted.replica, from, *fetch, &mut out);
                self.carry_out(of, out, around);
            }
            Packet::Fetched(fetched) => {
                let to = fetched.to;
                let Some(hosted) = self.shards.get_mut(&to) else { return };
                let mut out = Vec::new();
                hosted.home.fetched(&hosted.replica, *fetched, &mut out);
                around.counts.fetches += 1;
                self.carry_out(to, out, around);
            }
            Packet::Home(ask) => self.ask(ask, around),
            Packet::Envelopes { from, to, first, envelopes } => {
                let Some(hosted) = self.shards.get_mut(&to) else { return };
                let mut out = Vec::new();
                hosted.home.envelopes(&mut hosted.replica, from, first, envelopes, &mut out);
                self.touch(to);
                self.carry_out(to, out, around);
            }
            Packet::EnvelopesTaken { from, to, upto } => {
                let now = around.span(self.born);
                let Some(hosted) = self.shards.get_mut(&from) else { return };
                let mut out = Vec::new();
                hosted.home.taken(&mut hosted.replica, (to, upto), now, &mut out);
                self.carry_out(from, out, around);
            }
            other => panic!("not for a lane: {other:?}"),
        }
    }

    fn written(&mut self, tickets: &[(ShardId, u64)], around: &mut Around) {
        for (shard, ticket) in tickets {
            let hosted = self.shards.get_mut(shard).expect("every node has every shard");
            let mut out = Outputs::default();
            if around.plant != Plant::PersistsEarly {
                hosted.replica.persisted(*ticket, &mut out);
            }
            self.raft(*shard, out.messages, around);
            self.touch(*shard);
        }
    }

    fn tick(&mut self, around: &mut Around) {
        let now = around.span(self.born);
        for shard in self.shards.keys().copied().collect::<Vec<_>>() {
            let hosted = self.shards.get_mut(&shard).expect("just listed");
            hosted.replica.tick();
            hosted.replica.release();
            set_timeout(self.place, hosted, around.seed);
            let mut out = Vec::new();
            hosted.home.tick(&mut hosted.replica, now, &mut out);
            let place: Vec<NodeId> = (0..around.disks.len()).map(node_id).collect();
            let present = |node| self.present.get(&node).copied();
            hosted.replica.change_members(&place, present);
            self.due.insert(shard);
            self.carry_out(shard, out, around);
            self.checkpoint_some(shard, around);
        }
        self.cool_some(around);
        self.schedule();
    }

    fn flush(&mut self, around: &mut Around) {
        self.flushing = false;
        let mut writes = Vec::new();
        for shard in std::mem::take(&mut self.due) {
            self.advance(shard, &mut writes, around);
        }
        self.write(writes, around);
        for (to, packets) in std::mem::take(&mut self.loads) {
            self.send(to, 1, packets, around);
        }
        if std::mem::take(&mut self.announce) {
            self.beat(around);
        }
    }

    pub(crate) fn write(&self, orders: Vec<(ShardId, Order)>, around: &mut Around) {
        if !orders.is_empty() && around.disks[self.place].write(orders) {
            around.sync(self.place, self.boot);
        }
    }

    fn advance(&mut self, shard: ShardId, writes: &mut Vec<(ShardId, Order)>, around: &mut Around) {
        let (now, wall) = (around.span(self.born), self.agreed(around));
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let mut done = Outputs::default();
        let (before, _) = hosted.replica.state().applied();
        if around.chance.one_in(4) {
            hosted.replica.release();
        }
        hosted.replica.advance(wall, &mut done);
        around.oracle.applied(&hosted.replica, before, &around.disks);
        hosted.replica.state().check();
        set_timeout(self.place, hosted, around.seed);
        if done.role_changed {
            self.role_changed(shard, around);
        }
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let mut out = Vec::new();
        for (origin, outcome) in done.outcomes {
            hosted.home.outcome(&hosted.replica, origin, outcome, &mut out);
        }
        for origin in done.lost {
            hosted.home.lost(shard, origin, &mut out);
        }
        if hosted.role.serves {
            hosted.home.happened(&hosted.replica, done.happened, now, &mut out);
        }
        let mut early = Outputs::default();
        if around.plant == Plant::PersistsEarly {
            done.writes.iter().for_each(|w| hosted.replica.persisted(w.ticket, &mut early));
        }
        let held = &mut hosted.storing.held;
        held.extend(done.writes);
        if !hosted.replica.awaits_image() {
            writes.extend(held.drain(..).map(|write| (shard, Order::Write(Box::new(write)))));
        }
        let (images, messages) = done.messages.into_iter().partition(carries_image);
        self.raft(shard, messages, around);
        self.raft(shard, early.messages, around);
        self.start_transfers(shard, images, around);
        if let Some(snapshot) = done.install {
            self.install(shard, &snapshot, around);
        }
        for (user, chunks) in done.missing {
            self.load(shard, user, chunks, around);
        }
        self.carry_out(shard, out, around);
    }

    fn raft(&mut self, shard: ShardId, messages: Vec<Message>, around: &mut Around) {
        for message in messages {
            let to = place_of(ReplicaId(message.to).node());
            if !self.peers.contains_key(&to) {
                let Some(hosted) = self.shards.get_mut(&shard) else { return };
                hosted.replica.unreachable(node_id(to));
                continue;
            }
            if around.chance.between(0, 1000) < around.network.loss_in_1000 {
                continue;
            }
            let copies = if around.chance.one_in(100) { 2 } else { 1 };
            let at = At::Raft(self.place, shard, wire::encode(&message));
            for _ in 0..copies {
                let delay = Network::delay(&mut around.chance);
                around.after(delay, Event::Node(to, 0, at.clone()));
            }
        }
    }

    fn role_changed(&mut self, shard: ShardId, around: &Around) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        let (old, new) = (hosted.role, hosted.replica.role());
        hosted.role = new;
        if old.serves == new.serves && old.term == new.term {
            return;
        }
        if old.serves || new.serves {
            self.desks.retain(|_, actor| actor.shard != shard);
            self.users.retain(|_, actor| actor.shard != shard);
        }
        if new.serves {
            let home = Home::new(around.shards, Quota::default(), Policy::default());
            hosted.home = home.sharing(self.posts.clone());
            self.announce = true;
            self.heard(shard, new.term, node_id(self.place));
        }
    }

    pub(crate) fn carry_out(&mut self, shard: ShardId, outputs: Vec<Output>, around: &mut Around) {
        let term = self.shards[&shard].role.term;
        for output in outputs {
            match output {
                Output::Mailbox(user, input) => self.mailbox(shard, term, user, input, around),
                Output::User(user, input) => self.user_input(shard, term, user, input),
                Output::Attached(user, session, input) => self.attached(&user, session, input),
                Output::Alive(user, session) => self.alive((shard, term), &user, session, around),
                Output::Connected(user, input) => self.connected(&user, input),
                Output::Logged(user, entries) => {
                    for input in self.posts.heard(entries) {
                        self.connected(&user, input);
                    }
                }
                Output::Show(roster, post) => self.show(&roster, &post, around),
                Output::Fetch(fetch, source) => {
                    let of = shard_of(&UserId::of_group(&fetch.group), around.shards);
                    let packet = Packet::Fetch(Box::new(fetch));
                    match source {
                        Source::Nearest => self.node_gets(node_id(self.place), packet),
                        Source::Leader => self.leader_gets(of, packet, around),
                    }
                }
                Output::Fetched(node, fetched) => {
                    self.node_gets(node, Packet::Fetched(Box::new(fetched)));
                }
                Output::Used(user, by, cid) => {
                    let known = self.users.get(&user).map(|user| user.attached.clone());
                    let beside = known.filter(|all| all.iter().all(|(of, ..)| *of != by));
                    for (session, ..) in beside.into_iter().flatten() {
                        self.tell(session, Tell::Used { cid });
                    }
                }
                Output::Tell(session, mut tell) => {
                    if let Tell::Answer { answer: Ok(Answer::Cids { taken, .. }), .. } = &mut tell
                        && around.plant == Plant::SaysFree
                    {
                        taken.fill(false);
                    }
                    self.tell(session, tell);
                }
                Output::Post(parcel) => {
                    let (to, first, envelopes) = (parcel.to, parcel.first, parcel.envelopes);
                    let packet = Packet::Envelopes { from: shard, to, first, envelopes };
                    self.leader_gets(to, packet, around);
                }
                Output::Taken(from, upto) => {
                    let packet = Packet::EnvelopesTaken { from, to: shard, upto };
                    self.leader_gets(from, packet, around);
                }
                Output::Regard(..) | Output::IsThere(..) | Output::Visibility(..) => {
                    unreachable!("nobody looks")
                }
                Output::Wake(_) => unreachable!("nobody is to be woken"),
                Output::Load(user, chunks) => self.load(shard, user, chunks, around),
                Output::LoadRun(user, run, read) => {
                    self.disk_does(At::LoadRun(shard, user, run, read), around);
                }
            }
            self.schedule();
        }
    }

    fn mailbox(
        &mut self,
        shard: ShardId,
        term: u64,
        user: UserId,
        input: desk::Input,
        around: &mut Around,
    ) {
        let actor = self.desks.entry(user.clone()).or_insert_with(|| {
            let desk = Desk::numbered_from(user.clone(), around.order() << 20);
            let inbox = std::collections::VecDeque::new();
            DeskActor { id: around.chance.next(), shard, term, desk, inbox, sent: 0 }
        });
        actor.sent += 1;
        actor.inbox.push_back(input);
        self.ready.push(Who::Desk(user));
    }

    fn user_input(&mut self, shard: ShardId, term: u64, user: UserId, input: user::Input) {
        let limits = self.user_limits;
        let actor = self.users.entry(user.clone()).or_insert_with(|| UserActor {
            shard,
            term,
            user: User::new(limits),
            inbox: std::collections::VecDeque::new(),
            sent: 0,
            attached: Vec::new(),
        });
        if let user::Input::Attach { session, life, device, .. } = &input {
            actor.attached.retain(|(known, ..)| known != session);
            actor.attached.push((*session, *life, device.clone()));
        }
        self.hand(user, input);
    }

    fn hand(&mut self, user: UserId, input: user::Input) {
        let Some(actor) = self.users.get_mut(&user) else { return };
        actor.sent += 1;
        actor.inbox.push_back(input);
        self.ready.push(Who::User(user));
    }

    fn alive(
        &mut self,
        (shard, term): (ShardId, u64),
        user: &UserId,
        session: actors::ids::SessionId,
        around: &mut Around,
    ) {
        let attached = self.users.get(user).into_iter().flat_map(|user| &user.attached);
        let mut known = attached.filter(|(known, ..)| *known == session);
        let Some(device) = known.next().map(|(_, _, device)| device.clone()) else { return };
        if self.desks.contains_key(user) {
            self.mailbox(shard, term, user.clone(), desk::Input::Seen { device }, around);
        } else {
            let hosted = self.shards.get_mut(&shard).expect("every node has every shard");
            let change = Change::Acknowledge { device, n: Number(0) };
            let command = Command::Mailbox(user.clone(), change);
            let _no_longer_leads = hosted.replica.propose(command, Origin::Shard);
            self.touch(shard);
        }
    }

    fn attached(&mut self, user: &UserId, session: actors::ids::SessionId, input: user::Input) {
        let life = match &input {
            user::Input::Acknowledge { life, .. } | user::Input::Pull { life, .. } => *life,
            _ => return,
        };
        let known = self.users.get(user);
        if known.is_some_and(|actor| actor.attached.iter().any(|(known, ..)| *known == session)) {
            self.connected(user, input);
        } else {
            self.tell(session, Tell::Closed { life, why: Closed::Lost });
        }
    }

    fn connected(&mut self, user: &UserId, input: user::Input) {
        let Some(actor) = self.users.get_mut(user) else { return };
        if let user::Input::Detach { session, .. } = &input {
            actor.attached.retain(|(known, ..)| known != session);
        }
        self.hand(user.clone(), input);
    }

    fn desk(
        &mut self,
        shard: ShardId,
        term: u64,
        user: &UserId,
        outputs: Vec<desk::Output>,
        around: &mut Around,
    ) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        if !hosted.role.serves || hosted.role.term != term {
            return;
        }
        let (mut lost, mut early) = (Vec::new(), Vec::new());
        let (mut tells, mut pushed) = (Vec::new(), Vec::new());
        for output in outputs {
            match output {
                desk::Output::Propose { ticket, change } => {
                    if let Change::Append { mid, .. } = &change
                        && around.answers_early(self.place, *mid)
                    {
                        early.push((ticket, *mid));
                    }
                    if let Change::Append { mid, send } = &change
                        && around.plant == Plant::PushesEarly
                    {
                        pushed.push((*mid, send.clone()));
                    }
                    let origin = match ticket {
                        desk::NOBODY => Origin::Shard,
                        ticket => Origin::Mailbox(user.clone(), ticket),
                    };
                    let command = Command::Mailbox(user.clone(), change);
                    if hosted.replica.propose(command, origin).is_err() {
                        lost.push(desk::Input::Lost { ticket });
                    }
                }
                desk::Output::Tell(session, tell) => tells.push((session, tell)),
                desk::Output::FlushIn(_) => {}
                desk::Output::Idle { handled } => {
                    if self.desks.get(user).is_some_and(|actor| actor.sent == handled) {
                        self.desks.remove(user);
                    }
                }
            }
        }
        tells.into_iter().for_each(|(session, tell)| self.tell(session, tell));
        if let Some((mid, send)) = pushed.into_iter().next()
            && let Some(mailbox) = self.shards[&shard].replica.state().mailbox(user)
        {
            let seq = mailbox.peer(&send.from).received.next();
            let (from, device, content) = (send.from, send.device, send.content);
            let what = What::Message { mid, from, device, seq, content };
            let at = self.agreed(around).max(mailbox.log().newest_at());
            let entries = vec![Entry { n: mailbox.log().head().next(), at, what }];
            self.connected(user, user::Input::Logged { entries });
        }
        for (ticket, mid) in early {
            let (seq, at) = (actors::ids::Seq(1), self.agreed(around));
            let outcome =
                actors::shard::state::Outcome::Accepted(Accepted { mid, seq, at, dup: false });
            lost.push(desk::Input::Outcome { ticket, outcome });
        }
        for input in lost {
            if let Some(actor) = self.desks.get_mut(user) {
                actor.sent += 1;
                actor.inbox.push_back(input);
                self.ready.push(Who::Desk(user.clone()));
            }
        }
        self.touch(shard);
    }

    fn user(
        &mut self,
        shard: ShardId,
        term: u64,
        user: &UserId,
        outputs: Vec<user::Output>,
        around: &mut Around,
    ) {
        let Some(hosted) = self.shards.get_mut(&shard) else { return };
        if !hosted.role.serves || hosted.role.term != term {
            return;
        }
        let mut out = Vec::new();
        for output in outputs {
            match output {
                user::Output::Tell(session, tell) => {
                    if let Tell::Closed { life, .. } = tell {
                        hosted.home.ended(session, life);
                    }
                    out.push(Output::Tell(session, tell));
                }
                user::Output::Read { session, life, after, count, bytes, pull } => {
                    let read = Read { session, life, after, count, bytes, pull };
                    hosted.home.read(&hosted.replica, user, read, &mut out);
                }
                user::Output::Cursor { device, n } => {
                    hosted.home.cursor(&hosted.replica, user, device, n, &mut out);
                }
                user::Output::Empty { handled } => {
                    if self.users.get(user).is_some_and(|actor| actor.sent == handled) {
                        self.users.remove(user);
                    }
                }
            }
        }
        self.touch(shard);
        self.carry_out(shard, out, around);
    }
}
