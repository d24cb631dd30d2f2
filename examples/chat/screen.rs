//! Screen: the chat in a terminal.

use std::time::Duration;

use anyhow::Context;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use rookery::client::Client;
use tokio::sync::mpsc;

use super::commands::{Typed, read};
use super::talk::{Fate, Said};
use super::{Chat, Moment, goodbye};

/// Who goes on typing says so again after this.
const TYPE_AGAIN_MS: u64 = 4_000;

/// Draws until the user leaves.
pub(super) async fn run(
    mut chat: Chat,
    client: &Client,
    moments: &mpsc::Sender<Moment>,
    inbox: &mut mpsc::Receiver<Moment>,
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let keys = moments.clone();
    std::thread::spawn(move || read_keys(&keys));
    let mut minute = tokio::time::interval(Duration::from_secs(5));
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
                chat.renew(&event, client, moments);
                chat.heard(event);
            }
            Some(Moment::Answered(conv, index, result)) => chat.of(&conv).answered(index, result),
            Some(Moment::Done(outcome)) => {
                let done = chat.done(outcome, client, moments);
                chat.explain(done);
            }
            Some(Moment::Seen { user, online, last_seen_ms }) => {
                chat.of(&format!("u:{user}")).seen(online, last_seen_ms);
            }
            Some(Moment::Typed(text)) => chat.insert(&text),
            // The last words stay on the screen until a key is pressed.
            Some(Moment::Ended) => drop(chat.talk.note("press Esc to leave".to_owned())),
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
                let now = actors::clock::wall().0;
                if self.input.is_empty() || now > self.typed + TYPE_AGAIN_MS {
                    self.typed = now;
                    client.typing(&self.talk.conv, true);
                }
                self.insert(letter.encode_utf8(&mut [0; 4]));
            }
            KeyCode::Enter if !self.input.trim().is_empty() => {
                let line = std::mem::take(&mut self.input);
                self.cursor = 0;
                self.talk.back = 0;
                self.take(line.trim_end(), client, moments);
            }
            KeyCode::Backspace => self.erase(client),
            KeyCode::Left => self.cursor = self.before_cursor(),
            KeyCode::Right => {
                let next = self.input[self.cursor..].chars().next().map_or(0, char::len_utf8);
                self.cursor += next;
            }
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.input.len(),
            KeyCode::Up => self.talk.back += 1,
            KeyCode::Down => self.talk.back = self.talk.back.saturating_sub(1),
            KeyCode::PageUp => self.talk.back += 10,
            KeyCode::PageDown => self.talk.back = self.talk.back.saturating_sub(10),
            _ => {}
        }
        false
    }

    fn take(&mut self, line: &str, client: &Client, moments: &mpsc::Sender<Moment>) {
        match read(line) {
            Typed::Message(body) => drop(self.send(&body, client, moments)),
            Typed::Command(command) => {
                let obeyed = self.obey(command, client, moments);
                self.explain(obeyed);
            }
            Typed::Wrong(why) => self.explain(Err(why)),
        }
    }

    /// What a command says is in the conversation already; why it was refused is not.
    fn explain(&mut self, outcome: Result<Vec<String>, String>) {
        if let Err(why) = outcome {
            self.talk.note(why);
        }
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
            client.typing(&self.talk.conv, false);
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
        let rows = [Constraint::Length(1), Constraint::Min(1), Constraint::Length(3)];
        let [top, middle, bottom] = Layout::vertical(rows).areas(frame.area());
        self.draw_top(frame, top);
        let visible = self.draw_said(frame, middle);
        self.draw_input(frame, bottom);
        visible
    }

    fn draw_top(&self, frame: &mut Frame<'_>, area: Rect) {
        let bar = Style::new().bg(Color::Rgb(32, 44, 51)).fg(Color::White);
        let dot = if self.connected() { Color::Green } else { Color::Yellow };
        let left = Line::from(vec![
            Span::raw(" ● ").style(Style::new().fg(match self.talk.online {
                Some(true) => Color::Green,
                _ => Color::DarkGray,
            })),
            Span::raw(self.talk_status()).style(Style::new().add_modifier(Modifier::BOLD)),
        ]);
        let right = Line::from(vec![
            Span::raw(format!("{} · {} ", self.arguments.user, self.status)),
            Span::raw("● ").style(Style::new().fg(dot)),
        ]);
        frame.render_widget(Paragraph::new("").style(bar), area);
        let halves = [Constraint::Fill(1), Constraint::Fill(1)];
        let [one, two] = Layout::horizontal(halves).areas(area);
        frame.render_widget(Paragraph::new(left).style(bar), one);
        frame.render_widget(Paragraph::new(right).style(bar).alignment(Alignment::Right), two);
    }

    fn draw_said(&mut self, frame: &mut Frame<'_>, area: Rect) -> u64 {
        let width = usize::from(area.width).saturating_sub(2).max(8) * 3 / 4;
        let height = usize::from(area.height);
        // Built from the newest upwards, as far as the screen and the scrolling reach.
        let mut lines: Vec<(Line<'_>, u64)> = Vec::new();
        for said in self.talk.said.iter().rev() {
            if lines.len() >= self.talk.back + height {
                break;
            }
            lines.extend(self.lines_of(said, width).into_iter().rev());
        }
        self.talk.back = self.talk.back.min(lines.len().saturating_sub(height));
        let shown = lines.into_iter().skip(self.talk.back).take(height);
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
                vec![(Line::from(text.clone()).style(dim).alignment(Alignment::Center), 0)]
            }
            Said::Theirs { from, body, seq, at } => {
                let style = Style::new().fg(Color::White);
                let mut parts = wrapped(body, width);
                let last = parts.pop().unwrap_or_default();
                let named = self.talk.group().map(|_| {
                    Line::from(format!(" {from}")).style(Style::new().fg(Color::LightCyan))
                });
                let whole =
                    parts.into_iter().map(|part| Line::from(format!(" {part}")).style(style));
                let mut lines: Vec<_> =
                    named.into_iter().chain(whole).map(|line| (line, 0)).collect();
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
                let whole =
                    parts.into_iter().map(|part| Line::from(format!("{part} ")).style(style));
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
            Fate::Sent(seq) if *seq <= self.talk.marks.read => {
                Span::raw("✓✓ ").style(Style::new().fg(Color::LightBlue))
            }
            Fate::Sent(seq) if *seq <= self.talk.marks.delivered => Span::raw("✓✓ ").style(grey),
            Fate::Sent(_) => Span::raw("✓ ").style(grey),
        }
    }

    fn draw_input(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = if self.talk.back > 0 { " ↓ newer messages below " } else { "" };
        let mut block =
            Block::bordered().title(title).border_style(Style::new().fg(Color::DarkGray));
        if let Some(trouble) = self.trouble() {
            let line = Line::from(format!(" {trouble} ")).style(Style::new().fg(Color::Yellow));
            block = block.title_bottom(line);
        }
        let room = usize::from(area.width).saturating_sub(4);
        let before = Line::from(&self.input[..self.cursor]).width();
        let skip = before.saturating_sub(room);
        let text = if self.input.is_empty() {
            Paragraph::new("Write a message… (/help for groups, Esc leaves)")
                .style(Style::new().fg(Color::DarkGray))
        } else {
            Paragraph::new(self.input.as_str()).scroll((0, u16::try_from(skip).unwrap_or(u16::MAX)))
        };
        frame.render_widget(text.block(block), area);
        let column = u16::try_from(before - skip).unwrap_or(u16::MAX);
        frame.set_cursor_position((area.x + 1 + column, area.y + 1));
    }
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
