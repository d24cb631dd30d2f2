//! Lines: the chat in a pipe, for scripts and tests.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Context;
use rookery::client::{Client, Event, Why};
use tokio::sync::mpsc;

use super::commands::{Typed, read};
use super::{Chat, Moment, goodbye};

/// What was typed, and what became of it.
#[derive(Default)]
struct Input {
    /// Lines whose turn has not come.
    held: VecDeque<String>,
    over: bool,
    bodies: BTreeMap<(String, usize), String>,
    refused: usize,
    /// The newest command was to choose the conversation.
    choosing: bool,
    /// It failed: what follows is meant for nobody, and surely not for whom the line before it went to.
    adrift: bool,
    /// How often in a row no node could be reached.
    unreached: usize,
}

/// So often each node is tried in a row: ten seconds to half a minute, which is longer than a cluster needs to recover.
const TRIES: usize = 6;

/// Reads lines to send and prints what happens, until the input ends and all of it is acknowledged. Fails if anything
/// was refused.
pub(super) async fn run(
    mut chat: Chat,
    client: &Client,
    moments: &mpsc::Sender<Moment>,
    inbox: &mut mpsc::Receiver<Moment>,
) -> anyhow::Result<()> {
    let typed = moments.clone();
    std::thread::spawn(move || read_lines(&typed));
    let mut input = Input::default();
    loop {
        while let Some(line) = input.next(&chat) {
            input.take(&line, &mut chat, client, moments)?;
        }
        if input.over && input.held.is_empty() && input.bodies.is_empty() && chat.asking == 0 {
            break;
        }
        let Some(moment) = inbox.recv().await else {
            break;
        };
        match moment {
            Moment::Heard(event) => {
                input.try_again(&event, &chat)?;
                chat.renew(&event, client, moments);
                print(chat.heard(event))?;
                chat.shown(chat.talk.newest_theirs(), client);
            }
            Moment::Answered(conv, index, result) => {
                let body = input.bodies.remove(&(conv.clone(), index)).unwrap_or_default();
                match &result {
                    Ok(accepted) => print(Some(format!("✓ {} {body}", accepted.seq)))?,
                    Err(fault) => {
                        input.refused += 1;
                        eprintln!("not sent: {body:?}: {fault}");
                    }
                }
                chat.of(&conv).answered(index, result);
            }
            Moment::Done(outcome) => {
                let done = chat.done(outcome, client, moments);
                input.show(done)?;
                chat.shown(chat.talk.newest_theirs(), client);
            }
            Moment::Typed(line) if !line.is_empty() => input.held.push_back(line),
            Moment::Seen { user, online, last_seen_ms } => {
                chat.of(&format!("u:{user}")).seen(online, last_seen_ms);
            }
            Moment::NoMoreInput => input.over = true,
            Moment::Ended => {
                input.give_up();
                anyhow::bail!("{}", chat.status);
            }
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
                chat.shown(chat.talk.newest_theirs(), client);
            },
        }
    }
    goodbye(client, inbox).await;
    let refused = match input.refused {
        0 => return Ok(()),
        1 => "1 line".to_owned(),
        count => format!("{count} lines"),
    };
    anyhow::bail!("refused: {refused}")
}

impl Input {
    /// The line whose turn it is. A command may decide where those after it go, and may overtake a message that is under
    /// way: it is waited for, and it waits.
    fn next(&mut self, chat: &Chat) -> Option<String> {
        let waits = |line: &String| line.starts_with('/') && !self.bodies.is_empty();
        if chat.asking > 0 || !chat.coming.is_empty() || self.held.front().is_some_and(waits) {
            return None;
        }
        self.held.pop_front()
    }

    fn take(
        &mut self,
        line: &str,
        chat: &mut Chat,
        client: &Client,
        moments: &mpsc::Sender<Moment>,
    ) -> anyhow::Result<()> {
        let typed = read(line);
        if !matches!(typed, Typed::Message(_)) {
            self.choosing =
                ["/to", "/create"].contains(&line.split(' ').next().unwrap_or_default());
            self.adrift &= !self.choosing;
        }
        match typed {
            Typed::Message(body) if self.adrift => {
                self.refused += 1;
                eprintln!("not sent: {body:?}: the conversation it is for was not found");
            }
            Typed::Message(body) => {
                let index = chat.send(&body, client, moments);
                self.bodies.insert((chat.talk.conv.clone(), index), body);
            }
            Typed::Command(command) => {
                let obeyed = chat.obey(command, client, moments);
                self.show(obeyed)?;
                chat.shown(chat.talk.newest_theirs(), client);
            }
            Typed::Wrong(why) => self.show(Err(why))?,
        }
        Ok(())
    }

    /// Fails when no node could be reached often enough: a script is not to wait for ever.
    fn try_again(&mut self, event: &Event, chat: &Chat) -> anyhow::Result<()> {
        match event {
            Event::Connected { .. } => self.unreached = 0,
            Event::Disconnected { why: Why::Unreachable(why), retry_in: Some(_) } => {
                self.unreached += 1;
                if self.unreached >= TRIES * chat.arguments.urls.len() {
                    self.give_up();
                    anyhow::bail!(
                        "no node can be reached ({why}): is the cluster running? --url names its nodes"
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn give_up(&self) {
        for body in self.bodies.values().chain(&self.held) {
            eprintln!("not confirmed: {body:?}");
        }
    }

    fn show(&mut self, lines: Result<Vec<String>, String>) -> anyhow::Result<()> {
        match lines {
            Ok(lines) => lines.into_iter().try_for_each(|line| print(Some(line)))?,
            Err(why) => {
                self.refused += 1;
                self.adrift |= self.choosing;
                eprintln!("not done: {why}");
            }
        }
        Ok(())
    }
}

fn read_lines(moments: &mpsc::Sender<Moment>) {
    // What is no UTF-8 is shown as such, and what follows it is sent all the same.
    for line in std::io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
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
