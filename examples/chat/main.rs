//! Chat: people talk in their terminals, two by two or in groups, through whichever nodes are alive.
//!
//! In a terminal it draws; in a pipe it reads lines to send and prints what happens, a line each. What begins with a slash is
//! a command: `/help` tells them.
//!
//! ```text
//! cargo run --release --example chat -- --user alice --with bob
//! cargo run --release --example chat -- --user bob --with alice --url http://127.0.0.1:8081
//! ```

mod commands;
mod lines;
mod screen;
mod talk;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ratatui::crossterm::event::KeyEvent;
use rookery::client::said::Message;
use rookery::client::{Accepted, Change, Client, Credential, Event, Fault, News, Options, http};
use time::{OffsetDateTime, UtcOffset};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::commands::{Outcome, learn_titles};
use self::talk::{Fate, Said, Talk};

/// A terminal chat. Type /help in it for groups and for other people.
#[derive(Parser, Clone)]
struct Arguments {
    /// A node's address; give several, and the next is tried when one fails.
    #[arg(long = "url", value_parser = http::address, default_values = [
        "http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082",
    ])]
    urls: Vec<String>,
    /// Who you are.
    #[arg(long)]
    user: String,
    /// Who you talk to at first: a name, or g:GROUP.
    #[arg(long = "with")]
    peer: String,
    /// Your password; an unknown user is registered with it where that is allowed.
    #[arg(long, default_value = "rookery-dev")]
    password: String,
    /// A token from `rookery token`, instead of a password.
    #[arg(long)]
    token: Option<String>,
    /// The name of this device.
    #[arg(long, default_value = "terminal")]
    device: String,
    /// Plain lines even in a terminal.
    #[arg(long)]
    plain: bool,
    /// In a pipe: stay this many seconds after the last line has been acknowledged.
    #[arg(long, default_value_t = 0)]
    linger: u64,
}

/// Waiting this long before the watch on the other's presence is renewed (it lasts 10 minutes).
const WATCH_AGAIN: Duration = Duration::from_secs(9 * 60);
/// Waiting this long before it is asked for again when the cluster could not answer.
const REFUSED_AGAIN: Duration = Duration::from_secs(2);
/// What drives the program.
enum Moment {
    Heard(Event),
    Ended,
    /// A message in a conversation, by its place there.
    Answered(String, usize, Result<Accepted, Fault>),
    Done(Outcome),
    Seen {
        user: String,
        online: bool,
        last_seen_ms: Option<u64>,
    },
    Key(KeyEvent),
    Resized,
    Typed(String),
    NoMoreInput,
}

/// The conversations, and how things stand.
struct Chat {
    arguments: Arguments,
    /// The one that is open.
    talk: Talk,
    others: BTreeMap<String, Talk>,
    status: String,
    watch: Watch,
    input: String,
    cursor: usize,
    /// When others were told last that something is being typed.
    typed: u64,
    offset: UtcOffset,
    /// Commands that a node has not answered.
    asking: usize,
    /// Groups just made of which nothing was heard yet: only then are they among those one is in.
    coming: BTreeSet<String>,
    /// The conversations of the last list of groups.
    listed: Vec<String>,
    backlog: Backlog,
    /// Messages of other conversations that nobody was told of yet, by conversation.
    elsewhere: BTreeMap<String, u64>,
}

/// Whether what arrives is old.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backlog {
    Arriving,
    Over,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Asked before any thread exists: afterwards the answer is not to be had.
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(talk(arguments, offset));
    runtime.shutdown_background();
    outcome
}

