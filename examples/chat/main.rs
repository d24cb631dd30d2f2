//! Chat: two people talk in their terminals, through whichever nodes are alive.
//!
//! In a terminal it draws; in a pipe it reads lines to send and prints what happens, a line each.
//!
//! ```text
//! cargo run --release --example chat -- --user alice --with bob
//! cargo run --release --example chat -- --user bob --with alice --url http://127.0.0.1:8081
//! ```

mod lines;
mod screen;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ratatui::crossterm::event::KeyEvent;
use rookery::client::{Accepted, Client, Credential, Event, Fault, Marks, Options, Why, http};
use time::{OffsetDateTime, UtcOffset};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A terminal chat with one person.
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
    /// Who you talk to.
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
/// Lines kept to scroll back through.
const LINES_MAX: usize = 5_000;

/// What drives the program.
enum Moment {
    Heard(Event),
    Ended,
    Answered(usize, Result<Accepted, Fault>),
    Seen { online: bool, last_seen_ms: Option<u64> },
    Key(KeyEvent),
    Resized,
    Typed(String),
    NoMoreInput,
}

/// Where a message of one's own stands.
#[derive(Clone, PartialEq, Eq)]
enum Fate {
    Waiting,
    Sent(u64),
    Refused(String),
}

/// One line of the conversation.
enum Said {
    Mine { body: String, fate: Fate, at: u64 },
    Theirs { body: String, seq: u64, at: u64 },
    Note(String),
}

/// The conversation, and what is known of the other.
struct Chat {
    arguments: Arguments,
    conv: String,
    said: Vec<Said>,
    marks: Marks,
    status: String,
    online: Option<bool>,
    last_seen: Option<u64>,
    typing: bool,
    read: u64,
    input: String,
    cursor: usize,
    back: usize,
    offset: UtcOffset,
    unanswered: usize,
    /// Why messages are not accepted now, as long as that lasts.
    delayed: Option<Fault>,
    backlog: Backlog,
    /// Messages of other conversations that nobody was told of yet, by their senders.
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
    /// Asks on a new connection; what was asked on the one before is over.
    fn renew(
        &mut self,
        event: &Event,
        client: &Client,
        peer: &str,
        moments: &mpsc::Sender<Moment>,
    ) {
        if !matches!(event, Event::Connected { .. }) {
            return;
        }
        let watching = watch(client.clone(), peer.to_owned(), moments.clone());
        let old = self.0.replace(tokio::spawn(watching).abort_handle());
        if let Some(old) = old {
            old.abort();
        }
    }
}

