//! Crew: one group of many members, some of whom post; measures the posts, and checks that all members see one order.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rookery::client::{Connection, Event, Happened, Letter};
use tokio::task::JoinSet;

use crate::field::Field;

/// One post, and how far it has got.
#[derive(Default)]
struct Post {
    intended: u64,
    accepted: bool,
    /// Its place in the group's order, as the first one saw it.
    seq: Option<u64>,
    /// How many others have it.
    received: usize,
}

/// What is known of the group's posts by all of the measurement.
#[derive(Default)]
pub(crate) struct Crew {
    conv: String,
    posts: Vec<Post>,
    /// What the first one to see a number saw there: a post, or a change.
    order: Vec<Option<Option<usize>>>,
}

impl Crew {
    /// How many deliveries of what was acknowledged have not happened.
    pub(crate) fn missing(&self, members: usize) -> usize {
        let accepted = self.posts.iter().filter(|post| post.accepted);
        accepted.map(|post| (members - 1).saturating_sub(post.received)).sum()
    }
}

/// What a member who posts keeps.
struct Poster {
    /// The posts, in the order in which they were sent.
    mine: Vec<usize>,
    in_flight: usize,
    /// Accepted, and waiting for the receipt: seq and post.
    waiting: VecDeque<(u64, usize)>,
    delivered: u64,
    interval_us: Option<f64>,
    due: f64,
    until: u64,
    answered_at: u64,
}

/// One member of the group.
struct Member {
    field: Rc<Field>,
    number: usize,
    connection: Connection,
    /// The number in the group's order that comes next.
    next: u64,
}

fn name(field: &Field, number: usize) -> String {
    format!("{}-m{number}", field.run)
}

/// Makes the group, lets the posters post, and waits until everybody has everything.
pub(crate) async fn measure(field: &Rc<Field>, size: usize) -> anyhow::Result<()> {
    let members = (0..size).map(|number| {
        let field = Rc::clone(field);
        async move {
            let connection = field.ready(&name(&field, number), number, "member").await?;
            anyhow::Ok(Member { field, number, connection, next: 1 })
        }
    });
    let mut members = try_join_all(members).await?;
    let posters = field.arguments.posters;
    let mut others = members.split_off(posters);
    if field.arguments.offline {
        for member in others.drain(..) {
            member.leave().await;
        }
    }
    members[0].make(size).await?;
    field.opened.set(field.now_us());
    let mut listening = JoinSet::new();
    for member in others {
        listening.spawn_local(member.listen());
    }
    let mut posting = JoinSet::new();
    for member in members {
        let poster = Poster::new(field, member.number);
        posting.spawn_local(member.post(poster));
    }
    // Who has posted goes on as one who listens.
    while let Some(member) = posting.join_next().await {
        listening.spawn_local(member?.listen());
    }
    if field.arguments.offline {
        drain(field, size, &mut listening).await;
    } else {
        field.all_received().await;
    }
    listening.abort_all();
    Ok(())
}

/// Those who were away come back, all at once.
async fn drain(field: &Rc<Field>, size: usize, listening: &mut JoinSet<()>) {
    for number in field.arguments.posters..size {
        let options = field.options(&name(field, number), number, "member");
        let connection = Connection::new(options);
        let member = Member { field: Rc::clone(field), number, connection, next: 1 };
        listening.spawn_local(member.listen());
    }
    field.drained().await;
}

impl Member {
    /// Makes the group of all members. What is heard meanwhile is looked at when its name is known.
    async fn make(&mut self, size: usize) -> anyhow::Result<()> {
        let others: Vec<String> = (1..size).map(|number| name(&self.field, number)).collect();
        let cid = format!("{}-group", self.field.salt);
        let d = serde_json::json!({"title": "load", "members": others, "cid": cid});
        let ticket = self.connection.insist("group.create", d)?;
        let mut heard = Vec::new();
        while let Some(happened) = self.connection.step().await {
            match happened {
                Happened::Replied { ticket: of, result } if of == ticket => {
                    let made = result?;
                    let group = made["group"].as_str().unwrap_or_default();
                    self.field.crew.borrow_mut().conv = format!("g:{group}");
                    heard.into_iter().for_each(|happened| self.heard(&happened));
                    return Ok(());
                }
                happened => heard.push(happened),
            }
        }
        anyhow::bail!("the group was not made")
    }