async fn talk(arguments: Arguments, offset: UtcOffset) -> anyhow::Result<()> {
    let credential = match &arguments.token {
        Some(token) => Credential::Token(token.clone()),
        None => Credential::Password { password: arguments.password.clone(), register: true },
    };
    let mut options = Options::new(&arguments.urls, &arguments.user, credential);
    options.device.clone_from(&arguments.device);
    let (client, mut events) = Client::connect(options);
    let (moments, mut inbox) = mpsc::channel(1_024);
    let hearing = moments.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if hearing.send(Moment::Heard(event)).await.is_err() {
                return;
            }
        }
        let _ = hearing.send(Moment::Ended).await;
    });
    let chat = Chat::new(arguments, offset);
    let drawn =
        !chat.arguments.plain && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if drawn {
        screen::run(chat, &client, &moments, &mut inbox).await
    } else {
        lines::run(chat, &client, &moments, &mut inbox).await
    }
}

/// Keeps the watch on the other's presence alive, as long as the connection it was asked on lasts.
#[derive(Default)]
struct Watch(Option<AbortHandle>);

impl Watch {
    /// Asks on a new connection or about somebody else; what was asked before is over.
    fn renew(&mut self, client: &Client, peer: Option<&str>, moments: &mpsc::Sender<Moment>) {
        let watching = peer.map(|peer| watch(client.clone(), peer.to_owned(), moments.clone()));
        let new = watching.map(|watching| tokio::spawn(watching).abort_handle());
        if let Some(old) = std::mem::replace(&mut self.0, new) {
            old.abort();
        }
    }
}

