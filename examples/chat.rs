//! Chat: two people talk in their terminals, through whichever nodes are alive.
//!
//! In a terminal it draws; in a pipe it reads lines to send and prints what happens, a line each.
//!
//! ```text
//! cargo run --release --example chat -- --user alice --with bob
//! cargo run --release --example chat -- --user bob --with alice --url http://127.0.0.1:8081
//! ```

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use rookery::client::{Accepted, Client, Credential, Event, Fault, Marks, Options, Why};
use time::{OffsetDateTime, UtcOffset};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// A terminal chat with one person.
#[derive(Parser, Clone)]
struct Arguments {
    /// A node's address; give several, and the next is tried when one fails.
    #[arg(long = "url", default_values = [
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
    Seen {
        online: bool,
        last_seen_ms: Option<u64>,
    },
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
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Asked before any thread exists: afterwards the answer is not to be had.
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(talk(arguments, offset));
    runtime.shutdown_background();
    outcome
}

async fn talk(arguments: Arguments, offset: UtcOffset) -> anyhow::Result<()> {
    let credential = match &arguments.token {
        Some(token) => Credential::Token(token.clone()),
        None => Credential::Password {
            password: arguments.password.clone(),
            register: true,
        },
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
        draw_loop(chat, &client, &moments, &mut inbox).await
    } else {
        plain_loop(chat, &client, &moments, &mut inbox).await
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
            let _ = moments
                .send(Moment::Seen {
                    online,
                    last_seen_ms,
                })
                .await;
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
        }
    }

    fn send(&mut self, body: &str, client: &Client, moments: &mpsc::Sender<Moment>) {
        let ticket = client.send(&self.conv, body);
        let at = actors::clock::wall().0;
        let index = self.say(Said::Mine {
            body: body.to_owned(),
            fate: Fate::Waiting,
            at,
        });
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
            Event::Connected { node, .. } => self.now(format!("connected to {node}")),
            Event::Disconnected {
                why,
                retry_in: Some(_),
            } => {
                self.online = None;
                self.now(format!("reconnecting… ({})", reason(&why)))
            }
            Event::Disconnected {
                why,
                retry_in: None,
            } => self.now(format!("disconnected ({})", reason(&why))),
            Event::Message { message, .. } if message.conv == self.conv => {
                self.typing = false;
                self.last_seen = self.last_seen.max(Some(message.at));
                let (body, seq, at) = (clean(&message.body), message.seq, message.at);
                let line = format!("{}: {}", message.from, one_line(&body));
                self.say(Said::Theirs { body, seq, at });
                Some(line)
            }
            Event::Message { message, .. } => {
                let line = format!("{} (elsewhere): {}", message.from, one_line(&message.body));
                self.say(Said::Note(line.clone()));
                Some(line)
            }
            Event::Sent { sent, .. } if sent.conv == self.conv => {
                // From another device of one's own: this one knows its messages already.
                let body = clean(&sent.body?);
                let line = format!(
                    "{} (on {}): {}",
                    self.arguments.user,
                    sent.device,
                    one_line(&body)
                );
                self.say(Said::Mine {
                    body,
                    fate: Fate::Sent(sent.seq),
                    at: sent.at,
                });
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
        let at = at
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            .to_offset(self.offset);
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

// ── lines ──

async fn plain_loop(
    mut chat: Chat,
    client: &Client,
    moments: &mpsc::Sender<Moment>,
    inbox: &mut mpsc::Receiver<Moment>,
) -> anyhow::Result<()> {
    let typed = moments.clone();
    std::thread::spawn(move || read_lines(&typed));
    let mut watch = Watch::default();
    let mut input_over = false;
    let mut bodies: BTreeMap<usize, String> = BTreeMap::new();
    loop {
        if input_over && chat.unanswered == 0 {
            break;
        }
        let Some(moment) = inbox.recv().await else {
            break;
        };
        match moment {
            Moment::Heard(event) => {
                watch.renew(&event, client, &chat.arguments.peer, moments);
                print(chat.heard(event))?;
                chat.shown(chat.newest_theirs(), client);
            }
            Moment::Answered(index, result) => {
                let body = bodies.remove(&index).unwrap_or_default();
                print(Some(match &result {
                    Ok(accepted) => format!("✓ {} {body}", accepted.seq),
                    Err(fault) => format!("✗ {fault} {body}"),
                }))?;
                chat.answered(index, result);
            }
            Moment::Typed(line) if !line.is_empty() => {
                chat.send(&line, client, moments);
                bodies.insert(chat.said.len() - 1, line);
            }
            Moment::Seen {
                online,
                last_seen_ms,
            } => chat.seen(online, last_seen_ms),
            Moment::NoMoreInput => input_over = true,
            Moment::Ended => anyhow::bail!("{}", chat.status),
            Moment::Typed(_) | Moment::Key(_) | Moment::Resized => {}
        }
    }
    let until = tokio::time::sleep(Duration::from_secs(chat.arguments.linger));
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            moment = inbox.recv() => if let Some(Moment::Heard(event)) = moment {
                print(chat.heard(event))?;
                chat.shown(chat.newest_theirs(), client);
            },
        }
    }
    goodbye(client, inbox).await;
    Ok(())
}

