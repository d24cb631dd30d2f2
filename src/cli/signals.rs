//! Signals: turns SIGTERM, Ctrl-C and a vanished parent into one wish to stop.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The two signals that ask a process to stop.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Listens from now on; must be called inside a tokio runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for either of them.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Watches for the wish to stop on a thread of its own. The second wish ends the process at once.
pub(crate) fn stop_wish(exit_with_stdin: bool) -> std::io::Result<oneshot::Receiver<()>> {
    let (wish, wished) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        StopSignals::listen()?
    };
    let orphaned = if exit_with_stdin { Some(stdin_end()?) } else { None };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                () = signals.received() => {}
                () = ended(orphaned) => tracing::warn!("the process that started this node is gone"),
            }
            let _ = wish.send(());
            signals.received().await;
            tracing::warn!("asked to stop a second time: stopping without waiting for clients");
            std::process::exit(130);
        });
    })?;
    Ok(wished)
}

/// Ends when standard input does, on a thread of its own: nothing else can wait for it without blocking.
fn stdin_end() -> std::io::Result<oneshot::Receiver<()>> {
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0_u8; 256];
        while matches!(stdin.read(&mut ignored), Ok(read) if read > 0) {}
        let _ = end.send(());
    })?;
    Ok(ended)
}

async fn ended(orphaned: Option<oneshot::Receiver<()>>) {
    match orphaned {
        Some(orphaned) => {
            let _ = orphaned.await;
        }
        None => std::future::pending().await,
    }
}
