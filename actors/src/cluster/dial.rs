//! Dial: opens one connection to a peer, within a time limit.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::links::Shared;

/// Dials `address` and hands the connection to the node server; ends when its session is ready, or nothing came of it.
pub(super) async fn dial(shared: Arc<Shared>, address: String, label: String) {
    let connected = timeout(shared.timing.connect, connect(&address)).await;
    match connected {
        Ok(Ok(stream)) => {
            let ready = shared.timing.ready;
            let (stream, fate) = shared.doorway.guard(stream, label, false, ready);
            shared.hand_over(stream, false);
            // Settled either way; which way is learned from the node server.
            let _ = fate.await;
        }
        Ok(Err(refused)) => tracing::debug!(%address, %refused, "peer cannot be reached"),
        Err(_) => tracing::debug!(%address, "peer does not answer"),
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