fn read_lines(moments: &mpsc::Sender<Moment>) {
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        if moments.blocking_send(Moment::Typed(line)).is_err() {
            return;
        }
    }
    let _ = moments.blocking_send(Moment::NoMoreInput);
}

fn print(line: Option<String>) -> anyhow::Result<()> {
    let Some(line) = line else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("cannot print")
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

// ── drawn ──

async fn draw_loop(
    mut chat: Chat,
    client: &Client,
    moments: &mpsc::Sender<Moment>,
    inbox: &mut mpsc::Receiver<Moment>,
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let keys = moments.clone();
    std::thread::spawn(move || read_keys(&keys));
    let mut watch = Watch::default();
    let mut minute = tokio::time::interval(Duration::from_secs(20));
    let outcome = loop {
        let mut visible = 0;
        if let Err(e) = terminal.draw(|frame| visible = chat.draw(frame)) {
            break Err(e.into());
        }
        chat.shown(visible, client);
        let moment = tokio::select! {
            moment = inbox.recv() => moment,
            _ = minute.tick() => Some(Moment::Resized),
        };
        match moment {
            Some(Moment::Key(key)) if chat.key(key, client, moments) => break Ok(()),
            Some(Moment::Heard(event)) => {
                watch.renew(&event, client, &chat.arguments.peer, moments);
                chat.heard(event);
            }
            Some(Moment::Answered(index, result)) => chat.answered(index, result),
            Some(Moment::Seen {
                online,
                last_seen_ms,
            }) => chat.seen(online, last_seen_ms),
            Some(Moment::Typed(text)) => chat.insert(&text),
            // The last words stay on the screen until a key is pressed.
            Some(Moment::Ended) => drop(chat.say(Said::Note("press Esc to leave".to_owned()))),
            Some(Moment::Key(_) | Moment::Resized | Moment::NoMoreInput) => {}
            None => break Ok(()),
        }
    };
    goodbye(client, inbox).await;
    ratatui::try_restore().context("cannot give the terminal back")?;
    outcome
}

fn read_keys(moments: &mpsc::Sender<Moment>) {
    while let Ok(input) = event::read() {
        let moment = match input {
            Input::Key(key) if key.is_press() => Moment::Key(key),
            Input::Paste(text) => Moment::Typed(text),
            Input::Resize(..) => Moment::Resized,
            _ => continue,
        };
        if moments.blocking_send(moment).is_err() {
            return;
        }
    }
}

impl Chat {
    /// Obeys a key. True to leave.
    fn key(&mut self, key: KeyEvent, client: &Client, moments: &mpsc::Sender<Moment>) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Esc => return true,
            KeyCode::Char('c' | 'd') if control => return true,
            KeyCode::Char('u') if control => self.clear(),
            KeyCode::Char(letter) if !control => {
                if self.input.is_empty() {
                    client.typing(&self.conv, true);
                }
                self.insert(letter.encode_utf8(&mut [0; 4]));
            }
            KeyCode::Enter if !self.input.trim().is_empty() => {
                let body = std::mem::take(&mut self.input);
                self.cursor = 0;
                self.back = 0;
                self.send(body.trim_end(), client, moments);
            }
            KeyCode::Backspace => self.erase(client),
            KeyCode::Left => self.cursor = self.before_cursor(),
            KeyCode::Right => {
                let next = self.input[self.cursor..]
                    .chars()
                    .next()
                    .map_or(0, char::len_utf8);
                self.cursor += next;
            }
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.input.len(),
            KeyCode::Up => self.back += 1,
            KeyCode::Down => self.back = self.back.saturating_sub(1),
            KeyCode::PageUp => self.back += 10,
            KeyCode::PageDown => self.back = self.back.saturating_sub(10),
            _ => {}
        }
        false
    }

    fn insert(&mut self, text: &str) {
        // A pasted line break would be sent as one message: it becomes a space.
        let text = text.replace(['\n', '\r', '\t'], " ");
        self.input.insert_str(self.cursor, &text);
        self.cursor += text.len();
    }

    fn erase(&mut self, client: &Client) {
        if self.cursor == 0 {
            return;
        }
        self.cursor = self.before_cursor();
        self.input.remove(self.cursor);
        if self.input.is_empty() {
            client.typing(&self.conv, false);
        }
    }

    fn clear(&mut self) {
        self.input.clear();
        self.cursor = 0;
    }

    fn before_cursor(&self) -> usize {
        let last = self.input[..self.cursor].chars().next_back();
        self.cursor - last.map_or(0, char::len_utf8)
    }

    /// Draws everything; the newest `seq` of the other's that can be seen.
    fn draw(&mut self, frame: &mut Frame<'_>) -> u64 {
        let rows = [
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(3),
        ];
        let [top, middle, bottom] = Layout::vertical(rows).areas(frame.area());
        self.draw_top(frame, top);
        let visible = self.draw_said(frame, middle);
        self.draw_input(frame, bottom);
        visible
    }

    fn draw_top(&self, frame: &mut Frame<'_>, area: Rect) {
        let bar = Style::new().bg(Color::Rgb(32, 44, 51)).fg(Color::White);
        let connected = self.status.starts_with("connected");
        let dot = if connected {
            Color::Green
        } else {
            Color::Yellow
        };
        let left = Line::from(vec![
            Span::raw(" ● ").style(Style::new().fg(match self.online {
                Some(true) => Color::Green,
                _ => Color::DarkGray,
            })),
            Span::raw(self.peer_status()).style(Style::new().add_modifier(Modifier::BOLD)),
        ]);
        let right = Line::from(vec![
            Span::raw(format!("{} · {} ", self.arguments.user, self.status)),
            Span::raw("● ").style(Style::new().fg(dot)),
        ]);
        frame.render_widget(Paragraph::new("").style(bar), area);
        let halves = [Constraint::Fill(1), Constraint::Fill(2)];
        let [one, two] = Layout::horizontal(halves).areas(area);
        frame.render_widget(Paragraph::new(left).style(bar), one);
        frame.render_widget(
            Paragraph::new(right).style(bar).alignment(Alignment::Right),
            two,
        );
    }

    fn draw_said(&mut self, frame: &mut Frame<'_>, area: Rect) -> u64 {
        let width = usize::from(area.width).saturating_sub(2).max(8) * 3 / 4;
        let height = usize::from(area.height);
        // Built from the newest upwards, as far as the screen and the scrolling reach.
        let mut lines: Vec<(Line<'_>, u64)> = Vec::new();
        for said in self.said.iter().rev() {
            if lines.len() >= self.back + height {
                break;
            }
            lines.extend(self.lines_of(said, width).into_iter().rev());
        }
        self.back = self.back.min(lines.len().saturating_sub(height));
        let shown = lines.into_iter().skip(self.back).take(height);
        let mut shown: Vec<(Line<'_>, u64)> = shown.collect();
        shown.resize_with(height, || (Line::default(), 0));
        let visible = shown.iter().map(|(_, seq)| *seq).max().unwrap_or(0);
        let lines: Vec<Line<'_>> = shown.into_iter().rev().map(|(line, _)| line).collect();
        frame.render_widget(Paragraph::new(lines), area);
        visible
    }

    /// The lines of one thing said, each with the `seq` that seeing it reads.
    fn lines_of(&self, said: &Said, width: usize) -> Vec<(Line<'static>, u64)> {
        let dim = Style::new().fg(Color::DarkGray);
        match said {
            Said::Note(text) => {
                vec![(
                    Line::from(text.clone())
                        .style(dim)
                        .alignment(Alignment::Center),
                    0,
                )]
            }
            Said::Theirs { body, seq, at } => {
                let style = Style::new().fg(Color::White);
                let mut parts = wrapped(body, width);
                let last = parts.pop().unwrap_or_default();
                let whole = parts
                    .into_iter()
                    .map(|part| Line::from(format!(" {part}")).style(style));
                let mut lines: Vec<_> = whole.map(|line| (line, 0)).collect();
                let spans = vec![
                    Span::raw(format!(" {last}  ")).style(style),
                    Span::raw(self.clock(*at)).style(dim),
                ];
                lines.push((Line::from(spans), *seq));
                lines
            }
            Said::Mine { body, fate, at } => {
                let style = Style::new().fg(Color::LightGreen);
                let mut parts = wrapped(body, width);
                let last = parts.pop().unwrap_or_default();
                let right = |line: Line<'static>| (line.alignment(Alignment::Right), 0);
                let whole = parts
                    .into_iter()
                    .map(|part| Line::from(format!("{part} ")).style(style));
                let mut lines: Vec<_> = whole.map(right).collect();
                let spans = vec![
                    Span::raw(format!("{last}  ")).style(style),
                    Span::raw(format!("{} ", self.clock(*at))).style(dim),
                    self.tick(fate),
                ];
                lines.push(right(Line::from(spans)));
                lines
            }
        }
    }

    fn tick(&self, fate: &Fate) -> Span<'static> {
        let grey = Style::new().fg(Color::Gray);
        match fate {
            Fate::Waiting => Span::raw("… ").style(grey),
            Fate::Refused(why) => Span::raw(format!("✗ {why} ")).style(Style::new().fg(Color::Red)),
            Fate::Sent(seq) if *seq <= self.marks.read => {
                Span::raw("✓✓ ").style(Style::new().fg(Color::LightBlue))
            }
            Fate::Sent(seq) if *seq <= self.marks.delivered => Span::raw("✓✓ ").style(grey),
            Fate::Sent(_) => Span::raw("✓ ").style(grey),
        }
    }

    fn draw_input(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = if self.back > 0 {
            " ↓ newer messages below "
        } else {
            ""
        };
        let block = Block::bordered()
            .title(title)
            .border_style(Style::new().fg(Color::DarkGray));
        let room = usize::from(area.width).saturating_sub(4);
        let before = Line::from(&self.input[..self.cursor]).width();
        let skip = before.saturating_sub(room);
        let text = if self.input.is_empty() {
            Paragraph::new("Write a message… (Esc leaves)").style(Style::new().fg(Color::DarkGray))
        } else {
            Paragraph::new(self.input.as_str()).scroll((0, u16::try_from(skip).unwrap_or(u16::MAX)))
        };
        frame.render_widget(text.block(block), area);
        let column = u16::try_from(before - skip).unwrap_or(u16::MAX);
        frame.set_cursor_position((area.x + 1 + column, area.y + 1));
    }
}

/// Control characters of a stranger's must not reach the terminal.
fn clean(body: &str) -> String {
    body.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

fn one_line(body: &str) -> String {
    clean(body).replace('\n', " ")
}

/// Breaks a body into lines no wider than `width`, at spaces where there are any.
fn wrapped(body: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in body.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            if !line.is_empty()
                && Span::raw(line.as_str()).width() + Span::raw(word).width() > width
            {
                lines.push(std::mem::take(&mut line));
            }
            for letter in word.chars() {
                if Span::raw(line.as_str()).width() >= width {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(letter);
            }
        }
        lines.push(line);
    }
    lines
}