async fn watch(client: Client, peer: String, moments: mpsc::Sender<Moment>) {
    // A node that knows no presence says so: then there is none to show.
    while let Ok(answer) = client.watch(&[&peer]).await {
        for presence in answer {
            let (online, last_seen_ms) = (presence.online, presence.last_seen_ms);
            let _ = moments.send(Moment::Seen { online, last_seen_ms }).await;
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

impl Chat {
    fn new(arguments: Arguments, offset: UtcOffset) -> Self {
        Self {
            conv: format!("u:{}", arguments.peer),
            arguments,
            said: Vec::new(),
            marks: Marks::default(),
            status: "connecting…".to_owned(),
            online: None,
            last_seen: None,
            typing: false,
            read: 0,
            input: String::new(),
            cursor: 0,
            back: 0,
            offset,
            unanswered: 0,
            delayed: None,
            backlog: Backlog::Arriving,
            elsewhere: BTreeMap::new(),
        }
    }

    fn send(&mut self, body: &str, client: &Client, moments: &mpsc::Sender<Moment>) {
        let ticket = client.send(&self.conv, body);
        let at = actors::clock::wall().0;
        let index = self.say(Said::Mine { body: body.to_owned(), fate: Fate::Waiting, at });
        self.unanswered += 1;
        let moments = moments.clone();
        tokio::spawn(async move {
            let _ = moments.send(Moment::Answered(index, ticket.await)).await;
        });
    }

    fn say(&mut self, said: Said) -> usize {
        if self.said.len() < LINES_MAX {
            self.said.push(said);
        } else {
            // Indexes are promised to tickets under way: the oldest text goes, its place stays.
            let oldest = self.said.len() - LINES_MAX;
            self.said[oldest] = Said::Note(String::new());
            self.said.push(said);
        }
        if self.back > 0 {
            self.back += 1;
        }
        self.said.len() - 1
    }

    fn answered(&mut self, index: usize, result: Result<Accepted, Fault>) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if result.is_ok() || self.unanswered == 0 {
            self.delayed = None;
        }
        let Some(Said::Mine { fate, .. }) = self.said.get_mut(index) else {
            return;
        };
        *fate = match result {
            Ok(accepted) => Fate::Sent(accepted.seq),
            Err(fault) => Fate::Refused(fault.to_string()),
        };
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
            Event::Delayed { conv, fault, .. } if conv == self.conv => {
                let before = self.delayed.replace(fault);
                if before.is_some() { None } else { Some(format!("* {}", self.trouble()?)) }
            }
            Event::Disconnected { why, retry_in: Some(_) } => {
                self.online = None;
                self.now(format!("reconnecting… ({})", reason(&why)))
            }
            Event::Disconnected { why, retry_in: None } => {
                self.now(format!("disconnected ({})", reason(&why)))
            }
            Event::Message { message, .. } if message.conv == self.conv => {
                self.typing = false;
                self.last_seen = self.last_seen.max(Some(message.at));
                let (body, seq, at) = (clean(&message.body), message.seq, message.at);
                let line = format!("{}: {}", message.from, one_line(&body));
                self.say(Said::Theirs { body, seq, at });
                Some(line)
            }
            Event::Message { message, .. } => {
                *self.elsewhere.entry(message.from).or_default() += 1;
                if self.backlog == Backlog::Over { self.tell_of_others() } else { None }
            }
            Event::Sent { sent, .. } if sent.conv == self.conv => {
                // From another device of one's own: this one knows its messages already.
                let body = clean(&sent.body?);
                let line =
                    format!("{} (on {}): {}", self.arguments.user, sent.device, one_line(&body));
                self.say(Said::Mine { body, fate: Fate::Sent(sent.seq), at: sent.at });
                Some(line)
            }
            Event::Receipt { receipt, .. } if receipt.conv == self.conv => {
                self.last_seen = self.last_seen.max(Some(receipt.at));
                None
            }
            Event::Ticks { conv, marks } if conv == self.conv => self.ticked(marks),
            Event::Expired { expired, .. } if expired.conv == self.conv => {
                let line = format!("message {} was never fetched and is gone", expired.seq);
                self.say(Said::Note(line.clone()));
                Some(format!("* {line}"))
            }
            Event::Fresh { .. } => self.now("starting afresh: older messages are not shown".into()),
            Event::Presence(presence) if presence.user == self.arguments.peer => {
                self.seen(presence.online, presence.last_seen_ms);
                None
            }
            Event::Typing(typing) if typing.conv == self.conv => {
                self.typing = typing.on;
                None
            }
            _ => None,
        }
    }

    /// What others wrote does not belong here: one line says that there is something.
    fn tell_of_others(&mut self) -> Option<String> {
        let others = std::mem::take(&mut self.elsewhere);
        let messages = match others.values().sum::<u64>() {
            0 => return None,
            1 => "1 new message".to_owned(),
            count => format!("{count} new messages"),
        };
        let names = others.into_keys().collect::<Vec<_>>().join(", ");
        let line = format!(
            "{messages} from {names}; to read what they wrote: --with NAME --device ANOTHER-DEVICE"
        );
        self.say(Said::Note(line.clone()));
        Some(format!("* {line}"))
    }

    /// Why messages wait, and what becomes of them.
    fn trouble(&self) -> Option<String> {
        let kept = match self.unanswered {
            0 => return None,
            1 => "your message is kept and repeated".to_owned(),
            count => format!("your {count} messages are kept and repeated"),
        };
        let why = match &self.delayed {
            _ if !self.connected() => "not connected".to_owned(),
            Some(fault) if fault.code == "unavailable" => {
                "the cluster does not confirm at the moment".to_owned()
            }
            Some(fault) if fault.code == "mailbox_full" => {
                format!("{}'s mailbox is full", self.arguments.peer)
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

    fn ticked(&mut self, marks: Marks) -> Option<String> {
        let old = std::mem::replace(&mut self.marks, marks);
        if marks.read > old.read {
            return Some(format!("✓✓ read up to {}", marks.read));
        }
        (marks.delivered > old.delivered).then(|| format!("✓✓ delivered up to {}", marks.delivered))
    }

    fn seen(&mut self, online: bool, last_seen_ms: Option<u64>) {
        self.online = Some(online);
        self.last_seen = self.last_seen.max(last_seen_ms);
    }

    /// What has been shown has been read.
    fn shown(&mut self, seq: u64, client: &Client) {
        if seq > self.read {
            self.read = seq;
            client.read(&self.conv, seq);
        }
    }

    fn newest_theirs(&self) -> u64 {
        let seqs = self.said.iter().rev().filter_map(|said| match said {
            Said::Theirs { seq, .. } => Some(*seq),
            Said::Mine { .. } | Said::Note(_) => None,
        });
        seqs.take(1).next().unwrap_or(0)
    }

    fn clock(&self, at_ms: u64) -> String {
        let at = OffsetDateTime::from_unix_timestamp((at_ms / 1_000).cast_signed());
        let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(self.offset);
        format!("{:02}:{:02}", at.hour(), at.minute())
    }

    fn peer_status(&self) -> String {
        let peer = &self.arguments.peer;
        match (self.typing, self.online, self.last_seen) {
            (true, ..) => format!("{peer} is typing…"),
            (_, Some(true), _) => format!("{peer} · online"),
            (_, _, Some(at)) => format!("{peer} · last seen {}", self.ago(at)),
            (..) => peer.clone(),
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

fn reason(why: &Why) -> String {
    match why {
        Why::Closed(Some(code), text) if text.is_empty() => format!("closed, {code}"),
        Why::Closed(Some(code), text) => format!("closed, {code}: {text}"),
        Why::Closed(None, _) => "connection lost".to_owned(),
        Why::Unreachable(text) => text.clone(),
        Why::Silent => "no sign of life".to_owned(),
        Why::GoAway => "the node is going down for a while".to_owned(),
        Why::Refused(fault) => fault.to_string(),
        Why::Asked => "goodbye".to_owned(),
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
