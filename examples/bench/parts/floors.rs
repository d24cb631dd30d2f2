//! Floors: what this machine can do at best of the things that a message cannot do without.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use actors::clock;
use anyhow::Context;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use crate::Stage;
use crate::figures::{Columns, Figure, Found};

/// Connections.
const PAIRS: usize = 50;
/// Bytes of a message: a send with a body of 160 bytes.
const BYTES: usize = 256;
/// Bytes of one write to the journal.
const BLOCK: usize = 4 * 1_024;
/// Bytes of a write of many messages together.
const BLOCKS: usize = 64 * 1_024;

pub(crate) async fn floors(stage: &Stage) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut columns = Columns::default();
    let lasts = Duration::from_secs_f64((stage.seconds / 3.0).max(0.5));
    for run in 0..stage.runs {
        stage.say(&format!("run {}: echoes, then flushes", run + 1));
        let out = stage.out.clone();
        let row = tokio::task::spawn_blocking(move || {
            let mut row = Vec::new();
            for outstanding in [1, 8] {
                row.push(alone(tcp(outstanding, lasts))?);
                row.push(alone(websocket(outstanding, lasts))?);
            }
            for bytes in [BLOCK, BLOCKS] {
                row.push(flushes(&out, bytes, lasts)?);
            }
            anyhow::Ok(row)
        });
        columns.push(&row.await??);
    }
    let whats = [
        ("TCP echo, 50 × 1, one thread for both ends", "/s"),
        ("WebSocket echo, 50 × 1, one thread for both ends", "/s"),
        ("TCP echo, 50 × 8, one thread for both ends", "/s"),
        ("WebSocket echo, 50 × 8, one thread for both ends", "/s"),
        ("append 4 KiB and fdatasync", "/s"),
        ("append 64 KiB and fdatasync", "/s"),
    ];
    for (at, (what, unit)) in whats.into_iter().enumerate() {
        found.figures.push(Figure::new(what, unit, columns.take(at)));
    }
    Ok(found)
}

/// On a thread of its own kind: nothing else runs on it.
fn alone(echoing: impl Future<Output = anyhow::Result<f64>>) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, echoing)
}

/// Both ends of so many connections over loopback.
async fn connections() -> anyhow::Result<Vec<(TcpStream, TcpStream)>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut both = Vec::new();
    for _ in 0..PAIRS {
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (far, _) = listener.accept().await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        both.push((near, far));
    }
    Ok(both)
}

/// Counts what the tasks of a set have echoed when the time is over.
async fn counted(
    mut echoing: JoinSet<anyhow::Result<u64>>,
    mut answering: JoinSet<anyhow::Result<()>>,
    lasts: Duration,
) -> anyhow::Result<f64> {
    let mut count = 0;
    while let Some(echoed) = echoing.join_next().await {
        count += echoed??;
    }
    answering.shutdown().await;
    Ok(count as f64 / lasts.as_secs_f64())
}

async fn tcp(outstanding: usize, lasts: Duration) -> anyhow::Result<f64> {
    let until = clock::monotonic() + lasts;
    let (mut echoing, mut answering) = (JoinSet::new(), JoinSet::new());
    for (mut near, mut far) in connections().await? {
        answering.spawn_local(async move {
            let mut buffer = vec![0; 8 * BYTES];
            loop {
                let read = far.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                far.write_all(&buffer[..read]).await?;
            }
        });
        echoing.spawn_local(async move {
            let mut buffer = vec![0; outstanding * BYTES];
            near.write_all(&buffer).await?;
            let mut bytes = 0;
            while clock::monotonic() < until {
                let read = near.read(&mut buffer).await?;
                anyhow::ensure!(read > 0, "the other end has gone");
                bytes += read;
                near.write_all(&buffer[..read]).await?;
            }
            Ok((bytes / BYTES) as u64)
        });
    }
    counted(echoing, answering, lasts).await
}

async fn websocket(outstanding: usize, lasts: Duration) -> anyhow::Result<f64> {
    let config =
        WebSocketConfig::default().read_buffer_size(4 * 1_024).write_buffer_size(8 * 1_024);
    let (mut echoing, mut answering) = (JoinSet::new(), JoinSet::new());
    let mut ends = Vec::new();
    for (near, far) in connections().await? {
        let accepting = accept_async_with_config(far, Some(config));
        let dialing = client_async_with_config("ws://localhost/", near, Some(config));
        let (far, near) = tokio::try_join!(accepting, dialing)?;
        ends.push((near.0, far));
    }
    let until = clock::monotonic() + lasts;
    for (near, far) in ends {
        answering.spawn_local(async move {
            let mut far = far;
            while bounce(&mut far).await?.is_some() {}
            Ok(())
        });
        echoing.spawn_local(async move {
            let mut near = near;
            for _ in 0..outstanding {
                near.feed(Message::text("x".repeat(BYTES))).await?;
            }
            near.flush().await?;
            let mut count = 0;
            while clock::monotonic() < until {
                count += bounce(&mut near).await?.context("the other end has gone")?;
            }
            Ok(count)
        });
    }
    counted(echoing, answering, lasts).await
}

/// Sends back all that is there, with one flush. How many that were; none at the end.
async fn bounce(socket: &mut WebSocketStream<TcpStream>) -> anyhow::Result<Option<u64>> {
    let Some(first) = socket.next().await else { return Ok(None) };
    socket.feed(first?).await?;
    let mut count = 1;
    while let Some(Some(next)) = socket.next().now_or_never() {
        socket.feed(next?).await?;
        count += 1;
    }
    socket.flush().await?;
    Ok(Some(count))
}

/// Appends and flushes, again and again: on the disk where the nodes' data is.
fn flushes(out: &std::path::Path, bytes: usize, lasts: Duration) -> anyhow::Result<f64> {
    let dir = tempfile::TempDir::with_prefix_in("floor-", out)?;
    let mut file = File::create(dir.path().join("journal"))?;
    let block = vec![7; bytes];
    let begin = clock::monotonic();
    let mut count = 0;
    while begin.elapsed() < lasts {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