    /// Says goodbye; the group will be found waiting.
    async fn leave(mut self) {
        self.connection.shut();
        while self.connection.step().await.is_some() {}
    }

    async fn listen(mut self) {
        while let Some(happened) = self.connection.step().await {
            self.heard(&happened);
        }
    }

    /// Takes in what every member hears.
    fn heard(&mut self, happened: &Happened) {
        let field = Rc::clone(&self.field);
        field.note_connection(happened);
        field.counts.borrow_mut().repeated_entries += self.connection.take_duplicates();
        let Happened::Event(event) = happened else { return };
        let mut crew = field.crew.borrow_mut();
        match event {
            Event::Message { message, .. } if message.conv == crew.conv => {
                let post = field.post_of(&message.body);
                self.saw(&mut crew, message.seq, post);
                if let Some(post) = post {
                    self.received(&mut crew, post);
                }
            }
            Event::Sent { sent, .. } if sent.conv == crew.conv => {
                let post = sent.cid.rsplit('-').next().and_then(|index| index.parse().ok());
                self.saw(&mut crew, sent.seq, post);
            }
            Event::Group { change, .. } if change.conv == crew.conv => {
                self.saw(&mut crew, change.seq, None);
            }
            _ => {}
        }
    }

    /// Every member sees 1, 2, 3 … and at each number what all others see there.
    fn saw(&mut self, crew: &mut Crew, seq: u64, what: Option<usize>) {
        let mut counts = self.field.counts.borrow_mut();
        if seq < self.next {
            counts.duplicated += 1;
            return;
        }
        if seq > self.next {
            counts.misordered += 1;
        }
        self.next = seq + 1;
        let place = seq as usize;
        if crew.order.len() <= place {
            crew.order.resize(place + 1, None);
        }
        if *crew.order[place].get_or_insert(what) != what {
            counts.misordered += 1;
        }
        let Some(post) = what.and_then(|post| crew.posts.get_mut(post)) else { return };
        if *post.seq.get_or_insert(seq) != seq {
            counts.duplicated += 1;
        }
    }

    fn received(&self, crew: &mut Crew, post: usize) {
        let Some(post) = crew.posts.get_mut(post) else { return };
        post.received += 1;
        let mut counts = self.field.counts.borrow_mut();
        counts.delivered_in_all += 1;
        if !self.field.is_measured(post.intended) {
            return;
        }
        counts.delivered += 1;
        if Some(post.received + 1) == self.field.arguments.group {
            let _ = counts.delivery.record(self.field.now_us() - post.intended);
        }
    }
}

impl Poster {
    fn new(field: &Field, number: usize) -> Self {
        let arguments = &field.arguments;
        let length = (arguments.warmup + arguments.seconds) * 1e6;
        let opened = field.opened.get();
        let posters = arguments.posters as f64;
        let interval_us = arguments.rate.map(|rate| 1e6 * posters / rate.max(0.001));
        // The posters take turns, so that the rate is even.
        let turn = number as f64 / posters * interval_us.unwrap_or(0.0);
        Self {
            mine: Vec::new(),
            in_flight: 0,
            waiting: VecDeque::new(),
            delivered: 0,
            interval_us,
            due: opened as f64 + turn,
            until: opened + length as u64,
            answered_at: opened,
        }
    }
}