async fn watch(client: Client, peer: String, moments: mpsc::Sender<Moment>) {
    loop {
        let answer = match client.watch(&[&peer]).await {
            Ok(answer) => answer,
            Err(fault) if fault.retry => {
                tokio::time::sleep(REFUSED_AGAIN).await;
                continue;
            }
            // A node that knows no presence, or nobody of this name, says so: then there is none to show.
            Err(_) => return,
        };
        for presence in answer {
            let (online, last_seen_ms) = (presence.online, presence.last_seen_ms);
            let user = presence.user;
            let _ = moments.send(Moment::Seen { user, online, last_seen_ms }).await;
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

impl Chat {
    fn new(arguments: Arguments, offset: UtcOffset) -> Self {
        let peer = &arguments.peer;
        let conv = if peer.contains(':') { peer.clone() } else { format!("u:{peer}") };
        Self {
            talk: Talk::new(&conv),
            arguments,
            others: BTreeMap::new(),
            status: "connecting…".to_owned(),
            watch: Watch::default(),
            input: String::new(),
            cursor: 0,
            typed: 0,
            offset,
            asking: 0,
            coming: BTreeSet::new(),
            listed: Vec::new(),
            backlog: Backlog::Arriving,
            elsewhere: BTreeMap::new(),
        }
    }

    /// A conversation, open or not.
    fn of(&mut self, conv: &str) -> &mut Talk {
        if conv == self.talk.conv {
            return &mut self.talk;
        }
        self.others.entry(conv.to_owned()).or_insert_with(|| Talk::new(conv))
    }

    /// Opens a conversation.
    fn open(&mut self, conv: &str) {
        if conv != self.talk.conv {
            let next = self.others.remove(conv).unwrap_or_else(|| Talk::new(conv));
            let before = std::mem::replace(&mut self.talk, next);
            self.others.insert(before.conv.clone(), before);
        }
        self.elsewhere.remove(conv);
    }

    /// A line of a conversation: for those who read lines now, or when they go there.
    fn line(&mut self, conv: &str, line: String) -> Option<String> {
        if conv == self.talk.conv {
            return Some(line);
        }
        self.of(conv).miss(line);
        None
    }

    fn send(&mut self, body: &str, client: &Client, moments: &mpsc::Sender<Moment>) -> usize {
        let conv = self.talk.conv.clone();
        let ticket = client.send(&conv, body);
        let at = actors::clock::wall().0;
        let index = self.talk.say(Said::Mine { body: body.to_owned(), fate: Fate::Waiting, at });
        self.talk.unanswered += 1;
        let moments = moments.clone();
        tokio::spawn(async move {
            let _ = moments.send(Moment::Answered(conv, index, ticket.await)).await;
        });
        index
    }

    /// A new connection: what was asked on the one before is over.
    fn renew(&mut self, event: &Event, client: &Client, moments: &mpsc::Sender<Moment>) {
        if matches!(event, Event::Connected { .. }) {
            self.watch.renew(client, self.talk.peer(), moments);
            learn_titles(client, moments);
        }
    }

    /// Takes an event in; a line for those who read lines.
    fn heard(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Connected { node, .. } => {
                self.backlog = Backlog::Arriving;
                self.now(format!("connected to {node}"))
            }
            Event::CaughtUp { .. } => {
                self.backlog = Backlog::Over;
                self.tell_of_others()
            }
            Event::Delayed { conv, fault, .. } => {
                let before = self.of(&conv).delayed.replace(fault);
                let news = before.is_none() && conv == self.talk.conv;
                if news { Some(format!("* {}", self.trouble()?)) } else { None }
            }
            Event::Disconnected { why, retry_in: Some(_) } => {
                self.talk.online = None;
                self.others.values_mut().for_each(|talk| talk.online = None);
                self.now(format!("reconnecting… ({why})"))
            }
            Event::Disconnected { why, retry_in: None } => {
                self.now(format!("disconnected ({why})"))
            }
            Event::Message { message, .. } => self.received(message),
            Event::Sent { sent, .. } => {
                // From another device of one's own: this one knows its messages already.
                let body = clean(&sent.body?);
                let line =
                    format!("{} (on {}): {}", self.arguments.user, sent.device, one_line(&body));
                let fate = Fate::Sent(sent.seq);
                self.of(&sent.conv).say(Said::Mine { body, fate, at: sent.at });
                self.line(&sent.conv, line)
            }
            Event::Receipt { receipt, .. } => {
                let talk = self.of(&receipt.conv);
                talk.last_seen = talk.last_seen.max(Some(receipt.at));
                None
            }
            Event::Ticks { conv, marks } => {
                let line = self.of(&conv).ticked(marks);
                line.filter(|_| conv == self.talk.conv)
            }
            Event::Group { change, .. } => self.changed(&change),
            Event::Expired { expired, .. } => {
                let text = format!("message {} was never fetched and is gone", expired.seq);
                let line = self.of(&expired.conv).note(text);
                self.line(&expired.conv, line)
            }
            Event::Fresh { .. } => self.now("starting afresh: older messages are not shown".into()),
            Event::Presence(presence) => {
                let conv = format!("u:{}", presence.user);
                self.of(&conv).seen(presence.online, presence.last_seen_ms);
                (conv == self.talk.conv).then(|| format!("* {}", self.talk_status()))
            }
            Event::Typing(typing) => {
                let before = self.of(&typing.conv).typing.is_some();
                self.of(&typing.conv).types(typing.from, typing.on, actors::clock::wall().0);
                let news = typing.on && !before && typing.conv == self.talk.conv;
                news.then(|| format!("* {}", self.talk_status()))
            }
            _ => None,
        }
    }

    fn received(&mut self, message: Message) -> Option<String> {
        let Message { conv, from, body, seq, at, .. } = message;
        let body = clean(&body);
        let line = format!("{from}: {}", one_line(&body));
        let talk = self.of(&conv);
        talk.typing = None;
        talk.last_seen = talk.last_seen.max(Some(at));
        talk.say(Said::Theirs { from, body, seq, at });
        let line = self.line(&conv, line);
        if line.is_some() {
            return line;
        }
        *self.elsewhere.entry(conv).or_default() += 1;
        if self.backlog == Backlog::Over { self.tell_of_others() } else { None }
    }

    fn changed(&mut self, change: &Change) -> Option<String> {
        self.coming.remove(&change.conv);
        let line = self.of(&change.conv).changed(change)?;
        let line = self.line(&change.conv, line);
        let me = &self.arguments.user;
        let invited = match &change.news {
            News::Created { users, .. } | News::Added { users, .. } => users.contains(me),
            _ => false,
        };
        if line.is_some() || !invited || change.by == *me {
            return line;
        }
        let name = self.of(&change.conv).name().to_owned();
        let text = format!("{} took you into “{name}”: /to {}", change.by, change.conv);
        Some(self.talk.note(text))
    }

    /// What others wrote does not belong here: one line says that there is something.
    fn tell_of_others(&mut self) -> Option<String> {
        let others = std::mem::take(&mut self.elsewhere);
        let messages = match others.values().sum::<u64>() {
            0 => return None,
            1 => "1 new message".to_owned(),
            count => format!("{count} new messages"),
        };
        let ways = others.into_keys().map(|conv| {
            let name = self.of(&conv).name().to_owned();
            format!("{name} (/to {})", conv.trim_start_matches("u:"))
        });
        let ways = ways.collect::<Vec<_>>().join(", ");
        Some(self.talk.note(format!("{messages} elsewhere: {ways}")))
    }

    /// Why messages wait, and what becomes of them.
    fn trouble(&self) -> Option<String> {
        let kept = match self.talk.unanswered {
            0 => return None,
            1 => "your message is kept and repeated".to_owned(),
            count => format!("your {count} messages are kept and repeated"),
        };
        let why = match &self.talk.delayed {
            _ if !self.connected() => "not connected".to_owned(),
            Some(fault) if fault.code == "unavailable" => {
                "the cluster does not confirm at the moment".to_owned()
            }
            Some(fault) if fault.code == "mailbox_full" => {
                let whose = self.talk.peer().unwrap_or("a member");
                format!("{whose}'s mailbox is full")
            }
            Some(fault) => fault.to_string(),
            None => return None,
        };
        Some(format!("{why}; {kept}"))
    }

    fn connected(&self) -> bool {
        self.status.starts_with("connected")
    }

    fn now(&mut self, status: String) -> Option<String> {
        self.status = status;
        Some(format!("* {}", self.status))
    }

    /// What has been shown has been read.
    fn shown(&mut self, seq: u64, client: &Client) {
        if seq > self.talk.read {
            self.talk.read = seq;
            client.read(&self.talk.conv, seq);
        }
    }

    fn clock(&self, at_ms: u64) -> String {
        let at = OffsetDateTime::from_unix_timestamp((at_ms / 1_000).cast_signed());
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(self.offset);
        format!("{:02}:{:02}", at.hour(), at.minute())
    }

    fn talk_status(&self) -> String {
        let name = self.talk.name();
        let is_group = self.talk.group().is_some();
        match (self.talk.typing_at(actors::clock::wall().0), self.talk.online, self.talk.last_seen)
        {
            (Some(who), ..) => format!("{who} is typing…"),
            _ if is_group => format!("{name} · group"),
            (_, Some(true), _) => format!("{name} · online"),
            (_, _, Some(at)) => format!("{name} · last seen {}", self.ago(at)),
            (..) => name.to_owned(),
        }
    }

    fn ago(&self, at: u64) -> String {
        let seconds = actors::clock::wall().0.saturating_sub(at) / 1_000;
        match seconds {
            0..=59 => "just now".to_owned(),
            60..=3_599 => format!("{} min ago", seconds / 60),
            3_600..=86_399 => format!("at {}", self.clock(at)),
            _ => format!("{} days ago", seconds / 86_400),
        }
    }
}

/// Says goodbye to the node, but does not wait long.
async fn goodbye(client: &Client, inbox: &mut mpsc::Receiver<Moment>) {
    client.close();
    let ended = async {
        while let Some(moment) = inbox.recv().await {
            if matches!(moment, Moment::Ended) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
}

/// Control characters of a stranger's must not reach the terminal.
fn clean(body: &str) -> String {
    body.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn one_line(body: &str) -> String {
    clean(body).replace('\n', " ")
}
