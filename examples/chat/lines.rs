//! Lines: the chat in a pipe, for scripts and tests.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Context;
use rookery::client::Client;
use tokio::sync::mpsc;

use super::{Chat, Moment, Watch, goodbye};

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
    let mut watch = Watch::default();
    let mut input_over = false;
    let mut refused = 0_usize;
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
                match &result {
                    Ok(accepted) => print(Some(format!("✓ {} {body}", accepted.seq)))?,
                    Err(fault) => {
                        refused += 1;
                        eprintln!("not sent: {body:?}: {fault}");
                    }
                }
                chat.answered(index, result);
            }
            Moment::Typed(line) if !line.is_empty() => {
                chat.send(&line, client, moments);
                bodies.insert(chat.said.len() - 1, line);
            }
            Moment::Seen { online, last_seen_ms } => chat.seen(online, last_seen_ms),
            Moment::NoMoreInput => input_over = true,
            Moment::Ended => {
                for body in bodies.values() {
                    eprintln!("not confirmed: {body:?}");
                }
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
                chat.shown(chat.newest_theirs(), client);
            },
        }
    }
    goodbye(client, inbox).await;
    anyhow::ensure!(
        refused == 0,
        "refused: {}",
        if refused == 1 { "1 message".to_owned() } else { format!("{refused} messages") }
    );
    Ok(())
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