/// A member who posts.
impl Member {
    async fn post(mut self, mut poster: Poster) -> Self {
        let field = Rc::clone(&self.field);
        let grace = poster.until + (field.arguments.grace * 1e6) as u64;
        loop {
            let now = field.now_us();
            let open = now < poster.until;
            if open {
                self.fill(&mut poster, now);
            }
            let receipts = field.arguments.offline || poster.waiting.is_empty();
            if !open && ((poster.in_flight == 0 && receipts) || now >= grace) {
                break;
            }
            let wake = match (open, poster.interval_us) {
                (true, Some(_)) => (poster.due as u64).min(poster.until),
                (true, None) => poster.until,
                (false, _) => grace,
            };
            let wake = field.begin + Duration::from_micros(wake);
            tokio::select! {
                biased;
                happened = self.connection.step() => match happened {
                    Some(happened) => self.took(&mut poster, happened),
                    None => break,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            while let Some(happened) = self.connection.take(true) {
                self.took(&mut poster, happened);
            }
        }
        field.counts.borrow_mut().unanswered += poster.in_flight as u64;
        self
    }

    fn fill(&mut self, poster: &mut Poster, now: u64) {
        let Some(interval) = poster.interval_us else {
            while poster.in_flight < self.field.arguments.outstanding {
                self.send(poster, now);
            }
            return;
        };
        while poster.due <= now as f64 {
            self.send(poster, poster.due as u64);
            poster.due += interval;
        }
    }

    fn send(&mut self, poster: &mut Poster, intended: u64) {
        let field = Rc::clone(&self.field);
        let mut crew = field.crew.borrow_mut();
        let index = crew.posts.len();
        crew.posts.push(Post { intended, ..Post::default() });
        let mut body = format!("{}:{index}:", field.salt);
        let padding = field.arguments.body_bytes.saturating_sub(body.len());
        body.extend(std::iter::repeat_n('x', padding));
        let letter = Letter::text(&crew.conv, format!("{}-{index}", field.salt), &body);
        match self.connection.send(letter) {
            Ok(_) => {
                poster.mine.push(index);
                poster.in_flight += 1;
            }
            Err(fault) => field.failed(&fault),
        }
    }

    fn took(&mut self, poster: &mut Poster, happened: Happened) {
        self.heard(&happened);
        match happened {
            Happened::Answered { number, result } => {
                poster.in_flight = poster.in_flight.saturating_sub(1);
                match result {
                    Ok(accepted) => {
                        // The client numbers what it took from 1 on.
                        let post = poster.mine[number as usize - 1];
                        self.accepted(poster, post);
                        poster.waiting.push_back((accepted.seq, post));
                        self.receipted(poster);
                    }
                    Err(fault) => self.field.failed(&fault),
                }
            }
            Happened::Event(Event::Receipt { receipt, .. })
                if receipt.conv == self.field.crew.borrow().conv =>
            {
                poster.delivered = poster.delivered.max(receipt.delivered);
                self.receipted(poster);
            }
            Happened::Event(_) | Happened::Replied { .. } => {}
        }
    }

    fn accepted(&self, poster: &mut Poster, post: usize) {
        let now = self.field.now_us();
        let mut crew = self.field.crew.borrow_mut();
        let mut counts = self.field.counts.borrow_mut();
        let post = &mut crew.posts[post];
        post.accepted = true;
        counts.accepted_in_all += 1;
        if self.field.is_measured(post.intended) {
            counts.accepted += 1;
            let _ = counts.tick.record(now - post.intended);
            let stall = Duration::from_micros(now - poster.answered_at);
            if poster.interval_us.is_none() {
                counts.longest_stall = counts.longest_stall.max(stall);
            }
        }
        poster.answered_at = now;
    }

    fn receipted(&self, poster: &mut Poster) {
        let now = self.field.now_us();
        while let Some((_, post)) = poster.waiting.pop_front_if(|(seq, _)| *seq <= poster.delivered)
        {
            let intended = self.field.crew.borrow().posts[post].intended;
            if self.field.is_measured(intended) {
                let mut counts = self.field.counts.borrow_mut();
                counts.receipted += 1;
                let _ = counts.receipt.record(now - intended);
            }
        }
    }
}

impl Field {
    /// Which post of this run says this.
    fn post_of(&self, body: &str) -> Option<usize> {
        let mut parts = body.split(':');
        let (salt, index) = (parts.next(), parts.next());
        if salt != Some(&self.salt) {
            return None;
        }
        index.and_then(|index| index.parse().ok())
    }
}

/// Refuses what cannot be a group.
pub(crate) fn check(arguments: &crate::Arguments) -> anyhow::Result<()> {
    if let Some(size) = arguments.group {
        anyhow::ensure!(
            (2..=1_024).contains(&size),
            "--group: a group has 2 to 1,024 members here"
        );
        let posters = arguments.posters;
        anyhow::ensure!((1..=size).contains(&posters), "--posters: 1 to as many as --group");
    }
    Ok(())
}
